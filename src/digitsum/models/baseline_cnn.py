"""The two-convolution network of report A."""

from __future__ import annotations

from torch import Tensor, nn

from .layers import Float32Linear, StripModel


class BaselineCNN(StripModel):
    """Two 3x3 convolutions (32, 64 channels), each with ReLU and 2x2 pooling; linear layers of 128 and `outputs`.

    Shapes: images (N, 1, 40, 168) -> (N, outputs). Source: report A, which gives these sizes; the padding of 1 follows
    from its 64 * 420 inputs to the first linear layer. Pooling before the ReLU gives the same as after it, sooner.
    """

    width = 168

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(),
        )  # fmt: skip
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(64 * 10 * 42, 128), nn.ReLU())
        self.head = Float32Linear(128, outputs)

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images)  # (N, 64, 10, 42)
        x = self.hidden(x)  # (N, 128)
        return self.head(x)  # (N, outputs)
