"""From a trained model to predictions, and from predictions to metrics with intervals."""

import base64
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from scipy.special import softmax
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .compose import HEIGHT, WIDTH
from .data import Data
from .devices import tune_process
from .errors import DataError, RecordError
from .likelihood import Count, Reading
from .models import StripModel
from .objectives import NUM_SUMS, Answer, SumLikelihood
from .training import EVALUATION_BATCH, MARGIN, ink_ends, to_input

CONFIDENCE = 0.95
MIN_WIDTH = 28  # one glyph
UNSURE = 0.5  # a less probable answer is called unsure
TEMPERATURE = 2.6  # fits how sure answers are to handwriting from outside: docs/handwriting.md
UNCERTAIN = 0.95  # TTA reads a strip again if the likeliest symbol of a column is less probable
SHIFTS = (1, -1)  # pixels by which TTA moves a strip to the right
STEP = 32  # strips are read at widths that are multiples of this, so that many have the same


@dataclass(frozen=True)
class Predictions:
    """Hold real-valued predictions and predicted sums, both (N,).

    From a model that reads digits, also each strip's `readings`, and `log_p` (N, S) of the sums 0..S-1.
    """

    values: np.ndarray
    sums: np.ndarray
    readings: list[Reading] = field(default_factory=list)
    log_p: np.ndarray = field(default_factory=lambda: np.empty((0, NUM_SUMS)))

    def of(self, rows: np.ndarray) -> Self:
        """Return those of the strips `rows` (M,), in that order."""
        readings = [self.readings[row] for row in rows] if self.readings else []
        log_p = self.log_p[rows] if len(self.log_p) else self.log_p
        return type(self)(self.values[rows], self.sums[rows], readings, log_p)


def predict(model: StripModel, images: np.ndarray, digits: Count = None) -> np.ndarray:
    """Return the predicted sums (N,) int64 of images (N, 40, W) uint8, white digits on black; see `predictions`."""
    return predictions(model, images, digits).sums


