"""The reports' other systems and the references, with the real tesseract and ultralytics if they are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from conftest import ENVIRONMENT, REPOSITORY, run, save
from PIL import Image, ImageDraw, ImageFont
from torch import nn
from torchvision.models import resnet50, vgg16, vit_b_16

from digitsum.checkpoints import best_checkpoint, load_checkpoint
from digitsum.compose import GLYPH, Strips
from digitsum.data import load_data
from digitsum.errors import DataError
from digitsum.evaluation import evaluate, predict, predictions, unpack
from digitsum.experiments import EXPERIMENTS, same_settings, shorten
from digitsum.objectives import OBJECTIVES
from digitsum.training import build, to_input
from research.systems import SUPERVISION, SYSTEMS, networks, outside, prepare, run_system
from research.systems.networks import side_by_side, single
from research.systems.outside import BINS, STRIDES, _cells, boxed

OCR, ORACLE, YOLO = "ocr", "oracle-digit_labels", "yolo-boxes_digit_labels"


def need(name: str) -> None:
    """Skip a test whose system is not installed here; with DIGITSUM_EXTRAS=1 let it fail instead."""
    try:
        outside.require(SYSTEMS[name].model)
    except outside.ExtraError as error:
        if not os.environ.get("DIGITSUM_EXTRAS"):
            pytest.skip(str(error))


@pytest.fixture
def places(tmp_path):
    return {"models": tmp_path / "m", "results": tmp_path / "r", "progress": False}


@pytest.mark.parametrize("name", SYSTEMS)
def test_outputs_gradients_and_checkpoints(name, tiny, tmp_path):
    need(name)
    data = prepare(name, tiny.head(4, 2))
    strips = single(data.train) if name == ORACLE else data.train
    experiment = replace(SYSTEMS[name], weights=None)
    model = build(experiment).to(memory_format=torch.channels_last)  # as a loaded one
    outputs = model(to_input(torch.from_numpy(strips.images)))
    assert outputs.shape[-1] == model.objective.outputs and outputs.isfinite().all()
    assert model.objective.sums(outputs).shape == model.objective.values(outputs).shape == (len(strips),)
    if name == OCR:
        return  # it has no weights to train or to load
    model.objective.loss(outputs, torch.from_numpy(strips.sums)).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    path = tmp_path / "weights.safetensors"
    save(model, path, experiment)
    loaded = load_checkpoint(path)
    path.unlink()  # ViT's are large
    assert loaded.objective == OBJECTIVES[experiment.objective]
    assert np.array_equal(predictions(loaded, data.val.images).values, predictions(model, data.val.images).values)


@pytest.mark.parametrize("name", SYSTEMS)
def test_published_records_are_of_these_settings(name):
    """Apart from settings that a record itself says were changed."""
    paths = list((REPOSITORY / "results" / "mnist").glob(f"{name}-seed*.json"))
    assert paths
    for record in (json.loads(path.read_text()) for path in paths):
        usual = {key: before for key, (before, _) in record["changed"].items()}
        assert same_settings(record["settings"] | usual, asdict(SYSTEMS[name]))


def test_only_names_that_say_so_use_digit_labels(tiny):
    for name in EXPERIMENTS:
        prepared = prepare(name, tiny)
        assert ("digit_labels" in name) == ("digit" in SUPERVISION.get(name, "sums")) == (prepared is not tiny)
        assert prepared.fingerprint == tiny.fingerprint


def test_importing_twice_changes_nothing_and_extras_leave_no_trace():
    code = """
import importlib, os, sys, torch, research.systems as systems
before = dict(systems.EXPERIMENTS), torch.save, dict(os.environ)
importlib.reload(systems)
assert not {"pytesseract", "ultralytics", "cv2"} & set(sys.modules)
if importlib.util.find_spec("ultralytics"):
    systems.outside.import_ultralytics()
environment = {key: value for key, value in os.environ.items() if not key.startswith("YOLO_")}
assert (systems.EXPERIMENTS, torch.save, environment) == before
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=ENVIRONMENT)


@pytest.mark.slow
@pytest.mark.parametrize(("source", "least"), [("digits", 0.9), ("mnist", 0.95)])
def test_the_small_reader_reaches_its_accuracy(source, least, request):
    """A whole training, as published: python -m pytest -m slow. Published runs on mnist reach 97.3 %."""
    data = load_data(source, request.getfixturevalue("mnist_root") if source == "mnist" else "data")
    model = run(SYSTEMS["reader_small"], data, device="auto").model
    assert least < evaluate(model, data, limit=3_000)[0]["unseen"]["accuracy"]["value"] < 1


