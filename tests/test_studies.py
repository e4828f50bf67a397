"""The studies: what their variants change, real training of some on a handful of strips, and what is measured."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from digitsum import studies
from digitsum.calibration import fit_temperature
from digitsum.checkpoints import CheckpointError, load_checkpoint, read_metadata, save_checkpoint
from digitsum.compose import compose, lay_out
from digitsum.data import Data, digit_glyphs, source_glyphs
from digitsum.evaluation import Predictions, predictions, share
from digitsum.experiments import EXPERIMENTS, differences
from digitsum.likelihood import Reading, sum_log_likelihood
from digitsum.models import MODELS
from digitsum.models.cut_digits import cells, joined
from digitsum.models.ensemble import Ensemble
from digitsum.models.reader import Reader
from digitsum.objectives import OBJECTIVES
from digitsum.runs import alone, folder_of_run, run_experiment
from digitsum.studies import READER, SMALL, STRIPS, STUDIES, AugmentEachDigit, cut_digits, run_study, variants_of
from digitsum.training import TrainingError, build, train

USUAL = EXPERIMENTS[READER]
VARIANTS = [
    pytest.param(name, variant, id=f"{name}/{variant.name}") for name in STUDIES for variant in variants_of(name)
]
GLYPHS = digit_glyphs()
SHORT = {"epochs": 1, "batch_size": 24}


@pytest.fixture
def study(tiny, tmp_path):
    """A function that runs a study on a handful of strips, into a temporary folder."""

    def run(name: str, **options) -> list[tuple[Path, dict]]:
        folders = {"models": tmp_path / "models", "results": tmp_path / "results"}
        options = {"seeds": [0], "changes": SHORT, "device": "cpu", "progress": False} | folders | options
        return list(run_study(name, options.pop("data", tiny), **options))

    return run


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few strips of what the studies make themselves."""
    for name, n in (("COUNT_STRIPS", 3), ("CUT_SUMS", 48), ("CUT_TEST_SUMS", 16)):
        monkeypatch.setattr(studies, name, n)


# What the variants are


@pytest.mark.parametrize(("study_", "variant"), VARIANTS)
def test_a_variant_learns_from_sums_and_differs_from_its_base_by_what_it_says(study_, variant):
    assert variant.experiment.name == variant.name and variant.sentence.endswith(".")
    assert variant.experiment.supervision == "sums"
    base = STUDIES[study_].base
    assert bool(differences(variant.experiment, EXPERIMENTS[base])) == (variant.name != base)
    images = torch.rand(2, 1, 40, 112)
    model, sums = build(variant.experiment), torch.tensor([3, 29])
    outputs = model(images)
    for step in (0, None):
        model.zero_grad()
        loss = model.objective.loss(model(images), sums, step=step)
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert next(model.parameters()).grad.any(), "no gradient arrives at the first layer"
    predicted = model.objective.sums(outputs)
    assert predicted.shape == (2,) and predicted.min() >= 0 and predicted.max() <= 36


def test_names_are_one_variant_each_and_no_experiment_but_the_base():
    for name, study in STUDIES.items():
        names = [variant.name for variant in variants_of(name)]
        assert len(set(names)) == len(names)
        assert set(names) & set(EXPERIMENTS) <= {study.base}


def test_every_part_of_the_augmentation_is_left_out_once():
    variants = {variant.name: variant.experiment for variant in STUDIES["ablations"].variants(USUAL)}
    for part, amount in asdict(USUAL.augment).items():
        if amount:
            without = asdict(variants[f"no_{part}"].augment)
            assert not without.pop(part) and without.items() <= asdict(USUAL.augment).items()
    assert variants["no_augmentation"].augment is None


def test_fewer_sums_take_as_many_steps():
    full = USUAL.epochs * STRIPS
    for study in (STUDIES["sums"], STUDIES["cut_digits"]):
        for variant in study.variants(USUAL):  # whatever its base
            row = variant.experiment
            trained_on = row.train_limit or STRIPS
            assert row.epochs * row.passes * trained_on == pytest.approx(full, rel=0.05), variant.name
            assert row.batch_size == USUAL.batch_size


