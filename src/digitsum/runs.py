"""One experiment from start to finish: train, save the weights, evaluate, write the record."""

import glob
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout

from .checkpoints import best_checkpoint, load_checkpoint, read_metadata, save_checkpoint, write_json
from .data import Data
from .devices import pick_device, rank
from .errors import CheckpointError, RecordError, TrainingError, refusing
from .evaluation import evaluate, number, pack, percent, strings_read
from .experiments import EXPERIMENTS, Experiment, changed, same_settings
from .models import StripModel
from .provenance import provenance
from .training import Run, build, train

LARGEST_RECORD = 4_000_000  # bytes


def run_experiment(
    experiment: Experiment, data: Data, *, seed: int = 0, device: str = "auto", folder: str | None = None,
    models: str | Path = "models", results: str | Path = "results", again: bool = False, progress: bool = True,
    learn: Callable[..., Run] = train,
) -> dict[str, Any]:  # fmt: skip
    """Train, save, evaluate and record one experiment; returns the record.

    It owns models/<folder>/<experiment>-seed<k>.safetensors and its record in results/<folder>/. `folder` is the data's
    source by default. A run on record is trained again only for `again`. `learn` takes the place of `train`.
    Raises `RecordError` if the files are of other settings or data, `TrainingError` if another process trains this run.
    """
    name, folder, chosen = f"{experiment.name}-seed{seed}", folder or data.source, pick_device(device)
    weights, record_path = Path(models, folder, f"{name}.safetensors"), Path(results, folder, f"{name}.json")
    state_path = weights.with_name(f"{name}.resume.pt")
    with locked(weights, record_path):
        about = _of_this_run(weights, read_metadata, experiment, data)
        there = _of_this_run(record_path, read_record, experiment, data)
        if about and there and not again:
            return there
        start = {"start": _trained(experiment, data, seed, weights.parent)} if experiment.weights in EXPERIMENTS else {}
        run = learn(experiment, data, seed=seed, device=chosen, state_path=state_path, progress=progress, **start)
        record = make_record(run, data, chosen)
        if rank() == 0:
            kept = ("experiment", "seed", "source", "settings", "weights", "versions", "commit", "date")
            about = {key: record[key] for key in kept}
            about |= {"data": data.fingerprint, "validation": record["metrics"]["val"]}
            save_checkpoint(run.model, weights, **about)
            write_json(record, record_path)
            state_path.unlink(missing_ok=True)
    return record


def _trained(experiment: Experiment, data: Data, seed: int, folder: Path) -> StripModel:
    """Return the experiment's model with the weights of the run that it starts from, but for its last layer."""
    path = folder / f"{experiment.weights}-seed{seed}.safetensors"
    trained = load_checkpoint(path) if path.exists() else None
    if not trained or trained.metadata["data"] != data.fingerprint:
        raise TrainingError(f"{experiment.name} starts from {path}, trained on the same strips. Train that first.")
    model = build(experiment, seed)
    own = model.state_dict()
    model.load_state_dict(own | {name: t for name, t in trained.state_dict().items() if t.shape == own[name].shape})
    return model


def make_record(run: Run, data: Data, device: torch.device) -> dict[str, Any]:
    """Evaluate a finished run and return its record."""
    started, experiment, model = time.perf_counter(), run.experiment, run.model
    measured = data.head(experiment.evaluate_limit, experiment.evaluate_limit)
    evaluated, predicted = evaluate(model, measured)
    sizes = {name: len(strips) for name, strips in data.splits.items()}
    record = {
        "experiment": experiment.name,
        "source": data.source,
        "seed": run.seed,
        "weights": run.start,
        "settings": asdict(experiment),
        "changed": changed(experiment, EXPERIMENTS.get(experiment.name, experiment)),
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "history": run.history,
        "best_epoch": run.best_epoch,
        "data": {"fingerprint": data.fingerprint, "seed": data.seed, "strips": sizes},
        **provenance(device),
        "metrics": evaluated,
        "strings": {
            name: strings_read(predicted[name], strips.digits)
            for name, strips in measured.splits.items()
            if predicted[name].readings and strips.digits is not None
        },
        "answers": pack(predicted[list(measured.splits)[-1]]),
    }
    if len(run.sessions) > 1:
        record["sessions"] = run.sessions
    seconds = time.perf_counter() - started
    return record | {"seconds": {"train": round(run.seconds, 1), "total": round(run.seconds + seconds, 1)}}


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
        value = json.loads(path.read_bytes())
        json.dumps(value, allow_nan=False)  # refuses numbers that are not finite
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


