"""Optional packages: installed and imported only for the one system that needs them.

LICENCE: ultralytics is under the AGPL-3.0. Who passes on or serves a program built on it must give that program's
source. This project is under the MIT licence and holds no part of it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from digitsum.errors import DigitsumError

PACKAGES = {"tesseract": "pytesseract", "yolo": "ultralytics"}  # by model


class ExtraError(DigitsumError):
    """An optional package or program is not installed."""


def require(model: str) -> None:
    """Raise ExtraError if a model lacks something, and say how to install it."""
    if model in PACKAGES and not find_spec(PACKAGES[model]):
        file = "requirements-ocr.txt" if model == "tesseract" else "requirements-yolo.txt"
        raise ExtraError(f"The model {model} needs {PACKAGES[model]}: pip install -r {file}")
    if model == "tesseract" and not shutil.which("tesseract"):
        raise ExtraError("The model tesseract needs the program of that name: sudo apt-get install tesseract-ocr")


@contextmanager
def environment(**changes: str) -> Iterator[None]:
    """Change environment variables, and restore all of them at the end."""
    before = dict(os.environ)
    os.environ |= changes
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
