"""Two references for all systems: the most common sum, and an oracle that knows every digit's place and label."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from digitsum.compose import GLYPH, HEIGHT, Strips
from digitsum.errors import DataError
from digitsum.models.cnn_attention import CNNAttention
from digitsum.models.layers import StripModel


class MostCommon(StripModel):
    """One score per sum, the same for every image: (N, 1, 40, W) -> (N, outputs)."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(outputs))

    def count(self, sums: np.ndarray) -> None:
        """Set each score to how often its sum occurs among `sums` (N,), in parts of one."""
        shares = np.bincount(sums, minlength=len(self.scores)) / len(sums)
        self.scores.data.copy_(torch.from_numpy(shares))

    def forward(self, images: Tensor) -> Tensor:
        return self.scores.expand(len(images), -1)  # (N, outputs)


class DigitCNN(CNNAttention):
    """Report E's convolutions without attention, for digits cut out of their strips.

    Shapes: images (N, 1, 40, 28 K) of K cuts side by side -> (N, outputs). One cut gives scores, of which the first ten
    mean digits. Several give a one at the sum of their most likely digits.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__(outputs, attention_after=())

    def forward(self, images: Tensor) -> Tensor:
        cuts = images.unflatten(3, (-1, GLYPH)).permute(0, 3, 1, 2, 4)  # (N, K, 1, 40, 28)
        scores = super().forward(cuts.flatten(0, 1))  # (N K, outputs)
        if cuts.shape[1] == 1:
            return scores
        sums = scores.argmax(dim=1).unflatten(0, (len(images), -1)).sum(dim=1)  # (N,)
        last = scores.shape[1] - 1
        return F.one_hot(sums.clamp(max=last), last + 1).to(scores.dtype)  # (N, outputs)


def side_by_side(strips: Strips) -> Strips:
    """Cut the digits out of N strips at their true places, and set them side by side at the top of a black canvas.

    Shapes: images (N, 40, 28 K) uint8 of K digits from left to right, with sums and digits as before. A cut also holds
    its neighbours' ink. Raises DataError if digits and places are unknown, as in the course's files.
    """
    if strips.digits is None or strips.corners is None:
        raise DataError("The places of these digits are unknown, so none can be cut out. Use source mnist or digits.")
    n, k = strips.digits.shape
    windows = np.lib.stride_tricks.sliding_window_view(strips.images, (GLYPH, GLYPH), axis=(1, 2))
    cuts = windows[np.arange(n)[:, None], strips.corners[:, :, 0], strips.corners[:, :, 1]]  # (N, K, 28, 28)
    images = np.zeros((n, HEIGHT, k * GLYPH), np.uint8)
    images[:, :GLYPH] = cuts.swapaxes(1, 2).reshape(n, GLYPH, k * GLYPH)
    return Strips(images, strips.sums, strips.digits)


def single(strips: Strips) -> Strips:
    """Take strips of `side_by_side` apart: images (N K, 40, 28), each with its digit as its sum."""
    assert strips.digits is not None
    cuts = strips.images.reshape(len(strips), HEIGHT, -1, GLYPH).swapaxes(1, 2)
    return Strips(cuts.reshape(-1, HEIGHT, GLYPH), strips.digits.ravel())