def read_record(path: str | Path) -> dict[str, Any]:
    """Read one record that has all that this package asks a record for. Raises `RecordError` for anything else."""
    path = Path(path)
    with refusing(path, "Restore it, or delete it and run again.", RecordError):
        record = load_json(path)
        _ask(record)
    return record


def _ask(record: dict[str, Any]) -> Any:
    """Return what tables, curves and the command line ask a record for."""
    curves = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
    rows = [sum(row[key] for key in curves) for row in record["history"]]
    changes = [(usual, ours) for usual, ours in record["changed"].values()]
    return results_table([record]), rows, changes, same_settings(record["settings"], {}), record["data"]["fingerprint"]


def _of_this_run(path: Path, read: Callable[[Path], Any], experiment: Experiment, data: Data) -> dict[str, Any] | None:
    """Return what a file tells of a run, None if it is not there; raise if that is another run."""
    if not path.exists():
        return None
    there = read(path)
    fingerprint = there["data"] if isinstance(there["data"], str) else there["data"]["fingerprint"]
    if fingerprint != data.fingerprint or not same_settings(there["settings"], asdict(experiment)):
        raise RecordError(f"{path} is of a run with other settings or other data. Use another folder, or move it.")
    return there


@contextmanager
def locked(*paths: Path) -> Iterator[None]:
    """Keep these files to this process by a lock beside each, and remove what killed processes left of them."""
    with ExitStack() as stack:
        for path in paths if rank() == 0 else ():  # of torchrun's processes the first stands for all
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(FileLock(path.with_name(f".{path.stem}.lock"), timeout=0))
            except Timeout as error:
                raise TrainingError(f"Another process is training {path.stem}. Wait for it, or end it.") from error
            for left in path.parent.glob(f".{glob.escape(path.stem)}.*.tmp"):
                left.unlink(missing_ok=True)
        yield


def settings_table(experiments: Sequence[Experiment]) -> pd.DataFrame:
    """Return a row of settings per experiment."""
    shown = ("report", "epochs", "train_limit", "batch_size", "optimizer", "lr", "schedule")
    rows = {e.name: [getattr(e, key) for key in shown] for e in experiments}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=[key.replace("_", " ") for key in shown])
    return table.fillna({"train limit": "all"}).rename_axis("experiment")


def metrics_table(measured: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row of MSE, MAE and rounded accuracy with 95 % intervals for each name's metrics."""
    rows = [[number(m["mse"]), number(m["mae"]), percent(m["accuracy"]), f"{m['n']:,}"] for m in measured.values()]
    names = pd.Index(list(measured), name="experiment")
    return pd.DataFrame(rows, names, ["MSE", "MAE", "rounded accuracy", "strips"])


def results_table(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row per record: metrics on its last split, validation accuracy, size, and minutes of training."""
    table = metrics_table({r["experiment"]: list(r["metrics"].items())[-2][1] for r in records})
    table.insert(3, "on validation", [percent(r["metrics"]["val"]["accuracy"]) for r in records])
    table["starts from"] = ["random" if r["weights"] == "none" else r["weights"] for r in records]
    table["parameters"] = [f"{r['parameters'] / 1e6:.2f} M" for r in records]
    table["best epoch"] = [f"{r['best_epoch']} of {len(r['history'])}" for r in records]
    table["minutes"] = [f"{r['seconds']['train'] / 60:.1f}" for r in records]
    return table
