"""Digits cut out of their strips where the generator put them: for the one experiment whose name says so."""

from __future__ import annotations

import numpy as np

from .compose import GLYPH, HEIGHT, Strips
from .data import DataError


def cut(strips: Strips) -> Strips:
    """Every digit of N strips as a strip of its own, whose sum is the digit itself, at the top of a black canvas.

    Shapes: images (N * K, 40, 28) uint8 and sums (N * K,), K digits of each strip from left to right. A cut holds what
    a neighbour has in it too. Raises DataError where digits and places are not known, as in the course's files.
    """
    if strips.digits is None or strips.corners is None:
        raise DataError(
            "the digits of these strips and their places are not known, so none can be cut out; use the source mnist "
            "or digits"
        )
    windows = np.lib.stride_tricks.sliding_window_view(strips.images, (GLYPH, GLYPH), axis=(1, 2))
    tops, lefts = strips.corners[:, :, 0], strips.corners[:, :, 1]  # (N, K)
    cuts = windows[np.arange(len(strips))[:, None], tops, lefts]  # (N, K, 28, 28)
    images = np.zeros((strips.digits.size, HEIGHT, GLYPH), np.uint8)
    images[:, :GLYPH] = cuts.reshape(-1, GLYPH, GLYPH)
    return Strips(images, strips.digits.ravel())
