"""Train the runs that the published tables take and the records lack."""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from digitsum.data import Data
from digitsum.errors import DigitsumError, TrainingError
from digitsum.experiments import Experiment, same_settings
from digitsum.runs import read_record

from .paper.records import trained_on
from .systems import EXPERIMENTS, run_system


@dataclass(frozen=True)
class Planned:
    experiment: Experiment
    seed: int
    why: str  # the reason to train it; "" if it is on record
    minutes: float | None  # that it may take on the hardware of the records; None without records

    def __str__(self) -> str:
        minutes = f", about {self.minutes:.0f} minutes" if self.why and self.minutes is not None else ""
        return f"{self.experiment.name}, seed {self.seed}: {self.why or 'on record'}{minutes}"


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
        found = map(read_record, Path(results, data.source).glob(f"{name}-seed*.json"))
        records = {record["seed"]: record for record in found}
        trained = [record for record in records.values() if record["history"]]
        costs = [r["seconds"]["train"] / 60 / len(r["history"]) / trained_on(r) for r in trained]
        minutes = statistics.median(costs) * experiment.epochs * len(data.train) if costs else None
        for seed in seeds_of(name):
            why = "" if seed in records else "no record"
            if seed in records and records[seed]["data"]["fingerprint"] != data.fingerprint:
                why = "its record is of other data"
            elif seed in records and not same_settings(records[seed]["settings"], asdict(experiment)):
                why = "its record has other settings"
            planned.append(Planned(experiment, seed, why, minutes))
    return planned


def reproduce(data: Data, planned: Sequence[Planned], **options: Any) -> int:
    """Train what has to be trained, with the options of `run_experiment`. Return how many failed; the others go on."""
    failed = 0
    for row in planned:
        try:
            if row.why:
                run_system(row.experiment, data, seed=row.seed, **options)
        except DigitsumError as error:
            print(f"research: {row.experiment.name}, seed {row.seed}: {error}", file=sys.stderr)
            failed += 1
    return failed
