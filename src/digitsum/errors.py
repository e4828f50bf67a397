"""What can go wrong for a user: each message names the file, the fault and the remedy."""

from __future__ import annotations


class DigitsumError(Exception):
    """An expected fault. The command line prints its message as one line."""


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
