"""Layers shared by the models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class StripModel(nn.Module):
    """What all models are: a module that carries the objective it was built for and, once loaded, its metadata."""

    width: int | None = None  # of the strips it takes, in columns; None: any
    stride: int | None = None  # pixels between the columns of a reader, whose first looks at pixel 0; None: no columns
    objective: Any
    metadata: dict[str, Any]


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32 under autocast: near 18, bfloat16 cannot tell sums 1/8 apart."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def conv_block(channels_in: int, channels_out: int, pool: bool = False) -> nn.Sequential:
    """3x3 convolution, where asked for 2x2 max pooling, then batch normalisation and ReLU.

    Pooling comes right after the convolution, so that what follows it runs on a quarter of the pixels.
    """
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.MaxPool2d(2) if pool else nn.Identity(),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )
