"""How far readers can be trusted: probabilities, accuracy if they may abstain, and where they read digits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

from digitsum.compose import GLYPH
from digitsum.data import Data
from digitsum.evaluation import Predictions, mean_ci, predictions, proportion_ci
from digitsum.likelihood import Reading
from digitsum.models.layers import StripModel

BINS = 15  # of equal width, as in Guo et al.
ABSTAIN = 0.05  # the fraction of strips, the least trusted ones, that get no answer
OVERLAPS = ((-14, 0), (1, 5), (6, 9), (10, 13), (14, 16))  # columns, both ends included


def measure(readers: Sequence[StripModel], data: Data, root: str | Path) -> dict[str, Any]:
    """Measure on the last split how far the probabilities of one reader, or of an ensemble, can be trusted.

    The temperature is fitted to validation; so is the offset of a single reader's columns, which needs no labels.
    """
    split, strips = list(data.splits.items())[-1]
    known, read = (combine([predictions(each, part.images) for each in readers]) for part in (data.val, strips))
    n, right, temperature = len(strips), read.sums == strips.sums, fit_temperature(known.log_p, data.val.sums)
    accuracy, kept = coverage(read.log_p.max(axis=1), right), round((1 - ABSTAIN) * n)
    hundredths = np.unique(np.ceil(np.arange(1, 101) / 100 * n).astype(int)).tolist()
    measured: dict[str, Any] = {
        "split": split, "n": n, "temperature": temperature, "plain": goodness(read.log_p, strips.sums),
        "tempered": goodness(tempered(read.log_p, temperature), strips.sums), "accuracy": accuracy_ci(right),
        "coverage": [[k / n, accuracy[k - 1].item()] for k in hundredths],
        "abstaining": {"share": ABSTAIN, "n": kept} | proportion_ci(round(accuracy[kept - 1] * kept), kept),
    }  # fmt: skip
    stride = readers[0].stride
    if len(readers) > 1 or strips.corners is None or stride is None:
        return measured
    offset = fit_offset(data.val.images, known.readings, stride)
    overlap = (GLYPH - np.diff(strips.corners[:, :, 1], axis=1)).max(axis=1)  # of a strip's closest neighbours
    groups = {(low, high): right[(overlap >= low) & (overlap <= high)] for low, high in OVERLAPS}
    return measured | {
        "offset": offset,
        "centre_error": mean_ci(centre_errors(read.readings, strips.corners, stride, offset)),
        "overlap": [
            {"from": low, "to": high, "n": len(group)} | accuracy_ci(group)
            for (low, high), group in groups.items()
            if len(group)
        ],
    }


def accuracy_ci(right: np.ndarray) -> dict[str, float]:
    """Return the proportion of answers that are right (N,), with its interval."""
    return proportion_ci(int(right.sum()), len(right))


def combine(predicted: Sequence[Predictions]) -> Predictions:
    """Return the mean of several readers' probabilities of sums, and their readings of the highest mean probability.

    Source: Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using deep ensembles".
    """
    log_p = logsumexp([each.log_p for each in predicted], axis=0) - np.log(len(predicted))
    sums = log_p.argmax(axis=1)
    readings = [likeliest(each) for each in zip(*(each.readings for each in predicted), strict=True)]
    return Predictions(sums.astype(np.float64), sums, readings, log_p)


def likeliest(readings: Sequence[Reading]) -> Reading:
    """Return one strip's reading of the highest mean probability, with that and the columns of its surest reader."""

    def mean(reading: Reading) -> float:
        return sum(each.probability for each in readings if each.digits == reading.digits) / len(readings)

    best = max(readings, key=lambda reading: (mean(reading), reading.probability))
    return best._replace(probability=mean(best))


class Reliability(NamedTuple):
    """Hold the bins of confidence that are not empty, each (B,): mean confidence, accuracy, number of strips."""

    confidence: np.ndarray
    accuracy: np.ndarray
    strips: np.ndarray

    @property
    def error(self) -> float:
        """Return the expected calibration error: the gap between confidence and accuracy, weighted by strips."""
        return float(np.average(np.abs(self.accuracy - self.confidence), weights=self.strips))


def reliability(confidence: np.ndarray, right: np.ndarray) -> Reliability:
    """Bin predictions (N,) by their confidence in 0..1. Source: Guo et al., "On calibration of modern networks"."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    strips, confident, correct = (np.bincount(bins, weights, BINS) for weights in (None, confidence, right))
    held = strips > 0
    return Reliability(confident[held] / strips[held], correct[held] / strips[held], strips[held])


def goodness(log_p: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Measure how well log-probabilities (N, S) fit the true sums (N,)."""
    bins = reliability(np.exp(log_p.max(axis=1)), log_p.argmax(axis=1) == truth)
    return {
        "expected_calibration_error": bins.error,
        "negative_log_likelihood": negative_log_likelihood(log_p, truth),
        "reliability": [list(row) for row in zip(*(part.tolist() for part in bins), strict=True)],
    }


def negative_log_likelihood(log_p: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean negative log-probability of the true sums (N,), in nats, from log-probabilities (N, S)."""
    return float(-log_p[np.arange(len(truth)), truth].mean())


def tempered(log_p: np.ndarray, temperature: float) -> np.ndarray:
    """Return log-probabilities (N, S) made flatter by a temperature above 1, or sharper by one below."""
    return log_softmax(log_p / temperature, axis=1)


def fit_temperature(log_p: np.ndarray, truth: np.ndarray) -> float:
    """Return the temperature in 1/20..20 that gives the true sums (N,) the highest likelihood."""

    def loss(log_t: float) -> float:
        return negative_log_likelihood(tempered(log_p, np.exp(log_t)), truth)

    return float(np.exp(minimize_scalar(loss, bounds=(-np.log(20), np.log(20)), method="bounded").x))


def coverage(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the accuracy on the 1, 2, ... N strips of the highest confidence (N,)."""
    return np.cumsum(right[np.argsort(-confidence, kind="stable")]) / np.arange(1, len(right) + 1)


def fit_offset(images: np.ndarray, readings: Sequence[Reading], stride: int) -> float:
    """Return the median distance in pixels from a reader's columns to the middle of the ink that it reads there.

    Training on sums leaves open where in a digit its column lies. This needs only images (N, 40, W) and their readings.
    It counts strips whose ink has as many separate pieces as digits were read; without any it returns 0.
    """
    found = []
    for ink, reading in zip(images.sum(axis=1, dtype=np.int64), readings, strict=True):
        edges = pieces(ink)
        if len(edges) == len(reading.columns):
            middles = [np.average(np.arange(start, end), weights=ink[start:end]) for start, end in edges]
            found += [middle - stride * column for middle, column in zip(middles, reading.columns, strict=True)]
    return float(np.median(found)) if found else 0.0


def pieces(ink: np.ndarray) -> np.ndarray:
    """Return the first column of each piece of ink and the one after its last, (P, 2), from the ink per column (W,)."""
    return np.flatnonzero(np.diff(ink > 0, prepend=False, append=False)).reshape(-1, 2)


def centre_errors(readings: Sequence[Reading], corners: np.ndarray, stride: int, offset: float) -> np.ndarray:
    """Return the mean distance in pixels from a strip's digits, as read, to the centres of its glyphs, (M,).

    Only the M of N strips count in which as many digits are read as there are glyphs, at `corners` (N, K, 2).
    """
    rows = [row for row, reading in enumerate(readings) if len(reading.columns) == corners.shape[1]]
    columns = np.array([readings[row].columns for row in rows]).reshape(-1, corners.shape[1])
    return np.abs(stride * columns + offset - (corners[rows, :, 1] + (GLYPH - 1) / 2)).mean(axis=1)
