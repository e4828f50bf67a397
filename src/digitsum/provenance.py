"""On what and with which code something was made."""

from __future__ import annotations

import datetime
import functools
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from . import distributed
from .devices import has_bfloat16, processor

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "safetensors")


def provenance(device: torch.device) -> dict[str, Any]:
    """On what and with which code, and when, numbers were made: a part of every record."""
    return {
        "hardware": hardware(device),
        "versions": {"python": platform.python_version()} | {package: version(package) for package in PACKAGES},
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }


def hardware(device: torch.device) -> dict[str, Any]:
    """The device, processor and threads that a run used."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": distributed.processes(),
        "bfloat16": has_bfloat16(device),
    }


@functools.cache  # the code that runs is the code that was imported, whatever is checked out meanwhile
def commit() -> str | None:
    """The commit of the code, with "-dirty" where the package differs from it; None outside a git checkout."""
    try:
        head, changed = (
            subprocess.run(
                ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
            ).stdout.strip()
            for arguments in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "."])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("-dirty" if changed else "")
