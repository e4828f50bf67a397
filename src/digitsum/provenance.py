"""On what machine and with which code a number was made."""

import datetime
import functools
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .devices import has_bfloat16, processor, world_size

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "safetensors")


def provenance(device: torch.device) -> dict[str, Any]:
    """Return hardware, versions, commit and date: a part of every record."""
    return {
        "hardware": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "cpu": processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processes": world_size(),
            "bfloat16": has_bfloat16(device),
        },
        "versions": {"python": platform.python_version()} | {package: version(package) for package in PACKAGES},
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }


@functools.cache  # the code that runs is the code that was imported, whatever is checked out meanwhile
def commit() -> str | None:
    """Return the commit of the repository that tracks this file, "-dirty" if its code differs; None without one."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        return subprocess.check_output(["git", *arguments], cwd=here.parent, stderr=subprocess.DEVNULL, text=True)

    try:
        git("ls-files", "--error-unmatch", here.name)
        head, dirty = git("rev-parse", "--short=12", "HEAD"), git("status", "--porcelain", ":/src", ":/research")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + ("-dirty" if dirty else "")