def test_a_limit_holds_where_a_variant_would_take_more():
    limited = replace(USUAL, train_limit=600)
    for study in (STUDIES["sums"], STUDIES["cut_digits"]):
        assert max(variant.experiment.train_limit for variant in study.variants(limited)) == 600


def test_an_epoch_goes_over_its_strips_as_often_as_it_says(tiny):
    row = replace(EXPERIMENTS["cnn_attention-regression"], epochs=1, passes=3, train_limit=8, batch_size=8)
    seen: list[int] = []

    class Spying(type(OBJECTIVES["regression"])):
        def loss(self, outputs, sums, step=None):
            if step is not None:
                seen.extend(sums.tolist())
            return super().loss(outputs, sums)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OBJECTIVES, "regression", Spying())
        train(row, tiny, device="cpu", progress=False)
    assert sorted(seen) == sorted(3 * tiny.train.sums[:8].tolist())


def test_each_cut_digit_is_augmented_on_its_own():
    torch.manual_seed(0)
    images = torch.zeros(16, 1, 40, 112)
    images[:, :, 10:30, 40:56] = 1
    augment = AugmentEachDigit(shift=6)
    changed = augment(images)
    assert not changed[..., :28].any() and not changed[..., 56:].any() and not torch.equal(changed, images)
    four = augment(images[..., 28:56].repeat(1, 1, 1, 4))
    assert not torch.equal(four[..., :28], four[..., 28:56])


# Their models and objectives


def test_additive_regression_adds_the_columns_up():
    objective = OBJECTIVES["additive_regression"]
    outputs = torch.tensor([[[1.0], [2.25], [9.0]], [[40.0], [1.0], [-0.5]]])
    assert objective.values(outputs).tolist() == [12.25, 40.5]
    assert objective.sums(outputs).tolist() == [12, 36]
    assert objective.loss(outputs, torch.tensor([12, 40])).item() == pytest.approx((0.25**2 + 0.5**2) / 2)


def test_expected_sum_is_the_mean_over_the_symbols():
    """A column that is surely 7, one that is 2 or 4, one that is nothing or 8."""
    logits = torch.full((1, 3, 11), -60.0)
    logits[0, 0, 8] = logits[0, 1, 3] = logits[0, 1, 5] = logits[0, 2, 0] = logits[0, 2, 9] = 0
    objective = OBJECTIVES["expected_sum"]
    assert objective.values(logits).tolist() == [pytest.approx(7 + 3 + 4)]
    assert objective.loss(logits, torch.tensor([12])).item() == pytest.approx(4, rel=1e-4)


@pytest.mark.parametrize("count", [None, (1, 8), [1, 8]])
def test_an_open_count_starts_on_the_sum_alone_and_then_is_likelihood(count):
    objective = replace(OBJECTIVES["sum_likelihood"], count=count)
    outputs, sums = torch.randn(3, 9, 11), torch.tensor([0, 20, 36])
    expected = -sum_log_likelihood(outputs, sums, count).mean()
    assert objective.loss(outputs, sums) == expected
    squared = OBJECTIVES["expected_sum"].loss(outputs, sums)
    assert objective.loss(outputs, sums, step=0).item() == pytest.approx(squared.item(), rel=1e-5)


def test_settings_of_the_objective_go_into_the_model_and_its_checkpoint(tiny, tmp_path):
    run_experiment(
        READER, tiny, device="cpu", preset_name="smoke", changes={"objective_args": {"start_steps": 3}}, progress=False,
        models=tmp_path, results=tmp_path,
    )  # fmt: skip
    loaded = load_checkpoint(tmp_path / "digits-smoke" / f"{READER}.safetensors")
    assert loaded.objective == replace(OBJECTIVES["sum_likelihood"], start_steps=3)


