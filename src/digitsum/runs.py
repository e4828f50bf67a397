"""One experiment from start to finish: train, save the weights, evaluate, write the record."""

from __future__ import annotations

import datetime
import functools
import hashlib
import itertools
import json
import os
import platform
import subprocess
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from . import distributed, extras
from .calibration import fit_offset
from .checkpoints import CheckpointError, read_metadata, save_checkpoint, write_json
from .compose import Strips
from .data import Data
from .devices import has_bfloat16, pick_device, processor
from .evaluation import Predictions, centre_errors, confusion, evaluate, mean, metrics, read, strings_read
from .experiments import DESCRIPTIONS, EXPERIMENTS, Experiment, differences, named, preset
from .models import StripModel, WeightsError
from .stream import CHUNK, StripStream
from .training import Run, build, train, trainable

FIRST = 10_000  # training strips whose metrics report E's OCR has too
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "safetensors")
TIMED = 1_000  # strips whose prediction is timed


def folder_name(source: str, preset_name: str) -> str:
    """The folder of a source's weights and records; only those of the preset "full" replace published ones."""
    return source if preset_name == "full" else f"{source}-{preset_name}"


def run_experiment(
    name: str,
    data: Data,
    *,
    seed: int = 0,
    device: str = "auto",
    preset_name: str = "auto",
    changes: dict[str, Any] | None = None,
    on_missing_weights: str = "error",
    models: str | Path = "models",
    results: str | Path = "results",
    progress: bool = True,
    again: bool = True,
) -> dict[str, Any]:
    """Train, save, evaluate and record one experiment of EXPERIMENTS; returns the record, also written as JSON.

    Where such a run, with the same settings and data, has left its record already, it is made again, or not: `again`.

    `preset_name` is one of PRESETS or "auto" (long on CUDA, otherwise quick); `changes` replaces single settings, and
    the record says which. Where published weights cannot be had, `on_missing_weights` decides: "error" stops, "scratch"
    goes on from a random start, and weights and record say so.

    Files, all below the source's folder (see `folder_name`): models/<source>/<experiment>.safetensors, the weights of
    the seed that is best on validation; models/<source>/runs/…, every run's best and last weights and, while it runs,
    the state from which it resumes; results/<source>/<experiment>-seed<seed>.json.
    """
    commit()
    chosen = pick_device(device)
    preset_name = resolve_preset(preset_name, chosen)
    experiment = replace(preset(named(name), preset_name), **(changes or {}))
    experiment = with_available_weights(experiment, on_missing_weights)
    folder = folder_name(data.source, preset_name)
    record_path = Path(results) / folder / f"{name}-seed{seed}.json"
    if not again and (there := recorded(record_path, asdict(experiment), data.fingerprint)):
        return there
    run_folder = Path(models) / folder / "runs" / f"{name}-seed{seed}-{settings_digest(experiment, data)}"
    state_path = run_folder / "resume.pt"
    run = train(experiment, data, seed=seed, device=chosen, state_path=state_path, progress=progress)

    record = record_of(name, EXPERIMENTS[name], run, data, chosen, preset_name)
    record["versions"] |= extras.versions(experiment.model)
    if distributed.rank() > 0:
        return record | {"checkpoint": "left to the first process"}
    if not trainable(run.model):
        record["checkpoint"] = "nothing was trained, so there are no weights to save"
        write_record(record, record_path)
        return record
    kept = ("experiment", "seed", "source", "preset", "weights", "settings", "versions", "commit")
    about = {key: record[key] for key in kept} | {
        "model": experiment.model, "model_args": experiment.model_args, "objective": experiment.objective,
        "objective_args": experiment.objective_args, "data": data.fingerprint, "validation": record["metrics"]["val"],
    }  # fmt: skip
    save_checkpoint(run.model, run_folder / "best.safetensors", **about)
    last = build(replace(experiment, weights=None))
    last.load_state_dict(run.last)
    save_checkpoint(last, run_folder / "last.safetensors", **about | {"validation": None})
    with FileLock(run_folder.with_name(f"{name}.lock")):  # runs of other seeds may end at the same moment
        record["checkpoint"] = _publish(run, about, Path(models) / folder / f"{name}.safetensors")
    write_record(record, record_path)
    state_path.unlink(missing_ok=True)
    return record


