"""The strip generator: handwritten glyphs pasted side by side, often touching, labelled with their sum."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

HEIGHT = 40
GLYPH = 28
MIN_GAP, MAX_GAP = -16, 14  # between the boxes of neighbouring glyphs, so boxes overlap by up to 16 columns
DIGIT_WIDTH = GLYPH + MAX_GAP  # the most columns one digit can take
WIDTH = 4 * DIGIT_WIDTH  # 168, the course's canvas
MAX_SUM = 36  # four nines


@dataclass(frozen=True, eq=False)
class Strips:
    """Hold images of digit strips with their sums. What only the generator knows is for evaluation only."""

    images: np.ndarray  # (N, 40, W) uint8, black 0 to ink 255
    sums: np.ndarray  # (N,) int64
    digits: np.ndarray | None = None  # (N, K) int64, from left to right
    corners: np.ndarray | None = None  # (N, K, 2) int64, the (top, left) pixel of each glyph
    glyphs: np.ndarray | None = None  # (N, K) int64, the index of each glyph

    def __len__(self) -> int:
        return len(self.sums)

    def __getitem__(self, rows: slice | np.ndarray) -> Self:
        """Return the strips of a slice or an index array, in that order."""
        known = (part if part is None else part[rows] for part in (self.digits, self.corners, self.glyphs))
        return type(self)(self.images[rows], self.sums[rows], *known)

    @cached_property
    def fingerprint(self) -> str:
        """Return the first 16 hexadecimal digits of the SHA-256 of shape, images and sums."""
        digest = hashlib.sha256(str(self.images.shape).encode())
        digest.update(np.ascontiguousarray(self.images))
        digest.update(np.ascontiguousarray(self.sums, dtype="<i8"))
        return digest.hexdigest()[:16]


def compose(glyphs: np.ndarray, labels: np.ndarray, n: int, *, seed: int | tuple[int, ...], digits: int = 4) -> Strips:
    """Draw `n` strips of `digits` glyphs each, the same for the same arguments on every platform.

    Overlapping ink is joined by the pixelwise maximum.
    Shapes: glyphs (G, 28, 28) uint8; labels (G,) integers 0..9; the canvas is (40, 42 * digits).
    Source: data/README.md compares these strips with the course's published statistics.
    """
    bits = np.random.PCG64(seed)
    chosen = _integers(bits, len(labels), (n, digits))
    gaps = _integers(bits, MAX_GAP - MIN_GAP + 1, (n, digits)) + MIN_GAP
    corners = np.empty((n, digits, 2), np.int64)
    corners[:, :, 0] = _integers(bits, HEIGHT - GLYPH + 1, (n, digits))
    end = np.zeros(n, np.int64)  # of the boxes so far
    for k in range(digits):
        corners[:, k, 1] = np.maximum(end + gaps[:, k], 0)
        end = corners[:, k, 1] + GLYPH
    images = np.zeros((n, HEIGHT, digits * DIGIT_WIDTH), np.uint8)
    # A plain loop over views: faster than one fancy-indexed scatter, and it needs no index arrays.
    for image, row, tops_lefts in zip(images, chosen.tolist(), corners.tolist(), strict=True):
        for glyph, (top, left) in zip(row, tops_lefts, strict=True):
            window = image[top : top + GLYPH, left : left + GLYPH]
            np.maximum(window, glyphs[glyph], out=window)
    values = labels[chosen].astype(np.int64)
    return Strips(images, values.sum(axis=1), values, corners, chosen)


def permutation(n: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """Return the indices 0..n-1 in random order, from the raw bit stream, which NumPy keeps stable."""
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")


def _integers(bits: np.random.PCG64, high: int, shape: tuple[int, ...]) -> np.ndarray:
    """Draw integers 0..high-1 from the raw bit stream. NumPy keeps it stable, while `Generator` methods may change."""
    raw = bits.random_raw(int(np.prod(shape))) >> np.uint64(32)
    return ((raw * np.uint64(high)) >> np.uint64(32)).astype(np.int64).reshape(shape)
