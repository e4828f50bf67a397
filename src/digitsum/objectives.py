"""What a model's outputs mean: the loss they are trained with, and the sums they predict."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_SUM = 36  # four nines
NUM_SUMS = MAX_SUM + 1


@dataclass(frozen=True)
class Regression:
    """One number per strip, trained with the squared error; the rounded number is the predicted sum."""

    name: str = "regression"
    outputs: int = 1

    def loss(self, outputs: Tensor, sums: Tensor, progress: float = 1.0) -> Tensor:
        """Mean squared error. Shapes: outputs (N, 1), sums (N,); `progress`, the share of training done, is not used."""
        return F.mse_loss(outputs.squeeze(1), sums.to(outputs.dtype))

    def values(self, outputs: Tensor) -> Tensor:
        """Real-valued predictions (N,), in units of the sum."""
        return outputs.squeeze(1)

    def sums(self, outputs: Tensor) -> Tensor:
        """Predicted sums (N,): rounded and brought into 0..36."""
        return self.values(outputs).round().clamp(0, MAX_SUM).long()


@dataclass(frozen=True)
class Classification:
    """One score per possible sum 0..36, trained with the cross-entropy; the largest score is the predicted sum."""

    name: str = "classification"
    outputs: int = NUM_SUMS

    def loss(self, outputs: Tensor, sums: Tensor, progress: float = 1.0) -> Tensor:
        """Mean cross-entropy in nats. Shapes: outputs (N, 37), sums (N,); `progress` is not used."""
        return F.cross_entropy(outputs, sums)

    def values(self, outputs: Tensor) -> Tensor:
        """The predicted sums (N,) as floats: a classifier's errors are counted from its arg max, as the reports do."""
        return self.sums(outputs).to(outputs.dtype)

    def sums(self, outputs: Tensor) -> Tensor:
        """Predicted sums (N,): the arg max."""
        return outputs.argmax(dim=1)


Objective = Regression | Classification
OBJECTIVES: dict[str, Objective] = {objective.name: objective for objective in (Regression(), Classification())}
