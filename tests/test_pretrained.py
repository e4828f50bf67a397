"""Published weights, with a local stand-in for the published file and no network."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision.models import Weights, WeightsEnum, resnet50, vgg16, vit_b_16

from digitsum.experiments import EXPERIMENTS
from digitsum.models import MODELS, WeightsError, pretrained
from digitsum.models.pretrained import pretrained_state
from digitsum.training import build

PRETRAINED = [name for name, experiment in EXPERIMENTS.items() if experiment.weights]
STATE = {"weight": torch.arange(6.0).view(2, 3)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Torch's cache of downloads, empty; and no proxy in the way."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "torch" / "hub" / "checkpoints"


def weights_at(url: str) -> WeightsEnum:
    """A stand-in for torchvision's published weights of a model with this address."""

    class StandIn(WeightsEnum):
        IMAGENET1K_V1 = Weights(url=url, transforms=torch.nn.Identity, meta={})

    return StandIn


@pytest.fixture
def publish(tmp_path):
    """A function that puts a state dict where it can be downloaded, under a name that ends in its hash."""

    def put(state: object) -> Path:
        path = tmp_path / "published.pth"
        torch.save(state, path)
        return path.rename(tmp_path / f"standin-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")

    return put


def test_weights_are_downloaded_once(publish, cache):
    published = publish(STATE)
    weights = weights_at(published.as_uri()).IMAGENET1K_V1
    assert torch.equal(pretrained_state(weights)["weight"], STATE["weight"])
    assert [path.name for path in cache.iterdir()] == [published.name]
    published.unlink()
    assert torch.equal(pretrained_state(weights)["weight"], STATE["weight"])


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_file_in_the_cache_is_named_with_the_remedy(damage, publish, cache):
    published = publish(STATE)
    cache.mkdir(parents=True)
    content = bytearray(published.read_bytes())
    content[len(content) // 2] ^= 1
    damages = {"flipped": bytes(content), "cut": bytes(content[:100]), "empty": b""}
    (cache / published.name).write_bytes(damages[damage])
    weights = weights_at(published.as_uri()).IMAGENET1K_V1
    with pytest.raises(WeightsError, match="Delete it") as caught:
        pretrained_state(weights)
    assert str(cache / published.name) in str(caught.value)
    (cache / published.name).unlink()
    assert torch.equal(pretrained_state(weights)["weight"], STATE["weight"])


def test_a_download_that_is_not_the_published_file_is_refused(publish, cache):
    published = publish(STATE)
    published.write_bytes(b"<html>Please log in to this network</html>")
    with pytest.raises(WeightsError, match="hash") as caught:
        pretrained_state(weights_at(published.as_uri()).IMAGENET1K_V1)
    assert published.as_uri() in str(caught.value)
    assert not list(cache.iterdir())


def test_published_weights_are_not_unpickled(publish, tmp_path):
    marker = tmp_path / "marker"

    class Evil:
        def __reduce__(self):
            return Path.touch, (marker,)

    with pytest.raises(WeightsError):
        pretrained_state(weights_at(publish({"weight": Evil()}).as_uri()).IMAGENET1K_V1)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evil()))
    assert marker.exists()


@contextlib.contextmanager
def server(answer: bytes | None) -> Iterator[str]:
    """A server that answers with these bytes and hangs up, or for None stays silent; gives its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    connections = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                connections.append(connection)
                if answer is not None:
                    connection.recv(4096)
                    connection.sendall(answer)
                    connection.close()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/standin-0123abcd.pth"
    finally:
        for open_socket in (listening, *connections):
            open_socket.close()


def assert_quick_error(url: str, cache: Path) -> None:
    """Within five seconds, with the address, the path and the way on."""
    started = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        pretrained_state(weights_at(url).IMAGENET1K_V1)
    assert time.monotonic() - started < 5
    assert url in str(caught.value) and str(cache / "standin-0123abcd.pth") in str(caught.value)
    assert "--on-missing-weights scratch" in str(caught.value)
    assert socket.getdefaulttimeout() is None


def test_no_network(cache):
    assert_quick_error("http://127.0.0.1:9/standin-0123abcd.pth", cache)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"HTTP/1.0 404 Not Found\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\nonly half of",
        b"this is not HTTP\r\n\r\n",
        b"",
    ],
    ids=["silent", "not found", "cut off", "not HTTP", "hangs up"],
)
def test_a_server_that_does_not_deliver(answer, cache, monkeypatch):
    monkeypatch.setattr(pretrained, "DOWNLOAD_TIMEOUT", 0.5)
    with server(answer) as url:
        assert_quick_error(url, cache)


def test_a_cache_that_cannot_be_written(publish, cache):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    with pytest.raises(WeightsError, match="checkpoints"):
        pretrained_state(weights_at(publish(STATE).as_uri()).IMAGENET1K_V1)


@pytest.mark.parametrize(
    ("experiment", "published", "part", "head"),
    [
        ("resnet50-regression", resnet50, "backbone", "fc"),
        ("vgg16_frozen-regression", vgg16, "frozen", "classifier"),
        ("vit-regression", vit_b_16, "backbone", "heads"),
    ],
)
def test_a_model_starts_from_its_published_weights(experiment, published, part, head, publish, monkeypatch):
    """Every tensor of the stand-in holds one number of its own, which costs no space in its file."""
    with torch.device("meta"):
        shapes = published().state_dict()
    state = {
        name: torch.tensor(k, dtype=tensor.dtype).expand(tensor.shape)
        for k, (name, tensor) in enumerate(shapes.items(), start=1)
    }
    module = sys.modules[MODELS[EXPERIMENTS[experiment].model].__module__]
    (kind,) = (name for name in vars(module) if name.endswith("_Weights"))
    monkeypatch.setattr(module, kind, weights_at(publish(state).as_uri()))
    loaded = getattr(build(EXPERIMENTS[experiment]), part).state_dict()
    expected = {  # VGG's features come first among its frozen layers
        name.replace("features.", "0."): tensor for name, tensor in state.items() if not name.startswith(head)
    }
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in loaded)


@pytest.mark.parametrize("name", PRETRAINED)
def test_weights_that_are_not_published_are_refused_by_name(name):
    with pytest.raises(WeightsError, match="of_tomorrow.*IMAGENET1K_V1"):
        build(replace(EXPERIMENTS[name], weights="of_tomorrow"))
