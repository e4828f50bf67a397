"""What is installed only for the experiment that needs it, and what to install where it is not there.

ultralytics, the package behind the model `yolo`, is under the AGPL-3.0, which asks of who passes on or serves a program
built on it to give that program's source. This project is under the MIT licence, holds no part of it and imports it
only where that model is trained or read with.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
import torch

MODELS = ("tesseract", "yolo")  # the models that need something


class ExtraError(RuntimeError):
    """Something optional is not installed; the message says how it is."""


def missing(model: str) -> str:
    """What a model of MODELS lacks here and how to install it; "" where it lacks nothing."""
    if model == "yolo" and not find_spec("ultralytics"):
        return "the model yolo needs ultralytics (AGPL-3.0): .venv/bin/pip install -r requirements-yolo.txt"
    if model == "tesseract" and not find_spec("pytesseract"):
        return "the model tesseract needs pytesseract: .venv/bin/pip install -r requirements-ocr.txt"
    if model == "tesseract" and not shutil.which("tesseract"):
        return "the model tesseract needs the program of that name: sudo apt-get install tesseract-ocr"
    return ""


def require(model: str) -> None:
    """Raises `ExtraError` where a model of MODELS lacks something."""
    if lack := missing(model):
        raise ExtraError(lack)


def versions(model: str) -> dict[str, str]:
    """The versions of what a model that was built needs besides the project's own packages; empty for most."""
    if model == "yolo":
        return {"ultralytics": sys.modules["ultralytics"].__version__}  # of whichever package it came with
    if model == "tesseract":
        said = subprocess.run(["tesseract", "--version"], capture_output=True, text=True, check=True).stdout
        return {"pytesseract": version("pytesseract"), "tesseract": said.split()[1]}
    return {}


@contextmanager
def environment(**changes: str) -> Iterator[None]:
    """Change environment variables for a while, and put all of them back."""
    before = dict(os.environ)
    os.environ |= changes
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


def import_ultralytics() -> None:
    """Import ultralytics so that it asks no network, installs and reports nothing, and leaves no settings behind.

    It reads its switches when it is imported, and would keep its settings in the user's folder. What it changes for the
    whole process is put back: torch.save, how arrays are printed, and the threads of programs started later. Raises
    `ExtraError` where it is not installed.
    """
    require("yolo")
    os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
    save = torch.save
    with tempfile.TemporaryDirectory() as folder, environment(YOLO_CONFIG_DIR=folder), np.printoptions():
        import ultralytics.nn.tasks
        import ultralytics.utils.loss  # noqa: F401
    torch.save = save
    torch.set_printoptions(profile="default")
