"""Networks for digits that come already cut: each cell of a strip is read on its own."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..compose import GLYPH, HEIGHT
from .layers import Float32Linear, StripModel
from .pooled_reader import PooledReader

NEVER = -20.0  # log-probability of "nothing" in a cell that surely holds a digit: in float32, 1 - e^-20 is 1


class CutDigits(StripModel):
    """One network for each of four cells of 28 columns, every one of which holds a digit for certain.

    Shapes: images (N, 1, 40, 112) -> logits (N, 4, outputs) of nothing, which is all but excluded, and the digits.
    `network` is "lenet" or "reader" (a PooledReader, with `args`).
    """

    width = 4 * GLYPH

    def __init__(self, outputs: int = 11, network: str = "lenet", **args: Any) -> None:
        super().__init__()
        self.network = NETWORKS[network](outputs - 1, **args)

    def forward(self, images: Tensor) -> Tensor:
        x = self.network(cells(images))  # (4N, outputs - 1)
        x = F.pad(x.log_softmax(dim=1), (1, 0), value=NEVER)  # (4N, outputs)
        return x.unflatten(0, (len(images), 4))  # (N, 4, outputs)


class LeNet(nn.Sequential):
    """The network of the neuro-symbolic literature for cut digits, from cells (N, 1, 40, 28) to (N, outputs).

    Two 5x5 convolutions (6, 16 channels), each with 2x2 pooling and ReLU, and linear layers of 120, 84 and `outputs`,
    on the 28x28 pixels of the glyph. Source: Manhaeve et al., "DeepProbLog", and its successors.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__(
            nn.ZeroPad2d((0, 0, -(HEIGHT - GLYPH) // 2, -(HEIGHT - GLYPH) // 2)),  # cuts the blank rows off
            nn.Conv2d(1, 6, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 4 * 4, 120), nn.ReLU(),
            nn.Linear(120, 84), nn.ReLU(),
            Float32Linear(84, outputs),
        )  # fmt: skip


NETWORKS = {"lenet": LeNet, "reader": PooledReader}


def cells(images: Tensor) -> Tensor:
    """The cells (KN, 1, 40, 28) of strips (N, 1, 40, 28K), those of a strip one after another."""
    return images.unfold(3, GLYPH, GLYPH).permute(0, 3, 1, 2, 4).flatten(0, 1)


def joined(cells: Tensor, n: int) -> Tensor:
    """The `n` strips (n, 1, 40, 28K) that `cells` took apart."""
    return cells.unflatten(0, (n, -1)).permute(0, 2, 3, 1, 4).flatten(3)