def test_each_cut_digit_is_read_on_its_own():
    """And for certain: four cells hold four digits, so the likelihood is that of the sum of four."""
    images = torch.rand(3, 1, 40, 112)
    assert torch.equal(joined(cells(images), 3), images)
    for network in ("lenet", "reader"):
        model = MODELS["cut_digits"](network=network).eval()
        outputs = model(images)
        changed = images.clone()
        changed[:, :, :, 28:56] = 0
        assert (model(changed) - outputs).abs().amax(dim=(0, 2)).gt(0).tolist() == [False, True, False, False]
        p = outputs[..., 1:].double().softmax(dim=2)[0].detach().numpy()
        expected = np.convolve(np.convolve(p[0], p[1]), np.convolve(p[2], p[3]))
        found = sum_log_likelihood(outputs[:1].expand(37, -1, -1), torch.arange(37)).exp().detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_lenet_has_the_size_of_the_literatures():
    assert sum(p.numel() for p in MODELS["cut_digits"]().parameters()) == 44_426


# Cut digits


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 3))
def test_cut_digits_stand_whole_in_their_cells(n, digits, seed):
    glyphs, labels = (each[:20] for each in GLYPHS)
    strips = lay_out(glyphs, labels, n, seed=seed, digits=digits)
    assert strips.images.shape == (n, 40, 28 * digits) and np.array_equal(strips.digits.sum(axis=1), strips.sums)
    used = np.zeros(20, int)
    for image, row, corners in zip(strips.images, strips.digits, strips.corners, strict=True):
        for label, (top, left) in zip(row, corners, strict=True):
            (match,) = np.flatnonzero((glyphs == image[top : top + 28, left : left + 28]).all(axis=(1, 2)))
            assert labels[match] == label
            used[match] += 1
    assert used.sum() == n * digits and used.max() - used.min() <= 1, "one came again before all had come"
    assert strips.images.sum(dtype=int) == (glyphs.sum(axis=(1, 2), dtype=int) * used).sum()


def test_the_literatures_task_tests_on_glyphs_that_were_never_trained_on(digits: Data):
    data = cut_digits(digits)
    assert {name: strips.images.shape for name, strips in data.splits.items()} == {
        "train": (48, 40, 112), "val": (16, 40, 112), "test": (16, 40, 112),
    }  # fmt: skip
    glyphs = {name: {cell.tobytes() for cell in cells(torch.from_numpy(strips.images).unsqueeze(1)).numpy()}
              for name, strips in data.splits.items()}  # fmt: skip
    assert not glyphs["test"] & (glyphs["train"] | glyphs["val"])
    assert data.fingerprint == cut_digits(digits).fingerprint != digits.fingerprint


# Running


@pytest.mark.parametrize(
    ("name", "variant"),
    [("ablations", "count_unknown"), ("ablations", "classification"), ("sums", "500"), ("cut_digits", "lenet-5000")],
)
def test_a_variant_is_trained_recorded_and_not_trained_again(name, variant, study, monkeypatch, tmp_path):
    monkeypatch.setattr(studies, "STRIPS", 48)
    ((path, record),) = study(name, only=[variant])
    assert path == tmp_path / "results" / "studies" / "digits" / name / f"{variant}-seed0.json"
    assert json.loads(path.read_text()) == json.loads(json.dumps(record))
    assert (record["study"], record["experiment"], record["seed"]) == (name, variant, 0)
    assert record["metrics"]["val"]["n"] == 16 and len(record["history"]) == 1
    assert record["changed"]["batch_size"] == [USUAL.batch_size, 24] and "objective" not in record["changed"]
    assert not list((tmp_path / "models").rglob("*.*"))
    before = path.read_bytes()
    monkeypatch.setattr(studies, "train", None)
    assert study(name, only=[variant]) == [(path, json.loads(before))]
    with pytest.raises(TypeError):  # other settings: it would be trained again
        study(name, only=[variant], changes=SHORT | {"batch_size": 12})
    assert path.read_bytes() == before


