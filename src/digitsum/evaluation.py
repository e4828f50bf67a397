"""From predictions to metrics with confidence intervals."""

from __future__ import annotations

import base64
import math
import statistics
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy import sparse, stats
from sklearn.metrics import confusion_matrix
from torch import Tensor

from . import distributed
from .compose import GLYPH, HEIGHT, MAX_SUM, WIDTH, Strips
from .cuts import cut
from .data import Data
from .devices import denormals_as_zero, keep_freed_memory
from .likelihood import Reading
from .models import StripModel
from .models.reader import Reader
from .objectives import NUM_SUMS
from .training import EVALUATION_BATCH, to_input

CONFIDENCE = 0.95
RESAMPLES = 1000
MIN_WIDTH = 28  # one glyph


class InputError(ValueError):
    """Images that a model cannot read; the message says which it can."""


@dataclass(frozen=True)
class Predictions:
    """A model's real-valued predictions and its predicted sums, both (N,), in units of the sum.

    `readings` are each strip's digits, from a model that reads them; otherwise empty. `log_p` (N, 37) are the
    log-probabilities of each sum, from a model that tells them; otherwise (0, 37).
    """

    values: np.ndarray
    sums: np.ndarray
    readings: list[Reading] = field(default_factory=list)
    log_p: np.ndarray = field(default_factory=lambda: np.empty((0, NUM_SUMS)))

    def of(self, rows: np.ndarray) -> Predictions:
        """Those of the strips `rows` (M,), in that order."""
        readings = [self.readings[row] for row in rows] if self.readings else []
        log_p = self.log_p[rows] if len(self.log_p) else self.log_p
        return Predictions(self.values[rows], self.sums[rows], readings, log_p)

    def packed(self) -> dict[str, str]:
        """Values (as float32) and sums as text for a record; `unpacked` takes them out again."""
        arrays = {"values": self.values.astype("<f4"), "sums": self.sums.astype("u1")}
        return {name: base64.b64encode(zlib.compress(array.tobytes())).decode() for name, array in arrays.items()}

    @staticmethod
    def unpacked(packed: Mapping[str, str]) -> Predictions:
        values, sums = (
            np.frombuffer(zlib.decompress(base64.b64decode(packed[name])), dtype)
            for name, dtype in (("values", "<f4"), ("sums", "u1"))
        )
        return Predictions(values.astype(np.float64), sums.astype(np.int64))


@dataclass(frozen=True)
class Sight:
    """What a reader makes of strips, in probabilities: of each column's symbols (N, T, 11), of each sum (N, 37)."""

    symbols: np.ndarray
    sums: np.ndarray


@torch.no_grad()
@denormals_as_zero()
def predictions(model: StripModel, images: np.ndarray) -> Predictions:
    """Predict on the device the model is on, in float32; only readers may look in bfloat16 (see `Reader.glance`).

    Shape: images (N, 40, W) uint8, black background. Raises `InputError` for others, and for a width that the model
    does not take.
    """
    if images.ndim != 3 or images.shape[1] != HEIGHT or images.dtype != np.uint8:
        raise InputError(f"images must be (N, {HEIGHT}, W) uint8, black background; got {images.shape} {images.dtype}")
    if images.shape[2] < MIN_WIDTH or images.shape[2] != (model.width or images.shape[2]):
        wanted = model.width or f"at least {MIN_WIDTH}"
        hint = f"; readers take any width from {MIN_WIDTH} on" if model.width else ""
        raise InputError(f"{type(model).__name__} reads strips of {wanted} columns, not of {images.shape[2]}{hint}")
    parts = [Predictions(np.empty(0), np.empty(0, np.int64))]  # of no images there would be none
    order = np.empty(0, np.int64)
    for rows, batch in inputs(model, images):
        order = np.concatenate([order, rows])
        values, readings, log_p = model.answer(batch)
        told = {} if log_p is None else {"log_p": log_p.cpu().double().numpy()}
        sums = model.objective.whole(values).cpu().numpy()
        parts.append(Predictions(values.cpu().double().numpy(), sums, readings, **told))
    return _together(parts).of(order.argsort())


