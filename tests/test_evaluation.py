"""Predictions and metrics against brute force."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from digitsum import devices, evaluation
from digitsum.compose import Strips
from digitsum.evaluation import (
    InputError,
    Predictions,
    accuracy_by_sum,
    centre_errors,
    confusion,
    evaluate,
    metrics,
    over_seeds,
    predict,
    predictions,
    share,
    sight,
    strings_read,
    widening,
)
from digitsum.experiments import EXPERIMENTS
from digitsum.likelihood import Reading, sum_distribution
from digitsum.models import StripModel
from digitsum.objectives import OBJECTIVES
from digitsum.training import build, to_input

SHARES = ("accuracy", "floor", "ceiling", "rounded", "within_half")
SMALL = [name for name, e in EXPERIMENTS.items() if not e.weights and e.supervision == "sums"]


class Told(StripModel):
    """Predicts the brightness of the first pixel, a tenth for every step, and so can be told what to predict."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(25.5))
        self.objective = OBJECTIVES["regression"]

    def forward(self, images):
        return images[:, :, 0, 0] * self.scale


def telling(tenths: np.ndarray, sums: np.ndarray) -> Strips:
    """Strips on which `Told` predicts `tenths` / 10."""
    images = np.zeros((len(sums), 40, 168), np.uint8)
    images[:, 0, 0] = tenths
    return Strips(images, sums)


# Metrics

# (value, predicted sum, true sum): any value, or one within 1.5 of the truth, where the ways to round differ
anything = st.tuples(st.floats(-5, 45), st.integers(0, 36), st.integers(0, 36))
close = st.builds(lambda truth, quarters: (truth + quarters / 4, truth, truth), st.integers(0, 3), st.integers(-6, 6))
cases = st.lists(anything | close, min_size=1, max_size=25)


@settings(deadline=None, max_examples=60)
@given(cases)
@example([(-0.25, 0, 0), (0.5, 0, 0), (1.5, 2, 2)])
def test_metrics_against_brute_force(rows):
    values, sums, truth = (list(column) for column in zip(*rows, strict=True))
    n, pairs = len(rows), list(zip(values, truth, strict=True))
    found = metrics(Predictions(np.array(values), np.array(sums)), np.array(truth))
    expected = {
        "accuracy": sum(s == t for s, t in zip(sums, truth, strict=True)) / n,
        "floor": sum(math.floor(v) == t for v, t in pairs) / n,
        "ceiling": sum(math.ceil(v) == t for v, t in pairs) / n,
        "rounded": sum(round(v) == t for v, t in pairs) / n,
        "within_half": sum(abs(v - t) < 0.5 for v, t in pairs) / n,
        "mse": sum((v - t) ** 2 for v, t in pairs) / n,
        "mae": sum(abs(v - t) for v, t in pairs) / n,
    }
    assert found.keys() == {"n", *expected} and found["n"] == n
    assert {name: found[name]["value"] for name in expected} == pytest.approx(expected, abs=1e-9)
    for name in expected:
        entry = found[name]
        assert entry["low"] - 1e-9 <= entry["value"] <= entry["high"] + 1e-9
        assert all(type(number) is float for number in entry.values()), "JSON knows no NumPy"
    assert all(found[name]["low"] >= 0 and found[name]["high"] <= 1 for name in SHARES)


@settings(deadline=None)
@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_shares_have_the_interval_of_wilson(case):
    hits, n = case
    z, p = 1.959963984540054, hits / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert share(hits, n) == pytest.approx({"value": p, "low": centre - half, "high": centre + half}, abs=1e-9)


def test_means_have_about_the_interval_of_the_normal_law():
    rng = np.random.default_rng(0)
    truth = np.full(2000, 18)
    found = metrics(Predictions(truth + rng.normal(0, 2, 2000), truth), truth)["mse"]
    half = 1.96 * math.sqrt(2) * 4 / math.sqrt(2000)  # the variance of a squared normal error is 2 sigma^4
    assert found["high"] - found["value"] == pytest.approx(half, rel=0.15)
    assert found["value"] - found["low"] == pytest.approx(half, rel=0.15)


@given(
    st.integers(2, 12).flatmap(
        lambda n: st.tuples(
            st.lists(st.booleans(), min_size=n, max_size=n),
            st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=n, max_size=n),
        )
    )
)
def test_strips_that_share_a_glyph_widen_the_interval_as_brute_force_says(case):
    values, glyphs = map(np.array, case)
    away = values - values.mean()
    pairs = [(i, j) for i in range(len(values)) for j in range(len(values)) if i == j or {*glyphs[i]} & {*glyphs[j]}]
    covariance = max(0.0, sum(away[i] * away[j] for i, j in pairs))
    expected = math.sqrt(covariance / (away**2).sum()) if away.any() else 1.0
    assert widening(values, glyphs) == pytest.approx(expected, abs=1e-7)


