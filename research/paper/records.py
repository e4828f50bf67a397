"""The published records in results/, read and checked for what tables and paper need of them.

A record stays a plain dict, as `run_experiment` returns it: each user reads a few keys, and old records hold more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any

from digitsum.errors import RecordError
from digitsum.experiments import EXPERIMENTS
from digitsum.runs import load_json

from ..studies import READER, STUDIES, variants_of
from ..systems import SUPERVISION

Record = dict[str, Any]
Entry = Mapping[str, float]  # {"value", "low", "high"}

SOURCE = "mnist"  # the only source whose records are published
COMPARISON = "comparison.json"  # beside the records of its source
COMPARE_AGAIN = "make it again: python -m research compare"

# What a file must hold: a type, {key: what it holds} ("*": any key, "key?": it may be missing), or [what each item is].
NUMBER = (int, float)
ENTRY = dict.fromkeys(("value", "low", "high"), NUMBER)
METRICS = {"n": int} | dict.fromkeys(("accuracy", "floor", "ceiling", "mse", "mae"), ENTRY)
EPOCH = {"epoch": int} | dict.fromkeys(("train_loss", "train_accuracy", "val_loss", "val_accuracy"), NUMBER)
BOTH: dict[str, Any] = {
    "experiment": str, "source": str, "seed": int, "weights": str, "commit": (str, NoneType),
    "data": {"fingerprint": str, "seed": int},
}  # fmt: skip
RUN = BOTH | {
    "settings": {"model": str, "report": str, "epochs": int}, "changed": {"*": list},
    "parameters": int, "trained_parameters": int, "history": [EPOCH], "best_epoch": int,
    "data": BOTH["data"] | {"strips": {"train": int, "val": int, "test": int}},
    "hardware": {"device": str, "cpu": str, "threads": int, "bfloat16": bool}, "versions": {"torch": str},
    "metrics": dict.fromkeys(("train", "val", "test", "entire"), METRICS) | {"*": METRICS}, "strings?": {"*": ENTRY},
    "answers?": {"values": str, "sums": str}, "seconds": {"train": NUMBER, "total": NUMBER},
}  # fmt: skip
CALIBRATION = {"split": str, "n": int, "accuracy": ENTRY, "temperature": NUMBER, "abstaining": ENTRY}
MEASURED = {  # by study, of those that train nothing
    "counts": {"*": {"n": int, "columns": int, "unknown": {"*": ENTRY}, "known": {"*": ENTRY}}},
    "tta": {"splits": {"*": {"n": int, "again": ENTRY, "once": ENTRY, "several": ENTRY}}},
    "pseudo_labels": {"strips": int, "digits": int, "glyphs": int, "right": ENTRY},
    "calibration": CALIBRATION,
    "ensemble": CALIBRATION,
}
COMPARED = {
    "split": str, "data": {"fingerprint": str}, "left_out": {"*": str}, "design_effect": {"*": NUMBER},
    "systems": [{"experiment": str, "seed": int, "validation": NUMBER, "accuracy": NUMBER}],
    "pairs": [{"better": str, "next": str, "only_better": int, "only_next": int, "p": NUMBER, "mae": ENTRY}],
}  # fmt: skip


def load_records(results: str | Path = "results", source: str = SOURCE) -> list[Record]:
    """Read every published record, results/<source>/*-seed*.json, in the order of EXPERIMENTS and of seeds.

    Raises RecordError for a file that is no whole record or has no place there, and for records on different data.
    """
    return _read_folder(Path(results, source), list(EXPERIMENTS), source, RUN)


def load_studies(results: str | Path = "results") -> list[Record]:
    """Read every record of a study, results/studies/mnist/<study>/*.json, by study, variant and seed.

    Each gets the key `study`. Raises RecordError as `load_records` does.
    """
    records = []
    for study in STUDIES:
        wanted = BOTH | {"measured": MEASURED[study]} if study in MEASURED else RUN
        names = [variant.name for variant in variants_of(study)] or [READER]
        found = _read_folder(Path(results, "studies", SOURCE, study), names, SOURCE, wanted)
        records += [record | {"study": study} for record in found]
    return records


def load_comparison(results: str | Path, records: Sequence[Record]) -> Record | None:
    """Read the comparison of the published `records`, None if nobody has made one.

    Raises RecordError if it is not whole, or of other runs.
    """
    path = Path(results, SOURCE, COMPARISON)
    if not path.exists():
        return None
    comparison = read_json(path, COMPARED, COMPARE_AGAIN)
    systems, left_out = ranking(records)
    names = [(pair["better"], pair["next"]) for pair in comparison["pairs"]]
    there = comparison["systems"], comparison["left_out"], names
    if there != (systems, left_out, list(pairwise(system["experiment"] for system in systems))):
        raise RecordError(f"{path} compares other runs than those on record; {COMPARE_AGAIN}")
    return comparison


def read_json(path: Path, wanted: Any, remedy: str = "restore it, or run that experiment again") -> Record:
    """Read a file that holds all that is `wanted`, and perhaps more. Raises RecordError with the first fault."""
    if not path.is_file():
        raise RecordError(f"{path} is no file; {remedy}")
    try:
        record = load_json(path)
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} holds no record ({error}); {remedy}") from error
    for fault in _faults(record, wanted):
        raise RecordError(f"{path} lacks {fault}, or holds it as another type; {remedy}")
    return record


def _read_folder(folder: Path, names: Sequence[str], source: str, wanted: Any) -> list[Record]:
    """Read all records of a folder, in the order of `names` and of seeds."""
    records = []
    for path in folder.glob("*-seed*.json"):
        record = read_json(path, wanted)
        name = f"{record['experiment']}-seed{record['seed']}.json"
        if record["experiment"] not in names or (record["source"], name) != (source, path.name):
            raise RecordError(f"{path} holds {name} of {record['source']!r}, which has no place there; take it away")
        records.append(record)
    if len({record["data"]["fingerprint"] for record in records}) > 1:
        raise RecordError(f"{folder} holds records on different data; train again on the same, or take some away")
    return sorted(records, key=lambda record: (names.index(record["experiment"]), record["seed"]))


def _faults(value: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """Yield the dotted names of what is missing or of another type."""
    if isinstance(wanted, dict) and isinstance(value, dict):
        for key, inner in wanted.items():
            if key.endswith("?") and key[:-1] not in value:
                continue
            for part in value if key == "*" else [key.rstrip("?")]:
                yield from _faults(value.get(part), inner, f"{name}.{part}".lstrip("."))
    elif isinstance(wanted, list) and isinstance(value, list):
        for k, item in enumerate(value):
            yield from _faults(item, wanted[0], f"{name}.{k}")
    elif isinstance(wanted, dict | list) or not isinstance(value, wanted) or isinstance(value, bool) > (wanted is bool):
        yield name or "everything"


# What is asked of records


def in_rows(records: Sequence[Record]) -> list[list[Record]]:
    """Return the records of each row: the seeds of one experiment with the same settings."""
    rows: dict[str, list[Record]] = {}
    for record in records:
        rows.setdefault(json.dumps([record["experiment"], record["changed"]], sort_keys=True), []).append(record)
    return list(rows.values())


def unchanged(records: Sequence[Record], experiment: str) -> list[Record]:
    """Return the records of an experiment with its own settings."""
    return [record for record in records if record["experiment"] == experiment and not record["changed"]]


def best_seed(seeds: Sequence[Record]) -> Record:
    """Return the record that is best on validation, of equals the one of the lowest seed."""
    return max(seeds, key=lambda record: (record["metrics"]["val"]["accuracy"]["value"], -record["seed"]))


def by_experiment(records: Sequence[Record]) -> dict[str, Record]:
    """Return the best seed of each experiment, of runs with its own settings if there are some."""
    names = dict.fromkeys(record["experiment"] for record in records)
    runs = {name: [record for record in records if record["experiment"] == name] for name in names}
    return {name: best_seed(unchanged(records, name) or seeds) for name, seeds in runs.items()}


def ranking(records: Sequence[Record]) -> tuple[list[Record], dict[str, str]]:
    """Return the systems to compare, the best seed of each, the most accurate first; and why others are left out."""
    systems, left_out = [], {}
    for name, record in by_experiment(records).items():
        if record["changed"]:
            left_out[name] = "departs from its settings"
        elif "answers" not in record:
            left_out[name] = "its record holds no answers"
        else:
            accuracy = {split: entry["accuracy"]["value"] for split, entry in record["metrics"].items()}
            scores = {"validation": accuracy["val"], "accuracy": accuracy[last_split(record)]}
            systems.append({"experiment": name, "seed": record["seed"]} | scores)
    return sorted(systems, key=lambda system: -system["accuracy"]), left_out


def last_split(record: Record) -> str:
    """Return the strips that a run is ranked by: `unseen` if there are some, otherwise `test`."""
    return "unseen" if "unseen" in record["metrics"] else "test"


def trained_on(record: Record) -> int:
    """Return how many strips a run learned from."""
    strips, limit = record["data"]["strips"]["train"], record["settings"].get("train_limit")
    return strips if limit is None else min(strips, limit)


def supervision(record: Record) -> str:
    """Return what training saw besides the images: "sums" for most, "nothing" if nothing was trained."""
    return SUPERVISION.get(record["experiment"], "sums")