@torch.no_grad()
def sight(model: StripModel, images: np.ndarray) -> Sight:
    """A reader's probabilities for a few images (N, 40, W) uint8."""
    assert isinstance(model, Reader)
    model.eval()
    symbols = model.sees(to_input(torch.from_numpy(np.array(images)).to(next(model.parameters()).device)))
    return Sight(symbols.cpu().numpy(), np.exp(predictions(model, images).log_p))


def read(model: StripModel, strips: Strips) -> Predictions:
    """Predict strips, by a model that takes them whole or by one of single digits cut out at their true places.

    Raises DataError where a model needs these places and they are not known.
    """
    if not model.reads_cuts:
        return _together(distributed.gathered(predictions(model, distributed.mine(strips.images))))
    digits = predictions(model, cut(strips).images).sums.reshape(len(strips), -1)  # (N, K)
    sums = digits.sum(axis=1).clip(max=MAX_SUM)
    return Predictions(sums.astype(np.float64), sums)


def inputs(model: StripModel, images: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Images (N, 40, W) uint8 as a model takes them to answer, batch by batch, each with the rows (M,) it is made of.

    Together are strips of which the model has to see as many columns; batches of wide strips are smaller.
    """
    model.eval()
    keep_freed_memory()
    device, pixels = next(model.parameters()).device, torch.from_numpy(np.array(images))
    widths = model.widths(pixels).numpy()
    for width in np.unique(widths).tolist():
        rows = np.flatnonzero(widths == width)
        size = max(EVALUATION_BATCH * WIDTH // max(width, WIDTH), 1)
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            yield batch, to_input(pixels[batch, :, :width].to(device))


def predict(model: StripModel, images: np.ndarray) -> np.ndarray:
    """The predicted sums (N,) int64 of images (N, 40, W) uint8."""
    return predictions(model, images).sums


def metrics(predicted: Predictions, truth: np.ndarray) -> dict[str, Any]:
    """Every figure that the reports quote, each as {"value", "low", "high"} with a 95 % interval, and "n".

    "accuracy" counts the objective's own predicted sums; "floor", "ceiling" and "rounded" turn the real-valued
    predictions into integers in three ways; "within_half" counts errors of less than 0.5; "mse" and "mae" are those of
    the real-valued predictions. Intervals: Wilson for shares, percentile bootstrap for the two means.
    """
    if not len(truth):
        raise ValueError("there are no strips to evaluate")
    values, error = predicted.values, predicted.values - truth
    hits = {
        "accuracy": predicted.sums == truth,
        "floor": np.floor(values) == truth,
        "ceiling": np.ceil(values) == truth,
        "rounded": np.rint(values) == truth,
        "within_half": np.abs(error) < 0.5,
    }
    return (
        {"n": len(truth)}
        | {name: share(int(hit.sum()), len(hit)) for name, hit in hits.items()}
        | {"mse": mean(error**2), "mae": mean(np.abs(error))}
    )


def evaluate(model: StripModel, data: Data) -> tuple[dict[str, Any], dict[str, Predictions]]:
    """Metrics and predictions for every split, and for "entire": training, validation and test strips together.

    Several processes predict a part each of whole strips, and all get the whole.
    """
    predicted = {name: read(model, split) for name, split in data.splits.items()}
    truth = {name: split.sums for name, split in data.splits.items()}
    whole = ("train", "val", "test")
    predicted["entire"] = _together([predicted[name] for name in whole])
    truth["entire"] = np.concatenate([truth[name] for name in whole])
    return {name: metrics(predicted[name], truth[name]) for name in predicted}, predicted


def _together(parts: Sequence[Predictions]) -> Predictions:
    told = [part.log_p for part in parts if len(part.log_p)]
    return Predictions(
        np.concatenate([part.values for part in parts]), np.concatenate([part.sums for part in parts]),
        [reading for part in parts for reading in part.readings], np.concatenate(told or [parts[0].log_p]),
    )  # fmt: skip


def strings_read(predicted: Predictions, digits: np.ndarray) -> dict[str, float]:
    """The share of strips whose digits (N, K) are read one by one, from left to right, with its interval."""
    right = [reading.digits == row for reading, row in zip(predicted.readings, digits.tolist(), strict=True)]
    return share(sum(right), len(right))


def centre_errors(predicted: Predictions, corners: np.ndarray, stride: int, offset: float = 0.0) -> np.ndarray:
    """How far in pixels a strip's digits are read from the centres of their glyphs, the mean over the strip's digits.

    Of the strips, with glyphs at `corners` (N, K, 2), that are read as K digits: (M,), M of the N. A reader's columns
    are `stride` pixels apart, and the first stands for the pixel `offset`.
    """
    rows = [row for row, reading in enumerate(predicted.readings) if len(reading.columns) == corners.shape[1]]
    columns = np.array([predicted.readings[row].columns for row in rows]).reshape(-1, corners.shape[1])
    return np.abs(stride * columns + offset - (corners[rows, :, 1] + (GLYPH - 1) / 2)).mean(axis=1)


def share(hits: int, n: int) -> dict[str, float]:
    """A proportion with its Wilson interval."""
    interval = stats.binomtest(hits, n).proportion_ci(CONFIDENCE, method="wilson")
    return {"value": hits / n, "low": float(interval.low), "high": float(interval.high)}


def confusion(sums: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Counts (37, 37): true sums down, predicted sums across."""
    return confusion_matrix(truth, sums, labels=np.arange(NUM_SUMS))


def accuracy_by_sum(sums: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy (37,), NaN where a sum does not occur, and how often each sum occurs (37,)."""
    counts = np.bincount(truth, minlength=NUM_SUMS)
    right = np.bincount(truth[sums == truth], minlength=NUM_SUMS)
    return np.divide(right, counts, out=np.full(NUM_SUMS, np.nan), where=counts > 0), counts


def mean(values: np.ndarray) -> dict[str, float]:
    """A mean with its percentile bootstrap interval, drawn with a fixed seed; that of a single value is the value."""
    if len(values) == 1:
        return dict.fromkeys(("value", "low", "high"), float(values[0]))
    interval = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, batch=10, vectorized=True, confidence_level=CONFIDENCE,
        method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return {"value": float(values.mean()), "low": float(interval.low), "high": float(interval.high)}


def widening(values: np.ndarray, glyphs: np.ndarray) -> float:
    """How many times wider the interval of a mean over strips is than if no two of them shared a glyph.

    Strips with a glyph in common are read right or wrong together, so that for other handwriting a mean would differ by
    more than for other strips of the same glyphs, which is what the intervals of this module are of. The variance is
    that of all pairs of strips that share a glyph. Shapes: values (N,), glyphs (N, K).
    Source: Aronow, Samii and Assenova, "Cluster-robust variance estimation for dyadic data".
    """
    n, k = glyphs.shape
    holds = sparse.csr_array((np.ones(n * k), (np.repeat(np.arange(n), k), glyphs.ravel())))
    together = (holds @ holds.T > 0).astype(float)  # each strip with itself among them
    deviations = values - values.mean()
    alone = float(deviations @ deviations)
    return math.sqrt(max(0.0, float(deviations @ (together @ deviations))) / alone) if alone else 1.0


def over_seeds(entries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of value and interval over a network's seeds.

    The interval is still that of a single seed: all read the same strips, so that together they are no larger sample.
    """
    return {key: statistics.mean(entry[key] for entry in entries) for key in ("value", "low", "high")}
