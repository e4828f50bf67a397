"""Labelled digits from sums alone: what stands by itself in strips, with what a reader reads there.

After Lee, "Pseudo-label" (2013), who takes what a network is sure of for the truth; here the sums check it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .calibration import fit_offset, pieces
from .compose import GLYPH, Strips
from .likelihood import Reading

SURE = 0.9  # probability of a strip's digits from which they are believed


class LabelledDigits(NamedTuple):
    """Digits: glyphs (G, 28, 28) uint8, what each is read as (G,), and its strip and its place from the left (G, 2)."""

    glyphs: np.ndarray
    labels: np.ndarray
    places: np.ndarray


def label_digits(strips: Strips, readings: Sequence[Reading], stride: int) -> LabelledDigits:
    """The digits that touch no other, of strips whose reading is sure and adds up to the sum.

    Such a strip is taken apart at its blank columns. A piece in which one digit is read, at a column of `stride`
    pixels, is a glyph of that digit; a strip with a piece in which none is read is left out. Glyphs are centred by
    their mass, as MNIST's are. The strips' own digits and corners are not used.
    """
    offset = fit_offset(strips.images, [reading.columns for reading in readings], stride)
    glyphs, labels, places = [], [], []
    for row, (image, total, reading) in enumerate(zip(strips.images, strips.sums, readings, strict=True)):
        if reading.probability < SURE or sum(reading.digits) != total or not image.any():
            continue
        starts, ends = pieces(image.any(axis=0)).T
        read = stride * np.array(reading.columns)[:, None] + offset  # (K, 1), in pixels
        piece = np.maximum(starts - read, read - ends + 1).argmin(axis=1)  # (K,), the nearest to each digit
        held = np.bincount(piece, minlength=len(starts))
        if not held.all():
            continue
        for place, (digit, k) in enumerate(zip(reading.digits, piece, strict=True)):
            if held[k] == 1 and (glyph := _centred(image[:, starts[k] : ends[k]])) is not None:
                glyphs.append(glyph)
                labels.append(digit)
                places.append((row, place))
    return LabelledDigits(
        np.array(glyphs, np.uint8).reshape(-1, GLYPH, GLYPH),
        np.array(labels, np.int64),
        np.array(places, np.int64).reshape(-1, 2),
    )


def _centred(ink: np.ndarray) -> np.ndarray | None:
    """A piece of ink (H, W) in the middle of a glyph, or None if it is too large for one."""
    ink = ink[np.flatnonzero(ink.any(axis=1))[0] : np.flatnonzero(ink.any(axis=1))[-1] + 1]
    if max(ink.shape) > GLYPH:
        return None
    glyph, corner = np.zeros((GLYPH, GLYPH), np.uint8), []
    for axis, size in enumerate(ink.shape):
        middle = np.average(np.arange(size), weights=ink.sum(axis=1 - axis, dtype=np.int64))
        corner.append(int(np.clip(round(GLYPH / 2 - middle), 0, GLYPH - size)))
    glyph[corner[0] : corner[0] + ink.shape[0], corner[1] : corner[1] + ink.shape[1]] = ink
    return glyph
