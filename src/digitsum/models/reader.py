"""The reader: looks at a strip column by column and says, for each, which digit stands there, if any."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..compose import HEIGHT
from ..devices import autocast
from ..objectives import Answer, SumLikelihood
from .layers import MARGIN, StripModel, ink_ends

SHIFTS = (1, -1)  # by how many pixels to the right a strip is moved for each further look
STEP = 32  # strips are answered in widths that are multiples of this, so that many have the same


class Reader(StripModel):
    """A fully convolutional network from strips to columns of symbols: nothing, or one of the digits 0..9.

    Residual 3x3 blocks at a half, a quarter and an eighth of the height; one convolution over all remaining rows; then
    residual blocks along the strip. No layer depends on the width, so it reads strips of any width and any number of
    digits. `widths` are the channels of the three resolutions, `depths` the residual blocks at each and along the
    strip. The last layer starts with `empty_bias` on "nothing", so that an untrained reader expects about as many
    digits as strips have: with 4.5, 10 digits at odds of e^-4.5 each in 42 columns, 4.2 of them.

    Where a strip holds a column whose likeliest symbol has a probability below `second_look`, the answer of a reader
    that was taught by a sum likelihood is that of several looks, also at the strip moved by a pixel to the left and to
    the right: test-time augmentation of the one strip in ten where it matters. 0: it looks once.
    """

    stride = 4

    def __init__(
        self,
        outputs: int = 11,
        widths: tuple[int, int, int] = (32, 64, 128),
        depths: tuple[int, int, int, int] = (1, 1, 1, 1),
        empty_bias: float = 4.5,
        second_look: float = 0.95,
    ) -> None:
        super().__init__()
        self.second_look = second_look
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
            self.symbols.get_parameter("bias").copy_(torch.tensor([empty_bias] + [0.0] * (outputs - 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, W / 4, 11) of the symbols in each column, from images (N, 1, 40, W) in 0..1; W a multiple of 4."""
        x = self.strip(images)  # (N, C, 5, W / 4)
        x = self.columns(x)  # (N, C, 1, W / 4)
        return self.symbols(x).squeeze(2).transpose(1, 2)  # (N, W / 4, 11)

    def answer(self, images: Tensor) -> Answer:
        """What a trained reader says of images (N, 1, 40, W) in 0..1, after a second look where it doubts."""
        logits = self.glance(images)
        first = self.objective.answer(logits)
        doubtful = self.doubts(logits)
        if not doubtful.any():
            return first
        return first.replaced(doubtful, self.objective.together(self.looks(images[doubtful], logits[doubtful])))

    @property
    def tells_symbols(self) -> bool:
        """Whether its columns were taught to be probabilities of symbols, and not only to add up to something."""
        return isinstance(self.objective, SumLikelihood)

    def glance(self, images: Tensor) -> Tensor:
        """Logits (N, W / 4, 11) at one look, in float32, but of layers in bfloat16 where that is fast."""
        with autocast(images.device, self.tells_symbols):
            logits = self(images)
        return logits.float()

    def widths(self, images: Tensor) -> Tensor:
        """How many columns (N,), from the left, it has to see of images (N, 40, W) uint8: few beyond a strip's ink.

        It has learned from strips that were cropped like this. Blank columns hold nothing to a sum likelihood, but add
        to other totals over the columns.
        """
        if not self.tells_symbols:
            return super().widths(images)
        count = self.objective.count
        digits = count if isinstance(count, int) else count[1] if count else 1
        wide = (ink_ends(images) + MARGIN).clamp(min=self.stride * digits)
        return (-(-wide // STEP) * STEP).clamp(max=images.shape[2])

    def doubts(self, logits: Tensor) -> Tensor:
        """Which strips (N,), bool, it looks at again, from their logits (N, W / 4, 11)."""
        threshold = self.second_look if self.tells_symbols else 0.0
        return logits.float().softmax(2).amax(2).amin(1) < threshold

    def sees(self, images: Tensor) -> Tensor:
        """The probabilities (N, W / 4, 11) of each column's symbols, where it doubts the mean over all looks."""
        logits = self.glance(images)
        doubtful = self.doubts(logits)
        p = logits.softmax(2)
        if doubtful.any():
            p = p.index_put((doubtful,), self.looks(images[doubtful], logits[doubtful]).softmax(3).mean(0))
        return p

    def looks(self, images: Tensor, first: Tensor) -> Tensor:
        """Logits (V, N, W / 4, 11): those of the `first` look at images (N, 1, 40, W), then moved by each of SHIFTS."""
        a_column_more = torch.cat([F.pad(images, (self.stride + right, self.stride - right)) for right in SHIFTS])
        moved = self.glance(a_column_more)[:, 1:-1].unflatten(0, (len(SHIFTS), len(images)))
        return torch.cat([first[None], moved])


class Convolution(nn.Sequential):
    """Convolution, batch normalisation, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | None = None,
    ) -> None:
        if padding is None:
            padding = kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """Two convolutions and a way around them; the second's scale starts at zero, so the block starts as a wire."""

    def __init__(self, channels: int, kernel: int | tuple[int, int]) -> None:
        super().__init__()
        self.first = Convolution(channels, channels, kernel)
        self.second = nn.Sequential(*list(Convolution(channels, channels, kernel))[:-1])
        self.second.get_parameter("1.weight").data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """The same shape as `x` (N, C, H, W)."""
        return F.relu(x + self.second(self.first(x)), inplace=True)
