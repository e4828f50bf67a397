"""Predictions and metrics against brute force."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SMALL, Told, telling
from hypothesis import example, given, settings
from hypothesis import strategies as st

from digitsum import evaluation
from digitsum.errors import DataError
from digitsum.evaluation import Predictions, answers, evaluate, mean_ci, metrics, predict, predictions
from digitsum.experiments import EXPERIMENTS
from digitsum.likelihood import Reading, read_strings, sum_distribution
from digitsum.training import build, to_input


@pytest.fixture
def sharp():
    """An untrained reader that does not say the same of all strips, and is sure of some."""
    model = build(EXPERIMENTS["reader"]).eval()
    model.symbols.weight.data *= 3000
    return model


# Metrics

# (value, predicted sum, true sum): any value, or one within 1.5 of the truth, where the ways to round differ
anything = st.tuples(st.floats(-5, 45, allow_subnormal=False), st.integers(0, 36), st.integers(0, 36))
close = st.builds(lambda truth, quarters: (truth + quarters / 4, truth, truth), st.integers(0, 3), st.integers(-6, 6))


@settings(deadline=None, max_examples=40)
@given(st.lists(anything | close, min_size=1, max_size=25))
@example([(-0.25, 0, 0), (0.5, 0, 0), (1.5, 2, 2)])
def test_metrics_against_brute_force(rows):
    values, sums, truth = (list(column) for column in zip(*rows, strict=True))
    n, pairs = len(rows), list(zip(values, truth, strict=True))
    found = metrics(Predictions(np.array(values), np.array(sums)), np.array(truth))
    expected = {
        "accuracy": sum(s == t for s, t in zip(sums, truth, strict=True)) / n,
        "floor": sum(math.floor(v) == t for v, t in pairs) / n,
        "ceiling": sum(math.ceil(v) == t for v, t in pairs) / n,
        "mse": sum((v - t) ** 2 for v, t in pairs) / n,
        "mae": sum(abs(v - t) for v, t in pairs) / n,
    }
    assert found.keys() == {"n", *expected} and found["n"] == n
    assert {name: found[name]["value"] for name in expected} == pytest.approx(expected, abs=1e-9)
    for name in expected:
        entry = found[name]
        assert entry["low"] - 1e-9 <= entry["value"] <= entry["high"] + 1e-9
        assert all(type(number) is float for number in entry.values()), "JSON knows no NumPy"
    assert all(found[name]["low"] >= 0 and found[name]["high"] <= 1 for name in ("accuracy", "floor", "ceiling"))


def test_means_have_about_the_interval_of_the_normal_law_and_the_same_every_time():
    values = np.random.default_rng(0).normal(0, 2, 2000)
    found = mean_ci(values)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * 2 / math.sqrt(2000), rel=0.2)
    assert found == mean_ci(values)
    assert mean_ci(values[:1]) == dict.fromkeys(("value", "low", "high"), values[0])


def test_answers_say_digits_probability_and_runner_up(monkeypatch):
    monkeypatch.setattr("digitsum.evaluation.TEMPERATURE", 2.0)
    log_p = 2 * np.log([[0.1, 0.7, 0.2], [0.3, 0.3, 0.4], [1.0, 1e-9, 1e-9]])
    readings = [Reading([0, 1], [3, 9], 0.6), Reading([2], [4], 0.4), Reading([], [], 1.0)]
    sure, unsure, nothing = answers(Predictions(np.array([1.0, 2.0, 0.0]), np.array([1, 2, 0]), readings, log_p))
    assert sure == {"sum": 1, "digits": "01", "probability": 0.7, "unsure": False, "runner-up": 2}
    assert unsure["unsure"] and unsure["sum"] == 2 and "error" in nothing
    (plain,) = answers(Predictions(np.array([6.6]), np.array([7])))
    assert plain["sum"] == 7 and plain["predicted"] == 6.6


@pytest.mark.parametrize("name", SMALL)
def test_predict_gives_whole_sums_whatever_the_batch(name, tiny, monkeypatch):
    model, images = build(EXPERIMENTS[name]), tiny.val.images
    whole = predictions(model.train(), images)  # a model left in training mode predicts as usual
    assert whole.values.shape == whole.sums.shape == (16,)
    assert whole.values.dtype == np.float64 and whole.sums.dtype == np.int64
    assert whole.sums.min() >= 0 and whole.sums.max() <= 36
    assert (len(whole.readings), len(whole.log_p)) == ((16, 16) if name == "reader" else (0, 0))
    assert np.array_equal(predict(model, images, digits=4), whole.sums)
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 3)
    parts = predictions(model, images[:, :, ::-1][:, :, ::-1])  # a view
    np.testing.assert_allclose(parts.values, whole.values, atol=1e-3)
    assert [reading.digits for reading in parts.readings] == [reading.digits for reading in whole.readings]
    none = predictions(model, images[:0])
    assert none.sums.shape == none.values.shape == (0,) and none.sums.dtype == np.int64 and none.readings == []


def test_blank_columns_on_the_right_change_nothing_to_a_reader(tiny):
    """It sees each strip up to its own ink, whatever the others' widths: answers come in the order of the strips."""
    model, images = build(EXPERIMENTS["reader"]), tiny.val.images
    whole, wider = predictions(model, images), predictions(model, np.pad(images, ((0, 0), (0, 0), (0, 100))))
    np.testing.assert_allclose(wider.log_p, whole.log_p, atol=1e-3)
    alone = [predictions(model, images[row : row + 1]) for row in range(len(images))]
    np.testing.assert_allclose(np.concatenate([each.log_p for each in alone]), whole.log_p, atol=1e-3)
    assert [each.readings[0].digits for each in alone] == [reading.digits for reading in whole.readings]


