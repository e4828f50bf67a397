"""Layers shared by the models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..objectives import Answer

MARGIN = 8  # columns that are kept right of the ink where blank ones are cut off


class StripModel(nn.Module):
    """What all models are: a module that carries the objective it was built for and, once loaded, its metadata."""

    width: int | None = None  # of the strips it takes, in columns; None: any
    reads_cuts = False  # whether it is trained on, and reads, single digits cut out where they are known to be
    reads_boxes = False  # whether it is trained with the box and the label of every digit
    stride: int | None = None  # pixels between the columns of a reader, whose first looks at pixel 0; None: no columns
    objective: Any
    metadata: dict[str, Any]

    def answer(self, images: Tensor) -> Answer:
        """What a trained model says of images (N, 1, 40, W) in 0..1."""
        return self.objective.answer(self(images))

    def widths(self, images: Tensor) -> Tensor:
        """How many columns (N,), from the left, it has to see of images (N, 40, W) uint8 to answer: all of them."""
        return torch.full((len(images),), images.shape[2])


def ink_ends(images: Tensor) -> Tensor:
    """The number of columns (N,) up to and with the last that holds ink, of images (N, 40, W) uint8."""
    columns = torch.arange(1, images.shape[2] + 1, device=images.device)
    return ((images.amax(dim=1) > 0) * columns).amax(dim=1)


class Normalise(nn.Module):
    """Images (N, 1, H, W) less `mean` over `std`, one of each per channel: (N, channels, H, W)."""

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
    """3x3 convolution, where asked for 2x2 max pooling, then batch normalisation and ReLU.

    Pooling comes right after the convolution, so that what follows it runs on a quarter of the pixels.
    """
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.MaxPool2d(2) if pool else nn.Identity(),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )
