"""How far a reader can be trusted: calibration, accuracy where it may abstain, and where it says that digits stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from .compose import GLYPH

BINS = 15  # of equal width, as Guo et al. have them


class Reliability(NamedTuple):
    """The bins of confidence that hold strips, each (B,): mean confidence, share of right sums, number of strips."""

    confidence: np.ndarray
    accuracy: np.ndarray
    strips: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error: the mean over the strips of the gap between their bin's two shares."""
        return float(np.average(np.abs(self.accuracy - self.confidence), weights=self.strips))


def reliability(confidence: np.ndarray, right: np.ndarray) -> Reliability:
    """How often predictions held with a confidence (N,) in 0..1 are right (N,), in BINS bins of equal width.

    Source: Guo et al., "On calibration of modern neural networks".
    """
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    strips = np.bincount(bins, minlength=BINS)
    held = strips > 0
    confident, correct = (np.bincount(bins, weights, BINS)[held] for weights in (confidence, right))
    return Reliability(confident / strips[held], correct / strips[held], strips[held])


def tempered(log_p: np.ndarray, temperature: float) -> np.ndarray:
    """Log-probabilities (N, S) made flatter by a temperature above 1, or sharper by one below."""
    return log_softmax(log_p / temperature, axis=1)


def fit_temperature(log_p: np.ndarray, truth: np.ndarray) -> float:
    """The temperature from 1/20 to 20 at which log-probabilities (N, S) give the true sums (N,) the most likelihood."""
    fitted = minimize_scalar(
        lambda log_t: negative_log_likelihood(tempered(log_p, np.exp(log_t)), truth),
        bounds=(-np.log(20), np.log(20)), method="bounded",
    )  # fmt: skip
    return float(np.exp(fitted.x))


def negative_log_likelihood(log_p: np.ndarray, truth: np.ndarray) -> float:
    """The mean over strips, in nats, of minus the log-probability (N, S) of the true sum (N,)."""
    return float(-log_p[np.arange(len(truth)), truth].mean())


def coverage(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shares 1/N, 2/N, ... 1 of the strips, the most trusted first, and how many of each share are right (N,)."""
    order = np.argsort(-confidence, kind="stable")
    answered = np.arange(1, len(order) + 1)
    return answered / len(order), np.cumsum(right[order]) / answered


def fit_offset(images: np.ndarray, columns: Sequence[Sequence[int]], stride: int) -> float:
    """The pixels from where a reader's columns begin to the middle of the ink that it reads there, a median.

    Training on sums leaves open where within a digit it is read; this takes no more than the images (N, 40, W) and the
    columns of the digits read in each, `stride` pixels apart. Only strips count whose ink falls into as many pieces,
    with blank columns between, as digits were read, and then the k-th digit is the k-th piece. 0 where there are none.
    """
    found = []
    for ink, read in zip(images.sum(axis=1, dtype=np.int64), columns, strict=True):
        edges = pieces(ink)
        if len(edges) == len(read):
            middles = [np.average(np.arange(start, end), weights=ink[start:end]) for start, end in edges]
            found += [middle - stride * column for middle, column in zip(middles, read, strict=True)]
    return float(np.median(found)) if found else 0.0


def pieces(ink: np.ndarray) -> np.ndarray:
    """The first column of each piece of ink and the one after its last, (P, 2), where ink (W,) is not zero."""
    return np.flatnonzero(np.diff(ink > 0, prepend=False, append=False)).reshape(-1, 2)


def closest(corners: np.ndarray) -> np.ndarray:
    """By how many columns the boxes of a strip's closest neighbours overlap, (N,), from corners (N, K, 2).

    Negative where even these stand apart.
    """
    return (GLYPH - np.diff(corners[:, :, 1], axis=1)).max(axis=1)
