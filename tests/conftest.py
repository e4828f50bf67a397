"""Fixtures for all tests."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

import digitsum.data
import digitsum.training
from digitsum.checkpoints import save_checkpoint
from digitsum.compose import Strips
from digitsum.data import Data, load_data
from digitsum.experiments import EXPERIMENTS, Experiment
from digitsum.models import StripModel
from digitsum.objectives import OBJECTIVES
from digitsum.training import Run, train

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # for other processes
CORE = tuple(EXPERIMENTS)  # the package's own: research adds others once it is imported
OBJECTIVE_NAMES = tuple(OBJECTIVES)
SMALL = tuple(name for name in CORE if EXPERIMENTS[name].model != "resnet50")  # those that train fast on a CPU


@pytest.fixture(scope="session")
def digits() -> Data:
    """The whole of the source that is always there."""
    return load_data("digits")


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """The folder that holds the real MNIST; a test that asks for it is skipped without it."""
    for root in (REPOSITORY / "data", REPOSITORY.parent / "shared" / "mnist"):
        if (root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").is_file():
            return root
    pytest.skip("MNIST is neither in data/ nor in ../shared/mnist")


@pytest.fixture(scope="session")
def mnist(mnist_root: Path) -> Data:
    """The whole of the source that published numbers are on."""
    return load_data("mnist", mnist_root)


@pytest.fixture(scope="session")
def tiny(digits: Data) -> Data:
    """A handful of strips of every split."""
    return digits.head(48, 16)


@pytest.fixture
def small_sources(monkeypatch) -> None:
    """Fewer strips than usual of every source."""
    monkeypatch.setattr(digitsum.data, "STRIPS", 100)
    monkeypatch.setattr(digitsum.data, "UNSEEN", 21)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch, small_sources) -> Path:
    """An empty folder as the current one, and small sources of data."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(experiment: Experiment, data: Data, device: str = "cpu", **options) -> Run:
    """Train quietly, on the CPU."""
    return train(experiment, data, device=device, progress=False, **options)


def interrupt(monkeypatch, step: int) -> None:
    """Press Ctrl-C in training step `step`, counted from 1 over all epochs from now on."""
    steps = Mock(side_effect=[None] * (step - 1) + [KeyboardInterrupt])
    monkeypatch.setattr(digitsum.training.tqdm, "update", steps)


def save(model: StripModel, path: Path, experiment: Experiment, **metadata: Any) -> None:
    """Save a model as if `experiment` had been trained; `metadata` replace parts of what is said of it."""
    about = {
        "experiment": experiment.name, "seed": 0, "source": "digits", "data": "0" * 16, "settings": asdict(experiment),
        "validation": {"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}}, "weights": "none",
    }  # fmt: skip
    save_checkpoint(model, path, **about | metadata)


class Told(StripModel):
    """Predicts the brightness of the first pixel, a tenth for every step, and so can be told what to predict."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(25.5))
        self.objective = OBJECTIVES["regression"]

    def forward(self, images):
        return images[:, :, 0, 0] * self.scale


def telling(tenths: np.ndarray, sums: np.ndarray) -> Strips:
    """Return strips on which `Told` predicts `tenths` / 10."""
    images = np.zeros((len(sums), 40, 168), np.uint8)
    images[:, 0, 0] = tenths
    return Strips(images, sums)
