"""Saving and loading weights: safe to open, checked, and self-describing."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .errors import CheckpointError
from .models import MODELS, StripModel
from .objectives import OBJECTIVES

FORMAT = "digitsum-1"


def save_checkpoint(model: StripModel, path: str | Path, /, **metadata: Any) -> None:
    """Write a model's weights with what rebuilds it: the metadata need `model`, `model_args` and `objective`.

    Every metadata value is stored as JSON. A digest of everything is added, and checked when the file is loaded.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    header = {"format": FORMAT, **metadata}
    header["digest"] = _digest(tensors, header)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(save(tensors, {key: json.dumps(value) for key, value in header.items()}))


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return what a checkpoint says of itself, once its digest is checked. Raises `CheckpointError`."""
    return _read(Path(path))[0]


def best_checkpoint(folder: str | Path, experiment: str) -> Path | None:
    """Return the file of the seed that is best on validation, of equals the lowest; None if there is none."""
    scores = {}
    for path in Path(folder).glob(f"{experiment}-seed*.safetensors"):
        about = read_metadata(path)
        if about.get("experiment") == experiment:
            scores[path] = (about["validation"]["accuracy"]["value"], -about["seed"])
    return max(scores, key=lambda path: scores[path], default=None)


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> StripModel:
    """Rebuild a trained model from its file alone, ready for `predict`, with `.objective` and `.metadata`.

    The name of a run's file ends in its seed. Without the seed, the run that is best on validation is loaded.
    Raises `CheckpointError` for a file that is missing, truncated, altered or not of this project.
    """
    path = Path(path)
    if not path.exists():
        path = best_checkpoint(path.parent, path.stem) or path
    metadata, tensors = _read(path)
    try:
        objective = replace(OBJECTIVES[metadata["objective"]], **metadata.get("objective_args", {}))
        model = MODELS[metadata["model"]](outputs=objective.outputs, **metadata["model_args"])
        model.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError, AssertionError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not fit this version of the code (model {metadata.get('model')!r}, objective "
            f"{metadata.get('objective')!r}): {in_brief(error)}. Use the commit it was saved at "
            f"({metadata.get('commit')}), or train it again."
        ) from error
    model.objective, model.metadata = objective, metadata
    return model.to(device).to(memory_format=torch.channels_last).eval()


def in_brief(error: Exception) -> str:
    """Return an error's message on one line of bounded length: torch lists every weight that does not fit."""
    return " ".join(str(error).split())[:300]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        name = path.stem.partition("-seed")[0]
        raise CheckpointError(
            f"{path} is no file of weights. Check the path, or train it: python -m digitsum train {name} --preset full"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        metadata = {key: json.loads(value) for key, value in header.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors checkpoint ({error}). Copy it again, or delete it and train it again."
        ) from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a checkpoint of this version of digitsum: its format is {metadata.get('format')!r}, not "
            f"{FORMAT!r}. Train it again, or use the version that wrote it."
        )
    digest = metadata.pop("digest", None)
    if digest != _digest(tensors, metadata):
        raise CheckpointError(f"{path} is damaged: its content does not match its digest. Copy it again.")
    return metadata | {"digest": digest}, tensors


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the metadata and of the tensors' names, types, shapes and bytes, in the order of names."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_state(path: Path, **state: Any) -> None:
    """Write the state of an unfinished run: tensors and plain types only."""
    with replacing(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # what torch makes of a full disk
            raise OSError(f"{path} cannot be written ({in_brief(error)})") from error


def load_state(path: Path) -> dict[str, Any]:
    """Read the state of an unfinished run. Raises `CheckpointError` for anything else."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch stores entries as they are; a small one could expand to huge
            if any(entry.compress_type != zipfile.ZIP_STORED or entry.external_attr for entry in archive.infolist()):
                raise ValueError("it holds compressed entries or folders, which torch never writes")
            if (damaged := archive.testzip()) is not None:  # torch itself does not look at the checksums
                raise ValueError(f"damaged in {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError("it holds no dict")
    except Exception as error:  # what zipfile and torch raise on junk is undocumented
        raise CheckpointError(
            f"{path} is not a whole training state ({in_brief(error)}). Delete it to start that run anew."
        ) from error
    return state


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new, empty file beside `path`; rename it to `path` if the block ends well, else remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(value: Any, path: Path) -> None:
    """Write a value as JSON: the whole file or nothing of it."""
    text = json.dumps(value, indent=1) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
