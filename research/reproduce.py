"""Train the runs that the published tables take and the records lack."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from digitsum.data import Data
from digitsum.errors import DigitsumError, TrainingError
from digitsum.experiments import Experiment

from .studies import on_record
from .systems import EXPERIMENTS, run_system


class Planned(NamedTuple):
    experiment: Experiment
    seed: int
    done: bool  # on record, of the same data and settings

    def __str__(self) -> str:
        return f"{self.experiment.name}, seed {self.seed}: {'on record' if self.done else 'to train'}"


def seeds_of(name: str) -> tuple[int, ...]:
    """Return the seeds of an experiment: one if it depends on none, or if it starts from published weights."""
    if name in ("most_common", "ocr", "reader_handwriting") or EXPERIMENTS[name].weights:
        return (0,)
    if name.startswith("baseline_cnn-"):
        return (0, 10, 42)  # as report C has them
    return (0, 1, 2, 3, 4) if name == "reader" else (0, 1, 2)


def plan(data: Data, names: Sequence[str] = (), *, weights: str = "", results: str | Path = "results") -> list[Planned]:
    """Return the runs of these experiments, or of all. With `weights` "none" all start from random weights."""
    if unknown := [name for name in names if name not in EXPERIMENTS]:
        raise TrainingError(f"There is no experiment {', '.join(unknown)}. Use some of {', '.join(EXPERIMENTS)}.")
    planned = []
    for name in names or EXPERIMENTS:
        experiment = replace(EXPERIMENTS[name], weights=None) if weights == "none" else EXPERIMENTS[name]
        for seed in seeds_of(name):
            path = Path(results, data.source, f"{name}-seed{seed}.json")
            planned.append(Planned(experiment, seed, bool(on_record(path, data, experiment))))
    return planned


def reproduce(data: Data, planned: Sequence[Planned], **options: Any) -> int:
    """Train what has to be trained, with the options of `run_experiment`. Return how many failed; the others go on."""
    failed = 0
    for row in planned:
        try:
            if not row.done:
                run_system(row.experiment, data, seed=row.seed, **options)
        except DigitsumError as error:
            print(f"research: {row.experiment.name}, seed {row.seed}: {error}", file=sys.stderr)
            failed += 1
    return failed