@pytest.mark.parametrize(("count", "least", "most"), [(4, 4, 4), (1, 1, 1), ((1, 8), 1, 8), ((0, 2), 0, 2)])
def test_a_reader_reads_as_many_digits_as_it_is_told(count, least, most, sharp, tiny):
    found = predictions(sharp, tiny.val.images, count)
    assert all(least <= len(reading.digits) <= most for reading in found.readings)
    assert found.log_p.shape == (16, 9 * most + 1) and found.sums.max() <= 9 * most
    np.testing.assert_allclose(np.exp(found.log_p).sum(1), 1, atol=1e-3)
    sharp.objective = replace(sharp.objective, count=count)
    assert predictions(sharp, tiny.val.images).readings == found.readings, "as many as in its training"


def test_an_open_count_is_found_by_the_reader_itself(sharp, tiny):
    found = predictions(sharp, tiny.val.images, None)
    assert len({len(reading.digits) for reading in found.readings}) > 1
    assert np.array_equal(predict(sharp, tiny.val.images), found.sums)


def test_tta_reads_again_only_what_is_uncertain(sharp, tiny, monkeypatch):
    """The mean over three views: as it is, and moved by a pixel to either side."""
    images = tiny.val.images
    with torch.no_grad():
        batch = to_input(torch.from_numpy(images))
        once = sharp(batch)
        likeliest = once.softmax(2).amax(2).amin(1)
        limit = float(likeliest.median())  # so that half of the strips are uncertain
        rows = likeliest < limit
        moved = [torch.nn.functional.pad(batch, (4 + right, 4 - right)) for right in (1, -1)]
        views = torch.stack([once, *(sharp(each)[:, 1:-1] for each in moved)])
    monkeypatch.setattr(evaluation, "UNCERTAIN", limit)
    monkeypatch.setattr(evaluation, "STEP", 168)  # strips as they are, without trimming
    with_tta, without = predictions(sharp, images), predictions(sharp, images, tta=False)
    p = sum_distribution(once, 4).softmax(1)
    np.testing.assert_allclose(np.exp(without.log_p), p, atol=1e-3)
    p[rows] = torch.stack([sum_distribution(view, 4).softmax(1) for view in views]).mean(0)[rows]
    np.testing.assert_allclose(np.exp(with_tta.log_p), p, atol=1e-3)
    assert (p[range(16), with_tta.sums] > p.amax(1) - 1e-3).all()
    for n, (one, three) in enumerate(zip(read_strings(once[None], 4), read_strings(views, 4), strict=True)):
        assert with_tta.readings[n].digits == (three if rows[n] else one).digits
        assert without.readings[n].digits == one.digits


@pytest.mark.parametrize("name", SMALL)
def test_other_widths_are_read_or_refused_by_name_and_other_shapes_and_types_always(name):
    model = build(EXPERIMENTS[name])
    for width in (0, 27, 28, 84, 168, 169, 200):
        images = np.zeros((1, 40, width), np.uint8)
        if width >= 28 and model.width in (None, width):
            assert predict(model, images).shape == (1,)
        else:
            with pytest.raises(DataError, match=rf"\(1, 40, {width}\)"):
                predict(model, images)
    for wrong in (np.zeros((5, 40, 168)), np.zeros((40, 168), np.uint8), np.zeros((5, 1, 40, 168), np.uint8)):
        with pytest.raises(DataError, match=f"{re.escape(str(wrong.shape))} {wrong.dtype}"):
            predict(model, wrong)


def test_evaluate_keeps_the_splits_apart_and_puts_the_first_three_together(tiny):
    sums = np.array([3, 7, 11, 20])
    data = replace(
        tiny,
        train=telling(10 * sums, sums),  # all right
        val=telling(10 * sums + 4, sums),  # all 0.4 too high
        test=telling(10 * sums[:2] + 20, sums[:2]),  # all 2 too high
        unseen=telling(10 * sums - 10, sums),  # all 1 too low
    )
    found, predicted = evaluate(Told(), data)
    measured = {name: (entry["n"], entry["accuracy"]["value"]) for name, entry in found.items()}
    assert measured == {"train": (4, 1.0), "val": (4, 1.0), "test": (2, 0.0), "unseen": (4, 0.0), "entire": (10, 0.8)}
    errors = {"train": 0.0, "val": 0.4, "test": 2.0, "unseen": 1.0, "entire": (4 * 0.4 + 2 * 2.0) / 10}
    assert {name: entry["mae"]["value"] for name, entry in found.items()} == pytest.approx(errors, abs=1e-4)
    assert predicted["unseen"].sums.tolist() == (sums - 1).tolist()
