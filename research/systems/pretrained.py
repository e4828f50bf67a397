"""Published weights through torchvision's weights API, with clear errors where they cannot be had."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import WeightsEnum

from digitsum.errors import DigitsumError

TIMEOUT = 10  # seconds without an answer; torch.hub itself sets none


class WeightsError(DigitsumError):
    """Published weights cannot be downloaded or read."""


def published_state(kind: type[WeightsEnum], name: str) -> Mapping[str, Tensor]:
    """Return the state dict of published weights by name, downloaded once and checked against the published hash.

    torch hashes a file only as it downloads it, so a damaged cache would fail for ever or load silently.
    Raises `WeightsError` for an unknown name, a damaged cache, and within seconds without internet.
    """
    if name not in kind.__members__:
        raise WeightsError(f"There are no weights {name} of this model. Use one of {', '.join(kind.__members__)}.")
    weights = kind[name]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    published = cached.stem.rpartition("-")[2]  # SHA-256's first digits, as in resnet50-0676ba61.pth
    if cached.exists() and not hashlib.sha256(cached.read_bytes()).hexdigest().startswith(published):
        raise WeightsError(
            f"{cached} is damaged: its SHA-256 does not start with {published}. Delete it and try again."
        )
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        return weights.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, urllib and pickle raise all kinds
        raise WeightsError(
            f"{weights} could not be downloaded from {weights.url} ({error}). Put that file at {cached}, "
            "or train from a random start: --weights none."
        ) from error
    finally:
        socket.setdefaulttimeout(before)
