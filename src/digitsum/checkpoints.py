"""Saving and loading weights: safe to open, checked, and self-describing."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .experiments import EXPERIMENTS
from .extras import ExtraError
from .models import MODELS, StripModel
from .objectives import OBJECTIVES

FORMAT = "digitsum-1"


class CheckpointError(Exception):
    """A file that cannot be used as a checkpoint; the message names the file, what is wrong and what to do."""


def save_checkpoint(model: StripModel, path: str | Path, /, **metadata: Any) -> None:
    """Write a model's weights with what rebuilds it: `model`, `model_args` and `objective` must be in the metadata.

    Every metadata value is stored as JSON; a digest of it all is added, and checked on loading.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    header = {"format": FORMAT, **metadata}
    header["digest"] = _digest(tensors, header)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(save(tensors, {key: json.dumps(value) for key, value in header.items()}))


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What a checkpoint says of itself, without its weights. Raises `CheckpointError`."""
    return _read(Path(path), tensors=False)[0]


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> StripModel:
    """Rebuild a trained model from its file alone, ready for `predict`, with `.objective` and `.metadata`.

    Raises `CheckpointError` for a file that is missing, truncated, altered, of another version or not of this project,
    and `ExtraError` where its model needs what is not installed.
    """
    path = Path(path)
    metadata, tensors = _read(path)
    try:
        objective = replace(OBJECTIVES[metadata["objective"]], **metadata.get("objective_args", {}))
        model = MODELS[metadata["model"]](outputs=objective.outputs, **metadata["model_args"])
        model.load_state_dict(tensors)
    except ExtraError:
        raise
    except (KeyError, TypeError, RuntimeError, AssertionError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not fit this version of the code (model {metadata.get('model')!r}, objective "
            f"{metadata.get('objective')!r}): {in_brief(error)}. Use the commit it was saved at "
            f"({metadata.get('commit')}), or train it again."
        ) from error
    model.objective, model.metadata = objective, metadata
    return model.to(device).to(memory_format=torch.channels_last).eval()


def in_brief(error: Exception) -> str:
    """What an error says, on one line of bounded length: torch lists every weight that does not fit."""
    return " ".join(str(error).split())[:300]


def _read(path: Path, tensors: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder. Name a file of weights: NAME.safetensors")
    if not path.is_file():
        known = (path.stem, path.parent.name.partition("-seed")[0])  # published weights, and those of a run
        name = next((each for each in known if each in EXPERIMENTS), "NAME")
        raise CheckpointError(
            f"{path} is not there. Look for another path, or train it: python -m digitsum train {name} --preset full"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            loaded = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118 (no dict)
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
    if tensors and metadata.pop("digest", None) != _digest(loaded, metadata):
        raise CheckpointError(f"{path} is damaged: its content does not match its digest. Copy it again.")
    return metadata, loaded


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """SHA-256 over the metadata and the tensors' names, types, shapes and bytes, both in the order of their names."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_state(path: Path, **state: Any) -> None:
    """Write the state of an unfinished run: tensors and plain types only."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_state(path: Path, key: str) -> dict[str, Any]:
    """The state of the unfinished run that has this key.

    Raises `CheckpointError` for a damaged file or another run's.
    """
    remedy = "Delete it to start that run anew."
    try:
        with zipfile.ZipFile(path) as archive:  # torch stores entries as they are; a small one could expand to huge
            if any(entry.compress_type != zipfile.ZIP_STORED or entry.external_attr for entry in archive.infolist()):
                raise CheckpointError(f"{path} holds compressed entries or folders, which torch never writes. {remedy}")
            if (damaged := archive.testzip()) is not None:  # torch itself does not look at the checksums
                raise CheckpointError(f"{path} is damaged in {damaged}. {remedy}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except (
        Exception
    ) as error:  # what zipfile and torch raise on junk is undocumented, IndexError and TypeError included
        raise CheckpointError(f"{path} is not a whole training state ({error}). {remedy}") from error
    if not isinstance(state, dict) or state.get("key") != key:
        raise CheckpointError(f"{path} belongs to a run with other settings or other data. {remedy}")
    return state


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it when the block ends well and removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(value: Any, path: Path) -> None:
    """Write a value as JSON, the whole file or nothing of it. Raises TypeError for what JSON does not know."""
    text = json.dumps(value, indent=1) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
