"""Variants of the reader by name, each with a sentence and what it changes; and the models and objectives they need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from digitsum.compose import compose
from digitsum.data import Data, source_glyphs
from digitsum.experiments import Augmentation, Experiment
from digitsum.likelihood import SYMBOLS, moments
from digitsum.models.layers import Float32Linear, StripModel
from digitsum.models.reader import Reader
from digitsum.objectives import Regression

STRIPS = 24_000  # in the training split
FEWER = (500, 1_000, 2_000, 5_000, 10_000)
MORE = 300_000
PARTS = ("shift", "scale", "shear", "dilation", "elastic", "sharpen")  # of the augmentation


class PooledReader(StripModel):
    """A Reader whose columns are averaged, with a hidden layer after the mean, as in CNNAttention.

    Shapes: images (N, 1, 40, W) -> (N, outputs). `reader` holds the Reader's arguments.
    """

    def __init__(self, outputs: int, hidden: int = 256, **reader: Any) -> None:
        super().__init__()
        self.columns = Reader(hidden, **reader | {"blank_bias": 0.0})
        self.norm = nn.BatchNorm1d(hidden)
        self.head = Float32Linear(hidden, outputs)

    def forward(self, images: Tensor) -> Tensor:
        x = self.columns(images)  # (N, W / 4, hidden)
        x = self.norm(x.mean(dim=1)).relu()  # (N, hidden)
        return self.head(x)  # (N, outputs)


@dataclass(frozen=True)
class AdditiveRegression(Regression):
    """One number per column, outputs (N, T, 1). Their total is the strip's value."""

    def values(self, outputs: Tensor) -> Tensor:
        """Return real-valued predictions (N,), in units of the sum."""
        return outputs.sum(dim=(1, 2))


@dataclass(frozen=True)
class ExpectedSum(Regression):
    """Columns of symbols, outputs (N, T, 11). The mean of the sum that they make is the strip's value."""

    outputs: int = SYMBOLS

    def values(self, outputs: Tensor) -> Tensor:
        """Return real-valued predictions (N,), in units of the sum."""
        return moments(outputs)[0]


def ablations(base: Experiment) -> dict[str, tuple]:
    """Return the base and its variants, each with one part removed or replaced."""
    assert base.augment
    # A total or a mean over the columns depends on the blank ones, so three variants train on untrimmed strips.
    flat = base.model_args | {"blank_bias": 0.0}
    return {
        base.name: (f"`{base.name}` as it is.", {}),
        "no_start": ("The likelihood from the first step on.", {"objective_args": {"start_steps": 0}}),
        "additive_regression": (
            "Each column gives a number; squared error of their total; untrimmed strips.",
            {"objective": "additive_regression", "model_args": flat, "trim": False},
        ),
        "expected_sum": (
            "Each column gives symbols; squared error of the mean of their sum; untrimmed strips.",
            {"objective": "expected_sum", "trim": False},
        ),
        "classification": (
            "Mean of the columns, a hidden layer, 37 classes; untrimmed strips.",
            {"model": "pooled_reader", "objective": "classification", "trim": False},
        ),
        "count_1_to_8": ("Trained for one to eight digits, not for four.", {"objective_args": {"count": (1, 8)}}),
        "count_unknown": (
            "Trained for any number of digits. A sum cannot tell a zero from a blank then.",
            {"objective_args": {"count": None}},
        ),
        **{
            f"no_{part}": (
                f"Without `{part}` in the augmentation.",
                {"augment": replace(base.augment, **{part: getattr(Augmentation(), part)})},
            )
            for part in PARTS
        },
        "no_augmentation": ("Without augmentation.", {"augment": None}),
        "untrimmed": ("Untrimmed strips.", {"trim": False}),
        "float32": ("Trained in float32, not in bfloat16.", {"bfloat16": False}),
    }


def fewer_strips(base: Experiment) -> dict[str, tuple]:
    """Return a variant for each smaller number of strips, and the base itself."""
    few = {str(n): (f"Only the first {n:,} strips.", same_steps(base, n)) for n in FEWER}
    return few | {base.name: (f"All {STRIPS:,} strips: `{base.name}` as it is.", {})}


def same_steps(base: Experiment, n: int) -> dict[str, int]:
    """Return settings for `n` strips in as many steps as `base` takes over all strips, to the nearest epoch."""
    repeats = max(STRIPS // n, 1)
    return {"train_limit": n, "repeats": repeats, "epochs": max(round(base.epochs * STRIPS / (n * repeats)), 1)}


def more_strips(base: Experiment) -> dict[str, tuple]:
    """Return the variant that sees each of MORE strips once."""
    return {str(MORE): (f"{MORE:,} strips, each seen once.", {"epochs": 1})}


def more_data(data: Data, root: str | Path) -> Data:
    """Return the data with MORE training strips, composed of the same glyphs: 2 GB in memory."""
    seen, _ = source_glyphs(data.source, root, data.seed)
    return replace(data, train=compose(*seen, MORE, seed=(data.seed, MORE)))
