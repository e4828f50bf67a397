"""Published weights, with a local stand-in for the published file and no internet."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torchvision.models import Weights, WeightsEnum

from research.systems.pretrained import WeightsError, published_state

STATE = {"weight": torch.arange(6.0).view(2, 3)}
NAME = "IMAGENET1K_V1"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Torch's cache of downloads, empty; and no proxy in the way."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "torch" / "hub" / "checkpoints"


def weights_at(url: str) -> type[WeightsEnum]:
    """Return a stand-in for torchvision's published weights of a model, with this address."""
    return WeightsEnum("StandIn", {NAME: Weights(url=url, transforms=torch.nn.Identity, meta={})})


@pytest.fixture
def published(tmp_path) -> Path:
    """A state dict where it can be downloaded, under a name that ends in its hash."""
    torch.save(STATE, path := tmp_path / "published.pth")
    return path.rename(tmp_path / f"standin-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")


def test_weights_are_downloaded_once(published, cache):
    kind = weights_at(published.as_uri())
    assert torch.equal(published_state(kind, NAME)["weight"], STATE["weight"])
    assert [path.name for path in cache.iterdir()] == [published.name]
    published.unlink()
    assert torch.equal(published_state(kind, NAME)["weight"], STATE["weight"])
    with pytest.raises(WeightsError, match=f"of_tomorrow.*{NAME}"):
        published_state(kind, "of_tomorrow")


def test_a_damaged_file_in_the_cache_is_named_with_the_remedy(published, cache):
    cache.mkdir(parents=True)
    content = bytearray(published.read_bytes())
    content[len(content) // 2] ^= 1
    for damaged in (content, content[:100], b""):
        (cache / published.name).write_bytes(damaged)
        with pytest.raises(WeightsError, match="Delete it") as caught:
            published_state(weights_at(published.as_uri()), NAME)
        assert str(cache / published.name) in str(caught.value)


def test_what_cannot_be_downloaded_is_said_with_the_way_on(published, cache):
    """Another file, or no answer at all."""
    published.write_bytes(b"<html>Please log in to this network</html>")
    for url in (published.as_uri(), "http://127.0.0.1:9/standin-0123abcd.pth"):
        with pytest.raises(WeightsError, match="--weights none") as caught:
            published_state(weights_at(url), NAME)
        assert url in str(caught.value) and str(cache / Path(url).name) in str(caught.value)
    assert not list(cache.iterdir())
