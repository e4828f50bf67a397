"""Records in words: the cells of tables, and the commands that make records again."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from digitsum.evaluation import number, percent

from ..systems import SYSTEMS
from .records import Entry, Record, in_rows, last_split, supervision, trained_on

SPLITS = {
    "train": "train", "val": "validation", "test": "test", "unseen": "unseen", "entire": "entire",
    "first_10000": "first 10,000",
}  # fmt: skip
REFERENCES = ("most_common", "oracle-digit_labels")  # what the systems are held against
COLLAPSED = 0.5  # a seed below this part of the best seed's validation accuracy never got going


def ranked(records: Sequence[Record]) -> list[Record]:
    """Return the records row by row, the most accurate on the last split first and the references last."""

    def rank(seeds: Sequence[Record]) -> tuple[bool, float]:
        accuracy = statistics.mean(entry["value"] for entry in entries(seeds, last_split(seeds[0])))
        return seeds[0]["experiment"] in REFERENCES, -accuracy

    return [record for seeds in sorted(in_rows(records), key=rank) for record in seeds]


def command(record: Record) -> str:
    """Return the shell command that makes a record again, as far as the command line has its changed settings."""
    name, known = record["experiment"], ["weights"]
    before, after = f"python -m research reproduce {name}", ""
    if name not in SYSTEMS:
        known += ["epochs", "train_limit"]
        before = f"python -m digitsum train {name}"
        after = f" --source {record['source']} --preset full --folder {record['source']} --seed {record['seed']}"
    changed = {key: ours for key, (_, ours) in record["changed"].items() if key in known}
    return before + after + "".join(f" --{key.replace('_', '-')} {ours or 'none'}" for key, ours in changed.items())


def study_command(name: str) -> str:
    """Return the shell command that makes a study's records."""
    return f"python -m research study {name}"


def share_of(seeds: Sequence[Record], split: str, measure: str = "accuracy") -> str:
    """Return the proportion of one seed with its interval, of several as "98.1 ± 0.2 %, worst 97.8 %"."""
    return spread(entries(seeds, split, measure))


def error_of(seeds: Sequence[Record], split: str, measure: str) -> str:
    """Return the same of an error, of which the worst is the largest."""
    return error_spread(entries(seeds, split, measure))


def spread(seeds: Sequence[Entry]) -> str:
    """Return a proportion of one seed with its interval, of several with the worst."""
    return mean_share(seeds) + (f", worst {100 * min(_values(seeds)):.1f} %" if len(seeds) > 1 else "")


def mean_share(seeds: Sequence[Entry]) -> str:
    """Return a proportion of one seed with its interval, of several as mean and standard deviation."""
    return percent(seeds[0]) if len(seeds) == 1 else f"{mean_of([100 * value for value in _values(seeds)], 1)} %"


def error_spread(seeds: Sequence[Entry]) -> str:
    """Return an error of one seed with its interval, of several with the worst."""
    return mean_error(seeds) + (f", worst {max(_values(seeds)):.2f}" if len(seeds) > 1 else "")


def mean_error(seeds: Sequence[Entry]) -> str:
    """Return an error of one seed with its interval, of several as mean and standard deviation."""
    return number(seeds[0]) if len(seeds) == 1 else mean_of(_values(seeds))


def seeds_words(seeds: Sequence[Record]) -> str:
    """Say how many seeds there are, and which of them never got going."""
    scores = {seed["seed"]: seed["metrics"]["val"]["accuracy"]["value"] for seed in seeds}
    collapsed = ", ".join(str(seed) for seed, score in scores.items() if score < COLLAPSED * max(scores.values()))
    return f"{len(seeds)}, collapsed: {collapsed}" if collapsed else str(len(seeds))


def learned_from(record: Record) -> str:
    """Say what a run saw besides the images, and of how many strips."""
    seen = supervision(record)
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


def in_float32(records: Sequence[Record]) -> str:
    """Return a sentence on the runs in float32 if others were in bfloat16; "" if all agree."""
    plain = sum(not record["hardware"]["bfloat16"] for record in records)
    told = f" {plain} of {len(records)} runs were in float32, on a processor that is not fast in bfloat16."
    return told if 0 < plain < len(records) else ""


def named(seeds: Sequence[Record]) -> str:
    return lines_of(f"`{seeds[0]['experiment']}`", departures(seeds[0]))


def lines_of(*lines: str) -> str:
    return "<br>".join(filter(None, lines))


def difference(entry: Entry) -> str:
    """Return a difference with its interval: "−0.013 (−0.026 to −0.001)"."""
    value, low, high = (f"{entry[key]:+.3f}".replace("-", "−") for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def mean_of(values: Sequence[float], digits: int = 2) -> str:
    """Return a mean, of several values with their standard deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def entries(seeds: Sequence[Record], split: str, measure: str = "accuracy") -> list[Entry]:
    return [seed["metrics"][split][measure] for seed in seeds]


def _values(seeds: Sequence[Entry]) -> list[float]:
    return [seed["value"] for seed in seeds]
