"""How a trained reader reads other numbers of digits, and what test-time augmentation is worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from digitsum.compose import DIGIT_WIDTH, compose
from digitsum.data import Data, source_glyphs
from digitsum.evaluation import SHIFTS, UNCERTAIN, predictions, sight, strings_read
from digitsum.models.layers import StripModel

from .calibration import accuracy_ci

COUNTS = (1, 2, 3, 4, 5, 6, 8, 16)
COUNT_STRIPS = 2_000  # of each count


def counts(readers: Sequence[StripModel], data: Data, root: str | Path) -> dict[str, Any]:
    """Read strips of other numbers of digits, composed of the glyphs of `unseen`, with and without the number given."""
    measured: dict[str, Any] = {}
    _, unseen = source_glyphs(data.source, root, data.seed)
    for k in COUNTS:
        strips = compose(*unseen, COUNT_STRIPS, seed=(data.seed, k), digits=k)
        assert strips.digits is not None
        measured[str(k)] = {"n": len(strips), "columns": k * DIGIT_WIDTH, "fingerprint": strips.fingerprint}
        for way, given in (("unknown", None), ("known", k)):
            read = predictions(readers[0], strips.images, digits=given)
            found = [reading.digits for reading in read.readings]
            measured[str(k)][way] = {
                "strings": strings_read(read, strips.digits),
                "sums": accuracy_ci(np.array([sum(digits) for digits in found]) == strips.sums),
                "count": accuracy_ci(np.array([len(digits) for digits in found]) == k),
            }
    return measured


def uncertain(model: StripModel, images: np.ndarray) -> np.ndarray:
    """Tell which strips (N,) have a column whose likeliest symbol is less probable than UNCERTAIN."""
    parts = np.array_split(images, max(len(images) // 100, 1))
    return np.concatenate([sight(model, part).max(axis=2).min(axis=1) < UNCERTAIN for part in parts])


def tta(readers: Sequence[StripModel], data: Data, root: str | Path) -> dict[str, Any]:
    """Read validation and the last split once and with test-time augmentation, which reads uncertain strips again."""
    splits: dict[str, Any] = {}
    for split in ("val", list(data.splits)[-1]):
        strips = data.splits[split]
        splits[split] = {"n": len(strips), "again": accuracy_ci(uncertain(readers[0], strips.images))}
        for way, on in (("once", False), ("several", True)):
            splits[split][way] = accuracy_ci(predictions(readers[0], strips.images, tta=on).sums == strips.sums)
    return {"looks": 1 + len(SHIFTS), "below": UNCERTAIN, "splits": splits}
