"""One experiment from start to finish: train, save the weights, evaluate, write the record."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from . import distributed, extras
from .calibration import fit_offset
from .checkpoints import CheckpointError, read_metadata, replacing, save_checkpoint, write_json
from .compose import Strips
from .data import Data
from .devices import pick_device
from .evaluation import Predictions, centre_errors, confusion, evaluate, mean, metrics, read, strings_read
from .experiments import EXPERIMENTS, Experiment, decisive, differences, named, preset
from .models import StripModel, WeightsError
from .provenance import commit, provenance
from .stream import CHUNK, StripStream
from .training import Run, TrainingError, build, run_key, train, trainable

FIRST = 10_000  # training strips whose metrics report E's OCR has too
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

    Raises `TrainingError` where another process is training this very run.
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
    run_folder = folder_of_run(Path(models) / folder, f"{name}-seed{seed}", experiment, data)
    state_path = run_folder / "resume.pt"
    with alone(run_folder):
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
            "objective_args": experiment.objective_args, "data": data.fingerprint,
            "validation": record["metrics"]["val"],
        }  # fmt: skip
        best = run_folder / "best.safetensors"
        save_checkpoint(run.model, best, **about)
        last = build(replace(experiment, weights=None))
        last.load_state_dict(run.last)
        save_checkpoint(last, run_folder / "last.safetensors", **about | {"validation": None})
        with FileLock(run_folder.with_name(f"{name}.lock")):  # runs of other seeds may end at the same moment
            record["checkpoint"] = _publish(best, about, Path(models) / folder / f"{name}.safetensors", record_path)
            write_record(record, record_path)
        state_path.unlink(missing_ok=True)
    return record


def folder_of_run(weights: Path, name: str, experiment: Experiment, data: Data) -> Path:
    """The folder, below that of a source's weights, of a run with these settings on this data."""
    digest = hashlib.sha256(run_key(experiment, data.fingerprint).encode()).hexdigest()[:8]
    return weights / "runs" / f"{name}-{digest}"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a run to this process, by a lock in its folder. Raises `TrainingError` where another process has it.

    Of torchrun's processes the first stands for all. A process that is killed leaves a file behind, but no lock; any
    other nothing that was not there before, unless the run puts files into its folder.
    """
    if distributed.rank() > 0:
        yield
        return
    made = [parent for parent in folder.parents if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "training.lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise TrainingError(f"{folder} is being trained by another process. Wait until it ends, or end it.") from error
    try:
        yield
    finally:
        with suppress(OSError):  # at a folder that is not empty; and Windows removes no open file
            path.unlink()
            for each in (folder, *made):
                each.rmdir()
        lock.release()


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
    record |= _figures(model, Experiment(**record["settings"]), data)
    record["measured"] = provenance(next(model.parameters()).device)
    write_record(record, record_path)
    if (validation := record["metrics"]["val"]) != about["validation"]:
        save_checkpoint(model, path, **about | {"validation": validation})
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


def _publish(own: Path, about: dict[str, Any], path: Path, record_path: Path) -> str:
    """Keep the weights of the seed that is best on validation, of equals the lowest, at `path`; says what was done.

    Compared are this run's, at `own`, what is there, and the other seeds' in `runs`; of this run's seed, no earlier
    ones count. Only runs with the same settings on the same data are compared; what is there of any other is set aside.
    """
    found, aside, kept = runs_alike(path, about, record_path.parent), "", None
    if path.exists():
        there = _metadata(path)
        if same_run(there, about) and there.get("validation"):  # which last weights, copied there, do not tell
            kept = there["seed"]
            found[kept] = path
        else:
            aside = f"; what was there is now {set_aside(path)}"
    seed = about["seed"]
    found[seed] = own
    best = max(found, key=lambda each: (read_metadata(found[each])["validation"]["accuracy"]["value"], -each))
    if found[best] != path:
        with replacing(path) as temporary:
            shutil.copyfile(found[best], temporary)
    if best == seed:
        return f"{path.name} holds this run{aside}"
    does = "keeps" if best == kept else "now holds"
    return f"{path.name} {does} seed {best}, which is better on validation, or as good and lower{aside}"


def runs_alike(path: Path, about: dict[str, Any], records: Path) -> dict[int, Path]:
    """Each seed's best weights in the `runs` beside the published `path`, of runs that are like `about` but for seeds.

    Where a seed has several, those on record, and else the newest. What cannot be read is left out.
    """
    found: dict[int, tuple[list[bool], float, Path]] = {}
    for best in path.parent.glob(f"runs/{path.stem}-seed*/best.safetensors"):
        each = _metadata(best)
        if not same_run(each, about):
            continue
        record = recorded(records / f"{path.stem}-seed{each['seed']}.json", each["settings"], each["data"])
        agrees = [record["commit"] == each["commit"], record["metrics"]["val"] == each["validation"]] if record else []
        candidate = agrees, best.stat().st_mtime, best
        found[each["seed"]] = max(found.get(each["seed"], candidate), candidate)
    return {seed: found[seed][-1] for seed in sorted(found)}


def _metadata(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself; nothing where it is damaged or of an earlier format."""
    try:
        return read_metadata(path)
    except CheckpointError:
        return {}


def recorded(path: Path, settings: dict[str, Any], fingerprint: str) -> dict[str, Any] | None:
    """The record at `path`, if it is of a run with these settings on this data; otherwise None."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        there = {"settings": dict(record["settings"]), "data": record["data"]["fingerprint"]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # there is none, or what is there is none
        return None
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
    return decisive(there) == decisive(here)


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
    record = {
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
    if earlier := run.sessions[:-1]:
        record["earlier"] = earlier
    return record


def circumstances(data: Data, device: torch.device) -> dict[str, Any]:
    """The data, hardware and code of a run, and the day."""
    return {
        "data": {
            "fingerprint": data.fingerprint,
            "seed": data.seed,
            "strips": {name: len(strips) for name, strips in data.splits.items()},
        },
    } | provenance(device)


def _sparse_confusion(predicted: Predictions, strips: Strips) -> list[list[int]]:
    """The confusion matrix as [true sum, predicted sum, count] for every pair that occurs."""
    matrix = confusion(predicted.sums, strips.sums)
    return [[int(i), int(j), int(matrix[i, j])] for i, j in np.argwhere(matrix)]