@torch.no_grad()
def predictions(
    model: StripModel, images: np.ndarray, digits: Count | str = "trained", tta: bool = True
) -> Predictions:
    """Predict in float32 on the device where the model is.

    A reader looks for `digits` digits: 4; (1, 8), one to eight; None, any number; or "trained", as in its training.
    Shape: images (N, 40, W) uint8. Raises `DataError` for others and for a width that the model does not take.
    """
    columns, wanted = images.shape[-1], model.width or f"{MIN_WIDTH} or more"
    shaped = images.ndim == 3 and images.shape[1] == HEIGHT and columns >= MIN_WIDTH and images.dtype == np.uint8
    if not shaped or columns != (model.width or columns):
        raise DataError(
            f"{type(model).__name__} reads (N, {HEIGHT}, {wanted}) uint8, not {images.shape} {images.dtype}."
        )
    if not len(images):
        return Predictions(np.empty(0), np.empty(0, np.int64))
    model.eval()
    tune_process()
    objective, device, pixels = model.objective, next(model.parameters()).device, torch.from_numpy(np.array(images))
    widths = np.full(len(images), columns)
    if isinstance(objective, SumLikelihood) and model.stride:
        if digits != "trained":
            objective = replace(objective, count=digits)  # type: ignore[arg-type]
        count = objective.count
        least, most = (count, count) if isinstance(count, int) else count or (0, 1)
        if not 0 <= least <= most <= columns // model.stride:
            raise DataError(f"{count} digits do not fit: {columns} columns hold 0 to {columns // model.stride}.")
        # A reader sees strips without most of their blank columns, as it does in training.
        wide = (ink_ends(pixels) + MARGIN).clamp(min=model.stride * most).numpy()
        widths = np.minimum(-(-wide // STEP) * STEP, columns)
    batches = list(_batches(widths))
    found = [
        _answer(model, objective, to_input(pixels[rows, :, : widths[rows[0]]].to(device)), tta) for rows in batches
    ]
    values = torch.cat([each.values for each in found])
    readings = [reading for each in found for reading in each.readings]
    log_p = [row for each in found if each.log_p is not None for row in each.log_p.cpu().double()]
    known = pad_sequence(log_p, batch_first=True, padding_value=-math.inf).numpy() if log_p else np.empty((0, 1))
    answer = Predictions(values.cpu().double().numpy(), objective.whole(values).cpu().numpy(), readings, known)
    return answer.of(np.concatenate(batches).argsort())


def _batches(widths: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows (M,) of each batch: strips of one width together, few if they are wide."""
    for width in np.unique(widths):
        rows = np.flatnonzero(widths == width)
        size = max(EVALUATION_BATCH * WIDTH // max(width, WIDTH), 1)
        yield from np.split(rows, np.arange(size, len(rows), size))


def _answer(model: StripModel, objective: Any, batch: Tensor, tta: bool) -> Answer:
    """Answer a batch. TTA reads a strip with an uncertain column in two more views, moved by a pixel to either side."""
    outputs = model(batch).float()
    first = objective.answer(outputs)
    if not tta or first.log_p is None or model.stride is None:
        return first
    rows = outputs.softmax(2).amax(2).amin(1) < UNCERTAIN
    if not rows.any():
        return first
    a_column_more = torch.cat([F.pad(batch[rows], (model.stride + right, model.stride - right)) for right in SHIFTS])
    moved = model(a_column_more).float()[:, 1:-1].unflatten(0, (len(SHIFTS), -1))
    again = objective.answer(outputs[rows], *moved)
    read = iter(again.readings)
    readings = [next(read) if row else own for own, row in zip(first.readings, rows.tolist(), strict=True)]
    values = first.values.masked_scatter(rows, again.values)
    return Answer(values, readings, first.log_p.index_put((rows,), again.log_p))


@torch.no_grad()
def sight(model: StripModel, images: np.ndarray) -> np.ndarray:
    """Return a reader's probabilities (N, T, 11) of each column's symbols, for a few images (N, 40, W) uint8."""
    batch = to_input(torch.from_numpy(np.array(images)).to(next(model.parameters()).device))
    return model.eval()(batch).float().softmax(2).cpu().numpy()


def answers(predicted: Predictions) -> list[dict[str, Any]]:
    """Describe each strip's answer: sum, and from a reader also digits, probability at TEMPERATURE, and runner-up.

    A strip in which a reader finds no digit has an "error" instead.
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
        likely = float(softmax(predicted.log_p[k] / TEMPERATURE).max())
        rows.append({
            "sum": total, "digits": "".join(map(str, reading.digits)), "probability": round(likely, 4),
            "unsure": likely < UNSURE, "runner-up": int(order[-2]),
        })  # fmt: skip
    return rows


def metrics(predicted: Predictions, truth: np.ndarray) -> dict[str, Any]:
    """Return "n" and every figure as {"value", "low", "high"} with a 95 % interval.

    "accuracy" counts the objective's own sums. "floor" and "ceiling" round real-valued predictions down or up instead.
    """
    error = predicted.values - truth
    hits = {
        "accuracy": predicted.sums == truth,
        "floor": np.floor(predicted.values) == truth,
        "ceiling": np.ceil(predicted.values) == truth,
    }
    shares = {name: proportion_ci(int(hit.sum()), len(hit)) for name, hit in hits.items()}
    return {"n": len(truth)} | shares | {"mse": mean_ci(error**2), "mae": mean_ci(np.abs(error))}


def evaluate(model: StripModel, data: Data) -> tuple[dict[str, Any], dict[str, Predictions]]:
    """Return metrics and predictions of every split, and of "entire": training, validation and test strips together."""
    predicted = {name: predictions(model, strips.images) for name, strips in data.splits.items()}
    truth = {name: model.objective.truth(strips.sums) for name, strips in data.splits.items()}
    whole = ("train", "val", "test")
    values, sums = (np.concatenate([getattr(predicted[name], part) for name in whole]) for part in ("values", "sums"))
    predicted["entire"] = Predictions(values, sums)
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
        (values,), np.mean, n_resamples=1000, batch=10, confidence_level=CONFIDENCE, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return {"value": float(values.mean()), "low": float(interval.low), "high": float(interval.high)}


def percent(entry: Mapping[str, float]) -> str:
    """Return a proportion with its interval: "75.3 % (74.0–76.5)"."""
    value, low, high = (100 * entry[key] for key in ("value", "low", "high"))
    return f"{value:.1f} % ({low:.1f}–{high:.1f})"


def number(entry: Mapping[str, float]) -> str:
    """Return a number with its interval: "12.46 (11.90–13.02)"."""
    return "{value:.2f} ({low:.2f}–{high:.2f})".format_map(entry)


def pack(predicted: Predictions) -> dict[str, str]:
    """Turn values (as float32) and sums into text for a record."""
    arrays = {"values": predicted.values.astype("<f4"), "sums": predicted.sums.astype("u1")}
    return {name: base64.b64encode(zlib.compress(array.tobytes())).decode() for name, array in arrays.items()}


def unpack(packed: Mapping[str, str]) -> Predictions:
    """Turn what `pack` made back into predictions. Raises `RecordError` for anything else."""
    try:
        raw = [zlib.decompressobj().decompress(base64.b64decode(packed[key]), 10_000_000) for key in ("values", "sums")]
        values, sums = np.frombuffer(raw[0], "<f4"), np.frombuffer(raw[1], "u1")
        if len(values) != len(sums):
            raise ValueError(f"{len(values)} values for {len(sums)} sums")
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise RecordError(f"The answers of a record cannot be read ({error}). Make the record again.") from error
    return Predictions(values.astype(np.float64), sums.astype(np.int64))
