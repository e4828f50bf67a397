"""What can go wrong for a user: each message names the file, the fault and the remedy."""

from __future__ import annotations


class DigitsumError(Exception):
    """An expected fault. The command line prints its message as one line."""


def shown(text: object) -> str:
    """Return a text with line breaks, escape codes and other unprintable characters escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


class DataError(DigitsumError):
    """Strips or labels cannot be used."""


class ImageError(DigitsumError):
    """An image cannot be read as a row of digits."""


class CheckpointError(DigitsumError):
    """A file cannot be used as weights or as the state of a run."""


class WeightsError(DigitsumError):
    """Published weights cannot be downloaded or read."""


class TrainingError(DigitsumError):
    """A training cannot start or go on."""


class DeviceError(DigitsumError):
    """A device cannot be used."""


class RecordError(DigitsumError):
    """A record of a run cannot be used."""