def test_errors_that_follow_glyphs_widen_the_interval_and_others_do_not():
    """As wide as the mean really scatters, over sets of glyphs drawn anew."""
    rng = np.random.default_rng(0)
    means, stated, chance = [], [], []
    for _ in range(200):
        hard = rng.random(500) < 0.01
        glyphs = rng.integers(500, size=(300, 4))
        right = ~hard[glyphs].any(axis=1)
        means.append(right.mean())
        stated.append(widening(right, glyphs) * right.std() / math.sqrt(300))
        chance.append(widening(rng.permutation(right), glyphs))
    assert np.sqrt(np.mean(np.square(stated))) == pytest.approx(np.std(means), rel=0.15)
    assert np.mean(chance) == pytest.approx(1, abs=0.05)
    assert np.std(means) > 1.3 * math.sqrt(np.mean(means) * (1 - np.mean(means)) / 300)


def test_over_seeds_value_and_interval_are_means():
    entries = [{"value": 0.2, "low": 0.1, "high": 0.3}, {"value": 0.4, "low": 0.2, "high": 0.7}]
    assert over_seeds(entries) == pytest.approx({"value": 0.3, "low": 0.15, "high": 0.5})


def test_the_same_predictions_have_the_same_metrics():
    rng = np.random.default_rng(1)
    predicted, truth = Predictions(rng.uniform(0, 36, 50), rng.integers(0, 37, 50)), rng.integers(0, 37, 50)
    assert metrics(predicted, truth) == metrics(predicted, truth)


def test_nothing_has_no_metrics():
    with pytest.raises(ValueError, match="no strips"):
        metrics(Predictions(np.empty(0), np.empty(0, np.int64)), np.empty(0, np.int64))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 36), st.integers(0, 36)), min_size=1, max_size=60))
def test_confusion_and_accuracy_by_sum_against_brute_force(pairs):
    sums, truth = (np.array(column) for column in zip(*pairs, strict=True))
    matrix = confusion(sums, truth)
    assert matrix.shape == (37, 37)
    for i in range(37):
        for j in range(37):
            assert matrix[i, j] == sum(t == i and s == j for s, t in pairs)
    accuracy, counts = accuracy_by_sum(sums, truth)
    assert accuracy.shape == counts.shape == (37,)
    assert counts.tolist() == [sum(t == total for _, t in pairs) for total in range(37)]
    for total in range(37):
        right = sum(s == t == total for s, t in pairs)
        assert np.isnan(accuracy[total]) if counts[total] == 0 else accuracy[total] == right / counts[total]


def test_strings_count_only_when_every_digit_is_right():
    digits = np.array([[1, 2, 3, 4]] * 4)
    read = [[1, 2, 3, 4], [4, 3, 2, 1], [1, 2, 3], [1, 2, 3, 4]]
    readings = [Reading(string, list(range(len(string))), 1.0) for string in read]
    assert strings_read(Predictions(np.zeros(4), np.zeros(4), readings), digits) == share(2, 4)


def test_centres_are_held_to_the_glyphs_and_other_counts_left_out():
    """Columns 4 pixels apart against glyphs of 28; the second strip is read as one digit only."""
    corners = np.array([[[3, 10], [0, 42]]] * 3)  # centres at 23.5 and 55.5
    readings = [Reading([1, 2], columns, 1.0) for columns in ([6, 14], [5], [5, 15])]
    found = centre_errors(Predictions(np.zeros(3), np.zeros(3), readings), corners, stride=4)
    assert found.tolist() == [0.5, 4.0]
    two = Predictions(np.zeros(2), np.zeros(2), [readings[0], readings[2]])
    assert centre_errors(two, corners[:2], stride=4, offset=-0.5).tolist() == [0.0, 4.0]
    assert centre_errors(Predictions(np.zeros(1), np.zeros(1), readings[1:2]), corners[:1], 4).shape == (0,)


# Predictions


