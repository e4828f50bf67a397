"""The plain convolutional network of the reports."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from .layers import Float32Linear, Normalise, StripModel


class BaselineCNN(StripModel):
    """3x3 convolutions, each with 2x2 pooling and ReLU; a linear layer of `hidden` with dropout; one of `outputs`.

    Shapes: images (N, 1, 40, 168) -> (N, outputs). `hidden` None leaves its layer out. `normalise`: (mean, std).
    Source: report A gives the default sizes. Its 64 * 420 inputs to the first linear layer imply a padding of 1.
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
