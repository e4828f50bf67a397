"""Report E's OCR and YOLO: the real programs where they are installed, and what is said where they are not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from digitsum import extras, objectives
from digitsum.__main__ import main
from digitsum.boxes import BINS, STRIDES, _cells, boxed, detection_loss, find
from digitsum.checkpoints import load_checkpoint
from digitsum.compose import GLYPH, MAX_SUM, Strips
from digitsum.data import DataError
from digitsum.evaluation import predictions, read
from digitsum.experiments import EXPERIMENTS
from digitsum.extras import ExtraError
from digitsum.models import MODELS
from digitsum.models.tesseract import page
from digitsum.objectives import OBJECTIVES
from digitsum.runs import find_checkpoints, run_experiment
from digitsum.stream import streamed
from digitsum.training import TrainingError, build, train

OCR, YOLO = "ocr", "yolo-boxes_digit_labels"
needs_tesseract, needs_yolo = pytest.mark.needs("tesseract"), pytest.mark.needs("yolo")


def printed(*texts: str) -> np.ndarray:
    """Strips (N, 40, 168) with texts in print, light on black."""
    images = []
    for text in texts:
        image = Image.new("L", (168, 40))
        ImageDraw.Draw(image).text((30, 4), text, fill=255, font=ImageFont.load_default(28))
        images.append(np.array(image))
    return np.stack(images)


# OCR


@needs_tesseract
def test_print_is_read_and_pages_are_kept_apart():
    """Also empty ones, first, last and side by side."""
    strips = printed("", "2 7 4 1", "", "", "9 0 3", "5 5 6 8 2", "")
    predicted = predictions(build(EXPERIMENTS[OCR]), strips)
    wanted = [[], [2, 7, 4, 1], [], [], [9, 0, 3], [5, 5, 6, 8, 2], []]
    assert [reading.digits for reading in predicted.readings] == wanted
    assert predicted.sums.tolist() == predicted.values.tolist() == [sum(digits) for digits in wanted]
    assert not len(predictions(build(EXPERIMENTS[OCR]), strips[:0]).sums)


def test_the_environment_is_as_it_was(monkeypatch):
    monkeypatch.setenv("DIGITSUM_TEST", "before")
    before = dict(os.environ)
    with pytest.raises(KeyError), extras.environment(DIGITSUM_TEST="within", DIGITSUM_OTHER="new"):
        assert (os.environ["DIGITSUM_TEST"], os.environ["DIGITSUM_OTHER"]) == ("within", "new")
        raise KeyError
    assert dict(os.environ) == before


def test_a_page_is_the_strip_dark_on_white_at_its_scale():
    strip = np.zeros((40, 168), np.uint8)
    strip[10:30, 50:60] = 255
    made = np.array(page(strip, scale=3, border=4))
    assert made.shape == (3 * 48, 3 * 176) and (made[0] == 255).all() and (made[:, 0] == 255).all()
    assert (made[3 * 16 : 3 * 32, 3 * 56 : 3 * 62] == 0).all()
    assert page(strip, 0.75, 10).size == (141, 45)
    assert made.mean() == pytest.approx(255 * (1 - 200 / (48 * 176)), rel=0.01)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=5))
def test_texts_are_added_up_and_brought_into_range(texts):
    outputs = torch.zeros(len(texts), 6, 11)
    outputs[:, :, 0] = 0.5
    for row, text in zip(outputs, texts, strict=True):
        for place, digit in enumerate(text):
            row[place, digit + 1] = 1
    objective = OBJECTIVES["text"]
    assert objective.values(outputs).tolist() == [sum(text) for text in texts]
    assert objective.sums(outputs).tolist() == [min(sum(text), MAX_SUM) for text in texts]
    assert [reading.digits for reading in objective.read(outputs)] == texts


@needs_tesseract
def test_an_ocr_run_trains_nothing_and_leaves_a_record_alone(tiny, tmp_path):
    folders = {"models": tmp_path / "m", "results": tmp_path / "r"}
    record = run_experiment(OCR, tiny, preset_name="smoke", progress=False, **folders)
    path = tmp_path / "r" / "digits-smoke" / "ocr-seed0.json"
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]
    assert json.loads(path.read_text()) == json.loads(json.dumps(record))
    assert (record["parameters"], record["trained_parameters"], record["best_epoch"]) == (0, 0, 0)
    assert record["history"] == [] and record["settings"]["supervision"] == "nothing"
    assert record["metrics"]["test"]["n"] == sum(record["digits_read"]["test"].values()) == 8
    assert record["strings"].keys() == tiny.splits.keys() and record["centre_error"] == {}
    assert {"tesseract", "pytesseract"} <= record["versions"].keys()
    assert find_checkpoints("digits", "smoke", tmp_path / "m")[OCR] is None


# YOLO


def told(strips: Strips, columns: int = 192) -> torch.Tensor:
    """Outputs of a detector that is sure of every glyph's true box, from the fine cell nearest to its centre."""
    outputs = torch.full((len(strips), columns // 32 * 42, 4 * BINS + 10), -8.0)
    x, y, stride = _cells(outputs)
    for row, digits, corners in zip(outputs, strips.digits, strips.corners, strict=True):
        for digit, (top, left) in zip(digits.tolist(), corners.tolist(), strict=True):
            distance = (x - left - GLYPH / 2).abs() + (y - top - GLYPH / 2).abs() + 1000 * (stride != STRIDES[0])
            cell = int(distance.argmin())
            sides = (x[cell] - left, y[cell] - top, left + GLYPH - x[cell], top + GLYPH - y[cell])
            row[cell, 4 * BINS + digit] = 8.0
            for side, pixels in enumerate(sides):  # between two bins, as their mean
                low, part = divmod(float(pixels) / STRIDES[0], 1)
                row[cell, side * BINS + int(low)] = 8 + np.log(max(1 - part, 1e-9))
                row[cell, side * BINS + int(low) + 1] = 8 + np.log(max(part, 1e-9))
    return outputs


def test_boxes_that_are_told_are_found_and_added_up(digits):
    strips = digits.test[:64]
    outputs, objective = told(strips), OBJECTIVES["boxes"]
    assert objective.sums(outputs).tolist() == objective.truth(torch.from_numpy(boxed(strips).sums)).tolist()
    assert objective.sums(outputs).tolist() == strips.sums.tolist()
    for reading, row, corners in zip(objective.read(outputs), strips.digits, strips.corners, strict=True):
        assert sorted(reading.digits) == sorted(row) and 0.9 < reading.probability <= 1
        assert np.abs(np.array(reading.columns) - np.sort(corners[:, 1] + (GLYPH - 1) / 2)).max() <= 1


def test_boxes_are_looked_for_once(digits, monkeypatch):
    """For sums and readings alike: finding them is what takes the time."""
    calls = []
    monkeypatch.setattr(objectives, "find", lambda *given: calls.append(given) or find(*given))
    answer = OBJECTIVES["boxes"].answer(told(digits.test[:8]))
    assert len(calls) == 1
    assert answer.values.tolist() == [sum(reading.digits) for reading in answer.readings]
    assert answer.values.tolist() == digits.test.sums[:8].tolist() and answer.values.dtype == torch.float32


def test_a_box_over_a_surer_one_counts_once_whatever_its_digit(digits):
    outputs = told(digits.test[:1])
    (found,) = find(outputs, 4)
    cell = int(outputs[0, :, 4 * BINS :].amax(dim=1).argmax())
    beside = cell + 1
    outputs[0, beside] = outputs[0, cell]
    outputs[0, beside, 4 * BINS :] = outputs[0, cell, 4 * BINS :].roll(1) - 1
    (again,) = find(outputs, 4)
    assert again.digits.tolist() == found.digits.tolist()
    assert len(find(outputs, 1)[0].digits) == 1 and len(find(outputs, 400)[0].digits) < outputs.shape[1]


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 12))
def test_cells_cover_a_strip_of_any_width(units):
    outputs = torch.zeros(1, 42 * units, 4 * BINS + 10)
    x, y, stride = _cells(outputs)
    assert len(x) == outputs.shape[1] and float((stride**2).sum()) == 3 * 64 * 32 * units, "each map covers the strip"
    assert float(x.max()) == 32 * units - 4 and float(y.max()) == 60


