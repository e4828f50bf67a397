"""The reader: for each column of a strip, it says which digit stands there, if any."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation as Convolution  # without a bias, with batch normalisation and ReLU

from ..compose import HEIGHT
from .layers import StripModel


class Reader(StripModel):
    """A fully convolutional network from strips of any width to columns of symbols: blank, or one of the digits 0..9.

    `widths` are the channels at a half, a quarter and an eighth of the height, `depths` the residual blocks there and
    along the strip. The last layer starts with `blank_bias` on "blank": 10 digits at odds of e^-4.5 each in 42 columns
    make 4.2 digits, about as many as strips have.
    Shapes: images (N, 1, 40, W), W a multiple of 4 -> logits (N, W / 4, outputs).
    """

    stride = 4

    def __init__(
        self,
        outputs: int = 11,
        widths: tuple[int, int, int] = (32, 64, 128),
        depths: tuple[int, int, int, int] = (1, 1, 1, 1),
        blank_bias: float = 4.5,
    ) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.strip = nn.Sequential(
            Convolution(1, fine, 5, stride=2), *(Residual(fine, 3) for _ in range(depths[0])),
            Convolution(fine, middle, 3, stride=2), *(Residual(middle, 3) for _ in range(depths[1])),
            Convolution(middle, coarse, 3, stride=(2, 1)), *(Residual(coarse, 3) for _ in range(depths[2])),
        )  # fmt: skip
        self.columns = nn.Sequential(
            Convolution(coarse, coarse, (HEIGHT // 8, 1), padding=0),
            *(Residual(coarse, (1, 3)) for _ in range(depths[3])),
        )
        self.symbols = nn.Conv2d(coarse, outputs, 1)
        with torch.no_grad():
            self.symbols.weight.mul_(0.3)
            self.symbols.get_parameter("bias").copy_(torch.tensor([blank_bias] + [0.0] * (outputs - 1)))

    def forward(self, images: Tensor) -> Tensor:
        x = self.strip(images)  # (N, C, 5, W / 4)
        x = self.columns(x)  # (N, C, 1, W / 4)
        return self.symbols(x).squeeze(2).transpose(1, 2)  # (N, W / 4, outputs)


class Residual(nn.Module):
    """Two convolutions and a residual connection. The second's scale starts at zero: the block starts as identity."""

    def __init__(self, channels: int, kernel: int | tuple[int, int]) -> None:
        super().__init__()
        self.first = Convolution(channels, channels, kernel)
        self.second = Convolution(channels, channels, kernel, activation_layer=None)
        self.second.get_parameter("1.weight").data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)), inplace=True)
