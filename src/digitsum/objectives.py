"""What a model's outputs mean: the loss they are trained with, and the sums they predict."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .boxes import BINS, detection_loss, find
from .compose import MAX_SUM
from .likelihood import SYMBOLS, Reading, moments, most_agreed, read_strings, sum_distribution, sum_log_likelihood

NUM_SUMS = MAX_SUM + 1


class Answer(NamedTuple):
    """What a batch's outputs say: real-valued predictions (N,), and what only some objectives tell.

    `readings` are each strip's digits, where they are read; `log_p` (N, S) the log-probabilities of sums.
    """

    values: Tensor
    readings: list[Reading]
    log_p: Tensor | None = None

    def replaced(self, rows: Tensor, by: Answer) -> Answer:
        """The same, but for the strips where `rows` (N,), bool, holds, which `by` tells of."""
        others = iter(by.readings)
        return Answer(
            self.values.masked_scatter(rows, by.values),
            [next(others) if other else own for own, other in zip(self.readings, rows.tolist(), strict=False)],
            None if self.log_p is None or by.log_p is None else self.log_p.index_put((rows,), by.log_p),
        )


class _Objective(ABC):
    @abstractmethod
    def values(self, outputs: Tensor) -> Tensor:
        """Real-valued predictions (N,), in units of the sum."""

    def sums(self, outputs: Tensor) -> Tensor:
        """Predicted sums (N,)."""
        return self.whole(self.values(outputs))

    def answer(self, outputs: Tensor) -> Answer:
        """All that outputs say, at the price of going through them once."""
        return Answer(self.values(outputs), self.read(outputs))

    def read(self, outputs: Tensor) -> list[Reading]:
        """Each strip's digits, where they are read; otherwise nothing."""
        return []

    def truth(self, targets: Tensor) -> Tensor:
        """The true sums (N,) of a batch's targets: the targets themselves, where training sees sums."""
        return targets

    def whole(self, values: Tensor) -> Tensor:
        """The predicted sums (N,) that real-valued predictions (N,) stand for."""
        return values.long()


@dataclass(frozen=True)
class Regression(_Objective):
    """One number per strip, trained with the squared error; the rounded number is the predicted sum."""

    name: str = "regression"
    outputs: int = 1

    def loss(self, outputs: Tensor, sums: Tensor, step: int | None = None) -> Tensor:
        """Mean squared error. Shapes: outputs (N, 1), sums (N,); `step` is not used."""
        return F.mse_loss(self.values(outputs), sums.to(outputs.dtype))

    def values(self, outputs: Tensor) -> Tensor:
        """Real-valued predictions (N,), in units of the sum."""
        return outputs.squeeze(1)

    def whole(self, values: Tensor) -> Tensor:
        """Predicted sums (N,): rounded and brought into 0..36."""
        return values.round().clamp(0, MAX_SUM).long()


@dataclass(frozen=True)
class AdditiveRegression(Regression):
    """One number per column, outputs (N, T, 1); all of a strip's added up are its value."""

    name: str = "additive_regression"

    def values(self, outputs: Tensor) -> Tensor:
        """Real-valued predictions (N,), in units of the sum."""
        return outputs.sum(dim=(1, 2))


@dataclass(frozen=True)
class ExpectedSum(Regression):
    """Columns of symbols, outputs (N, T, 11); the mean of the sum that they make is the strip's value."""

    name: str = "expected_sum"
    outputs: int = SYMBOLS

    def values(self, outputs: Tensor) -> Tensor:
        """Real-valued predictions (N,), in units of the sum."""
        return moments(outputs).sum_mean


@dataclass(frozen=True)
class Classification(_Objective):
    """One score per possible sum 0..36, trained with the cross-entropy; the largest score is the predicted sum."""

    name: str = "classification"
    outputs: int = NUM_SUMS

    def loss(self, outputs: Tensor, sums: Tensor, step: int | None = None) -> Tensor:
        """Mean cross-entropy in nats. Shapes: outputs (N, 37), sums (N,); `step` is not used."""
        return F.cross_entropy(outputs, sums)

    def values(self, outputs: Tensor) -> Tensor:
        """The arg max (N,) as a float: a classifier's errors are counted from its predicted sum, as the reports do."""
        return outputs.argmax(dim=1).to(outputs.dtype)


