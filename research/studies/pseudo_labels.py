"""Labelled digits from sums alone: cut isolated digits out of strips and label them with what a reader reads.

After Lee, "Pseudo-label" (2013), who takes a network's confident predictions for the truth. Here the sums check them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import center_of_mass

from digitsum.compose import GLYPH, Strips
from digitsum.data import Data
from digitsum.evaluation import predictions
from digitsum.likelihood import Reading
from digitsum.models.layers import StripModel

from .calibration import accuracy_ci, fit_offset, pieces

SURE = 0.9  # use only readings of at least this probability


def measure(readers: Sequence[StripModel], data: Data, root: str | Path) -> dict[str, Any]:
    """Label the isolated digits of the training strips by reading them, and compare with the truth."""
    strips, (reader,) = data.train, readers
    assert reader.stride is not None and strips.digits is not None
    found = label_digits(strips, predictions(reader, strips.images).readings, reader.stride)
    measured: dict[str, Any] = {
        "strips": len(strips),
        "digits": len(found.labels),
        "glyphs": len(np.unique(found.glyphs, axis=0)),
        "of_each": np.bincount(found.labels, minlength=10).tolist(),
    }
    right = found.labels == strips.digits[tuple(found.places.T)]
    return measured | ({"right": accuracy_ci(right)} if len(right) else {})


class LabelledDigits(NamedTuple):
    """Hold glyphs (G, 28, 28) uint8, their labels (G,), and the strip and the place from the left of each (G, 2)."""

    glyphs: np.ndarray
    labels: np.ndarray
    places: np.ndarray


def label_digits(strips: Strips, readings: Sequence[Reading], stride: int) -> LabelledDigits:
    """Return the isolated digits of strips whose reading is sure and adds up to the sum.

    Each strip is split at its blank columns. A piece with one digit becomes a glyph, centred by its mass like MNIST's.
    A strip with a piece without a digit is skipped. The strips' own digits and corners are not used.
    """
    offset = fit_offset(strips.images, readings, stride)
    found: list[tuple[np.ndarray, int, tuple[int, int]]] = []
    for row, (image, total, reading) in enumerate(zip(strips.images, strips.sums, readings, strict=True)):
        if reading.probability < SURE or sum(reading.digits) != total or not image.any():
            continue
        starts, ends = pieces(image.any(axis=0)).T
        read = stride * np.array(reading.columns)[:, None] + offset  # (K, 1), in pixels
        piece = np.maximum(starts - read, read - ends + 1).argmin(axis=1)  # (K,), the nearest to each digit
        held = np.bincount(piece, minlength=len(starts))
        for place, (digit, k) in enumerate(zip(reading.digits, piece, strict=True)):
            if held.all() and held[k] == 1 and ends[k] - starts[k] <= GLYPH:
                found.append((centred(image[:, starts[k] : ends[k]]), digit, (row, place)))
    glyphs, labels, places = zip(*found, strict=True) if found else ((), (), ())
    return LabelledDigits(
        np.array(glyphs, np.uint8).reshape(-1, GLYPH, GLYPH),
        np.array(labels, np.int64),
        np.array(places, np.int64).reshape(-1, 2),
    )


def centred(ink: np.ndarray) -> np.ndarray:
    """Return the glyph (28, 28) around the centre of mass of a piece of ink (H, W)."""
    top, left = (round(middle) for middle in center_of_mass(ink))
    return np.pad(ink, GLYPH // 2)[top : top + GLYPH, left : left + GLYPH]