def record_of(
    name: str, usual: Experiment, run: Run, data: Data, device: torch.device, preset_name: str
) -> dict[str, Any]:
    """The record of a finished run: what was trained, how it departs from the `usual` settings, and what it reads."""
    trained = time.perf_counter()
    record = _record(name, usual, run, data, device, preset_name) | _figures(run.model, run.experiment, data)
    return record | {
        "seconds": {"train": round(run.seconds, 1), "total": round(run.seconds + time.perf_counter() - trained, 1)}
    }


def measure_again(model: StripModel, path: str | Path, data: Data, results: str | Path = "results") -> Path:
    """Measure a model loaded from `path` anew, with today's code, for its run's record; returns the record's path.

    What the record says of the training stays; "measured" says with which code, where and when the figures were made.
    Raises `CheckpointError` where the record is not of these weights.
    """
    about = model.metadata
    folder = folder_name(data.source, about.get("preset", "full"))
    record_path = Path(results) / folder / f"{about.get('experiment')}-seed{about.get('seed')}.json"
    record = recorded(record_path, about.get("settings", {}), data.fingerprint)
    made = ("commit", "versions")
    if record is None or about["validation"] is None or any(record[key] != about.get(key) for key in made):
        raise CheckpointError(
            f"{record_path} is not the record of {path}: their settings, data, commit or versions differ, or these are "
            "not the run's best weights. Only figures of the same weights can be renewed; train them again."
        )
    record |= _figures(model, Experiment(**about["settings"]), data)
    record["measured"] = provenance(next(model.parameters()).device)
    write_record(record, record_path)
    save_checkpoint(model, path, **about | {"validation": record["metrics"]["val"]})
    return record_path


def _figures(model: StripModel, experiment: Experiment, data: Data) -> dict[str, Any]:
    """All figures of a record that a trained model's predictions give."""
    limit = experiment.evaluate_limit
    few = data.head(limit or (CHUNK if isinstance(data.train, StripStream) else None), limit)
    evaluated, predicted = evaluate(model, few)
    readers = {split: strips for split, strips in few.splits.items() if predicted[split].readings}
    figures: dict[str, Any] = {
        "metrics": evaluated,
        "confusion": {split: _sparse_confusion(predicted[split], strips) for split, strips in few.splits.items()},
        "strings": {
            split: strings_read(predicted[split], strips.digits)
            for split, strips in readers.items()
            if strips.digits is not None
        },
        "answers": predicted[list(few.splits)[-1]].packed(),
        "prediction": _timed(model, list(few.splits.values())[-1][:TIMED]),
        "centre_error": {},
    }
    if readers and model.stride is not None:
        columns = [reading.columns for reading in predicted["val"].readings]
        offset = fit_offset(few.val.images, columns, model.stride)
        centres = {
            split: centre_errors(predicted[split], strips.corners, model.stride, offset)
            for split, strips in readers.items()
            if strips.corners is not None
        }
        figures["centre_error"] = {split: mean(errors) for split, errors in centres.items() if len(errors)}
    if not trainable(model):
        # into how many digits it takes a strip apart, and as many strips as report E counts
        figures["digits_read"] = {split: _lengths(predicted[split]) for split in readers}
        if len(few.train) >= FIRST:
            first = Predictions(predicted["train"].values[:FIRST], predicted["train"].sums[:FIRST])
            evaluated["first_10000"] = metrics(first, few.train.sums[:FIRST])
    return figures


def _lengths(predicted: Predictions) -> dict[str, int]:
    """How many strips were read as so many digits."""
    lengths = [len(reading.digits) for reading in predicted.readings]
    return {str(length): lengths.count(length) for length in sorted(set(lengths))}


def _timed(model: StripModel, strips: Strips) -> dict[str, float]:
    """How many seconds it takes to read strips once more, when everything has been used before."""
    started = time.perf_counter()
    read(model, strips)
    return {"images": len(strips), "seconds": time.perf_counter() - started}


def resolve_preset(name: str, device: torch.device) -> str:
    """What "auto" stands for: "long" on CUDA and "quick" elsewhere."""
    return name if name != "auto" else ("long" if device.type == "cuda" else "quick")


def find_checkpoints(source: str, preset_name: str = "full", models: str | Path = "models") -> dict[str, Path | None]:
    """Every experiment's weights for a source: those of the preset, else of a full, a long or a quick run, else None.

    None also where the model needs something that is not installed here.
    """
    folders = [
        Path(models) / folder_name(source, name) for name in dict.fromkeys((preset_name, "full", "long", "quick"))
    ]
    return {
        name: next((path for folder in folders if (path := folder / f"{name}.safetensors").exists()), None)
        if not extras.missing(experiment.model)
        else None
        for name, experiment in EXPERIMENTS.items()
    }