@needs_yolo
def test_the_loss_is_least_where_the_boxes_are_true(digits):
    strips = digits.test[:8]
    targets = torch.from_numpy(boxed(strips).sums)
    right = detection_loss(told(strips), targets)
    outputs = told(strips).requires_grad_()
    wrong = detection_loss(outputs, targets.flip(0))
    assert 0 < right < wrong / 4
    wrong.backward()
    assert outputs.grad.isfinite().all() and outputs.grad.any()
    twice = detection_loss(torch.cat([told(strips)] * 2), torch.cat([targets] * 2))
    assert twice.item() == pytest.approx(right.item(), rel=1e-4), "a mean over strips"


@needs_yolo
def test_a_detector_gives_the_same_for_a_strip_however_it_is_trained_or_read(digits):
    """Raw outputs in both modes, of as many cells as the padded strip has; gradients for every weight."""
    images = torch.from_numpy(digits.test.images[:2]).unsqueeze(1).float() / 255
    model = build(EXPERIMENTS[YOLO])
    outputs = model(images)
    assert outputs.shape == (2, 6 * 42, 74) and model.train().eval()(images[:, :, :, :100]).shape == (2, 4 * 42, 74)
    assert OBJECTIVES["boxes"].values(outputs).shape == (2,)
    detection_loss(outputs, torch.from_numpy(boxed(digits.test[:2]).sums)).backward()
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, name


