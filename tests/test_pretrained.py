"""Published weights, with a local stand-in for the published file and no internet."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision.models import Weights, WeightsEnum, resnet50

import digitsum.models.resnet50
from digitsum.errors import WeightsError
from digitsum.experiments import EXPERIMENTS
from digitsum.models import pretrained
from digitsum.models.pretrained import published_state
from digitsum.training import build

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
    kind = weights_at(published.as_uri())
    assert torch.equal(published_state(kind, NAME)["weight"], STATE["weight"])
    assert [path.name for path in cache.iterdir()] == [published.name]
    published.unlink()
    assert torch.equal(published_state(kind, NAME)["weight"], STATE["weight"])
    with pytest.raises(WeightsError, match=f"of_tomorrow.*{NAME}"):
        published_state(kind, "of_tomorrow")


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_file_in_the_cache_is_named_with_the_remedy(damage, publish, cache):
    published = publish(STATE)
    cache.mkdir(parents=True)
    content = bytearray(published.read_bytes())
    content[len(content) // 2] ^= 1
    damages = {"flipped": bytes(content), "cut": bytes(content[:100]), "empty": b""}
    (cache / published.name).write_bytes(damages[damage])
    kind = weights_at(published.as_uri())
    with pytest.raises(WeightsError, match="Delete it") as caught:
        published_state(kind, NAME)
    assert str(cache / published.name) in str(caught.value)
    (cache / published.name).unlink()
    assert torch.equal(published_state(kind, NAME)["weight"], STATE["weight"])


def test_a_download_that_is_not_the_published_file_is_refused(publish, cache):
    published = publish(STATE)
    published.write_bytes(b"<html>Please log in to this network</html>")
    with pytest.raises(WeightsError, match="hash") as caught:
        published_state(weights_at(published.as_uri()), NAME)
    assert published.as_uri() in str(caught.value)
    assert not list(cache.iterdir())


def test_published_weights_are_not_unpickled(publish, tmp_path):
    marker = tmp_path / "marker"

    class Evil:
        def __reduce__(self):
            return Path.touch, (marker,)

    with pytest.raises(WeightsError):
        published_state(weights_at(publish({"weight": Evil()}).as_uri()), NAME)
    assert not marker.exists()


@contextlib.contextmanager
def server(answer: bytes | None) -> Iterator[str]:
    """Serve these bytes to whoever asks and hang up, or for None stay silent; gives the address."""
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
    """The error has the address, the path and the way on."""
    monkeypatch.setattr(pretrained, "TIMEOUT", 0.5)
    with server(answer) as url, pytest.raises(WeightsError, match="--weights none") as caught:
        published_state(weights_at(url), NAME)
    assert url in str(caught.value) and str(cache / "standin-0123abcd.pth") in str(caught.value)
    assert socket.getdefaulttimeout() is None


def test_a_model_starts_from_its_published_weights(publish, monkeypatch):
    """Every tensor of the stand-in holds one number of its own, which costs no space in its file."""
    with torch.device("meta"):
        shapes = resnet50().state_dict()
    state = {
        name: torch.tensor(k, dtype=tensor.dtype).expand(tensor.shape)
        for k, (name, tensor) in enumerate(shapes.items(), start=1)
    }
    monkeypatch.setattr(digitsum.models.resnet50, "ResNet50_Weights", weights_at(publish(state).as_uri()))
    experiment = EXPERIMENTS["resnet50-regression"]
    loaded = build(experiment).backbone.state_dict()
    assert loaded.keys() == {name for name in state if not name.startswith("fc.")}
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())
    with pytest.raises(WeightsError, match="of_tomorrow"):
        build(replace(experiment, weights="of_tomorrow"))
