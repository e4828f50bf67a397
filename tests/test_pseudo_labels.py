"""Digits cut out of strips and labelled by what was read: only what stands alone, sure and right by its sum."""

from __future__ import annotations

import numpy as np
import pytest

from digitsum.compose import GLYPH, Strips
from digitsum.likelihood import Reading
from digitsum.pseudo_labels import SURE, label_digits

STRIDE = 4


def readings(strips: Strips, probability: float = 1.0) -> list[Reading]:
    """What a perfect reader reads, each digit in the column at its glyph's middle."""
    columns = (strips.corners[:, :, 1] + GLYPH // 2) // STRIDE
    return [Reading(d, c, probability) for d, c in zip(strips.digits.tolist(), columns.tolist(), strict=True)]


def test_perfect_readings_give_perfect_labels_of_glyphs_that_touch_no_other(digits):
    strips = digits.val
    found = label_digits(strips, readings(strips), STRIDE)
    assert len(found.labels) > len(strips)  # more than one of the four, on average
    assert (found.labels == strips.digits[tuple(found.places.T)]).all()
    assert found.glyphs.shape == (len(found.labels), GLYPH, GLYPH) and found.glyphs.dtype == np.uint8
    tops, lefts = strips.corners[tuple(found.places.T)].T
    for glyph, row, top, left in zip(found.glyphs, found.places[:, 0], tops, lefts, strict=True):
        ink = strips.images[row, top : top + GLYPH, left : left + GLYPH]
        assert glyph.sum(dtype=np.int64) <= ink.sum(dtype=np.int64)  # a neighbour's ink may reach into the box
        middle = [np.average(np.arange(GLYPH), weights=glyph.sum(axis=axis, dtype=np.int64)) for axis in (0, 1)]
        assert np.abs(np.array(middle) - GLYPH / 2).max() <= 1


def strip(*pieces: tuple[int, int]) -> np.ndarray:
    image = np.zeros((40, 168), np.uint8)
    for start, end in pieces:
        image[10:30, start:end] = 200
    return image


@pytest.mark.parametrize(
    ("pieces", "columns", "places"),
    [
        (((8, 20), (40, 52)), [3, 11], [0, 1]),
        (((8, 20), (40, 70)), [3, 11, 15], [0]),  # two digits in one piece
        (((8, 20), (24, 28), (40, 52)), [3, 11], []),  # a piece in which nothing is read
        (((8, 20), (40, 70)), [3, 13], [0]),  # a piece wider than a glyph
    ],
)
def test_what_stands_alone(pieces, columns, places):
    digits = [7, 5, 1][: len(columns)]
    strips = Strips(strip(*pieces)[None], np.array([sum(digits)]))
    found = label_digits(strips, [Reading(digits, columns, 1.0)], STRIDE)
    assert found.places.tolist() == [[0, place] for place in places]
    assert found.labels.tolist() == [digits[place] for place in places]


def test_a_reading_that_is_unsure_or_misses_the_sum_labels_nothing(digits):
    strips = digits.val[:20]
    assert not len(label_digits(strips, readings(strips, SURE - 0.01), STRIDE).labels)
    wrong = Strips(strips.images, strips.sums + 1, strips.digits, strips.corners)
    found = label_digits(wrong, readings(strips), STRIDE)
    assert found.glyphs.shape == (0, GLYPH, GLYPH) and found.places.shape == (0, 2)


def test_an_empty_strip_labels_nothing():
    assert not len(label_digits(Strips(strip()[None], np.zeros(1, int)), [Reading([], [], 1.0)], STRIDE).labels)