@pytest.mark.parametrize("name", SMALL)
def test_predict_gives_whole_sums(name, tiny):
    model = build(EXPERIMENTS[name])
    sums = predict(model, tiny.val.images)
    assert sums.shape == (16,) and sums.dtype == np.int64
    assert sums.min() >= 0 and sums.max() <= 36
    predicted = predictions(model, tiny.val.images)
    assert predicted.values.shape == (16,) and predicted.values.dtype == np.float64
    assert np.array_equal(predicted.sums, sums)
    assert len(predicted.readings) == (16 if EXPERIMENTS[name].objective == "sum_likelihood" else 0)


@pytest.mark.parametrize("name", SMALL)
def test_predictions_do_not_depend_on_the_batch(name, tiny, monkeypatch):
    model = build(EXPERIMENTS[name])
    whole = predictions(model, tiny.val.images)
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 3)
    parts = predictions(model, tiny.val.images)
    assert np.array_equal(parts.sums, whole.sums)
    np.testing.assert_allclose(parts.values, whole.values, atol=1e-4)
    assert [reading.digits for reading in parts.readings] == [reading.digits for reading in whole.readings]


def test_blank_columns_on_the_right_change_nothing_to_a_reader(tiny):
    """It sees each strip up to its own ink, whatever the others' widths: answers come in the order of the strips."""
    model, images = build(EXPERIMENTS["reader"]), tiny.val.images
    wide = np.pad(images, ((0, 0), (0, 0), (0, 100)))
    assert len(model.widths(torch.from_numpy(wide)).unique()) > 1
    whole, wider = predictions(model, images), predictions(model, wide)
    np.testing.assert_allclose(wider.log_p, whole.log_p, atol=1e-4)
    alone = [predictions(model, images[row : row + 1]) for row in range(len(images))]
    np.testing.assert_allclose(np.concatenate([each.log_p for each in alone]), whole.log_p, atol=1e-4)
    assert [each.readings[0].digits for each in alone] == [reading.digits for reading in whole.readings]
    assert [each.sums.item() for each in alone] == whole.sums.tolist()


@pytest.mark.parametrize("objective", ["additive_regression", "expected_sum"])
def test_totals_over_columns_see_every_column(objective, tiny):
    model = build(replace(EXPERIMENTS["reader"], objective=objective, objective_args={}))
    assert model.widths(torch.from_numpy(tiny.val.images)).unique().tolist() == [168]


@pytest.mark.parametrize("count", [1, 4, 16, (1, 8), None])
def test_a_strip_without_ink_is_wide_enough_for_its_digits(count):
    model = build(replace(EXPERIMENTS["reader"], objective_args={"count": count}))
    predicted = predictions(model, np.zeros((2, 40, 336), np.uint8))
    assert predicted.sums.shape == (2,) and np.isfinite(predicted.log_p).all()


def test_a_model_left_in_training_mode_predicts_as_usual(tiny):
    model = build(EXPERIMENTS["cnn_attention-regression"])
    usual = predictions(model, tiny.val.images).values
    assert np.array_equal(predictions(model.train(), tiny.val.images).values, usual)


def test_images_may_be_any_view(tiny, tmp_path):
    """Every second strip, mirrored; and a file mapped read-only."""
    model = build(EXPERIMENTS["baseline_cnn-classification"])
    view = tiny.val.images[::2, :, ::-1]
    np.save(tmp_path / "images.npy", view)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert np.array_equal(predict(model, view), predict(model, view.copy()))
    assert np.array_equal(predict(model, mapped), predict(model, view.copy()))


@pytest.mark.parametrize("name", SMALL)
def test_no_images_no_sums(name):
    predicted = predictions(build(EXPERIMENTS[name]), np.empty((0, 40, 168), np.uint8))
    assert predicted.sums.shape == predicted.values.shape == (0,)
    assert predicted.sums.dtype == np.int64 and predicted.readings == []


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((5, 40, 168), np.float32), ((5, 40, 168), np.int64), ((40, 168), np.uint8), ((5, 41, 168), np.uint8),
        ((5, 168, 40), np.uint8), ((5, 1, 40, 168), np.uint8), ((5, 40, 168, 3), np.uint8),
    ],
)  # fmt: skip
def test_images_of_another_shape_or_type_are_refused(shape, dtype):
    with pytest.raises(InputError) as caught:
        predict(Told(), np.zeros(shape, dtype))
    assert isinstance(caught.value, ValueError)
    assert str(shape) in str(caught.value) and np.dtype(dtype).name in str(caught.value)


@pytest.mark.parametrize("width", [0, 4, 27])
@pytest.mark.parametrize("name", SMALL)
def test_strips_narrower_than_a_digit_are_refused(name, width):
    model = build(EXPERIMENTS[name])
    hint = "; readers take any width from 28 on" if model.width else ""
    with pytest.raises(InputError, match=f"not of {width}{hint}$"):
        predict(model, np.zeros((1, 40, width), np.uint8))


