"""One experiment from start to finish: train, save the weights, evaluate, write the record."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout

from .checkpoints import best_checkpoint, read_metadata, save_checkpoint, write_json
from .data import Data
from .devices import pick_device, rank
from .errors import CheckpointError, RecordError, TrainingError, WeightsError
from .evaluation import evaluate, number, pack, percent, strings_read
from .experiments import EXPERIMENTS, Experiment, changed, same_settings
from .provenance import commit, provenance
from .training import Run, build, train

LARGEST_RECORD = 4_000_000  # bytes


def run_experiment(
    experiment: Experiment, data: Data, *, seed: int = 0, device: str = "auto", folder: str | None = None,
    models: str | Path = "models", results: str | Path = "results", again: bool = False, progress: bool = True,
    learn: Callable[..., Run] = train,
) -> dict[str, Any]:  # fmt: skip
    """Train, save, evaluate and record one experiment; returns the record.

    A run owns two files, models/<folder>/<experiment>-seed<k>.safetensors and its record in results/<folder>/.
    `folder` is the data's source by default. `learn` takes the place of `train`.
    A run on record with the same settings and data is not trained again, unless `again` says so. An interrupted run
    goes on from its state, which lies beside its weights.
    Raises `RecordError` if these files are of a run with other settings or data, `TrainingError` if another process
    is training this run.
    """
    commit()  # the code as it is now, whatever is checked out meanwhile
    name, folder, chosen = f"{experiment.name}-seed{seed}", folder or data.source, pick_device(device)
    weights, record_path = Path(models, folder, f"{name}.safetensors"), Path(results, folder, f"{name}.json")
    state_path = weights.with_name(f"{name}.resume.pt")
    with locked(weights, record_path):
        there = _on_record(weights, record_path, experiment, data)
        if there and not again:
            return there
        run = learn(experiment, data, seed=seed, device=chosen, state_path=state_path, progress=progress)
        record = make_record(run, data, chosen)
        if rank() == 0:
            kept = ("experiment", "seed", "source", "settings", "weights", "versions", "commit", "date")
            save_checkpoint(
                run.model, weights, **{key: record[key] for key in kept}, model=experiment.model,
                model_args=experiment.model_args, objective=experiment.objective,
                objective_args=experiment.objective_args, data=data.fingerprint, validation=record["metrics"]["val"],
            )  # fmt: skip
            write_json(record, record_path)
            state_path.unlink(missing_ok=True)
    return record


def make_record(run: Run, data: Data, device: torch.device) -> dict[str, Any]:
    """Evaluate a finished run and return its record."""
    started, experiment, model = time.perf_counter(), run.experiment, run.model
    evaluated, predicted = evaluate(model, data, experiment.evaluate_limit)
    splits = data.head(experiment.evaluate_limit, experiment.evaluate_limit).splits
    record = {
        "experiment": experiment.name,
        "source": data.source,
        "seed": run.seed,
        "weights": experiment.weights or "none",
        "settings": asdict(experiment),
        "changed": changed(experiment, EXPERIMENTS.get(experiment.name, experiment)),
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "history": run.history,
        "best_epoch": run.best_epoch,
        "data": {
            "fingerprint": data.fingerprint,
            "seed": data.seed,
            "strips": {name: len(strips) for name, strips in data.splits.items()},
        },
        **provenance(device),
        "metrics": evaluated,
        "strings": {
            name: strings_read(predicted[name], strips.digits)
            for name, strips in splits.items()
            if predicted[name].readings and strips.digits is not None
        },
        "answers": pack(predicted[list(splits)[-1]]),
    }
    if len(run.sessions) > 1:
        record["sessions"] = run.sessions
    seconds = time.perf_counter() - started
    return record | {"seconds": {"train": round(run.seconds, 1), "total": round(run.seconds + seconds, 1)}}


def or_random_start(experiment: Experiment) -> Experiment:
    """Return the experiment, or one with random weights if its published ones cannot be had; the record says so."""
    try:
        build(experiment)
    except WeightsError:
        return replace(experiment, weights=None)
    return experiment


def find_weights(source: str, folder: str | None = None, models: str | Path = "models") -> tuple[Path, dict[str, Path]]:
    """Return one folder of weights and, by name, its best file of each core experiment.

    `folder` None takes the first of <source> (the published weights), <source>-full and <source>-quick that has any.
    Raises `CheckpointError` if there are none.
    """
    folders = [Path(models, each) for each in ([folder] if folder else [source, f"{source}-full", f"{source}-quick"])]
    for each in folders:
        found = {name: path for name in EXPERIMENTS if (path := best_checkpoint(each, name))}
        if found:
            return each, found
    raise CheckpointError(f"There are no weights in {' or '.join(map(str, folders))}. Run training.ipynb first.")


def load_json(path: Path) -> Any:
    """Read a JSON file of at most LARGEST_RECORD bytes and finite numbers. Raises ValueError or OSError otherwise."""
    if not path.is_file() or path.stat().st_size > LARGEST_RECORD:
        raise ValueError(f"no file of at most {LARGEST_RECORD:,} bytes")
    try:
        return json.loads(path.read_bytes(), parse_float=_finite, parse_constant=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is not finite")
    return number


def read_record(path: str | Path) -> dict[str, Any]:
    """Read one record that has all that this package asks a record for. Raises `RecordError` for anything else."""
    path = Path(path)
    try:
        record = load_json(path)
        _ask(record)
    except Exception as error:  # of another type, a value can fail in any way
        raise RecordError(
            f"{path} is not a record ({type(error).__name__}: {error}). Restore it, or delete it and run again."
        ) from error
    return record


def _ask(record: dict[str, Any]) -> Any:
    """Return what tables, curves and the command line ask a record for."""
    curves = [f"{split}_{what}" for split in ("train", "val") for what in ("loss", "accuracy")]
    rows = [sum(row[key] for key in ("epoch", *curves)) for row in record["history"]]
    changes = [(usual, ours) for usual, ours in record["changed"].values()]
    settings = same_settings(record["settings"], {})
    return results_table([record]), rows, changes, settings, record["data"]["fingerprint"]


def _on_record(weights: Path, path: Path, experiment: Experiment, data: Data) -> dict[str, Any] | None:
    """Return the record of this very run, None if there is none; weights and record must be of no other run."""
    about, record = read_metadata(weights) if weights.exists() else None, read_record(path) if path.exists() else None
    for file, there, fingerprint in (
        (weights, about, about and about.get("data")),
        (path, record, record and record["data"]["fingerprint"]),
    ):
        if there and (fingerprint != data.fingerprint or not same_settings(there["settings"], asdict(experiment))):
            raise RecordError(
                f"{file} is of a run with other settings or other data. Use another folder or seed, or move it away."
            )
    return record if about else None


@contextmanager
def locked(*paths: Path) -> Iterator[None]:
    """Keep these files to this process, and remove the temporary files that killed processes left of them.

    Finds out at once whether the files can be written. Of torchrun's processes the first stands for all.
    Raises `TrainingError` if another process has them.
    """
    if rank() > 0:
        yield
        return
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    lock = FileLock(paths[0].with_name(f".{paths[0].stem}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise TrainingError(f"Another process is training {paths[0].stem}. Wait until it ends, or end it.") from error
    try:
        for path in paths:
            for stale in path.parent.glob(".*.tmp"):
                if stale.name.startswith(f".{path.stem}."):
                    stale.unlink(missing_ok=True)
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            Path(lock.lock_file).unlink()
        lock.release()


# Tables for notebooks and the command line


def settings_table(experiments: Sequence[Experiment]) -> pd.DataFrame:
    """Return a row of settings per experiment."""
    shown = ("report", "weights", "epochs", "train_limit", "batch_size", "optimizer", "lr", "schedule")
    rows = {e.name: [getattr(e, key) for key in shown] for e in experiments}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=[key.replace("_", " ") for key in shown])
    return table.fillna({"weights": "random", "train limit": "all"}).rename_axis("experiment")


def metrics_table(measured: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row of MSE, MAE and rounded accuracy with 95 % intervals for each name's metrics."""
    rows = {
        name: [number(m["mse"]), number(m["mae"]), percent(m["accuracy"]), f"{m['n']:,}"]
        for name, m in measured.items()
    }
    columns = ["MSE", "MAE", "rounded accuracy", "strips"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("experiment")


def results_table(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row per record: metrics on its last split, validation accuracy, size, and minutes of training."""
    table = metrics_table({r["experiment"]: list(r["metrics"].items())[-2][1] for r in records})
    table.insert(3, "on validation", [percent(r["metrics"]["val"]["accuracy"]) for r in records])
    table["starts from"] = ["random" if r["weights"] == "none" else r["weights"] for r in records]
    table["parameters"] = [f"{r['parameters'] / 1e6:.2f} M" for r in records]
    table["best epoch"] = [f"{r['best_epoch']} of {len(r['history'])}" for r in records]
    table["minutes"] = [f"{r['seconds']['train'] / 60:.1f}" for r in records]
    return table