def test_a_variant_that_another_process_trains_is_left_to_it(study, tiny, tmp_path):
    base = replace(EXPERIMENTS[STUDIES["sums"].base], **SHORT)
    (variant,) = (each for each in STUDIES["sums"].variants(base) if each.name == "500")
    folder = folder_of_run(tmp_path / "models" / "digits", "sums-500-seed0", variant.experiment, tiny)
    with alone(folder), pytest.raises(TrainingError, match="sums-500-seed0-.* is being trained by another process"):
        study("sums", only=["500"])
    assert len(study("sums", only=["500"], seeds=[0, 0])) == 1
    assert not folder.exists()


def test_a_published_base_is_not_trained_again(study, tiny, tmp_path, monkeypatch):
    base = STUDIES["ablations"].base
    with monkeypatch.context() as patch:
        patch.setitem(EXPERIMENTS, base, replace(EXPERIMENTS[base], **SHORT))
        folders = {"models": tmp_path / "models", "results": tmp_path / "results"}
        run_experiment(base, tiny, device="cpu", preset_name="full", progress=False, **folders)
        patch.setattr(studies, "train", None)
        ((path, _),) = study("ablations", only=[base], changes={})
        assert path == tmp_path / "results" / "digits" / f"{base}-seed0.json"


@pytest.fixture
def reader(tiny, tmp_path) -> Path:
    """Weights of a reader that was trained on a handful of strips."""
    run_experiment(
        READER, tiny, device="cpu", preset_name="full", changes=SHORT, progress=False,
        models=tmp_path / "models", results=tmp_path / "elsewhere",
    )  # fmt: skip
    return tmp_path / "models" / "digits" / f"{READER}.safetensors"


def test_what_is_measured_is_of_the_published_weights(reader, study, tiny, monkeypatch):
    monkeypatch.setattr(studies, "COUNTS", (1, 6))
    ((path, record),) = study("counts")
    measured = record["measured"]
    assert path.name == f"{READER}-seed0.json" and record["weights"] == read_metadata(reader)["digest"]
    assert {digits: entry["columns"] for digits, entry in measured.items()} == {"1": 42, "6": 252}
    _, unseen = source_glyphs("digits")
    for digits, entry in measured.items():
        strips = compose(*unseen, 3, seed=(tiny.seed, int(digits)), digits=int(digits))
        assert entry["fingerprint"] == strips.fingerprint
        assert entry["n"] == 3 and entry["known"]["count"]["value"] == 1
        assert entry["known"]["strings"]["value"] <= entry["known"]["sums"]["value"]
    ((_, record),) = study("calibration")
    measured = record["measured"]
    assert (measured["split"], measured["n"]) == ("unseen", 16)
    assert measured["coverage"][-1] == [1.0, measured["accuracy"]["value"]]
    assert measured["tempered"]["negative_log_likelihood"] > 0 and 0.05 <= measured["temperature"] <= 20
    for way in ("plain", "tempered"):
        assert sum(strips for *_, strips in measured[way]["reliability"]) == 16
    assert sum(group["n"] for group in measured["overlap"]) == 16
    assert json.loads(json.dumps(record, allow_nan=False))

    monkeypatch.setattr(studies, "load_checkpoint", None)
    study("counts"), study("calibration")  # not measured again
    with pytest.raises(CheckpointError, match="other strips"):
        study("calibration", data=tiny.head(8))


def test_weights_of_another_experiment_are_not_measured_as_the_readers(study, tiny, tmp_path):
    run_experiment(
        SMALL, tiny, device="cpu", preset_name="full", changes=SHORT, progress=False, models=tmp_path,
        results=tmp_path / "elsewhere",
    )  # fmt: skip
    with pytest.raises(CheckpointError, match=f"holds weights of {SMALL}"):
        study("counts", checkpoints=[tmp_path / "digits" / f"{SMALL}.safetensors"])


@pytest.fixture
def sharp() -> Reader:
    """An untrained reader with weights so large that it does not say the same of all strips, nor at every look."""
    model = build(EXPERIMENTS[SMALL])
    model.symbols.weight.data *= 3000
    return model


def test_the_temperature_is_fitted_on_validation(sharp, tiny):
    measured = STUDIES["calibration"].measure(sharp, tiny, "")
    log_p = predictions(sharp, tiny.val.images).log_p
    assert measured["temperature"] == pytest.approx(fit_temperature(log_p, tiny.val.sums))


