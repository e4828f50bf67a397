"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import digitsum.data
import digitsum.models.pretrained
from digitsum.data import Data, load_data, mnist_is_there
from digitsum.experiments import EXPERIMENTS
from digitsum.extras import missing
from digitsum.models import WeightsError

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"  # where a machine may keep data for several checkouts


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests of experiments that need an extra which is not installed, unless DIGITSUM_EXTRAS says it must be."""
    for item in items if not os.environ.get("DIGITSUM_EXTRAS") else ():
        models = [marker.args[0] for marker in item.iter_markers("needs")]
        if (call := getattr(item, "callspec", None)) and call.params.get("name") in EXPERIMENTS:
            models.append(EXPERIMENTS[call.params["name"]].model)
        for lack in filter(None, map(missing, models)):
            item.add_marker(pytest.mark.skip(reason=lack))


@pytest.fixture(scope="session")
def digits() -> Data:
    """The whole of the source that is always there."""
    return load_data("digits")


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """The folder that holds the real MNIST; a test that asks for it is skipped where there is none."""
    for root in (REPOSITORY / "data", SHARED / "mnist"):
        if mnist_is_there(root):
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
    monkeypatch.setattr(digitsum.data, "STRIPS", 200)
    monkeypatch.setattr(digitsum.data, "UNSEEN", 30)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch, small_sources) -> Path:
    """An empty folder as the current one, small sources of data, and no published weights to be had."""

    def download(weights):
        raise WeightsError(f"{weights} asked for")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(digitsum.models.pretrained, "pretrained_state", download)
    return tmp_path
