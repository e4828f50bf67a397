"""The studies: their variants and models, measurements of cases with a known answer, and each study on few strips."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import center_of_mass

from digitsum.checkpoints import read_metadata
from digitsum.compose import GLYPH, Strips
from digitsum.data import Data, digit_glyphs
from digitsum.errors import CheckpointError
from digitsum.evaluation import Predictions, predictions, proportion_ci
from digitsum.experiments import EXPERIMENTS, Augmentation, changed
from digitsum.likelihood import Reading, sum_log_likelihood
from digitsum.models import MODELS
from digitsum.objectives import OBJECTIVES
from digitsum.runs import run_experiment
from digitsum.training import build
from research import studies
from research.studies import READER, SMALL, STUDIES, measurements, variants
from research.studies.measurements import label_digits

VARIANTS = {study: {name: variant for name, (_, variant) in studies.variants_of(study).items()} for study in STUDIES}


@pytest.mark.parametrize(("study", "name"), [(study, name) for study in STUDIES for name in VARIANTS[study]])
def test_a_variant_differs_from_its_base_and_learns(study, name):
    base, variant = EXPERIMENTS[STUDIES[study].base], VARIANTS[study][name]
    assert variant.name == name
    assert bool(changed(variant, base)) == (name != base.name)
    digits = variant.objective_args.get("count", 4) if study == "cut_digits" else 4
    model, sums = build(variant).train(), torch.tensor([digits - 1, 7 * digits + 1])
    for step in (0, None):
        model.zero_grad()
        outputs = model(torch.rand(2, 1, 40, 28 * digits))
        model.objective.loss(outputs, sums, step=step).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert next(model.parameters()).grad.any(), "the first layer gets no gradient"
    predicted = model.objective.sums(outputs)
    assert predicted.shape == (2,) and predicted.min() >= 0 and predicted.max() <= 9 * digits


def test_fewer_strips_take_as_many_steps():
    rows = [*VARIANTS["sums"].values(), *VARIANTS["cut_digits"].values()]
    for row in (row for row in rows if "count" not in row.objective_args):
        strips = row.epochs * row.repeats * (row.train_limit or variants.STRIPS)
        assert strips == pytest.approx(EXPERIMENTS[SMALL].epochs * variants.STRIPS, rel=0.05)


def test_objectives_of_columns_by_hand():
    additive = OBJECTIVES["additive_regression"]
    outputs = torch.tensor([[[1.0], [2.25], [9.0]], [[40.0], [1.0], [-0.5]]])
    assert additive.values(outputs).tolist() == [12.25, 40.5] and additive.sums(outputs).tolist() == [12, 36]
    assert additive.loss(outputs, torch.tensor([12, 40])).item() == pytest.approx((0.25**2 + 0.5**2) / 2)
    logits = torch.full((1, 3, 11), -60.0)  # one column is surely 7, one is 2 or 4, one is blank or 8
    logits[0, 0, 8] = logits[0, 1, 3] = logits[0, 1, 5] = logits[0, 2, 0] = logits[0, 2, 9] = 0
    assert OBJECTIVES["expected_sum"].values(logits).tolist() == [pytest.approx(7 + 3 + 4)]


# Cut digits


@pytest.mark.parametrize("network", ["lenet", "reader"])
def test_each_cut_digit_is_read_on_its_own_and_surely_there(network):
    model, images = MODELS["cut_digits"](network=network).eval(), torch.rand(3, 1, 40, 112)
    outputs, changed_images = model(images), images.clone()
    changed_images[:, :, :, 28:56] = 0
    assert (model(changed_images) != outputs).any(dim=2).any(dim=0).tolist() == [False, True, False, False]
    p = outputs[0, :, 1:].double().softmax(dim=1).detach().numpy()
    expected = np.convolve(np.convolve(p[0], p[1]), np.convolve(p[2], p[3]))
    found = sum_log_likelihood(outputs[:1].expand(37, -1, -1), torch.arange(37)).exp().detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_each_cut_digit_is_augmented_on_its_own_in_training_only():
    model = MODELS["cut_digits"](augmentation=asdict(Augmentation(shift=6)))
    seen: list[torch.Tensor] = []
    model.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.zeros(16, 1, 40, 112)
    images[:, :, 10:30, 8:20] = images[:, :, 10:30, 92:104] = 1  # in the first and the last cell
    model.train()(images), model.eval()(images)
    trained, read = (cells.unflatten(0, (16, 4)) for cells in seen)
    assert torch.equal(read[:, 0], images[..., :28]) and not torch.equal(trained, read)
    assert not trained[:, 1:3].any() and not torch.equal(trained[:, 0], trained[:, 3])


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 3))
def test_cut_digits_stand_whole_in_their_cells(n, k, seed):
    glyphs, labels = (each[:20] for each in digit_glyphs())
    strips = variants.lay_out(glyphs, labels, n, seed=(seed, 1), digits=k)
    cells = strips.images.reshape(n, 40, k, 28).swapaxes(1, 2)  # (N, K, 40, 28)
    match = (cells[:, :, None, 6:34] == glyphs).all(axis=(3, 4))  # (N, K, 20)
    assert (match.sum(axis=2) == 1).all() and np.array_equal(labels[match.argmax(axis=2)], strips.digits)
    assert not cells[:, :, :6].any() and not cells[:, :, 34:].any()
    assert np.array_equal(strips.digits.sum(axis=1), strips.sums)
    used = match.sum(axis=(0, 1))
    assert used.max() - used.min() <= 1, "a glyph is used again before all are used"


# Running


@pytest.fixture
def study(tiny, tmp_path, monkeypatch):
    """A function that runs a study on a handful of strips, with short trainings, into a temporary folder."""
    for name in (READER, SMALL):
        short = replace(EXPERIMENTS[name], model_args=EXPERIMENTS[SMALL].model_args, epochs=1, batch_size=24)
        monkeypatch.setitem(EXPERIMENTS, name, short)
    for module, name, n in (
        (measurements, "COUNT_STRIPS", 3), (measurements, "COUNTS", (1, 6)), (variants, "SUMS", 48),
        (variants, "TEST_SUMS", 16), (variants, "STRIPS", 48), (variants, "MORE", 60),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, n)
    folders = {"models": tmp_path / "models", "results": tmp_path / "results"}

    def run(name: str, data: Data = tiny, **options) -> list[tuple[Path, dict]]:
        return list(studies.run_study(name, data, device="cpu", progress=False, **folders, **{"seeds": [0], **options}))

    return run


TRAINED = {"ablations": "classification", "sums": "500", "more_strips": "60", "cut_digits": f"{SMALL}_augmented-5000"}


@pytest.mark.parametrize(("name", "variant"), TRAINED.items())
def test_a_variant_is_trained_once_and_recorded(name, variant, study, monkeypatch, tmp_path):
    ((path, record),) = study(name, only=[variant])
    assert path == tmp_path / "results" / "studies" / "digits" / name / f"{variant}-seed0.json"
    assert (record["experiment"], record["seed"], len(record["history"])) == (variant, 0, 1)
    monkeypatch.setattr(studies, "run_experiment", None)
    assert study(name, only=[variant])[0][1]["date"] == record["date"]
    with pytest.raises(TypeError, match="not callable"):
        study(name, only=[variant], seeds=[1])


def test_an_unchanged_base_is_the_ordinary_experiment(study, tmp_path):
    ((path, record),) = study("ablations", only=[SMALL])
    assert path == tmp_path / "results" / "digits" / f"{SMALL}-seed0.json" and path.exists()
    assert study("sums", only=[SMALL])[0] == (path, json.loads(path.read_text()))


@pytest.mark.parametrize("name", sorted(STUDIES.keys() - {"more_strips", "ensemble"}))
def test_published_records_are_not_made_again(name, mnist, mnist_root, monkeypatch):
    monkeypatch.setattr(studies, "run_experiment", None)
    monkeypatch.setattr(studies, "load_checkpoint", None)
    folders = {"models": REPOSITORY / "models", "results": REPOSITORY / "results"}
    made = list(studies.run_study(name, mnist, root=mnist_root, **folders))
    assert made and all(path.exists() for path, _ in made)


def test_every_measurement_runs_once_on_trained_readers(study, tiny, tmp_path, monkeypatch):
    folders = {"models": tmp_path / "models", "results": tmp_path / "results"}
    for seed in (0, 1):
        run_experiment(EXPERIMENTS[READER], tiny, seed=seed, device="cpu", progress=False, **folders)
    readers = [tmp_path / "models" / "digits" / f"{READER}-seed{seed}.safetensors" for seed in (0, 1)]
    made = {name: study(name) for name in STUDIES if STUDIES[name].measure and STUDIES[name].readers == (READER,)}
    digests = [read_metadata(file)["digest"] for file in readers]
    assert {name: len(rows) for name, rows in made.items()} == dict.fromkeys(made, 2) | {"ensemble": 1}
    assert [record["weights"] for _, record in made["tta"]] == digests
    assert made["ensemble"][0][1]["weights"] == " ".join(digests) and made["ensemble"][0][1]["seeds"] == [0, 1]
    for name, rows in made.items():
        for path, record in rows:
            assert path.parent == tmp_path / "results" / "studies" / "digits" / name
            assert json.loads(json.dumps(record, allow_nan=False)) == json.loads(path.read_text())
    monkeypatch.setattr(studies, "load_checkpoint", None)
    assert {name: len(study(name)) for name in made} == {name: len(rows) for name, rows in made.items()}
    with pytest.raises(CheckpointError, match="other data"):
        study("counts", data=tiny.head(8))
    readers[1].unlink()
    with pytest.raises(CheckpointError, match="too few"):
        study("ensemble")


# Measurements


@pytest.fixture
def sharp():
    """An untrained reader whose answers differ from strip to strip and from view to view."""
    model = build(EXPERIMENTS[SMALL]).eval()
    model.symbols.weight.data *= 3000
    return model


def test_tta_is_compared_on_the_same_strips(sharp, tiny):
    """The truth is what TTA reads: reading once has some of it wrong."""
    sums = predictions(sharp, tiny.unseen.images).sums
    measured = measurements.tta([sharp], replace(tiny, unseen=replace(tiny.unseen, sums=sums)), "")
    unseen = measured["splits"]["unseen"]
    assert list(measured["splits"]) == ["val", "unseen"]
    assert unseen["several"]["value"] == 1 > unseen["once"]["value"]
    assert unseen["again"] == proportion_ci(int(measurements.uncertain(sharp, tiny.unseen.images).sum()), 16)


def test_abstaining_and_overlap_against_brute_force(sharp, tiny, digits):
    """The truth is such that most answers are right, but none of the six that are trusted least."""
    strips = digits.unseen[:60]
    log_p = predictions(sharp, strips.images).log_p
    trusted = np.argsort(-log_p.max(axis=1), kind="stable")
    right = np.random.default_rng(0).random(60) < 0.7
    right[trusted[-6:]] = False
    strips = replace(strips, sums=(log_p.argmax(axis=1) + ~right) % 37)
    measured = measurements.calibration([sharp], replace(tiny, unseen=strips), "")
    assert measured["accuracy"] == proportion_ci(right.sum(), 60)
    assert measured["abstaining"] == {"share": 0.05, "n": 57} | proportion_ci(right[trusted[:57]].sum(), 57)
    assert measured["coverage"][-1] == [1.0, right.mean()]
    lefts = strips.corners[:, :, 1].tolist()
    overlaps = np.array([max(left + 28 - following for left, following in pairwise(row)) for row in lefts])
    for group in measured["overlap"]:
        rows = (group["from"] <= overlaps) & (overlaps <= group["to"])
        assert group["n"] == rows.sum() and group["value"] == right[rows].mean()
    assert sum(group["n"] for group in measured["overlap"]) == 60


def test_reliability_and_ensembles_by_hand():
    log_p = np.log([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [1.0, 1e-99]])
    found = measurements.goodness(log_p, np.array([0, 1, 1, 0]))
    assert found["expected_calibration_error"] == pytest.approx((2 * 0.4 + 0.2) / 4)
    assert found["reliability"] == [pytest.approx(row) for row in ([0.8, 1, 1], [0.9, 0.5, 2], [1, 1, 1])]
    p = np.array([[[0.5, 0.4, 0.1]], [[0.1, 0.5, 0.4]], [[0.2, 0.3, 0.5]]])
    read = [Predictions(np.zeros(1), np.zeros(1, int), log_p=np.log(each)) for each in p]
    np.testing.assert_allclose(np.exp(measurements.mean_log_p(read)), p.mean(axis=0))


@settings(deadline=None, max_examples=10)
@given(st.floats(0.2, 5, allow_subnormal=False), st.integers(0, 2**32 - 1))
def test_the_temperature_by_which_probabilities_are_off_is_found(temperature, seed):
    """Truths are drawn from the probabilities, which are then made sharper or flatter by `temperature`."""
    rng = np.random.default_rng(seed)
    log_p = measurements.tempered(rng.normal(0, 2, (4000, 7)), 1.0)
    truth = (np.exp(log_p).cumsum(axis=1) > rng.random((4000, 1))).argmax(axis=1)
    found = measurements.fit_temperature(measurements.tempered(log_p, 1 / temperature), truth)
    assert found == pytest.approx(temperature, rel=0.15)


# The places of digits, and labels from sums


def perfect(strips: Strips, shift: int = 0, probability: float = 1.0) -> list[Reading]:
    """The readings of a perfect reader, whose columns are `shift` pixels right of the glyphs' middles."""
    columns = (strips.corners[:, :, 1] + GLYPH // 2 + shift) // 4
    return [Reading(d, c, probability) for d, c in zip(strips.digits.tolist(), columns.tolist(), strict=True)]


def test_the_offset_is_found_from_the_ink_alone(digits):
    assert abs(measurements.fit_offset(digits.val.images, perfect(digits.val, shift=-19), stride=4) - 20) < 1.5
    images = np.zeros((1, 40, 56), np.uint8)
    images[0, 5:9, 10:15] = images[0, 5:9, 30:37] = 255  # with middles at 12 and 33
    assert measurements.fit_offset(images, [Reading([1, 1], [2, 7], 1.0)], stride=4) == 4.5  # 12 - 8 and 33 - 28


def test_perfect_readings_give_perfect_labels_of_isolated_digits(digits, tiny, sharp, monkeypatch):
    strips = digits.val[:300]
    glyphs, labels, places = label_digits(strips, perfect(strips), 4)
    assert len(labels) > len(strips) and glyphs.shape == (len(labels), GLYPH, GLYPH)
    assert (labels == strips.digits[tuple(places.T)]).all()
    for glyph in glyphs:
        assert np.abs(np.subtract(center_of_mass(glyph), GLYPH / 2)).max() <= 1
    unsure = label_digits(strips, perfect(strips, probability=measurements.SURE - 0.01), 4)
    wrong = label_digits(replace(strips, sums=strips.sums + 1), perfect(strips), 4)
    assert [part.shape for part in wrong] == [part.shape for part in unsure] == [(0, GLYPH, GLYPH), (0,), (0, 2)]
    for digits, least in ((strips.digits, 1), (np.roll(strips.digits, 1, axis=1), 0)):  # the sums always agree
        read = Predictions(strips.sums, strips.sums, perfect(replace(strips, digits=digits)))
        monkeypatch.setattr(measurements, "predictions", lambda model, images, read=read: read)
        right = measurements.pseudo_labels([sharp], replace(tiny, train=strips), "")["right"]["value"]
        assert least <= right <= 0.5 + least


@pytest.mark.parametrize(
    ("pieces", "columns", "places"),
    [
        (((8, 20), (40, 52)), [3, 11], [0, 1]),
        (((8, 20), (40, 70)), [3, 11, 15], [0]),  # two digits in one piece
        (((8, 20), (24, 28), (40, 52)), [3, 11], []),  # a piece without a digit
        (((8, 20), (40, 70)), [3, 13], [0]),  # a piece wider than a glyph
        ((), [], []),
    ],
)
def test_isolated_digits_by_hand(pieces, columns, places):
    image, digits = np.zeros((1, 40, 168), np.uint8), [7, 5, 1][: len(columns)]
    for start, end in pieces:
        image[0, 10:30, start:end] = 200
    _, labels, found = label_digits(Strips(image, np.array([sum(digits)])), [Reading(digits, columns, 1.0)], 4)
    assert found.tolist() == [[0, place] for place in places]
    assert labels.tolist() == [digits[place] for place in places]
