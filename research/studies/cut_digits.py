"""The task of the neuro-symbolic literature: sums of four digits that come as separate images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from digitsum.augment import augment
from digitsum.compose import GLYPH, HEIGHT, Strips, permutation
from digitsum.data import Data, source_glyphs
from digitsum.experiments import Augmentation, Experiment
from digitsum.models.layers import Float32Linear, StripModel

from .variants import PooledReader, same_steps

SUMS, TEST_SUMS = 15_000, 2_500  # MNIST's training and test digits, each used once
TOP = (HEIGHT - GLYPH) // 2  # blank rows above and below a digit
NEVER = -20.0  # log-probability of a blank in a cell that holds a digit: in float32, 1 - e^-20 is 1


class CutDigits(StripModel):
    """One network for each of the four cells of a strip, which hold a digit each.

    Shapes: images (N, 1, 40, 112) -> logits (N, 4, outputs) of the blank, which is all but excluded, and the digits.
    `network` is a key of NETWORKS, with `args`. `augmentation` are the settings by which training augments each digit.
    """

    width = 4 * GLYPH

    def __init__(
        self, outputs: int = 11, network: str = "lenet", augmentation: dict[str, Any] | None = None, **args: Any
    ) -> None:
        super().__init__()
        self.augmentation = Augmentation(**augmentation) if augmentation else None
        self.network = NETWORKS[network](outputs - 1, **args)

    def forward(self, images: Tensor) -> Tensor:
        x = images.unfold(3, GLYPH, GLYPH).permute(0, 3, 1, 2, 4).flatten(0, 1)  # (4N, 1, 40, 28)
        if self.training:
            with torch.autocast(x.device.type, enabled=False):
                x = augment(x, self.augmentation)
        x = self.network(x)  # (4N, outputs - 1)
        x = F.pad(x.log_softmax(dim=1), (1, 0), value=NEVER)  # (4N, outputs)
        return x.unflatten(0, (len(images), 4))  # (N, 4, outputs)


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


def lay_out(glyphs: np.ndarray, labels: np.ndarray, n: int, *, seed: tuple[int, int]) -> Strips:
    """Draw `n` strips of four digits in cells side by side; each glyph is used once before any is used again.

    Shapes as in `compose`, on a canvas of (40, 112).
    """
    chosen = np.resize(permutation(len(labels), seed), (n, 4))
    images = np.zeros((n, HEIGHT, 4 * GLYPH), np.uint8)
    images[:, TOP : TOP + GLYPH] = glyphs[chosen].transpose(0, 2, 1, 3).reshape(n, GLYPH, 4 * GLYPH)
    values = labels[chosen].astype(np.int64)
    return Strips(images, values.sum(axis=1), values)


def cut_data(data: Data, root: str | Path) -> Data:
    """Return sums of cut digits of the same source; the test digits are those of `unseen`.

    Validation draws from the training digits, in another order: it only chooses the epoch.
    """
    seen, unseen = source_glyphs(data.source, root, data.seed)
    drawn = ((seen, SUMS), (seen, TEST_SUMS), (unseen, TEST_SUMS))
    train, val, test = (lay_out(*glyphs, n, seed=(data.seed, k)) for k, (glyphs, n) in enumerate(drawn, start=1))
    return Data(data.source, train, val, test, None, f"{data.reason}, cut", data.seed)


def variants(base: Experiment) -> dict[str, tuple]:
    """Return LeNet and the base's network, both with the base's objective, on two numbers of sums."""
    assert base.augment
    adam = {"optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0}
    ours = base.model_args | {"network": "reader"}
    networks: dict[str, tuple] = {
        "lenet": ("LeNet", adam | {"model_args": {"network": "lenet"}}),
        base.name: (f"the network of `{base.name}`, columns averaged", {"model_args": ours}),
        f"{base.name}_augmented": (
            f"the network of `{base.name}`, each digit augmented",
            {"model_args": ours | {"augmentation": asdict(base.augment)}},
        ),
    }
    cut = {"model": "cut_digits", "augment": None, "trim": False}
    return {
        f"{name}-{n}": (f"{n:,} sums: {what}.", cut | changes | same_steps(base, n))
        for n in (5_000, SUMS)
        for name, (what, changes) in networks.items()
    }