def test_counts_are_measured_untold_and_told(sharp, tiny, monkeypatch):
    told = []
    monkeypatch.setattr(studies, "COUNTS", (1, 6))
    monkeypatch.setattr(
        studies, "predictions", lambda model, images: told.append(model.objective.count) or predictions(model, images)
    )
    measured = STUDIES["counts"].measure(sharp, tiny, "")
    assert told == [None, 1, None, 6] and measured["6"]["unknown"]["count"]["value"] < 1


def test_abstaining_and_overlap_against_brute_force(sharp, tiny, digits):
    """Held to sums of which it has most right, but none of the six strips that it trusts least."""
    strips = digits.unseen[:60]
    log_p = predictions(sharp, strips.images).log_p
    trusted = np.argsort(-log_p.max(axis=1))
    right = np.random.default_rng(0).random(60) < 0.7
    right[trusted[-6:]] = False
    strips = replace(strips, sums=(log_p.argmax(axis=1) + ~right) % 37)
    measured = STUDIES["calibration"].measure(sharp, replace(tiny, unseen=strips), "")
    assert measured["accuracy"] == share(right.sum(), 60)
    assert measured["abstaining"] == {"share": 0.05, "n": 57} | share(right[trusted[:57]].sum(), 57)
    lefts = strips.corners[:, :, 1].tolist()
    overlaps = np.array([max(left + 28 - following for left, following in pairwise(row)) for row in lefts])
    expected = []
    for low, high in studies.OVERLAPS:
        if n := sum(low <= overlap <= high for overlap in overlaps):
            hits = sum(right[row] and low <= overlap <= high for row, overlap in enumerate(overlaps))
            expected.append({"from": low, "to": high, "n": n} | share(hits, n))
    assert measured["overlap"] == expected and len(expected) > 2
    assert sum(group["n"] for group in expected) == 60


def test_the_second_look_is_measured_with_the_same_weights(reader, study, tiny):
    ((_, record),) = study("second_look")
    measured = record["measured"]
    assert measured["looks"] == 3 and 0 < measured["below"] < 1
    assert list(measured["splits"]) == ["val", "unseen"]
    unseen = measured["splits"]["unseen"]
    assert unseen["n"] == 16 and 0 <= unseen["again"]["value"] <= 1
    model = load_checkpoint(reader)
    for name, below in (("several", measured["below"]), ("once", 0.0)):
        model.second_look = below
        right = (predictions(model, tiny.unseen.images).sums == tiny.unseen.sums).mean()
        assert unseen[name]["value"] == right


@pytest.mark.parametrize(("below", "again"), [(0.0, 0), (1.1, 1)])
def test_strips_are_looked_at_again_below_the_threshold_only(below, again, sharp, tiny):
    """Held to the answers after a second look at every strip, of which some were others after the first."""
    sharp.second_look = 1.1
    data = replace(tiny, unseen=replace(tiny.unseen, sums=predictions(sharp, tiny.unseen.images).sums))
    sharp.second_look = below
    measured = STUDIES["second_look"].measure(sharp, data, "")
    assert measured["below"] == below
    assert [split["again"]["value"] for split in measured["splits"].values()] == [again, again]
    unseen = measured["splits"]["unseen"]
    assert unseen["once"]["value"] < 1 and unseen["several"]["value"] == (1 if again else unseen["once"]["value"])


