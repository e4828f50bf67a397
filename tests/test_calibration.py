"""Calibration against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digitsum.calibration import BINS, closest, coverage, fit_offset, fit_temperature, reliability, tempered

confidences = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


@settings(deadline=None)
@given(confidences)
def test_reliability_against_brute_force(rows):
    confidence, right = (np.array(column) for column in zip(*rows, strict=True))
    found = reliability(confidence, right)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row in rows:
        bins.setdefault(min(int(row[0] * BINS), BINS - 1), []).append(row)
    expected = [np.mean(held, axis=0) for _, held in sorted(bins.items())]
    np.testing.assert_allclose(np.stack(found[:2], axis=1), expected)
    assert found.strips.tolist() == [len(held) for _, held in sorted(bins.items())]
    error = sum(len(held) * abs(np.subtract(*np.mean(held, axis=0))) for held in bins.values()) / len(rows)
    assert found.error == pytest.approx(error)


@settings(deadline=None)
@given(confidences)
def test_coverage_against_brute_force(rows):
    confidence, right = (np.array(column) for column in zip(*rows, strict=True))
    shares, accuracy = coverage(confidence, right)
    ranked = sorted(rows, key=lambda row: -row[0])
    assert shares[-1] == 1 and accuracy[-1] == pytest.approx(right.mean())
    for k in range(1, len(rows) + 1):
        assert shares[k - 1] == k / len(rows)
        assert accuracy[k - 1] == pytest.approx(sum(ok for _, ok in ranked[:k]) / k)


@settings(deadline=None, max_examples=20)
@given(st.floats(0.2, 5), st.integers(0, 2**32 - 1))
def test_the_temperature_by_which_probabilities_are_off_is_found(temperature, seed):
    """Truths drawn from the probabilities; what is fitted has been made sharper or flatter by `temperature`."""
    rng = np.random.default_rng(seed)
    log_p = tempered(rng.normal(0, 2, (4000, 7)), 1.0)
    truth = (np.exp(log_p).cumsum(axis=1) > rng.random((4000, 1))).argmax(axis=1)
    assert fit_temperature(tempered(log_p, 1 / temperature), truth) == pytest.approx(temperature, rel=0.15)


def test_a_temperature_keeps_the_order_and_the_total():
    log_p = tempered(np.array([[0.0, 1.0, -3.0]]), 1.0)
    for temperature in (0.1, 1, 10):
        p = np.exp(tempered(log_p, temperature))
        assert p.sum() == pytest.approx(1) and p.argsort().tolist() == [[2, 0, 1]]
    assert np.exp(tempered(log_p, 10)).max() < np.exp(log_p).max() < np.exp(tempered(log_p, 0.1)).max()


def test_the_offset_is_found_from_the_ink_alone(digits):
    strips = digits.val
    columns = (strips.corners[:, :, 1] - 5) // 4  # as a reader would that places digits well before their middles
    found = fit_offset(strips.images, columns.tolist(), stride=4)
    truth = np.median(strips.corners[:, :, 1] + 13.5 - 4 * columns)
    assert abs(found - truth) < 1


def test_an_offset_of_strips_without_gaps_is_none():
    assert fit_offset(np.full((2, 40, 56), 255, np.uint8), [[3, 9], [2, 8]], stride=4) == 0


def test_the_offset_by_hand():
    images = np.zeros((1, 40, 56), np.uint8)
    images[0, 5:9, 10:15] = images[0, 5:9, 30:37] = 255  # middles at 12 and 33
    assert fit_offset(images, [[2, 7]], stride=4) == 4.5  # 12 - 8 and 33 - 28
    uneven = np.zeros((1, 40, 56), np.uint8)
    uneven[0, 5, 20] = uneven[0, 5:8, 21] = 100  # a quarter and three quarters of the ink
    assert fit_offset(uneven, [[5]], stride=4) == 0.75


def test_closest_neighbours():
    lefts = np.array([[0, 12, 60, 102], [5, 47, 90, 118]])
    corners = np.stack([np.zeros_like(lefts), lefts], axis=2)
    assert closest(corners).tolist() == [16, 0]
