"""Handwriting from outside: how pictures and real cheque amounts are read, and what the sums of amounts teach."""

from __future__ import annotations

import csv
import functools
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from digitsum.compose import HEIGHT, Strips, permutation
from digitsum.data import Data, source_glyphs
from digitsum.errors import DataError
from digitsum.evaluation import UNSURE, predictions
from digitsum.images import read_strips
from digitsum.likelihood import _odds, _placed
from digitsum.models import StripModel
from digitsum.objectives import SumLikelihood
from digitsum.training import train

from ..systems import SYSTEMS
from ..systems.handwriting import MOST, CountedLikelihood, with_objective
from .measurements import accuracy_ci, reliability, tempered
from .pictures import pictures

OF_EACH = 12  # pictures of each kind
RIGHT = 0.97  # of the answers that are called sure
FOLDS = 5
EPOCHS = 6


@functools.cache  # several readers are measured on the same
def read_pictures(data: Data, root: str | Path, numbers: range) -> dict[str, Strips]:
    """Draw pictures of each kind of unseen digits, and find their rows as `predict` does."""
    _, unseen = source_glyphs(data.source, root, data.seed)
    found: dict[str, list[tuple[Path, str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, picture, digits in pictures(*unseen, numbers):
            path = Path(folder, f"{kind}-{len(found.setdefault(kind, []))}.png")
            Image.fromarray(picture).save(path)
            found[kind].append((path, digits))
        return {kind: read_rows(each) for kind, each in found.items()}


@functools.cache
def read_cheques(root: str | Path) -> Strips:
    """Find the rows of all cheque amounts. Raises `DataError` if they are not in `root`/cheques."""
    table = Path(root, "cheques", "amounts.csv")
    if not table.is_file():
        raise DataError(f"{table} is missing. docs/handwriting.md says where the amounts come from.")
    with table.open(encoding="utf-8", newline="") as file:
        return read_rows([(table.with_name("images") / row["file"], row["digits"]) for row in csv.DictReader(file)])


def read_rows(written: Sequence[tuple[Path, str]]) -> Strips:
    """Return strips of pictures, blank where no row is found, with their digits (N, K), and -1 after them."""
    strips, targets, most = [], [], max(len(digits) for _, digits in written)
    for path, digits in written:
        try:
            strips.append(read_strips(path)[0])
        except DataError:
            strips.append(np.zeros((HEIGHT, 0), np.uint8))
        targets.append([int(digit) for digit in digits] + [-1] * (most - len(digits)))
    width = max(strip.shape[1] for strip in strips)
    images = np.stack([np.pad(strip, ((0, 0), (0, width - strip.shape[1]))) for strip in strips])
    return Strips(images, np.array(targets).clip(0).sum(axis=1), np.array(targets))


class Answers(NamedTuple):
    """Hold the log-probabilities of sums (N, S), and where (N,) all digits were read right, and where the sum was."""

    log_p: np.ndarray
    right: np.ndarray
    sum_right: np.ndarray

    def confidence(self, temperature: float) -> np.ndarray:
        """Return the probabilities (N,) of the predicted sums at a temperature."""
        return np.exp(tempered(self.log_p, temperature).max(axis=1))


def read(reader: StripModel, rows: Strips) -> Answers:
    """Read rows with the number of digits left open."""
    assert rows.digits is not None
    answers = predictions(reader, rows.images, None)
    right = [
        reading.digits == [digit for digit in row if digit >= 0]
        for reading, row in zip(answers.readings, rows.digits.tolist(), strict=True)
    ]
    return Answers(answers.log_p, np.array(right), answers.sums == rows.sums)


def measure(readers: Sequence[StripModel], data: Data, root: str | Path) -> dict[str, Any]:
    """Measure one reader on unseen strips, on pictures and on cheques, and how sure it may be of the last two.

    Other pictures and the first half of the cheques, on which settings were chosen, give the temperature.
    """
    (reader,) = readers
    split, strips = list(data.splits.items())[-1]
    told, left_open = (predictions(reader, strips.images, count).sums == strips.sums for count in (4, None))
    cheques = read_cheques(root)
    half = len(cheques) // 2
    others = read_pictures(data, root, range(OF_EACH, 2 * OF_EACH))
    known = [read(reader, rows) for rows in (cheques[:half], *others.values())]
    temperature = fit_confidence(known)
    amounts = read(reader, cheques[half:])
    shown = {kind: read(reader, rows) for kind, rows in read_pictures(data, root, range(OF_EACH)).items()}

    reported = (amounts, *shown.values())
    right = np.concatenate([each.right for each in reported])
    confidence = np.concatenate([each.confidence(temperature) for each in reported])
    sure = {str(least): right[confidence >= least] for least in (0.0, UNSURE)}
    return {
        "split": split, "n": len(strips), "of_each": OF_EACH,
        "told": accuracy_ci(told), "open": accuracy_ci(left_open),
        "pictures": accuracy_ci(np.concatenate([each.right for each in shown.values()])),
        "kinds": {kind: int(each.right.sum()) for kind, each in shown.items()},
        "cheques_chosen_on": accuracy_ci(known[0].right) | {"n": half},
        "cheques": accuracy_ci(amounts.right) | {"n": len(amounts.right)},
        "temperature": temperature,
        "sure": {least: accuracy_ci(each) | {"n": len(each)} for least, each in sure.items() if len(each)},
        "reliability": reliability(confidence, np.concatenate([each.sum_right for each in reported])),
    }  # fmt: skip


def fit_confidence(known: Sequence[Answers]) -> float:
    """Return the lowest temperature from 1 at which RIGHT of the answers called sure have all digits right."""
    right = np.concatenate([each.right for each in known])
    for temperature in np.arange(1, 10, 0.05):
        sure = np.concatenate([each.confidence(temperature) for each in known]) >= UNSURE
        if not sure.any() or right[sure].mean() >= RIGHT:
            break
    return float(temperature)


# What the sums of amounts teach


class StringsTold(CountedLikelihood):
    """The likelihood of the digits themselves, for reference: targets (N, K) are the digits, and -1 after them."""

    def loss(self, outputs: Tensor, targets: Tensor, step: int | None = None) -> Tensor:
        """Return the mean negative log-likelihood in nats. Shape: outputs (N, T, 11)."""
        empty, odds = _odds(outputs)
        digits = targets.clamp(min=0)[:, :, None].expand(-1, -1, odds.shape[1])
        ways = _placed(odds.transpose(1, 2).gather(1, digits))  # of the first 0..K digits
        counts = (targets >= 0).sum(dim=1, keepdim=True)
        return -(empty + ways.gather(1, counts)[:, 0]).mean()

    def truth(self, targets: Any) -> Any:
        return targets.clip(0).sum(1)


ALL = 864  # amounts of four folds
TAUGHT: dict[str, tuple[int, SumLikelihood]] = {
    f"sums-{ALL}": (ALL, CountedLikelihood()),
    f"strings-{ALL}": (ALL, StringsTold()),
    f"sums_alone-{ALL}": (ALL, SumLikelihood(count=(1, MOST), start_steps=0)),
} | {f"sums-{n}": (n, CountedLikelihood()) for n in (400, 200, 100, 50)}


def teach(
    readers: Sequence[StripModel], data: Data, root: str | Path, only: Sequence[str] = tuple(TAUGHT)
) -> dict[str, Any]:
    """Train one reader on with cheque amounts in five folds. Each amount is read by the reader that never saw it.

    A tenth of the amounts told chooses the epoch. Fewer amounts are repeated, to about a quarter as many steps.
    """
    (reader,) = readers
    cheques = read_cheques(root)
    folds = np.array_split(permutation(len(cheques), data.seed), FOLDS)
    rows: dict[str, Any] = {}
    for name in only:
        told, objective = TAUGHT[name]
        right = np.zeros(len(cheques), bool)
        for k, fold in enumerate(folds):
            others = np.concatenate([folds[(k + other) % FOLDS] for other in range(1, FOLDS)])
            right[fold] = read(taught(reader, objective, cheques[others[:told]], k), cheques[fold]).right
        rows[name] = {"told": told} | accuracy_ci(right)
    return {"n": len(cheques), "folds": FOLDS, "rows": rows}


def taught(reader: StripModel, objective: SumLikelihood, rows: Strips, seed: int) -> StripModel:
    """Return a copy of the reader, trained on with rows; a tenth of them chooses the epoch."""
    assert rows.digits is not None
    targets = rows.sums
    if isinstance(objective, StringsTold):
        targets = rows.digits
    elif isinstance(objective, CountedLikelihood):
        targets = np.stack([rows.sums, (rows.digits >= 0).sum(axis=1)], axis=1)
    told, tenth = Strips(rows.images, targets), len(rows) // 10
    experiment = replace(
        SYSTEMS["reader_handwriting"], label="cheques", epochs=EPOCHS, lr=5e-4, batch_size=32,
        repeats=max(1, ALL // (4 * len(rows))),
    )  # fmt: skip
    data = Data("cheques", told[tenth:], told[:tenth], told[:tenth], None, "amounts of cheques", seed)
    return train(experiment, data, seed=seed, start=with_objective(reader, objective), progress=False).model
