"""What trained readers can do: other numbers of digits, test-time augmentation, and how far they can be trusted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import center_of_mass
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

from digitsum.compose import DIGIT_WIDTH, GLYPH, Strips, compose
from digitsum.data import Data, source_glyphs
from digitsum.evaluation import UNCERTAIN, Predictions, mean_ci, predictions, proportion_ci, sight, strings_read
from digitsum.likelihood import Reading
from digitsum.models.layers import StripModel

COUNTS = (1, 2, 3, 4, 5, 6, 8, 16)
COUNT_STRIPS = 2_000  # of each count
BINS = 15  # of equal width, as in Guo et al.
ABSTAIN = 0.05  # the fraction of strips, the least trusted ones, that get no answer
SURE = 0.9  # digits are labelled by readings of at least this probability
OVERLAPS = ((-14, 0), (1, 5), (6, 9), (10, 13), (14, 16))  # columns, both ends included


def accuracy_ci(right: np.ndarray) -> dict[str, float]:
    """Return the proportion of answers that are right (N,), with its interval."""
    return proportion_ci(int(right.sum()), len(right))


def counts(readers: Sequence[StripModel], data: Data, root: str | Path) -> dict[str, Any]:
    """Read strips of other numbers of digits, composed of the glyphs of `unseen`, with and without the number given."""
    measured: dict[str, Any] = {}
    _, unseen = source_glyphs(data.source, root, data.seed)
    for k in COUNTS:
        strips = compose(*unseen, COUNT_STRIPS, seed=(data.seed, k), digits=k)
        assert strips.digits is not None
        measured[str(k)] = {"n": len(strips), "columns": k * DIGIT_WIDTH}
        for way, given in (("unknown", None), ("known", k)):
            read = predictions(readers[0], strips.images, digits=given)
            found = [reading.digits for reading in read.readings]
            measured[str(k)][way] = {
                "strings": strings_read(read, strips.digits),
                "sums": accuracy_ci(np.array([sum(digits) for digits in found]) == strips.sums),
                "count": accuracy_ci(np.array([len(digits) for digits in found]) == k),
            }
    return measured


def tta(readers: Sequence[StripModel], data: Data, root: str | Path) -> dict[str, Any]:
    """Read validation and the last split once and with test-time augmentation, which reads uncertain strips again."""
    splits: dict[str, Any] = {}
    for split in ("val", list(data.splits)[-1]):
        strips = data.splits[split]
        once, several = (predictions(readers[0], strips.images, tta=on).sums == strips.sums for on in (False, True))
        splits[split] = {
            "n": len(strips), "again": accuracy_ci(uncertain(readers[0], strips.images)),
            "once": accuracy_ci(once), "several": accuracy_ci(several),
        }  # fmt: skip
    return {"splits": splits}


def uncertain(model: StripModel, images: np.ndarray) -> np.ndarray:
    """Tell which strips (N,) have a column whose likeliest symbol is less probable than UNCERTAIN."""
    parts = np.array_split(images, max(len(images) // 100, 1))
    return np.concatenate([sight(model, part).max(axis=2).min(axis=1) < UNCERTAIN for part in parts])


# How far probabilities can be trusted, and where readers see digits


def calibration(readers: Sequence[StripModel], data: Data, root: str | Path) -> dict[str, Any]:
    """Measure how far one reader or an ensemble can be trusted on the last split; `val` gives temperature, offset."""
    split, strips = list(data.splits.items())[-1]
    known, read = ([predictions(each, part.images) for each in readers] for part in (data.val, strips))
    log_p, temperature = mean_log_p(read), fit_temperature(mean_log_p(known), data.val.sums)
    n, right = len(strips), log_p.argmax(axis=1) == strips.sums
    hits, kept = np.cumsum(right[np.argsort(-log_p.max(axis=1), kind="stable")]), round((1 - ABSTAIN) * n)
    hundredths = np.unique(np.ceil(np.arange(1, 101) / 100 * n).astype(int)).tolist()
    measured: dict[str, Any] = {
        "split": split, "n": n, "temperature": temperature, "plain": goodness(log_p, strips.sums),
        "tempered": goodness(tempered(log_p, temperature), strips.sums), "accuracy": accuracy_ci(right),
        "coverage": [[k / n, int(hits[k - 1]) / k] for k in hundredths],
        "abstaining": {"share": ABSTAIN, "n": kept} | proportion_ci(int(hits[kept - 1]), kept),
    }  # fmt: skip
    stride = readers[0].stride
    if len(readers) > 1 or strips.corners is None or stride is None:
        return measured
    lefts = strips.corners[:, :, 1]
    offset = fit_offset(data.val.images, known[0].readings, stride)
    columns = np.array([reading.columns for reading in read[0].readings])
    distances = np.abs(stride * columns + offset - (lefts + (GLYPH - 1) / 2))
    overlap = (GLYPH - np.diff(lefts, axis=1)).max(axis=1)  # of a strip's closest neighbours
    groups = [(low, high, right[(overlap >= low) & (overlap <= high)]) for low, high in OVERLAPS]
    overlaps = [
        {"from": low, "to": high, "n": len(each)} | accuracy_ci(each) for low, high, each in groups if len(each)
    ]
    return measured | {"offset": offset, "centre_error": mean_ci(distances.mean(axis=1)), "overlap": overlaps}


def mean_log_p(read: Sequence[Predictions]) -> np.ndarray:
    """Return the logarithm of the mean of several readers' probabilities of sums, (N, S).

    Source: Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using deep ensembles".
    """
    return logsumexp([each.log_p for each in read], axis=0) - np.log(len(read))


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[list[float]]:
    """Return a row for each bin of confidence (N,) that is not empty: mean confidence, accuracy, number of strips.

    Source: Guo et al., "On calibration of modern networks".
    """
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    strips, confident, correct = (np.bincount(bins, weights, BINS) for weights in (None, confidence, right))
    return [[confident[k] / n, correct[k] / n, n] for k, n in enumerate(strips.tolist()) if n]


def goodness(log_p: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Measure how well log-probabilities (N, S) fit the true sums (N,): the mean gap of confidence and accuracy."""
    rows = reliability(np.exp(log_p.max(axis=1)), log_p.argmax(axis=1) == truth)
    confidence, accuracy, sizes = np.transpose(rows)
    error = float(np.average(np.abs(accuracy - confidence), weights=sizes))
    return {"expected_calibration_error": error, "reliability": rows}


