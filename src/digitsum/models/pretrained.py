"""Published weights through torchvision's weights API, with clear errors where they cannot be had."""

from __future__ import annotations

import hashlib
import http.client
import pickle
import socket
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import WeightsEnum

from ..errors import WeightsError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the published weights' own transforms
TIMEOUT = 10  # seconds without an answer; torch.hub itself sets none


def published_state(kind: type[WeightsEnum], name: str) -> Mapping[str, Tensor]:
    """Return the state dict of published weights by name, downloaded once and checked against the published hash.

    torch hashes a file as it downloads it and never again, so a damaged cache would fail for ever or load silently.
    Raises `WeightsError` for an unknown name, a damaged cache, and within seconds without internet.
    """
    if name not in kind.__members__:
        raise WeightsError(f"There are no weights {name} of this model. Use one of {', '.join(kind.__members__)}.")
    weights = kind[name]
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
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        return weights.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, http.client.HTTPException, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"The weights {weights} could not be downloaded from {weights.url} ({error}). Put that file at {cached}, "
            "or train from a random start: --weights none."
        ) from error
    finally:
        socket.setdefaulttimeout(before)
