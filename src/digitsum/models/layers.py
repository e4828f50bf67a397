"""Layers that the models share."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class StripModel(nn.Module):
    """Base of all models: a module that carries its objective and, once loaded, the metadata of its checkpoint."""

    width: int | None = None  # of the strips that it takes, in columns; None: any
    stride: int | None = None  # pixels between the columns that it reads; None: it reads the strip as a whole
    objective: Any
    metadata: dict[str, Any]


class Normalise(nn.Module):
    """Subtract `mean` and divide by `std`, one of each per channel: (N, 1, H, W) -> (N, channels, H, W)."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32 under autocast: near 18, bfloat16 cannot tell sums 1/8 apart."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def conv_block(channels_in: int, channels_out: int, pool: bool = False) -> nn.Sequential:
    """Build a 3x3 convolution, 2x2 max pooling if asked for, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.MaxPool2d(2) if pool else nn.Identity(),  # here, the rest runs on a quarter of the pixels
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )
