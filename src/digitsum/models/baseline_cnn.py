"""The plain convolutional networks of reports A to E."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from .layers import Float32Linear, Normalise, StripModel


class BaselineCNN(StripModel):
    """3x3 convolutions, each with ReLU and 2x2 pooling; a linear layer of `hidden` with dropout; one of `outputs`.

    Shapes: images (N, 1, 40, 168) -> (N, outputs). `hidden` None leaves its layer out; `normalise` is the (mean, std)
    that images in 0..1 are brought to zero and one by.
    Source: report A, whose sizes are the defaults; the padding of 1 follows from its 64 * 420 inputs to the first
    linear layer. Pooling before the ReLU gives the same as after it, sooner. Reports B, D and E have other numbers of
    layers, see experiments.py.
    """

    width = 168

    def __init__(
        self,
        outputs: int,
        channels: Sequence[int] = (32, 64),
        hidden: int | None = 128,
        dropout: float = 0.0,
        normalise: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.normalise = Normalise(*normalise) if normalise else nn.Identity()
        self.features = nn.Sequential()
        for inputs, width in pairwise([1, *channels]):
            self.features.extend([nn.Conv2d(inputs, width, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()])
        size = channels[-1] * (40 >> len(channels)) * (self.width >> len(channels))
        self.hidden = nn.Sequential(nn.Flatten())
        if hidden:
            self.hidden.extend([nn.Linear(size, hidden), nn.ReLU(), nn.Dropout(dropout)])
        self.head = Float32Linear(hidden or size, outputs)

    def forward(self, images: Tensor) -> Tensor:
        x = self.normalise(images)  # (N, 1, 40, 168)
        x = self.features(x)  # (N, 64, 10, 42)
        x = self.hidden(x)  # (N, 128)
        return self.head(x)  # (N, outputs)
