"""From a trained model to predictions, and from predictions to metrics with intervals."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from .compose import HEIGHT, WIDTH
from .data import Data
from .devices import tune_process
from .errors import DataError, RecordError
from .likelihood import Count, Reading, read_strings
from .models import StripModel
from .objectives import NUM_SUMS, Answer, SumLikelihood
from .training import EVALUATION_BATCH, MARGIN, ink_ends, to_input

CONFIDENCE = 0.95
RESAMPLES = 1000
MIN_WIDTH = 28  # one glyph
UNSURE = 0.5  # a less probable answer is called unsure
UNCERTAIN = 0.95  # TTA reads a strip again if the likeliest symbol of a column is less probable
SHIFTS = (1, -1)  # pixels by which TTA moves a strip to the right
STEP = 32  # strips are read at widths that are multiples of this, so that many have the same


@dataclass(frozen=True)
class Predictions:
    """Hold real-valued predictions and predicted sums, both (N,), in units of the sum.

    `readings` are each strip's digits, from a model that reads digits. `log_p` (N, S) are its log-probabilities of
    the sums 0..S-1. Both are empty for other models.
    """

    values: np.ndarray
    sums: np.ndarray
    readings: list[Reading] = field(default_factory=list)
    log_p: np.ndarray = field(default_factory=lambda: np.empty((0, NUM_SUMS)))

    def of(self, rows: np.ndarray) -> Predictions:
        """Return those of the strips `rows` (M,), in that order."""
        readings = [self.readings[row] for row in rows] if self.readings else []
        log_p = self.log_p[rows] if len(self.log_p) else self.log_p
        return Predictions(self.values[rows], self.sums[rows], readings, log_p)

    @staticmethod
    def concatenate(parts: Sequence[Predictions]) -> Predictions:
        """Join parts. Sums that a part does not know have probability zero in it."""
        known = max(part.log_p.shape[1] for part in parts)
        log_p = [np.pad(p.log_p, ((0, 0), (0, known - p.log_p.shape[1])), constant_values=-np.inf) for p in parts]
        values, sums = (np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "sums"))
        return Predictions(values, sums, [r for part in parts for r in part.readings], np.concatenate(log_p))


def predict(model: StripModel, images: np.ndarray, digits: Count = None) -> np.ndarray:
    """Return the predicted sums (N,) int64 of images (N, 40, W) uint8, white digits on black.

    A reader takes any number of digits, or as many as `digits` says: 4, or (1, 8) for one to eight.
    """
    return predictions(model, images, digits).sums


@torch.no_grad()
def predictions(
    model: StripModel, images: np.ndarray, digits: Count | str = "trained", tta: bool = True
) -> Predictions:
    """Predict in float32 on the device where the model is.

    `digits` is the number of digits that a reader looks for; "trained" means as in its training, None any number.
    Shape: images (N, 40, W) uint8. Raises `DataError` for others and for a width that the model does not take.
    """
    _check(model, images)
    objective = model.objective
    if isinstance(objective, SumLikelihood) and digits != "trained":
        most = digits[1] if isinstance(digits, tuple) else digits or 0
        if model.stride and int(most) > images.shape[2] // model.stride:
            raise DataError(f"{most} digits do not fit into strips of {images.shape[2]} columns.")
        objective = replace(objective, count=digits)  # type: ignore[arg-type]
    parts = [Predictions(np.empty(0), np.empty(0, np.int64), [], np.empty((0, 1)))]
    order = np.empty(0, np.int64)
    for rows, batch in _batches(model, objective, images):
        order = np.concatenate([order, rows])
        values, readings, log_p = _answer(model, objective, batch, tta)
        sums = objective.whole(values).cpu().numpy()
        known = np.empty((0, 1)) if log_p is None else log_p.cpu().double().numpy()
        parts.append(Predictions(values.cpu().double().numpy(), sums, readings, known))
    return Predictions.concatenate(parts).of(order.argsort())


def answers(predicted: Predictions) -> list[dict[str, Any]]:
    """Describe each strip's answer: sum, and from a reader also digits, probability, whether unsure, and runner-up.

    A strip in which a reader finds no digit has an "error" instead. Below UNSURE, an answer is a guess.
    """
    rows: list[dict[str, Any]] = []
    for k, total in enumerate(predicted.sums.tolist()):
        if not predicted.readings:
            rows.append({"sum": total, "digits": "", "predicted": round(float(predicted.values[k]), 2)})
            continue
        reading, order = predicted.readings[k], predicted.log_p[k].argsort()
        if not reading.digits:
            rows.append({"error": f"strip {k} shows no digits"})
            continue
        likely = float(np.exp(predicted.log_p[k, order[-1]]))
        rows.append({
            "sum": total, "digits": "".join(map(str, reading.digits)), "probability": round(likely, 4),
            "unsure": likely < UNSURE, "runner-up": int(order[-2]),
        })  # fmt: skip
    return rows


def _check(model: StripModel, images: np.ndarray) -> None:
    if images.ndim != 3 or images.shape[1] != HEIGHT or images.dtype != np.uint8:
        raise DataError(
            f"Images must be (N, {HEIGHT}, W) uint8 with a black background; got {images.shape} {images.dtype}."
        )
    if images.shape[2] < MIN_WIDTH or images.shape[2] != (model.width or images.shape[2]):
        wanted = model.width or f"at least {MIN_WIDTH}"
        raise DataError(f"{type(model).__name__} reads strips of {wanted} columns, not of {images.shape[2]}.")


def _batches(model: StripModel, objective: Any, images: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield rows (M,) and their images as the model's input; strips of one width together, few if they are wide.

    A reader sees strips without most of their blank columns, as it does in training.
    """
    model.eval()
    tune_process()
    device, pixels = next(model.parameters()).device, torch.from_numpy(np.array(images))
    widths = torch.full((len(images),), images.shape[2])
    if model.stride and isinstance(objective, SumLikelihood):
        count = objective.count
        most = count if isinstance(count, int) else count[1] if count else 1
        wide = (ink_ends(pixels) + MARGIN).clamp(min=model.stride * most)
        widths = (-(-wide // STEP) * STEP).clamp(max=images.shape[2])
    for width in widths.unique().tolist():
        rows = np.flatnonzero(widths.numpy() == width)
        size = max(EVALUATION_BATCH * WIDTH // max(width, WIDTH), 1)
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            yield batch, to_input(pixels[batch, :, :width].to(device))


# Test-time augmentation: where a column is uncertain, a strip is read again, moved by a pixel to either side.


def _answer(model: StripModel, objective: Any, batch: Tensor, tta: bool) -> Answer:
    """Answer a batch; read its uncertain strips again, as the mean over views, where the model reads columns."""
    outputs = model(batch).float()
    first = objective.answer(outputs)
    if not (tta and model.stride and isinstance(objective, SumLikelihood)):
        return first
    rows = outputs.softmax(2).amax(2).amin(1) < UNCERTAIN
    if not rows.any():
        return first
    views = _views(model, batch[rows], outputs[rows])
    log_p = torch.stack([objective.distribution(view) for view in views]).logsumexp(dim=0) - math.log(len(views))
    again = iter(read_strings(views, objective.count))
    readings = [next(again) if row else own for own, row in zip(first.readings, rows.tolist(), strict=True)]
    assert first.log_p is not None
    values = first.values.masked_scatter(rows, log_p.argmax(dim=1).to(first.values.dtype))
    return Answer(values, readings, first.log_p.index_put((rows,), log_p))


def _views(model: StripModel, images: Tensor, first: Tensor) -> Tensor:
    """Return logits (V, N, T, 11): those of the first view of images (N, 1, 40, W), then moved by each of SHIFTS."""
    assert model.stride is not None
    a_column_more = torch.cat([F.pad(images, (model.stride + right, model.stride - right)) for right in SHIFTS])
    moved = model(a_column_more).float()[:, 1:-1].unflatten(0, (len(SHIFTS), len(images)))
    return torch.cat([first[None], moved])


@torch.no_grad()
def sight(model: StripModel, images: np.ndarray) -> np.ndarray:
    """Return a reader's probabilities (N, T, 11) of each column's symbols, for a few images (N, 40, W) uint8."""
    model.eval()
    batch = to_input(torch.from_numpy(np.array(images)).to(next(model.parameters()).device))
    return model(batch).float().softmax(2).cpu().numpy()


# Metrics


def metrics(predicted: Predictions, truth: np.ndarray) -> dict[str, Any]:
    """Return "n" and every figure as {"value", "low", "high"} with a 95 % interval.

    "accuracy" counts the objective's own sums: rounded for a regression, arg max for a classification. "floor" and
    "ceiling" round real-valued predictions down or up instead. "mse" and "mae" are of the real-valued predictions.
    """
    if not len(truth):
        raise ValueError("there are no strips to evaluate")
    error = predicted.values - truth
    hits = {
        "accuracy": predicted.sums == truth,
        "floor": np.floor(predicted.values) == truth,
        "ceiling": np.ceil(predicted.values) == truth,
    }
    shares = {name: proportion_ci(int(hit.sum()), len(hit)) for name, hit in hits.items()}
    return {"n": len(truth)} | shares | {"mse": mean_ci(error**2), "mae": mean_ci(np.abs(error))}


def evaluate(model: StripModel, data: Data, limit: int | None = None) -> tuple[dict[str, Any], dict[str, Predictions]]:
    """Return metrics and predictions of every split, and of "entire": training, validation and test strips together.

    `limit` keeps only the first so many strips of each split.
    """
    splits = data.head(limit, limit).splits
    predicted = {name: predictions(model, strips.images) for name, strips in splits.items()}
    truth = {name: model.objective.truth(strips.sums) for name, strips in splits.items()}
    whole = ("train", "val", "test")
    predicted["entire"] = Predictions.concatenate([predicted[name] for name in whole])
    truth["entire"] = np.concatenate([truth[name] for name in whole])
    return {name: metrics(predicted[name], truth[name]) for name in predicted}, predicted


def strings_read(predicted: Predictions, digits: np.ndarray) -> dict[str, float]:
    """Return the proportion of strips whose digits (N, K) are all read right, from left to right."""
    right = [reading.digits == row for reading, row in zip(predicted.readings, digits.tolist(), strict=True)]
    return proportion_ci(sum(right), len(right))


def proportion_ci(hits: int, n: int) -> dict[str, float]:
    """Return a proportion with its Wilson interval."""
    interval = stats.binomtest(hits, n).proportion_ci(CONFIDENCE, method="wilson")
    return {"value": hits / n, "low": float(interval.low), "high": float(interval.high)}


def mean_ci(values: np.ndarray) -> dict[str, float]:
    """Return a mean with its percentile bootstrap interval, drawn with a fixed seed."""
    if len(values) == 1:
        return dict.fromkeys(("value", "low", "high"), float(values[0]))
    interval = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, batch=10, vectorized=True, confidence_level=CONFIDENCE,
        method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return {"value": float(values.mean()), "low": float(interval.low), "high": float(interval.high)}


def percent(entry: Mapping[str, float]) -> str:
    """Return a proportion with its interval: "75.3 % (74.0–76.5)"."""
    value, low, high = (f"{100 * entry[key]:.1f}" for key in ("value", "low", "high"))
    return f"{value} % ({low}–{high})"


def number(entry: Mapping[str, float]) -> str:
    """Return a number with its interval: "12.46 (11.90–13.02)"."""
    value, low, high = (f"{entry[key]:.2f}" for key in ("value", "low", "high"))
    return f"{value} ({low}–{high})"


def pack(predicted: Predictions) -> dict[str, str]:
    """Turn values (as float32) and sums into text for a record."""
    arrays = {"values": predicted.values.astype("<f4"), "sums": predicted.sums.astype("u1")}
    return {name: base64.b64encode(zlib.compress(array.tobytes())).decode() for name, array in arrays.items()}


def unpack(packed: Mapping[str, str]) -> Predictions:
    """Turn what `pack` made back into predictions. Raises `RecordError` for anything else."""
    try:
        values, sums = (
            np.frombuffer(zlib.decompressobj().decompress(base64.b64decode(packed[name]), 10_000_000), dtype)
            for name, dtype in (("values", "<f4"), ("sums", "u1"))
        )
        if len(values) != len(sums):
            raise ValueError(f"{len(values)} values for {len(sums)} sums")
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise RecordError(f"The answers of a record cannot be read ({error}). Make the record again.") from error
    return Predictions(values.astype(np.float64), sums.astype(np.int64))
