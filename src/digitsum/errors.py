"""What can go wrong for a user: each message names the file, the fault and the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DigitsumError(Exception):
    """An expected fault. The command line prints its message as one line."""


class DataError(DigitsumError):
    """Strips, labels or a picture cannot be used."""


class CheckpointError(DigitsumError):
    """A file cannot be used as weights or as the state of a run."""


class TrainingError(DigitsumError):
    """A training cannot start or go on."""


class RecordError(DigitsumError):
    """A record of a run cannot be used."""


def shown(text: object) -> str:
    """Return a text with line breaks, escape codes and other unprintable characters escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


@contextmanager
def refusing(path: Path, remedy: str, kind: type[DigitsumError] = CheckpointError) -> Iterator[None]:
    """Turn whatever the block raises over a file into one error: on junk, numpy, torch and json raise all kinds."""
    try:
        if not path.is_file():
            raise ValueError("no such file")
        yield
    except DigitsumError:  # such as a package that a model needs
        raise
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]  # torch lists every weight that does not fit
        raise kind(f"{path} cannot be used ({text}). {remedy}") from error