# The reports' networks


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cnn3_dropout-classification", "1-32 32-64 64-128 13440-256 dropout0.7 256-37"),
        ("cnn2_dropout-regression", "1-32 32-64 26880-128 dropout0.5 128-1"),
        ("cnn2_linear-regression", "1-32 32-64 26880-1"),
        ("cnn_no_attention-regression", "1-32 32-64 64-128 128-128 128-128 128-128 128-128 128-256 256-1"),
        ("cnn_attention_between-regression", "1-32 32-64 64-128 attention 128-128 128-128 128-256 256-1"),
        (
            "cnn_attention_several-regression",
            "1-32 32-64 64-128 attention 128-128 attention 128-128 attention 128-256 256-1",
        ),
    ],
)
def test_layers_run_in_the_order_of_the_reports(name, expected):
    model, ran = build(SYSTEMS[name]), []
    for layer in model.modules():
        if isinstance(layer, nn.MultiheadAttention):
            layer.register_forward_hook(lambda *_: ran.append("attention"))
        elif isinstance(layer, nn.Dropout):
            layer.register_forward_hook(lambda layer, *_: ran.append(f"dropout{layer.p}"))
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda layer, *_: ran.append("{1}-{0}".format(*layer.weight.shape)))
    model(torch.rand(2, 1, 40, 168))
    assert " ".join(ran) == expected


@pytest.mark.parametrize(
    ("name", "published", "part", "head"),
    [
        ("resnet50_imagenet-classification", resnet50, "backbone", "fc"),
        ("vgg16_frozen-regression", vgg16, "frozen", "classifier"),
        ("vit-regression", vit_b_16, "backbone", "heads"),
    ],
)
def test_a_model_starts_from_its_published_weights(name, published, part, head, monkeypatch):
    with torch.device("meta"):
        shapes = published().state_dict()
    state = {each: torch.tensor(float(k)).expand(tensor.shape) for k, (each, tensor) in enumerate(shapes.items())}
    monkeypatch.setattr(networks, "published_state", lambda kind, weights: state)
    module = getattr(build(SYSTEMS[name]), part)
    assert all(parameter.requires_grad == (part != "frozen") for parameter in module.parameters())
    loaded = module.state_dict()
    expected = {each.replace("features.", "0."): value for each, value in state.items() if not each.startswith(head)}
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[each].to(tensor.dtype)) for each, tensor in loaded.items())


# The references


@pytest.mark.parametrize("name", ["most_common", ORACLE, YOLO, "cnn2_linear-regression"])
def test_a_run_leaves_weights_and_a_record(name, tiny, tmp_path, places):
    need(name)
    record = run_system(shorten(EXPERIMENTS[name], "smoke"), tiny, device="cpu", **places)
    paths = [f"m/digits/{name}-seed0.safetensors", f"r/digits/{name}-seed0.json"]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("[!.]*") if path.is_file()) == paths
    assert json.loads((tmp_path / paths[1]).read_text()) == json.loads(json.dumps(record))
    model = load_checkpoint(tmp_path / paths[0])
    answers = predict(model, prepare(name, tiny).unseen.images).tolist()
    assert answers == unpack(record["answers"]).sums.tolist()
    assert record["metrics"]["unseen"]["accuracy"]["value"] == (answers == tiny.unseen.sums).mean()
    assert record["data"]["fingerprint"] == model.metadata["data"] == tiny.fingerprint
    assert record["strings"].keys() == (tiny.splits.keys() if name == YOLO else set())
    assert ("ultralytics" in record["versions"]) == (name == YOLO)
    if name == "most_common":
        assert set(answers) == {np.bincount(tiny.train.sums).argmax()}
    again = run_system(shorten(EXPERIMENTS[name], "smoke"), tiny, **places)
    assert again["seconds"] == record["seconds"], "it is not made again"


