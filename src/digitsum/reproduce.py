"""The whole table again: the runs that it takes, which of them are on record, and how long the others may take."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .data import Data
from .experiments import EXPERIMENTS, preset
from .records import trained_on
from .runs import folder_name, same_settings
from .studies import READER, SEEDS

SEEDS_OF_READER = (0, 1, 2, 3, 4)
SEEDS_OF_REPORT_C = (0, 10, 42)


@dataclass(frozen=True)
class Planned:
    """One run of the table: `why` it is to be trained, "" where it is on record; `minutes` None where nobody knows."""

    experiment: str
    seed: int
    why: str
    minutes: float | None


def seeds_of(name: str, given: Sequence[int] | None = None) -> Sequence[int]:
    """The seeds that an experiment is trained with: those given, or five for the reader, report C's, or three.

    Of what does not depend on the seed one run is enough, and unless seeds are given also of networks that start from
    published weights, which take hours.
    """
    if name == "most_common" or not EXPERIMENTS[name].epochs or (given is None and EXPERIMENTS[name].weights):
        return (given or SEEDS)[:1]
    if name == READER:
        return given or SEEDS_OF_READER
    return given or (SEEDS_OF_REPORT_C if "C" in EXPERIMENTS[name].report.split(", ") else SEEDS)


def plan(
    data: Data,
    names: Sequence[str] = tuple(EXPERIMENTS),
    *,
    seeds: Sequence[int] | None = None,
    preset_name: str = "full",
    from_scratch: bool = False,
    keep_changed: bool = False,
    results: str | Path = "results",
) -> list[Planned]:
    """The runs of these experiments on this data.

    A record counts where its settings and its data are those of the run. `from_scratch` also accepts a random start in
    place of published weights; `keep_changed` accepts whatever the record itself calls changed, such as a shorter run.
    Minutes are what the experiment's records took per strip and epoch, on their hardware, times the run's own.
    """
    folder = Path(results) / folder_name(data.source, preset_name)
    planned = []
    for name in dict.fromkeys(names):
        wanted = preset(EXPERIMENTS[name], preset_name)
        accepted = [wanted, replace(wanted, weights=None)] if from_scratch else [wanted]
        records = [record for path in sorted(folder.glob(f"{name}-seed*.json")) if (record := _read(path))]
        costs = [
            record["seconds"]["train"] / 60 / len(record["history"]) / trained_on(record)
            for record in records
            if record["history"]
        ]
        minutes = statistics.median(costs) * wanted.epochs * len(data.train[: wanted.train_limit]) if costs else None
        for seed in dict.fromkeys(seeds_of(name, seeds)):
            why = "no record"
            for record in (record for record in records if record["seed"] == seed):
                usual = record["settings"] | {key: theirs for key, (theirs, _) in record["changed"].items()}
                if record["data"]["fingerprint"] != data.fingerprint:
                    why = "its record is on other data"
                elif any(same_settings(record["settings"], asdict(each)) for each in accepted):
                    why = ""
                else:
                    kept = keep_changed and same_settings(usual, asdict(EXPERIMENTS[name]))
                    why = "" if kept else "its record has other settings"
            planned.append(Planned(name, seed, why, minutes))
    return planned


def _read(path: Path) -> dict[str, Any] | None:
    """A record, or None where the file is none: the run that follows sets it aside."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    needed = {"seed", "settings", "changed", "data", "history", "seconds"}
    return record if isinstance(record, dict) and needed <= record.keys() else None
