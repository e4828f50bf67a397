"""The reader's network with one head for the whole strip in place of a symbol for each column."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .layers import Float32Linear, StripModel
from .reader import Reader


class PooledReader(StripModel):
    """The mean over a Reader's columns, batch normalisation, ReLU and a linear layer: outputs of the strip as a whole.

    Shapes: images (N, 1, 40, W) -> (N, outputs). As in CNNAttention, a hidden layer follows the mean, since a sum of
    scores of single columns could not say which sum the digits of several make. `reader` are the Reader's arguments.
    """

    def __init__(self, outputs: int, hidden: int = 256, **reader: Any) -> None:
        super().__init__()
        self.columns = Reader(hidden, **reader | {"empty_bias": 0.0})
        self.norm = nn.BatchNorm1d(hidden)
        self.head = Float32Linear(hidden, outputs)

    def forward(self, images: Tensor) -> Tensor:
        x = self.columns(images)  # (N, W / 4, hidden)
        x = self.norm(x.mean(dim=1)).relu()  # (N, hidden)
        return self.head(x)  # (N, outputs)
