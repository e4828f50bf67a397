"""A reader for real handwriting, taught by sums: rows of MNIST's digits, made to look like pens on paper."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from digitsum.compose import DIGIT_WIDTH, HEIGHT, Strips, permutation
from digitsum.data import Data, source_glyphs
from digitsum.experiments import Experiment
from digitsum.likelihood import Count, sum_log_likelihood
from digitsum.models import StripModel
from digitsum.objectives import Objective, SumLikelihood
from digitsum.training import Run, train

MOST = 8  # digits of a row
WIDE = MOST * DIGIT_WIDTH
SIZE = 22  # rows of a digit, as `images` makes them
ROWS, VALIDATION = 48_000, 2_000


@dataclass(frozen=True)
class CountedLikelihood(SumLikelihood):
    """The likelihood of sums where each strip's number of digits is told in training: targets (N, 2), sum and count."""

    count: Count = (1, MOST)
    start_steps: int = 0

    def loss(self, outputs: Tensor, targets: Tensor, step: int | None = None) -> Tensor:
        """Return the mean negative log-likelihood in nats. Shapes: outputs (N, T, 11), targets (N, 2)."""
        sums, counts = targets.T
        each = [(counts == count, count) for count in counts.unique().tolist()]
        parts = [sum_log_likelihood(outputs[rows], sums[rows], count).sum() for rows, count in each]
        return -torch.stack(parts).sum() / len(targets)

    def truth(self, targets: Tensor) -> Tensor:
        return targets[:, 0]


def write_rows(glyphs: np.ndarray, labels: np.ndarray, n: int, *, seed: int | tuple[int, ...]) -> Strips:
    """Draw `n` rows of 1 to 8 digits as real pens write them, with clutter; a third end in zeros, as amounts do.

    Shapes: glyphs (G, 28, 28) uint8, labels (G,) -> images (n, 40, 336), sums (n, 2): sum and count.
    """
    rng = np.random.default_rng(seed)
    images = np.zeros((n, HEIGHT, WIDE), np.uint8)
    targets = np.zeros((n, 2), np.int64)
    zeros = np.flatnonzero(labels == 0)
    for k in range(n):
        count = int(rng.integers(1, MOST + 1))
        chosen = rng.integers(len(labels), size=count)
        if count > 1 and rng.random() < 1 / 3:
            tail = int(rng.integers(1, count))
            chosen[-tail:] = rng.choice(zeros, tail)
        images[k] = _write(glyphs[chosen], rng)
        targets[k] = labels[chosen].sum(), count
    return Strips(images, targets)


