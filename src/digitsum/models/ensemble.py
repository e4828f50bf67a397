"""Several readers that answer as one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..likelihood import Reading
from ..objectives import Answer
from .layers import StripModel


class Ensemble(StripModel):
    """Readers, trained alike from other seeds, of whose probabilities of sums the mean is taken.

    Of the digits that they read, those count to which they give the highest probability in the mean, each to its own
    reading. Where within a digit its column lies is a matter of the seed, so places of different readers cannot be held
    against each other. Source: Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using
    deep ensembles" (2017).
    """

    readers: Any  # modules of which mypy knows no methods

    def __init__(self, readers: Sequence[StripModel]) -> None:
        super().__init__()
        self.readers = nn.ModuleList(readers)
        self.objective = readers[0].objective

    def widths(self, images: Tensor) -> Tensor:
        """How many columns (N,), from the left, they have to see of images (N, 40, W) uint8."""
        return self.readers[0].widths(images)

    def answer(self, images: Tensor) -> Answer:
        """What they say of images (N, 1, 40, W) in 0..1."""
        answers = [reader.answer(images) for reader in self.readers]
        log_p = torch.stack([answer.log_p for answer in answers]).logsumexp(dim=0) - math.log(len(answers))
        readings = [_likeliest(each) for each in zip(*(answer.readings for answer in answers), strict=True)]
        return Answer(log_p.argmax(dim=1).to(log_p.dtype), readings, log_p)


def _likeliest(readings: Sequence[Reading]) -> Reading:
    """The reading of several of one strip whose digits have the highest mean probability, with that."""
    means: dict[tuple[int, ...], float] = defaultdict(float)
    for reading in readings:
        means[tuple(reading.digits)] += reading.probability / len(readings)
    digits = max(means, key=lambda key: means[key])
    surest = max((r for r in readings if tuple(r.digits) == digits), key=lambda r: r.probability)
    return surest._replace(probability=means[digits])