def test_readers_together_answer_by_the_mean_of_their_probabilities(reader, study, tiny, tmp_path):
    with pytest.raises(CheckpointError, match="needs the weights of several readers"):
        study("ensemble")
    run_experiment(
        READER, tiny, seed=1, device="cpu", preset_name="full", changes=SHORT, progress=False,
        models=tmp_path / "models", results=tmp_path / "elsewhere",
    )  # fmt: skip
    run_experiment(  # which is no reader like the others
        READER, tiny, seed=2, device="cpu", preset_name="full", changes=SHORT | {"batch_size": 12}, progress=False,
        models=tmp_path / "other", results=tmp_path / "elsewhere",
    )  # fmt: skip
    (other,) = (tmp_path / "other").glob("digits/runs/*/")
    other.rename(tmp_path / "models" / "digits" / "runs" / other.name)
    ((path, record),) = study("ensemble")
    weights = sorted((tmp_path / "models" / "digits").glob("runs/*-seed[01]-*/best.safetensors"))
    readers = [load_checkpoint(each) for each in weights]
    assert record["seeds"] == [0, 1]
    assert record["weights"].split() == [read_metadata(each)["digest"] for each in weights]
    each = [predictions(one, tiny.unseen.images) for one in readers]
    p = np.mean([np.exp(one.log_p) for one in each], axis=0)
    together = predictions(Ensemble(readers), tiny.unseen.images)
    np.testing.assert_allclose(np.exp(together.log_p), p, atol=1e-6)
    assert record["measured"]["accuracy"]["value"] == (p.argmax(axis=1) == tiny.unseen.sums).mean()
    assert "centre_error" not in record["measured"]
    for reading, *own in zip(together.readings, *(one.readings for one in each), strict=True):
        same = [one.probability for one in own if one.digits == reading.digits]
        assert reading.probability == pytest.approx(sum(same) / 2)
        assert reading.probability >= max(one.probability for one in own) / 2


def test_weights_that_tell_nothing_of_their_training_have_no_others_alike(reader, study, tmp_path):
    path = tmp_path / "models" / "digits" / f"{READER}.safetensors"
    model = load_checkpoint(path)
    needed = ("model", "model_args", "objective", "objective_args")
    save_checkpoint(model, path, **{key: model.metadata[key] for key in needed} | {"experiment": READER})
    with pytest.raises(CheckpointError, match="needs the weights of several readers"):
        study("ensemble")
    with pytest.raises(CheckpointError, match="was trained on other strips"):
        study("calibration")


def test_of_several_runs_of_a_seed_the_one_on_record_is_measured(reader, study, tiny, tmp_path):
    """Or else the newest."""
    settings: dict = {"device": "cpu", "preset_name": "full", "changes": SHORT, "progress": False}
    folders = {"models": tmp_path / "models", "results": tmp_path / "results"}
    for seed in (0, 1):
        run_experiment(READER, tiny, seed=seed, **settings, **folders)
    (recorded,) = (tmp_path / "models" / "digits").glob("runs/*-seed1-*/best.safetensors")
    for name, age in (("aaaaaaaa", -60), ("ffffffff", 60)):  # in seconds, of a run by other code
        other = recorded.parent.with_name(f"{READER}-seed1-{name}") / recorded.name
        weights = load_checkpoint(recorded)
        save_checkpoint(weights, other, **weights.metadata | {"commit": name})
        os.utime(other, (0, recorded.stat().st_mtime + age))

    def measured() -> str:
        ((_, record),) = study("ensemble")
        assert record["seeds"] == [0, 1]
        return record["weights"].split()[1]

    assert measured() == read_metadata(recorded)["digest"]
    (tmp_path / "results" / "digits" / f"{READER}-seed1.json").unlink()
    assert measured() == read_metadata(other)["digest"]


def test_pseudo_labels_are_held_to_the_truth(reader, study, tiny, monkeypatch):
    strips = tiny.train
    columns = ((strips.corners[:, :, 1] + 14) // 4).tolist()

    def answered(digits: np.ndarray) -> dict:
        readings = [Reading(*row, 1.0) for row in zip(digits.tolist(), columns, strict=True)]
        found = Predictions(strips.sums, strips.sums, readings)
        monkeypatch.setattr(studies, "predictions", lambda model, images: found)
        ((path, record),) = study("pseudo_labels")
        path.unlink()
        return record["measured"]

    measured = answered(strips.digits)
    assert measured["strips"] == len(strips) and measured["right"]["value"] == 1
    assert 0 < measured["glyphs"] <= measured["digits"] == sum(measured["of_each"])
    assert answered(np.roll(strips.digits, 1, axis=1))["right"]["value"] < 0.5  # the sums still agree