def _write(glyphs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return one row (40, 336) uint8 of glyphs (K, 28, 28)."""
    slant, space = rng.uniform(-0.15, 0.55), rng.uniform(-5, 8)
    wide, uneven = rng.uniform(0.7, 1.35), rng.uniform(0, 0.4)
    tail = rng.integers(len(glyphs)) if rng.random() < 0.3 else len(glyphs)  # from here on the digits are smaller
    small = rng.uniform(0.5, 0.85)
    row, end = np.zeros((HEIGHT, 2 * WIDE), np.float32), rng.integers(4, 14)
    ends = []
    for k, glyph in enumerate(glyphs):
        gap = round(space + rng.uniform(-3, 3))
        touching = gap < 2
        size = 1 - rng.uniform(0, uneven) * (touching or rng.random() < 0.3)
        if k >= tail and (touching or rng.random() < 0.5):
            size *= small
        ink = _slanted(glyph, slant + rng.normal(0, 0.06))
        height = int(np.clip(round(SIZE * size * rng.uniform(0.95, 1.08)), 9, 30))
        width = max(3, round(ink.shape[1] * height / ink.shape[0] * wide * rng.uniform(0.85, 1.18)))
        ink = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)
        if rng.random() < 0.1:  # a wide space, as between thousands
            gap += int(rng.integers(0, 10))
        left = max(2, end + gap) if k else end
        middle = (HEIGHT - height) / 2 + (rng.normal(0, 2) if touching else rng.normal(0, 0.7))
        top = int(np.clip(round(middle), 0, HEIGHT - height))
        window = row[top : top + height, left : left + width]
        np.maximum(window, ink, out=window)
        end = max(end, left + width)
        ends.append(int(end))
    _clutter(row, ends, rng)
    row = _pen(row[:, : end + 40], rng)
    if row.shape[1] > WIDE:
        row = np.asarray(Image.fromarray(row).resize((WIDE, HEIGHT), Image.Resampling.BILINEAR))
    strip = np.zeros((HEIGHT, WIDE), np.uint8)
    strip[:, : row.shape[1]] = np.rint(255 * row.clip(0, 1))
    return strip


def _slanted(glyph: np.ndarray, slant: float) -> np.ndarray:
    """Return a glyph's ink (h, w) 0..1, slanted by so many columns per row, without blank edges."""
    image = Image.fromarray(np.pad(glyph, ((0, 0), (16, 16))).astype(np.float32) / 255)
    middle = (glyph.shape[0] - 1) / 2
    matrix = (1, slant, -slant * middle, 0, 1, 0)
    ink = np.asarray(image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))
    rows, columns = (np.flatnonzero((ink > 0.2).any(axis=axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else ink[:20, :20]


def _clutter(row: np.ndarray, ends: list[int], rng: np.random.Generator) -> None:
    """Add what is no digit: dots between digits, dashes after them, specks, and pieces of ruled lines."""
    y, x = np.mgrid[: row.shape[0], : row.shape[1]]

    def stroke(top: float, left: float, length: float, slope: float, radius: float) -> None:
        near = np.abs(y - top - slope * (x - left)) if length else np.hypot(y - top, x - left)
        on = (x >= left - radius) & (x <= left + length + radius) & (near <= radius + 1)
        np.maximum(row, np.where(on, (radius + 0.5 - near).clip(0, 1), 0), out=row)

    last = ends[-1]
    if rng.random() < 0.35:  # dots
        for where in rng.choice(ends, int(rng.integers(1, 3))):
            stroke(rng.uniform(24, 33), where + rng.uniform(-1, 3), rng.choice([0, 1, 2]), 0, rng.uniform(0.6, 2))
    if rng.random() < 0.15:  # a dash or two at the end
        top, left, length = rng.uniform(12, 30), last + rng.uniform(1, 8), rng.uniform(6, 28)
        slope, radius = rng.normal(0, 0.12), rng.uniform(0.6, 1.8)
        stroke(top, left, length, slope, radius)
        if rng.random() < 0.4:
            stroke(top + rng.uniform(4, 7), left, length, slope, radius)
    if rng.random() < 0.15:  # specks
        for _ in range(rng.integers(1, 7)):
            stroke(rng.uniform(2, 38), rng.uniform(2, last + 10), 0, 0, rng.uniform(0.1, 0.9))
    if rng.random() < 0.12:  # a piece of a line under or over the row
        top = rng.uniform(30, 37) if rng.random() < 0.7 else rng.uniform(3, 9)
        stroke(top, rng.uniform(0, last), rng.uniform(8, 70), rng.normal(0, 0.02), rng.uniform(0.2, 0.9))


def _pen(row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Make the pen thicker or thinner by up to one pixel on each side, and its edge sharper or softer."""
    amount = rng.uniform(-0.6, 0.9)
    if amount > 0:
        row = row + amount * (ndimage.grey_dilation(row, (3, 3)) - row)
    else:
        row = np.maximum(row - amount * (ndimage.grey_erosion(row, (3, 3)) - row), 0.6 * row)
    row = ndimage.gaussian_filter(row, rng.uniform(0, 0.7))
    return (row / row.max() - 0.5) * rng.uniform(1, 1.8) + 0.5


def training_data(data: Data, root: str | Path) -> Data:
    """Return written rows beside the source's own strips, to train on and to validate on; targets are sum and count."""
    glyphs, _ = source_glyphs(data.source, root, data.seed)

    def mixed(own: Strips, n: int, seed: int) -> Strips:
        rows = write_rows(*glyphs, n, seed=(data.seed, seed))
        images = np.concatenate([np.pad(own.images, ((0, 0), (0, 0), (0, WIDE - own.images.shape[2]))), rows.images])
        targets = np.concatenate([np.stack([own.sums, np.full(len(own), 4)], axis=1), rows.sums])
        order = permutation(len(images), seed)
        return Strips(images[order], targets[order])

    train = mixed(data.train, ROWS, 1)
    val = mixed(data.val[:VALIDATION], VALIDATION, 2)
    return Data(data.source, train, val, val, None, f"{data.reason}, with written rows", data.seed)


def train_reader(
    experiment: Experiment, data: Data, *, reader: StripModel, start: str, root: str | Path = "data", **given: Any
) -> Run:
    """Train a published reader, whose file is called `start`, on with written rows beside the source's own strips."""
    counted = replace(experiment, objective="counted_likelihood")
    run = train(counted, training_data(data, root), start=with_objective(reader, CountedLikelihood()), **given)
    return replace(run, experiment=experiment, start=start, model=with_objective(run.model, SumLikelihood()))


def with_objective(model: StripModel, objective: Objective) -> StripModel:
    """Return a copy of a model with another objective."""
    model = copy.deepcopy(model)
    model.objective = objective
    return model
