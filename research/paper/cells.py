"""Records in words: the cells of tables, and the commands that make records again."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pandas as pd

from digitsum.evaluation import number, percent

from ..systems import SUPERVISION, SYSTEMS
from .records import Entry, Record, trained_on

SPLITS = {
    "train": "train", "val": "validation", "test": "test", "unseen": "unseen", "entire": "entire",
    "first_10000": "first 10,000",
}  # fmt: skip
NOTHING = "–"
# Other people's numbers, as they state them: the reports' on the course's files, and those of other public systems.
REPORTED = (
    pd.read_csv(Path(__file__).with_name("reported.csv"), keep_default_na=False)
    .set_index("experiment")
    .to_dict("index")
)
PEERS = pd.read_csv(Path(__file__).with_name("peers.csv"), keep_default_na=False).to_dict("records")


def column(records: Sequence[Any], *path: Any) -> list[Any]:
    """Return what each record holds at a path of keys."""
    return [reduce(getitem, path, record) for record in records]


def of_runs(seeds: Sequence[Record], split: str, measure: str = "accuracy", worst: bool = False) -> str:
    """Return a metric of some seeds on a split as `summary` does."""
    return summary(column(seeds, "metrics", split, measure), worst, error=measure in ("mse", "mae"))


def summary(seeds: Sequence[Entry], worst: bool = False, error: bool = False) -> str:
    """Return one seed as "75.3 % (74.0–76.5)", several as "98.1 ± 0.2 %, worst 97.9 %", and none as a dash."""
    if len(seeds) < 2:
        return (number if error else percent)(seeds[0]) if seeds else NOTHING
    digits, unit, scale = (2, "", 1) if error else (1, " %", 100)
    values = [scale * seed["value"] for seed in seeds]
    end = f", worst {max(values) if error else min(values):.{digits}f}{unit}" if worst else ""
    return mean_of(values, digits) + unit + end


def mean_of(values: Sequence[float], digits: int = 2) -> str:
    """Return a mean, of several values with their standard deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def learned_from(record: Record) -> str:
    """Say what a run saw besides the images, and of how many strips."""
    seen = SUPERVISION.get(record["experiment"], "sums")
    return seen if seen == "nothing" else f"{seen} of {trained_on(record):,} strips"


def departures(record: Record) -> str:
    """Say what a run starts from and how it departs from its experiment; "" if in nothing."""
    words = [f"from {record['weights']}"] if record["weights"] != "none" else []
    start = "random start" if record["trained_parameters"] == record["parameters"] else "frozen as drawn at random"
    for key, (theirs, ours) in record["changed"].items():
        first = "all" if ours is None else f"the first {ours:,}" if isinstance(ours, int) else ours
        words.append({
            "weights": f"{ours or start} instead of {theirs or 'a random start'}",
            "epochs": f"{ours} of {theirs} epochs",
            "train_limit": f"{first} training strips",
            "evaluate_limit": f"measured on {first} strips of each split",
        }.get(key, f"{key} {ours} instead of {theirs}"))  # fmt: skip
    return "; ".join(words)


def hardware_words(hardware: Mapping[str, Any]) -> str:
    """Name the device, or the processor with its threads; bfloat16; and processes if there were several."""
    device, threads, processes = hardware["device"], hardware["threads"], hardware.get("processes", 1)
    words = [hardware["cpu"] if device in ("cpu", "mps") else device]
    words += [f"{threads} thread{'s' * (threads != 1)}"] * (device == "cpu") + ["bfloat16"] * hardware["bfloat16"]
    return ", ".join(words + [f"{processes} processes"] * (processes > 1))


def strings(seeds: Sequence[Record]) -> list[Entry]:
    """Return how often a row reads all digits of an unseen strip, by seed; nothing if it reads no digits."""
    return [seed["strings"]["unseen"] for seed in seeds if seed.get("strings")]


def command(record: Record) -> str:
    """Return the shell command that makes a record again, as far as the command line has its changed settings."""
    name, source = record["experiment"], record["source"]
    words, known = f"python -m research reproduce {name}", ["weights"]
    if name not in SYSTEMS:
        words = f"python -m digitsum train {name} --source {source} --preset full --folder {source}"
        words, known = f"{words} --seed {record['seed']}", ["weights", "epochs", "train_limit"]
    changed = [(key.replace("_", "-"), ours) for key, (_, ours) in record["changed"].items() if key in known]
    return words + "".join(f" --{key} {ours or 'none'}" for key, ours in changed)
