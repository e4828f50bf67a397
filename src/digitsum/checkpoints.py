"""Saving and loading weights: safe to open, checked, and self-describing."""

import hashlib
import io
import json
import os
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.modules.module import register_module_module_registration_hook

from .compose import HEIGHT, WIDTH
from .devices import pick_device
from .errors import refusing
from .models import MODELS, StripModel
from .objectives import OBJECTIVES

FORMAT = "digitsum-2"  # the key of the file's only metadata, a JSON text
LARGEST, LARGEST_HEADER = 500_000_000, 1_000_000  # bytes
METADATA = {"experiment": str, "seed": int, "data": str, "settings": dict, "validation": dict}


def save_checkpoint(model: StripModel, path: str | Path, /, **metadata: Any) -> None:
    """Write a model's weights with metadata: at least those of METADATA, whose settings rebuild the model.

    A digest of everything is added. The same weights and metadata give the same bytes.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():  # trained weights are numbers of half precision
        if tensor.is_floating_point() and torch.equal(tensor.half().to(tensor.dtype), tensor):
            tensors[name] = tensor.half()
    text = json.dumps(metadata | {"digest": _digest(tensors, metadata)}, sort_keys=True)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(save(tensors, {FORMAT: text}))


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return what a checkpoint says of itself, once its digest is checked. Raises `CheckpointError`."""
    return _read(Path(path))[0]


def best_checkpoint(folder: str | Path, experiment: str) -> Path | None:
    """Return the file of the seed that is best on validation, of equals the lowest; raises if any is damaged."""
    scores = {}
    for path in Path(folder).glob("*.safetensors"):
        if path.name.startswith(f"{experiment}-seed") and (about := read_metadata(path))["experiment"] == experiment:
            scores[path] = (about["validation"]["accuracy"]["value"], -about["seed"])
    return max(scores, key=lambda path: scores[path], default=None)


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> StripModel:
    """Rebuild a trained model from its file alone, ready for `predict`, with `.objective` and `.metadata`.

    For a name without its seed, the run that is best on validation is loaded.
    Raises `CheckpointError` for a file that is missing, damaged, hostile or not of this project.
    """
    path = Path(path)
    if not path.exists():
        path = best_checkpoint(path.parent, path.stem) or path
    metadata, tensors = _read(path)
    with refusing(path, f"Use the commit it was saved at ({str(metadata.get('commit'))[:18]!r}), or train it again."):
        model = _rebuild(metadata, tensors)
    model.metadata = metadata
    return model.to(pick_device(device)).to(memory_format=torch.channels_last)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    train = f"python -m digitsum train {path.stem.partition('-seed')[0]} --preset full"
    with refusing(path, f"Check the path, copy it again, or train it: {train}"):
        with path.open("rb") as file:
            if int.from_bytes(file.read(8), "little") > LARGEST_HEADER or path.stat().st_size > LARGEST:
                raise ValueError("too large, or no safetensors")
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(FORMAT, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        if wrong := [key for key, kind in METADATA.items() if not isinstance(metadata.get(key), kind)]:
            raise ValueError(f"its {FORMAT} metadata lack {', '.join(wrong)}, or hold them as other types")
        if not 0 <= metadata["validation"]["accuracy"]["value"] <= 1:
            raise ValueError("its accuracy on validation is no proportion")
        if metadata["digest"] != _digest(tensors, {key: metadata[key] for key in metadata if key != "digest"}):
            raise ValueError("damaged: its content does not match its digest")
    return metadata, tensors


@torch.no_grad()
def _rebuild(metadata: dict[str, Any], tensors: Mapping[str, Tensor]) -> StripModel:
    """Build the model and let it read a blank strip. The file must fit a sketch without memory first."""
    said = {"objective_args": {}} | metadata["settings"] | metadata  # older files repeat the model beside the settings
    if "weights" in said["model_args"] or "outputs" in said["objective_args"] or not tensors:
        raise ValueError("it asks for published weights or outputs of its own, or holds no weights")
    objective = replace(OBJECTIVES[said["objective"]], **said["objective_args"])
    build = partial(MODELS[said["model"]], outputs=objective.outputs, **said["model_args"])
    left = [None] * (100 + 8 * len(tensors))  # an entry for each module that may be built
    with torch.device("meta"), register_module_module_registration_hook(lambda *_: left.pop()):
        build().load_state_dict(tensors, assign=True)
    model = build().eval()
    model.load_state_dict(tensors)
    model.objective = objective
    outputs = model(torch.zeros(1, 1, HEIGHT, WIDTH))
    finite = all(each.isfinite().all() for each in (outputs, *model.state_dict().values()))
    if not finite or objective.answer(outputs).values.shape != (1,):
        raise ValueError("its weights or its answer to a blank strip are not finite numbers")
    return model


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the metadata and of the tensors' names, types, shapes and bytes, in the order of names."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_state(path: Path, **state: Any) -> None:
    """Write the state of an unfinished run: a SHA-256, then tensors and plain types only."""
    torch.save(state, buffer := io.BytesIO())
    with replacing(path) as temporary:
        temporary.write_bytes(hashlib.sha256(buffer.getbuffer()).digest() + buffer.getbuffer())


def load_state(path: Path) -> dict[str, Any]:
    """Read the state of an unfinished run. Raises `CheckpointError` for anything else."""
    with refusing(path, "Delete it to start that run anew."), path.open("rb") as file:
        if file.read(32) != hashlib.file_digest(file, "sha256").digest():
            raise ValueError("damaged: its content does not match its digest")
        if any(entry.compress_type for entry in zipfile.ZipFile(file).infolist()):  # a small one could expand to huge
            raise ValueError("it holds compressed entries, which torch never writes")
        file.seek(32)
        return dict(torch.load(file, map_location="cpu", weights_only=True))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new, empty file beside `path`; rename it to `path` if the block ends well, else remove it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")  # no other writer has it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)  # follows no link
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error.strerror or error}); what was there is kept.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(value: Any, path: Path) -> None:
    """Write a value as JSON: the whole file or nothing of it."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
