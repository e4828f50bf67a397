"""Published weights through torchvision's weights API, with clear errors where they cannot be had."""

from __future__ import annotations

import hashlib
import http.client
import pickle
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import WeightsEnum

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the published weights' own transforms
DOWNLOAD_TIMEOUT = 10  # seconds without an answer; torch.hub itself sets none


class WeightsError(RuntimeError):
    """Pre-trained weights could not be downloaded or read; the message says from where, to where and what to do."""


def published_state(kind: type[WeightsEnum], name: str) -> Mapping[str, Tensor]:
    """The state dict of a model's published weights by their name. Raises `WeightsError`, also for an unknown name."""
    if name not in kind.__members__:
        raise WeightsError(f"there are no weights {name} of this model; use one of {', '.join(kind.__members__)}")
    return pretrained_state(kind[name])


def pretrained_state(weights: WeightsEnum) -> Mapping[str, Tensor]:
    """The state dict of published weights, downloaded once into torch's cache and checked against its published hash.

    Raises `WeightsError` within seconds where there is no network, and where the cached file is not the published one:
    torch hashes a file as it downloads it but never again, so a damaged one would fail for ever, or load silently.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if cached.exists():
        published = torch.hub.HASH_REGEX.search(cached.name)  # file names end in it, as in resnet50-0676ba61.pth
        with cached.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if published and not digest.startswith(published.group(1)):
            raise WeightsError(
                f"{cached} is not the published file: its SHA-256 starts with {digest[:8]}, not with "
                f"{published.group(1)}. Delete it, and it is downloaded again."
            )
    try:
        with _socket_timeout(DOWNLOAD_TIMEOUT):
            return weights.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, http.client.HTTPException, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"The weights {weights} could not be had from {weights.url} ({error}). Bring that file to {cached}, or "
            "train from a random start: --on-missing-weights scratch."
        ) from error


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