@pytest.mark.parametrize("width", [28, 84, 169, 200])
@pytest.mark.parametrize("name", SMALL)
def test_other_widths_are_read_or_refused_by_name(name, width):
    model = build(EXPERIMENTS[name])
    images = np.zeros((1, 40, width), np.uint8)
    if model.width in (None, width):
        assert predict(model, images).shape == (1,)
    else:
        with pytest.raises(InputError, match=f"reads strips of {model.width} columns, not of {width}"):
            predict(model, images)


@pytest.mark.parametrize("name", [name for name, e in EXPERIMENTS.items() if e.objective == "sum_likelihood"])
def test_sight_is_what_a_reader_reads(name, tiny, monkeypatch):
    """Probabilities of each column's symbols and of each sum; the most probable sum is the predicted one."""
    monkeypatch.setattr(devices, "has_bfloat16", lambda device: False)
    model, images = build(EXPERIMENTS[name]), tiny.val.images[:5]
    model.symbols.weight.data *= 3000  # so that it does not say the same of all strips
    seen = sight(model, images)
    assert seen.symbols.shape[::2] == (5, 11) and seen.sums.shape == (5, 37)
    np.testing.assert_allclose(seen.symbols.sum(axis=2), 1, atol=1e-5)
    np.testing.assert_allclose(seen.sums.sum(axis=1), 1, atol=1e-5)
    assert np.array_equal(seen.sums.argmax(axis=1), predict(model, images))
    assert predictions(model, images[:0]).log_p.shape == (0, 37)

    model.second_look, pixels = 0.0, torch.from_numpy(images)
    seen = sight(model, images)
    with torch.no_grad():
        symbols = model.glance(to_input(pixels)).softmax(2)
        tables = [
            sum_distribution(model.glance(to_input(pixels[row : row + 1, :, :width])), 4)
            for row, width in enumerate(model.widths(pixels))
        ]
    np.testing.assert_allclose(seen.symbols, symbols, atol=1e-4)
    np.testing.assert_allclose(seen.sums, torch.cat(tables).softmax(1), atol=1e-4)


def test_only_a_reader_tells_the_probabilities_of_sums(tiny):
    regression = predictions(build(EXPERIMENTS["baseline_cnn-regression"]), tiny.val.images[:5])
    assert regression.log_p.shape == (0, 37) and regression.readings == []


def test_a_reader_of_another_count_tells_its_own_sums(tiny):
    reader = build(replace(EXPERIMENTS["reader"], objective_args={"count": 2}))
    predicted = predictions(reader, tiny.val.images[:5])
    assert predicted.log_p.shape == (5, 19) and predicted.sums.max() <= 18


# Whole data sets


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
    assert list(found) == list(predicted) == ["train", "val", "test", "unseen", "entire"]
    assert {name: entry["n"] for name, entry in found.items()} == dict(train=4, val=4, test=2, unseen=4, entire=10)
    values = {name: {key: entry[key]["value"] for key in ("accuracy", "mae")} for name, entry in found.items()}
    assert values["train"] == pytest.approx({"accuracy": 1.0, "mae": 0.0}, abs=1e-5)
    assert values["val"] == pytest.approx({"accuracy": 1.0, "mae": 0.4}, abs=1e-5)
    assert values["test"] == pytest.approx({"accuracy": 0.0, "mae": 2.0}, abs=1e-5)
    assert values["unseen"] == pytest.approx({"accuracy": 0.0, "mae": 1.0}, abs=1e-5)
    assert values["entire"] == pytest.approx({"accuracy": 0.8, "mae": (4 * 0.4 + 2 * 2.0) / 10}, abs=1e-5)
    assert found["val"]["floor"]["value"] == 1.0 and found["val"]["ceiling"]["value"] == 0.0
    assert predicted["unseen"].sums.tolist() == (sums - 1).tolist()


def test_data_without_an_unseen_split_are_evaluated(tiny):
    found, predicted = evaluate(Told(), replace(tiny, unseen=None))
    assert list(found) == list(predicted) == ["train", "val", "test", "entire"]


def test_a_split_of_one_strip_is_evaluated(tiny):
    """As the course's files give where there are only ten strips."""
    found, _ = evaluate(Told(), tiny.head(8, 1))
    assert found["val"]["n"] == 1
    assert found["val"]["mae"]["low"] == found["val"]["mae"]["value"] == found["val"]["mae"]["high"]