def tempered(log_p: np.ndarray, temperature: float) -> np.ndarray:
    """Return log-probabilities (N, S) made flatter by a temperature above 1, or sharper by one below."""
    return log_softmax(log_p / temperature, axis=1)


def fit_temperature(log_p: np.ndarray, truth: np.ndarray) -> float:
    """Return the temperature in 1/20..20 that gives the true sums (N,) the highest likelihood."""

    def loss(log_t: float) -> float:
        return -tempered(log_p, np.exp(log_t))[np.arange(len(truth)), truth].mean()

    return float(np.exp(minimize_scalar(loss, bounds=(-np.log(20), np.log(20)), method="bounded").x))


def fit_offset(images: np.ndarray, readings: Sequence[Reading], stride: int) -> float:
    """Return the median distance in pixels from a reader's columns to the middle of the ink that it reads there.

    Only strips (40, W) count whose ink has as many separate pieces as digits were read; without any it returns 0.
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


# Labelled digits from sums alone, after Lee, "Pseudo-label" (2013), who takes confident predictions for the truth.


def pseudo_labels(readers: Sequence[StripModel], data: Data, root: str | Path) -> dict[str, Any]:
    """Label the isolated digits of the training strips by reading them, and compare with the truth."""
    strips, (reader,) = data.train, readers
    assert reader.stride is not None and strips.digits is not None
    glyphs, labels, places = label_digits(strips, predictions(reader, strips.images).readings, reader.stride)
    right = labels == strips.digits[tuple(places.T)]
    measured: dict[str, Any] = {
        "strips": len(strips), "digits": len(labels), "glyphs": len(np.unique(glyphs, axis=0)),
    }  # fmt: skip
    return measured | ({"right": accuracy_ci(right)} if len(right) else {})


def label_digits(strips: Strips, readings: Sequence[Reading], stride: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the isolated digits of strips whose reading is sure and adds up to the sum.

    These are glyphs (G, 28, 28) uint8, their labels (G,), and the strip and the place from the left of each (G, 2).
    A piece of ink between blank columns with one digit becomes a glyph, centred by its mass like MNIST's.
    """
    offset = fit_offset(strips.images, readings, stride)
    glyphs, labels, places = [], [], []
    for row, (image, total, reading) in enumerate(zip(strips.images, strips.sums, readings, strict=True)):
        if reading.probability < SURE or sum(reading.digits) != total or not image.any():
            continue
        starts, ends = pieces(image.any(axis=0)).T
        read = stride * np.array(reading.columns)[:, None] + offset  # (K, 1), in pixels
        piece = np.maximum(starts - read, read - ends + 1).argmin(axis=1)  # (K,), the nearest to each digit
        held = np.bincount(piece, minlength=len(starts))
        for place, (digit, k) in enumerate(zip(reading.digits, piece, strict=True)):
            if held.all() and held[k] == 1 and ends[k] - starts[k] <= GLYPH:
                ink = image[:, starts[k] : ends[k]]
                top, left = (round(middle) for middle in center_of_mass(ink))
                glyphs.append(np.pad(ink, GLYPH // 2)[top : top + GLYPH, left : left + GLYPH])
                labels.append(digit)
                places.append((row, place))
    shaped = np.array(glyphs, np.uint8).reshape(-1, GLYPH, GLYPH)
    return shaped, np.array(labels, np.int64), np.array(places, np.int64).reshape(-1, 2)
