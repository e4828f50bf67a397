"""What studies train: variants of the reader by name, each with a sentence and what it changes; and what they need."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from digitsum.augment import augment
from digitsum.compose import GLYPH, HEIGHT, Strips, compose, permutation
from digitsum.data import Data, source_glyphs
from digitsum.experiments import BENT, Augmentation, Experiment
from digitsum.likelihood import SYMBOLS, moments
from digitsum.models.layers import Float32Linear, StripModel
from digitsum.models.reader import Reader
from digitsum.objectives import Regression

STRIPS = 24_000  # in the training split
FEWER = (500, 1_000, 2_000, 5_000, 10_000)
MORE = 300_000
SUMS, TEST_SUMS = 15_000, 2_500  # MNIST's training and test digits, each used once
MANY = {16: 20}  # digits of a sum: epochs of training
MANY_SUMS, MANY_TEST_SUMS = 5_000, 1_000
TOP = (HEIGHT - GLYPH) // 2  # blank rows above and below a digit
NEVER = -20.0  # log-probability of a blank in a cell that holds a digit: in float32, 1 - e^-20 is 1


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
        return outputs.sum(dim=(1, 2))


@dataclass(frozen=True)
class ExpectedSum(Regression):
    """Columns of symbols, outputs (N, T, 11). The mean of the sum that they make is the strip's value."""

    outputs: int = SYMBOLS

    def values(self, outputs: Tensor) -> Tensor:
        return moments(outputs)[0]


def ablations(base: Experiment) -> dict[str, tuple]:
    """Return the base and its variants, each with one part removed or replaced."""
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
            f"no_{part}": (f"Without `{part}` in the augmentation.", {"augment": replace(BENT, **{part: off})})
            for part, off in asdict(Augmentation()).items()
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


def more_data(data: Data, root: str | Path, experiment: Experiment) -> Data:
    """Return the data with MORE training strips, composed of the same glyphs: 2 GB in memory."""
    seen, _ = source_glyphs(data.source, root, data.seed)
    return replace(data, train=compose(*seen, MORE, seed=(data.seed, MORE)))


# The task of the neuro-symbolic literature: sums of digits that come as separate images


class CutDigits(StripModel):
    """One network for each of the K cells of a strip, which hold a digit each.

    Shapes: images (N, 1, 40, 28 K) -> logits (N, K, outputs) of the blank, which is all but excluded, and the digits.
    `network` is a key of NETWORKS, with `args`. `augmentation` are the settings by which training augments each digit.
    """

    def __init__(
        self, outputs: int = 11, network: str = "lenet", augmentation: dict[str, Any] | None = None, **args: Any
    ) -> None:
        super().__init__()
        self.augmentation = Augmentation(**augmentation) if augmentation else None
        self.network = NETWORKS[network](outputs - 1, **args)

    def forward(self, images: Tensor) -> Tensor:
        x = images.unfold(3, GLYPH, GLYPH).permute(0, 3, 1, 2, 4).flatten(0, 1)  # (N K, 1, 40, 28)
        if self.training:
            with torch.autocast(x.device.type, enabled=False):
                x = augment(x, self.augmentation)
        x = self.network(x)  # (N K, outputs - 1)
        x = F.pad(x.log_softmax(dim=1), (1, 0), value=NEVER)  # (N K, outputs)
        return x.unflatten(0, (len(images), -1))  # (N, K, outputs)


class LeNet(nn.Sequential):
    """The network of Manhaeve et al., "DeepProbLog", and its successors: cells (N, 1, 40, 28) -> (N, outputs)."""

    def __init__(self, outputs: int) -> None:
        super().__init__(
            nn.ZeroPad2d((0, 0, -TOP, -TOP)),  # removes the blank rows
            nn.Conv2d(1, 6, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(), nn.Linear(16 * 4 * 4, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
            Float32Linear(84, outputs),
        )  # fmt: skip


NETWORKS = {"lenet": LeNet, "reader": PooledReader}


def lay_out(glyphs: np.ndarray, labels: np.ndarray, n: int, *, seed: tuple[int, int], digits: int = 4) -> Strips:
    """Draw `n` strips of so many digits in cells side by side; each glyph is used once before any is used again.

    Shapes as in `compose`, on a canvas of (40, 28 digits).
    """
    rounds = -(-n * digits // len(labels))
    order = np.concatenate([permutation(len(labels), (*seed, k) if k else seed) for k in range(rounds)])
    chosen = order[: n * digits].reshape(n, digits)
    images = np.zeros((n, HEIGHT, digits * GLYPH), np.uint8)
    images[:, TOP : TOP + GLYPH] = glyphs[chosen].transpose(0, 2, 1, 3).reshape(n, GLYPH, -1)
    values = labels[chosen].astype(np.int64)
    return Strips(images, values.sum(axis=1), values)


def cut_data(data: Data, root: str | Path, experiment: Experiment) -> Data:
    """Return sums of as many cut digits as the experiment counts, of the same source; the test digits are `unseen`'s.

    Validation draws from the training digits, in another order: it only chooses the epoch.
    """
    digits = experiment.objective_args.get("count", 4)
    sums, few = (SUMS, TEST_SUMS) if digits == 4 else (MANY_SUMS, MANY_TEST_SUMS)
    seen, unseen = source_glyphs(data.source, root, data.seed)
    train, val, test = (
        lay_out(*glyphs, n, seed=(data.seed, k), digits=digits)
        for k, (glyphs, n) in enumerate(((seen, sums), (seen, few), (unseen, few)), start=1)
    )
    return Data(data.source, train, val, test, None, f"{data.reason}, cut", data.seed)


def cut_digits(base: Experiment) -> dict[str, tuple]:
    """Return LeNet and the base's network, both with the base's objective, on sums of four digits and of more."""
    adam = {"optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0}
    ours, name = base.model_args | {"network": "reader"}, base.name
    bent = ours | {"augmentation": asdict(BENT)}
    networks: dict[str, tuple] = {
        "lenet": ("LeNet", adam | {"model_args": {"network": "lenet"}}),
        name: (f"the network of `{name}`, columns averaged", {"model_args": ours}),
        f"{name}_augmented": (f"the network of `{name}`, each digit augmented", {"model_args": bent}),
    }
    cut = {"model": "cut_digits", "augment": None, "trim": False}
    rows = {
        f"{key}-{n}": (f"{n:,} sums of four digits: {what}.", cut | changes | same_steps(base, n))
        for n in (MANY_SUMS, SUMS)
        for key, (what, changes) in networks.items()
    }
    what, changes = networks["lenet"]
    for digits, epochs in MANY.items():
        longer = {"objective_args": {"count": digits, "start_steps": 0}, "epochs": epochs, "lr": 3e-3}
        rows[f"lenet-{digits}digits"] = (f"{MANY_SUMS:,} sums of {digits} digits: {what}.", cut | changes | longer)
    return rows