@dataclass(frozen=True)
class SumLikelihood(_Objective):
    """Columns of symbols, trained with the exact probability that `count` of them emit a digit and add up to the sum.

    The first `start_steps` steps of training match moments instead: the mean of the sum and of the count, both in
    closed form. From a random start no column yet means any digit; the mean's gradient tells each column at once
    whether it should mean more or less. `count` may be the (least, most) digits, or None for any number; only a known
    count is matched at the start.
    """

    name: str = "sum_likelihood"
    outputs: int = SYMBOLS
    count: int | tuple[int, int] | None = 4
    start_steps: int = 150

    def loss(self, outputs: Tensor, sums: Tensor, step: int | None = None) -> Tensor:
        """Mean negative log-likelihood in nats; at a `step` of the start, squared errors in units of their spread.

        Shapes: outputs (N, T, 11) logits, sums (N,). `step` counts the training steps before this one; None: no start.
        """
        if step is not None and step < self.start_steps:
            m = moments(outputs)
            if not isinstance(self.count, int):
                return (m.sum_mean - sums).square().mean()
            spread = 8.25 * self.count  # the variance of the sum of uniform digits
            return ((m.sum_mean - sums).square() / spread + (m.count_mean - self.count).square()).mean()
        return -sum_log_likelihood(outputs, sums, self.count).mean()

    def values(self, outputs: Tensor) -> Tensor:
        """The most probable sum (N,) as a float, over every placement and string of digits that `count` allows."""
        return self.distribution(outputs).argmax(dim=1).to(outputs.dtype)

    def answer(self, outputs: Tensor) -> Answer:
        """The most probable sums, the most likely digits and the log-probabilities of all sums."""
        log_p = self.distribution(outputs)
        return Answer(log_p.argmax(dim=1).to(outputs.dtype), self.read(outputs), log_p)

    def together(self, looks: Tensor) -> Answer:
        """One answer to what several looks at the same strips gave, (V, N, T, 11): of each probability, the mean.

        The mean is of sums and of strings, not of columns: looks that agree on a digit and not on its column agree.
        """
        log_p = torch.stack([self.distribution(look) for look in looks]).logsumexp(dim=0) - math.log(len(looks))
        return Answer(log_p.argmax(dim=1).to(looks.dtype), most_agreed(looks, self.count), log_p)

    def distribution(self, outputs: Tensor) -> Tensor:
        """The log-probability of each sum given the count of digits, (N, 9K + 1); of 0..36 where the count is open."""
        table = sum_distribution(outputs, self.count)
        return (table if isinstance(self.count, int) else table[:, :NUM_SUMS]).log_softmax(dim=1)

    def read(self, outputs: Tensor) -> list[Reading]:
        """The most likely digits of each strip, with their columns and their probability."""
        return read_strings(outputs, self.count)


@dataclass(frozen=True)
class Boxes(_Objective):
    """A box around each digit, trained with YOLO's loss on the true ones; the `count` most confident are added up."""

    name: str = "boxes"
    outputs: int = 4 * BINS + 10
    count: int = 4

    def loss(self, outputs: Tensor, targets: Tensor, step: int | None = None) -> Tensor:
        """The detector's loss. Shapes: outputs (N, A, 74), targets (N, K, 3) as `boxes.boxed` gives them."""
        return detection_loss(outputs, targets)

    def truth(self, targets: Tensor) -> Tensor:
        """The true sums (N,)."""
        return targets[:, :, 0].sum(dim=1)

    def values(self, outputs: Tensor) -> Tensor:
        """The sum (N,) of the digits found, as a float."""
        return self.answer(outputs).values

    def answer(self, outputs: Tensor) -> Answer:
        """The digits found and their sums."""
        readings = self.read(outputs)
        return Answer(outputs.new_tensor([sum(reading.digits) for reading in readings]), readings)

    def read(self, outputs: Tensor) -> list[Reading]:
        """The digits found in each strip, with their columns and the product of their confidences."""
        return [
            Reading(each.digits.tolist(), each.columns.round().int().tolist(), each.confidence.prod().item())
            for each in find(outputs, self.count)
        ]


@dataclass(frozen=True)
class Text(_Objective):
    """Digits that were read already: outputs (N, T, 11), the largest of which says nothing or the digit at a place.

    There is nothing to train, and so no loss. A strip where nothing is read has the sum 0.
    """

    name: str = "text"
    outputs: int = SYMBOLS

    def values(self, outputs: Tensor) -> Tensor:
        """The sum (N,) of the digits, as a float."""
        return (outputs.argmax(dim=2) - 1).clamp(min=0).sum(dim=1).to(outputs.dtype)

    def whole(self, values: Tensor) -> Tensor:
        """The values (N,), at most 36: a text may have more digits than the strip."""
        return values.clamp(max=MAX_SUM).long()

    def read(self, outputs: Tensor) -> list[Reading]:
        """The digits of each text; nothing is known of where they stand or how likely they are."""
        return [Reading([s - 1 for s in row if s], [], math.nan) for row in outputs.argmax(dim=2).tolist()]


Objective = Regression | Classification | SumLikelihood | Boxes | Text  # and their kinds
OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Regression(),
        Classification(),
        SumLikelihood(),
        AdditiveRegression(),
        ExpectedSum(),
        Boxes(),
        Text(),
    )
}