def test_cuts_are_what_stands_at_the_digits_places(digits):
    strips = digits.test[:20]
    joined = side_by_side(strips)
    cuts = single(joined)
    assert joined.images.shape == (20, 40, 4 * GLYPH) and np.array_equal(joined.sums, strips.sums)
    assert cuts.images.shape == (80, 40, GLYPH) and np.array_equal(cuts.sums, strips.digits.ravel())
    for k, (top, left) in enumerate(strips.corners.reshape(-1, 2)):
        window = strips.images[k // 4, top : top + GLYPH, left : left + GLYPH]
        assert np.array_equal(cuts.images[k, :GLYPH], window) and not cuts.images[k, GLYPH:].any()


def test_the_oracle_learns_digits_and_adds_them_up(tiny):
    data = prepare(ORACLE, tiny)
    cuts = replace(data, train=single(data.train), val=single(data.val))
    model = run(replace(SYSTEMS[ORACLE], epochs=20, batch_size=64, lr=1e-2, augment=None), cuts).model
    read = predict(model, cuts.train.images).reshape(-1, 4)
    assert np.array_equal(predict(model, data.train.images), read.sum(axis=1))
    assert (read == data.train.digits).mean() > 0.5


@pytest.mark.parametrize("name", [ORACLE, "most_common"])
def test_published_weights_answer_as_recorded(name, mnist):
    path = best_checkpoint(REPOSITORY / "models" / "mnist", name)
    record = json.loads((REPOSITORY / "results" / "mnist" / f"{path.stem}.json").read_text())
    answers = predict(load_checkpoint(path), prepare(name, mnist.head(1, 500)).unseen.images)
    assert (answers == unpack(record["answers"]).sums[:500]).mean() > 0.99


# OCR and YOLO


def test_ocr_reads_print_and_leaves_a_record_alone(tiny, tmp_path, places):
    need(OCR)
    images = []
    for text in ("", "2 7 4 1", "", "", "9 0 3", "5 5 6 8 9 8", ""):  # light on black
        images.append(Image.new("L", (168, 40)))
        ImageDraw.Draw(images[-1]).text((10, 4), text, fill=255, font=ImageFont.load_default(28))
    predicted = predictions(build(SYSTEMS[OCR]), np.stack(images))
    wanted = [[], [2, 7, 4, 1], [], [], [9, 0, 3], [5, 5, 6, 8, 9, 8], []]
    assert [reading.digits for reading in predicted.readings] == wanted
    assert predicted.sums.tolist() == [min(sum(digits), 36) for digits in wanted]
    record = run_system(EXPERIMENTS[OCR], tiny.head(4, 4), **places)
    assert json.loads((tmp_path / "r" / "digits" / "ocr-seed0.json").read_text())["versions"] == record["versions"]
    assert (record["parameters"], record["history"], record["metrics"]["test"]["n"]) == (0, [], 4)
    assert {"tesseract", "pytesseract"} <= record["versions"].keys()


def told(strips: Strips) -> torch.Tensor:
    """Outputs of a detector that is sure of every glyph's true box, from the fine cell nearest to its centre."""
    outputs = torch.full((len(strips), 6 * 42, 4 * BINS + 10), -8.0)  # 42 cells for 32 of 192 columns
    (x, y), (stride,) = (each.T for each in _cells(outputs))
    for row, digits, corners in zip(outputs, strips.digits, strips.corners, strict=True):
        for digit, (top, left) in zip(digits.tolist(), corners.tolist(), strict=True):
            distance = (x - left - GLYPH / 2).abs() + (y - top - GLYPH / 2).abs() + 1000 * (stride != STRIDES[0])
            cell = int(distance.argmin())
            row[cell, 4 * BINS + digit] = 8.0
            for side, pixels in enumerate((x[cell] - left, y[cell] - top, left + 28 - x[cell], top + 28 - y[cell])):
                low, part = divmod(float(pixels) / STRIDES[0], 1)  # between two bins, as their mean
                row[cell, side * BINS + int(low)] = 8 + np.log(max(1 - part, 1e-9))
                row[cell, side * BINS + int(low) + 1] = 8 + np.log(max(part, 1e-9))
    return outputs


def test_boxes_that_are_told_are_found_and_added_up(digits):
    strips, objective = digits.test[:64], OBJECTIVES["boxes"]
    outputs = told(strips)
    assert objective.sums(outputs).tolist() == objective.truth(boxed(strips).sums).tolist() == strips.sums.tolist()
    for reading, row, corners in zip(objective.answer(outputs).readings, strips.digits, strips.corners, strict=True):
        assert sorted(reading.digits) == sorted(row) and 0.9 < reading.probability <= 1
        assert np.abs(np.array(reading.columns) - np.sort(corners[:, 1] + (GLYPH - 1) / 2)).max() <= 1
    (alone,) = objective.answer(outputs[:1]).readings
    cell = int(outputs[0, :, 4 * BINS :].amax(dim=1).argmax())  # the surest; beside it now the same box less sure
    outputs[0, cell + 1] = outputs[0, cell] - 1
    assert objective.answer(outputs[:1]).readings[0].digits == alone.digits


def test_the_loss_is_least_where_the_boxes_are_true_and_falls(digits):
    need(YOLO)
    strips, objective = digits.test[:8], OBJECTIVES["boxes"]
    targets = torch.from_numpy(boxed(strips).sums)
    assert 0 < objective.loss(told(strips), targets) < objective.loss(told(strips), targets.flip(0)) / 4
    experiment, few = replace(SYSTEMS[YOLO], epochs=8, batch_size=16), prepare(YOLO, digits.head(32, 8))
    first, *_, last = run(experiment, few).history
    assert last["train_loss"] < 0.7 * first["train_loss"]


@pytest.mark.parametrize("name", [ORACLE, YOLO, OCR])
def test_what_is_missing_is_said_before_anything_is_written(name, tiny, tmp_path, places, monkeypatch):
    unknown = replace(tiny, **{split: Strips(strips.images, strips.sums) for split, strips in tiny.splits.items()})
    monkeypatch.setattr(outside, "find_spec", lambda package: None)
    with pytest.raises(DataError if name == ORACLE else outside.ExtraError, match="mnist or digits|pip install"):
        run_system(EXPERIMENTS[name], unknown, **places)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="mnist or digits"):
        boxed(unknown.train)
