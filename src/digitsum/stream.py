"""Training strips for sets that do not fit into memory: composed on the fly, chunk by chunk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from .compose import Strips, compose
from .data import Data, source_glyphs

CHUNK = 10_000  # strips at most, 67 MB; two or three chunks are in memory at a time


@dataclass(frozen=True, eq=False)
class StripStream:
    """`n` strips that are a function of glyphs (G, 28, 28), labels (G,), `n` and `seed`, and never all in memory."""

    glyphs: np.ndarray
    labels: np.ndarray
    n: int
    seed: int

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, rows: slice) -> StripStream | Strips:
        """The first strips, composed: [:k]; the stream itself: [:None]."""
        if rows == slice(None):
            return self
        start, stop, step = rows.indices(self.n)
        if (start, step) != (0, 1):
            raise ValueError("a stream can only be cut after its first strips")
        parts = [self.chunk(k) for k in range(len(self.sizes)) if sum(self.sizes[:k]) < stop] or [self.chunk(0)]
        return Strips(np.concatenate([p.images for p in parts]), np.concatenate([p.sums for p in parts]))[:stop]

    @cached_property
    def sizes(self) -> list[int]:
        """How many strips each chunk holds: nearly the same number."""
        chunks = -(-self.n // CHUNK)
        return [self.n * (k + 1) // chunks - self.n * k // chunks for k in range(chunks)]

    @cached_property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of all that the strips depend on."""
        digest = hashlib.sha256(str((self.n, self.seed, CHUNK)).encode())
        digest.update(np.ascontiguousarray(self.glyphs))
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8"))
        return digest.hexdigest()[:16]

    def chunk(self, k: int) -> Strips:
        """The strips of chunk `k`."""
        # NumPy pads seeds with zeros, so k + 1: (seed, 0) would be the plain seed, with which other sets are drawn.
        return compose(self.glyphs, self.labels, self.sizes[k], seed=(self.seed, k + 1))

    def chunks(self, order: Sequence[int]) -> Iterator[Strips]:
        """The chunks in this order; a thread composes the next one while one is being used."""
        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(self.chunk, order[0])
            for k in order[1:]:
                strips, coming = coming.result(), thread.submit(self.chunk, k)
                yield strips
            yield coming.result()


def streamed(data: Data, n: int, root: str | Path = "data") -> Data:
    """The same data with `n` streamed training strips, under a source's name of its own, as results are never mixed.

    The training digits are those of `data.train`. Raises DataError for the course's files, which no generator made.
    """
    stream = StripStream(*source_glyphs(data.source, root, data.seed)[0], n, seed=data.seed)
    return replace(
        data, source=f"{data.source}-stream{n}", reason=f"{data.reason}; {n:,} training strips streamed",
        train=stream,  # type: ignore[arg-type]  # in place of Strips, for training, which takes either
    )  # fmt: skip