@needs_yolo
def test_a_run_of_the_detector_leaves_weights_that_read_alike(tiny, tmp_path):
    """Through the real train(): twice the same, from boxes alone, with an import that leaves no trace."""
    save, environment = torch.save, {key: value for key, value in os.environ.items() if not key.startswith("YOLO_")}
    folders = {"models": tmp_path / "m", "results": tmp_path / "r"}
    few = tiny.head(16, 4)
    record = run_experiment(YOLO, few, device="cpu", preset_name="smoke", progress=False, **folders)
    assert record["settings"]["supervision"] == "digit labels and boxes" and len(record["history"]) == 1
    assert record["strings"].keys() == record["centre_error"].keys() == few.splits.keys()
    assert "ultralytics" in record["versions"]
    model = load_checkpoint(tmp_path / "m" / "digits-smoke" / f"{YOLO}.safetensors")
    again = train(replace(EXPERIMENTS[YOLO], epochs=1, batch_size=32), few, device="cpu", progress=False).model
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert np.array_equal(read(model, few.test).values, read(again, few.test).values)
    assert torch.save is save
    assert {key: value for key, value in os.environ.items() if not key.startswith("YOLO_")} == environment
    assert os.environ["YOLO_OFFLINE"] == "true" and os.environ["YOLO_AUTOINSTALL"] == "false"
    from ultralytics.utils.events import events

    assert not events.enabled


def test_strips_of_unknown_digits_have_no_boxes(tiny):
    assert boxed(tiny.val).sums.shape == (16, 4, 3)
    with pytest.raises(DataError, match="mnist or digits"):
        boxed(Strips(tiny.val.images, tiny.val.sums))


@pytest.mark.parametrize("name", ["oracle-digit_labels", YOLO])
def test_a_stream_has_no_boxes(name, tiny):
    with pytest.raises(TrainingError, match="stream"):
        train(name, streamed(tiny, 64), device="cpu", progress=False)


# Where they are not installed


@pytest.mark.parametrize(
    ("experiment", "package", "program", "words"),
    [
        (OCR, None, "tesseract", "pip install -r requirements-ocr.txt"),
        (OCR, "pytesseract", None, "apt-get install tesseract-ocr"),
        (YOLO, None, None, "pip install -r requirements-yolo.txt"),
    ],
)
def test_what_is_missing_is_one_line(experiment, package, program, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(extras, "find_spec", lambda module: package)
    monkeypatch.setattr(shutil, "which", lambda command: program)
    monkeypatch.chdir(tmp_path)
    assert main(["train", experiment, "--source", "digits", "--preset", "smoke"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("digitsum: ") and words in said[0]
    assert not list(tmp_path.iterdir())
    with pytest.raises(ExtraError, match="install"):
        MODELS[EXPERIMENTS[experiment].model](74, **EXPERIMENTS[experiment].model_args)


def test_weights_of_what_is_not_installed_are_passed_over(tmp_path, monkeypatch):
    path = tmp_path / "mnist" / f"{YOLO}.safetensors"
    path.parent.mkdir()
    path.touch()
    monkeypatch.setattr(extras, "find_spec", lambda name: "there")
    assert find_checkpoints("mnist", models=tmp_path)[YOLO] == path
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert find_checkpoints("mnist", models=tmp_path)[YOLO] is None


def test_nothing_of_them_is_imported_before_it_is_needed():
    """They are heavy, and one is under another licence."""
    code = "import sys, digitsum.__main__; assert not {'pytesseract', 'ultralytics', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