def with_available_weights(experiment: Experiment, on_missing: str) -> Experiment:
    """The experiment as it is, or from a random start where its published weights cannot be had and that is allowed."""
    if experiment.weights is None:
        return experiment
    try:
        build(experiment)
    except WeightsError:
        if on_missing != "scratch":
            raise
        return replace(experiment, weights=None)
    return experiment


def _publish(run: Run, about: dict[str, Any], path: Path) -> str:
    """Keep the weights of the seed that is best on validation, of equals the lowest, at `path`; says what was done.

    Only runs with the same settings on the same data are compared; weights of any other are set aside.
    """
    done = f"{path.name} holds this run"
    if path.exists():
        try:
            there = read_metadata(path)
        except CheckpointError:  # damaged, or of an earlier format
            there = {}
        if not same_run(there, about):
            done += f"; what was there is now {set_aside(path)}"
        elif there["seed"] != run.seed and (_accuracy(there), -there["seed"]) > (_accuracy(about), -run.seed):
            return f"{path.name} keeps seed {there['seed']}, which is better on validation, or as good and lower"
    save_checkpoint(run.model, path, **about)
    return done


def recorded(path: Path, settings: dict[str, Any], fingerprint: str) -> dict[str, Any] | None:
    """The record at `path`, if it is of a run with these settings on the data of this fingerprint; otherwise None."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    there = record | {"data": record.get("data", {}).get("fingerprint")}
    return record if same_run(there, {"settings": settings, "data": fingerprint}) else None


def write_record(record: dict[str, Any], path: Path) -> None:
    """Write a record as JSON; one of a run with other settings or on other data is set aside."""
    if path.exists() and recorded(path, record["settings"], record["data"]["fingerprint"]) is None:
        set_aside(path)
    write_json(record, path)


def same_run(there: dict[str, Any], here: dict[str, Any]) -> bool:
    """Whether two runs have the same settings and data, so that they differ by their seed and in words at most."""
    return there.get("data") == here["data"] and same_settings(there.get("settings", {}), here["settings"])


def same_settings(there: dict[str, Any], here: dict[str, Any]) -> bool:
    """Whether two runs' settings are the same but for words.

    A setting that was not there yet when a run was written down counts as its default.
    """
    defaults = asdict(Experiment(model="", objective="", report="", left_open=""))

    def decisive(settings: dict[str, Any]) -> dict[str, Any]:
        written = json.loads(json.dumps(defaults | settings))  # tuples become lists
        return {key: value for key, value in written.items() if key not in DESCRIPTIONS}

    return decisive(there) == decisive(here)


def _accuracy(about: dict[str, Any]) -> float:
    return about["validation"]["accuracy"]["value"]


def set_aside(path: Path) -> Path:
    """Move a file into the folder `replaced` beside it, under a number of its own."""
    folder = path.parent / "replaced"
    folder.mkdir(exist_ok=True)
    free = next(k for k in itertools.count(1) if not (folder / f"{path.stem}-{k}{path.suffix}").exists())
    return path.rename(folder / f"{path.stem}-{free}{path.suffix}")


def _record(
    name: str, usual: Experiment, run: Run, data: Data, device: torch.device, preset_name: str
) -> dict[str, Any]:
    experiment = run.experiment
    return {
        "experiment": name,
        "source": data.source,
        "seed": run.seed,
        "preset": preset_name,
        "weights": experiment.weights or "none",
        "settings": asdict(experiment),
        "changed": differences(experiment, usual),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "trained_parameters": sum(p.numel() for p in run.model.parameters() if p.requires_grad),
        "history": run.history,
        "best_epoch": run.best_epoch,
    } | circumstances(data, device)


def circumstances(data: Data, device: torch.device) -> dict[str, Any]:
    """The data, hardware and code of a run, and the day."""
    return {
        "data": {
            "fingerprint": data.fingerprint,
            "seed": data.seed,
            "strips": {name: len(strips) for name, strips in data.splits.items()},
        },
    } | provenance(device)


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


def settings_digest(experiment: Experiment, data: Data) -> str:
    return hashlib.sha256(repr((sorted(asdict(experiment).items()), data.fingerprint)).encode()).hexdigest()[:8]


def _sparse_confusion(predicted: Predictions, strips: Strips) -> list[list[int]]:
    """The confusion matrix as [true sum, predicted sum, count] for every pair that occurs."""
    matrix = confusion(predicted.sums, strips.sums)
    return [[int(i), int(j), int(matrix[i, j])] for i, j in np.argwhere(matrix)]
