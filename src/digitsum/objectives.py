"""What a model's outputs mean: the loss that trains them, and the sums that they predict."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .compose import MAX_SUM
from .likelihood import SYMBOLS, Count, Reading, moments, read_strings, sum_distribution, sum_log_likelihood

NUM_SUMS = MAX_SUM + 1


class Answer(NamedTuple):
    """What outputs say of a batch. `readings` is empty and `log_p` None where the objective reads no digits."""

    values: Tensor  # (N,), real-valued predictions
    readings: list[Reading]  # each strip's digits
    log_p: Tensor | None = None  # (N, S), log-probabilities of the sums 0..S-1


@dataclass(frozen=True)
class Objective:
    """Base of all objectives."""

    outputs: int = 1  # the size of the model's last layer

    def loss(self, outputs: Tensor, targets: Tensor, step: int | None = None) -> Tensor:
        """Return the mean loss of a batch. `step` counts the training steps before this one; None: validation."""
        raise NotImplementedError

    def values(self, outputs: Tensor) -> Tensor:
        """Return real-valued predictions (N,), in units of the sum."""
        raise NotImplementedError

    def whole(self, values: Tensor) -> Tensor:
        """Return the sums (N,) that real-valued predictions (N,) stand for."""
        return values.long()

    def sums(self, outputs: Tensor) -> Tensor:
        """Return the predicted sums (N,)."""
        return self.whole(self.values(outputs))

    def truth(self, targets: Any) -> Any:
        """Return the true sums (N,) of targets."""
        return targets

    def answer(self, outputs: Tensor) -> Answer:
        """Return all that the outputs say."""
        return Answer(self.values(outputs), [])


@dataclass(frozen=True)
class Regression(Objective):
    """One number per strip, outputs (N, 1), trained with the squared error; rounded to 0..36 it is the sum."""

    def loss(self, outputs: Tensor, targets: Tensor, step: int | None = None) -> Tensor:
        return F.mse_loss(self.values(outputs), targets.to(outputs.dtype))

    def values(self, outputs: Tensor) -> Tensor:
        return outputs.squeeze(1)

    def whole(self, values: Tensor) -> Tensor:
        return values.round().clamp(0, MAX_SUM).long()


@dataclass(frozen=True)
class Classification(Objective):
    """One score per sum, outputs (N, 37), trained with the cross-entropy in nats; the largest is the predicted sum."""

    outputs: int = NUM_SUMS

    def loss(self, outputs: Tensor, targets: Tensor, step: int | None = None) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def values(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(dim=1).to(outputs.dtype)  # the reports count a classifier's errors from its sum


@dataclass(frozen=True)
class SumLikelihood(Objective):
    """Columns of symbols, trained with the exact probability that `count` of them hold digits that make the sum.

    In the first `start_steps` steps the loss matches the means of sum and count instead. At a random start no column
    means a digit yet; the mean tells each column whether it should mean more or less.
    """

    outputs: int = SYMBOLS
    count: Count = 4
    start_steps: int = 150

    def loss(self, outputs: Tensor, targets: Tensor, step: int | None = None) -> Tensor:
        """Return the mean negative log-likelihood in nats; in the first steps, squared errors over their variance.

        Shapes: outputs (N, T, 11) logits, targets (N,) sums.
        """
        if step is None or step >= self.start_steps:
            return -sum_log_likelihood(outputs, targets, self.count).mean()
        sum_mean, count_mean = moments(outputs)
        if not isinstance(self.count, int):
            return (sum_mean - targets).square().mean()
        variance = 8.25 * self.count  # of the sum of uniform digits
        return ((sum_mean - targets).square() / variance + (count_mean - self.count).square()).mean()

    def values(self, outputs: Tensor) -> Tensor:
        return self.distribution(outputs).argmax(dim=1).to(outputs.dtype)

    def distribution(self, outputs: Tensor) -> Tensor:
        """Return the log-probabilities (N, S) of the sums 0..S-1, given that `count` allows the number of digits."""
        return sum_distribution(outputs, self.count).log_softmax(dim=1)

    def answer(self, outputs: Tensor, *others: Tensor) -> Answer:
        views = torch.stack([outputs, *others])  # (V, N, T, 11): the answer is their mean
        log_p = torch.stack([self.distribution(view) for view in views]).logsumexp(dim=0) - math.log(len(views))
        return Answer(log_p.argmax(dim=1).to(outputs.dtype), read_strings(views, self.count), log_p)


OBJECTIVES: dict[str, Objective] = {
    "regression": Regression(),
    "classification": Classification(),
    "sum_likelihood": SumLikelihood(),
}
