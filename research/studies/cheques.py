"""Handwriting from outside: how pictures and real cheque amounts are read, and what the sums of amounts teach."""

from __future__ import annotations

import contextlib
import csv
import functools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from digitsum.likelihood import _odds, _placed, sum_log_likelihood
from digitsum.models import StripModel
from digitsum.training import train

from ..systems import SYSTEMS
from ..systems.handwriting import MOST, CountedLikelihood, with_objective
from .measurements import accuracy_ci, reliability, tempered
from .pictures import pictures

OF_EACH = 12  # pictures of each kind
RIGHT = 0.97  # of the answers that are called sure
FOLDS = 5
EPOCHS = 6


@dataclass(frozen=True)
class Rows:
    """Hold strips (N, 40, W) uint8, blank where no row was found, and the digits of each as text."""

    images: np.ndarray
    digits: list[str]

    def __getitem__(self, rows: Any) -> Rows:
        """Return the rows of a slice or an index array."""
        return Rows(self.images[rows], np.array(self.digits)[rows].tolist())


@functools.cache  # several readers are measured on the same
def read_pictures(data: Data, root: str | Path, numbers: range) -> dict[str, Rows]:
    """Draw pictures of each kind of unseen digits, and find their rows as `predict` does."""
    _, unseen = source_glyphs(data.source, root, data.seed)
    found: dict[str, list[tuple[np.ndarray | None, str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture.png")
        for kind, picture, digits in pictures(*unseen, numbers):
            Image.fromarray(picture).save(path)
            found.setdefault(kind, []).append((_strip(path), digits))
    return {kind: _rows(each) for kind, each in found.items()}


@functools.cache
def read_cheques(root: str | Path) -> Rows:
    """Find the rows of all cheque amounts. Raises `DataError` if they are not in `root`/cheques."""
    table = Path(root, "cheques", "amounts.csv")
    if not table.is_file():
        raise DataError(f"{table} is missing. docs/handwriting.md says where the amounts come from.")
    with table.open(encoding="utf-8", newline="") as file:
        amounts = [(row["file"], row["digits"]) for row in csv.DictReader(file)]
    return _rows([(_strip(table.with_name("images") / name), digits) for name, digits in amounts])


def _strip(path: Path) -> np.ndarray | None:
    with contextlib.suppress(DataError):
        return read_strips(path)[0]
    return None


def _rows(found: Sequence[tuple[np.ndarray | None, str]]) -> Rows:
    strips = [np.zeros((HEIGHT, 0), np.uint8) if strip is None else strip for strip, _ in found]
    width = max(strip.shape[1] for strip in strips)
    images = np.stack([np.pad(strip, ((0, 0), (0, width - strip.shape[1]))) for strip in strips])
    return Rows(images, [digits for _, digits in found])


class Answers(NamedTuple):
    """Hold the log-probabilities of sums (N, S), and where (N,) all digits were read right, and where the sum was."""

    log_p: np.ndarray
    right: np.ndarray
    sum_right: np.ndarray

    def confidence(self, temperature: float) -> np.ndarray:
        """Return the probabilities (N,) of the predicted sums at a temperature."""
        return np.exp(tempered(self.log_p, temperature).max(axis=1))


def read(reader: StripModel, rows: Rows) -> Answers:
    """Read rows with the number of digits left open."""
    answers = predictions(reader, rows.images, None)
    texts = ["".join(map(str, reading.digits)) for reading in answers.readings]
    sums = np.array([sum(map(int, digits)) for digits in rows.digits])
    return Answers(answers.log_p, np.array(texts) == np.array(rows.digits), answers.sums == sums)


def measure(readers: Sequence[StripModel], data: Data, root: str | Path) -> dict[str, Any]:
    """Measure one reader on unseen strips, on pictures and on cheques, and how sure it may be of the last two.

    The first half of the cheques and other pictures than those reported give the temperature of its confidence. The
    settings of `images` and of the written rows were chosen on that half.
    """
    (reader,) = readers
    split, strips = list(data.splits.items())[-1]
    measured: dict[str, Any] = {"split": split, "n": len(strips), "of_each": OF_EACH}
    for way, count in (("told", 4), ("open", None)):
        measured[way] = accuracy_ci(predictions(reader, strips.images, count).sums == strips.sums)

    cheques = read_cheques(root)
    half = len(cheques.digits) // 2
    others = read_pictures(data, root, range(OF_EACH, 2 * OF_EACH))
    known = [read(reader, rows) for rows in (cheques[:half], *others.values())]
    temperature = fit_confidence(known)
    amounts = read(reader, cheques[half:])
    shown = {kind: read(reader, rows) for kind, rows in read_pictures(data, root, range(OF_EACH)).items()}

    reported = (amounts, *shown.values())
    right = np.concatenate([each.right for each in reported])
    confidence = np.concatenate([each.confidence(temperature) for each in reported])
    return measured | {
        "pictures": accuracy_ci(np.concatenate([each.right for each in shown.values()])),
        "kinds": {kind: int(each.right.sum()) for kind, each in shown.items()},
        "cheques_chosen_on": accuracy_ci(known[0].right) | {"n": half},
        "cheques": accuracy_ci(amounts.right) | {"n": len(amounts.right)},
        "temperature": temperature,
        "sure": {
            str(least): accuracy_ci(right[confidence >= least]) | {"n": int((confidence >= least).sum())}
            for least in (0.0, UNSURE)
            if (confidence >= least).any()
        },
        "reliability": reliability(confidence, np.concatenate([each.sum_right for each in reported])),
    }


def fit_confidence(known: Sequence[Answers]) -> float:
    """Return the lowest temperature from 1 at which RIGHT of the answers called sure have all digits right."""
    right = np.concatenate([each.right for each in known])
    for temperature in np.arange(1, 10, 0.05):
        sure = np.concatenate([each.confidence(temperature) for each in known]) >= UNSURE
        if not sure.any() or right[sure].mean() >= RIGHT:
            break
    return float(temperature)


# What the sums of amounts teach


class SumsAlone(CountedLikelihood):
    """The likelihood of sums of 1 to 8 digits, where the number of digits is not told either: targets (N, 2)."""

    def loss(self, outputs: Tensor, targets: Tensor, step: int | None = None) -> Tensor:
        """Return the mean negative log-likelihood in nats. Shape: outputs (N, T, 11)."""
        return -sum_log_likelihood(outputs, targets[:, 0], self.count).mean()


class StringsTold(CountedLikelihood):
    """The likelihood of the digits themselves, for reference: targets (N, 8) are the digits, and -1 after them."""

    def loss(self, outputs: Tensor, targets: Tensor, step: int | None = None) -> Tensor:
        """Return the mean negative log-likelihood in nats. Shape: outputs (N, T, 11)."""
        empty, odds = _odds(outputs)
        digits = targets.clamp(min=0)[:, :, None].expand(-1, -1, odds.shape[1])
        ways = _placed(odds.transpose(1, 2).gather(1, digits))  # of the first 0..8 digits
        counts = (targets >= 0).sum(dim=1, keepdim=True)
        return -(empty + ways.gather(1, counts)[:, 0]).mean()

    def truth(self, targets: Any) -> Any:
        """Return the sums (N,)."""
        return targets.clip(0).sum(1)


ALL = 864  # amounts of four folds
TAUGHT: dict[str, tuple[int, CountedLikelihood]] = {
    f"sums-{ALL}": (ALL, CountedLikelihood()),
    f"strings-{ALL}": (ALL, StringsTold()),
    f"sums_alone-{ALL}": (ALL, SumsAlone()),
} | {f"sums-{n}": (n, CountedLikelihood()) for n in (400, 200, 100, 50)}


def teach(
    readers: Sequence[StripModel], data: Data, root: str | Path, only: Sequence[str] = tuple(TAUGHT)
) -> dict[str, Any]:
    """Train one reader on with cheque amounts in five folds. Each amount is read by the reader that never saw it.

    A tenth of the amounts told chooses the epoch. Fewer amounts are repeated, to about a quarter as many steps.
    """
    (reader,) = readers
    cheques = read_cheques(root)
    folds = np.array_split(permutation(len(cheques.digits), data.seed), FOLDS)
    rows: dict[str, Any] = {}
    for name in only:
        told, objective = TAUGHT[name]
        right = np.zeros(len(cheques.digits), bool)
        for k, fold in enumerate(folds):
            others = np.concatenate([folds[(k + other) % FOLDS] for other in range(1, FOLDS)])
            right[fold] = read(_taught(reader, objective, cheques[others[:told]], k), cheques[fold]).right
        rows[name] = {"told": told} | accuracy_ci(right)
    return {"n": len(cheques.digits), "folds": FOLDS, "rows": rows}


def _taught(reader: StripModel, objective: CountedLikelihood, rows: Rows, seed: int) -> StripModel:
    """Return a copy of the reader, trained on with rows; a tenth of them chooses the epoch."""
    digits = np.array([[int(d) for d in text] + [-1] * (MOST - len(text)) for text in rows.digits])
    counts = (digits >= 0).sum(axis=1)
    targets = digits if isinstance(objective, StringsTold) else np.stack([digits.clip(0).sum(axis=1), counts], axis=1)
    tenth = len(targets) // 10
    val, kept = Strips(rows.images[:tenth], targets[:tenth]), Strips(rows.images[tenth:], targets[tenth:])
    experiment = replace(
        SYSTEMS["reader_handwriting"],
        label="cheques",
        epochs=EPOCHS,
        lr=5e-4,
        batch_size=32,
        repeats=max(1, ALL // (4 * len(targets))),
    )
    data = Data("cheques", kept, val, val, None, "amounts of cheques", seed)
    return train(experiment, data, seed=seed, start=with_objective(reader, objective), progress=False).model
