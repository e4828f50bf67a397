"""The published records in results/, plain dicts, read and checked for what tables and paper need of them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from digitsum.errors import RecordError
from digitsum.experiments import EXPERIMENTS
from digitsum.runs import load_json

from ..studies import STUDIES, variants_of

Record = dict[str, Any]
Entry = Mapping[str, float]  # {"value", "low", "high"}
Studies = Mapping[str, Mapping[str, Sequence[Record]]]  # the records of each study, by variant

SOURCE = "mnist"  # the only source whose records are published
REFERENCES = ("most_common", "oracle-digit_labels")  # what the systems are held against

# What a file must hold: a type, {key: what it holds} ("*": any key, "key?": it may be missing), or [what each item is].
NUMBER = (int, float)
ENTRY = dict.fromkeys(("value", "low", "high"), NUMBER)
METRICS = {"n": int} | dict.fromkeys(("accuracy", "floor", "ceiling", "mse", "mae"), ENTRY)
EPOCH = {"epoch": int} | dict.fromkeys(("train_loss", "train_accuracy", "val_loss", "val_accuracy"), NUMBER)
BOTH: dict[str, Any] = {
    "experiment": str, "source": str, "seed": int, "weights": str, "commit": (str, type(None)),
    "data": {"fingerprint": str, "seed": int},
}  # fmt: skip
CUT = BOTH | {
    "settings": {"model": str, "report": str, "epochs": int}, "changed": {"*": list},
    "parameters": int, "trained_parameters": int, "history": [EPOCH], "best_epoch": int,
    "data": BOTH["data"] | {"strips": {"train": int, "val": int, "test": int}},
    "hardware": {"device": str, "cpu": str, "threads": int, "bfloat16": bool}, "versions": {"torch": str},
    "metrics": dict.fromkeys(("train", "val", "test", "entire"), METRICS), "strings?": {"*": ENTRY},
    "answers?": {"values": str, "sums": str}, "seconds": {"train": NUMBER, "total": NUMBER},
}  # fmt: skip
RUN = CUT | {"metrics": CUT["metrics"] | {"unseen": METRICS, "*": METRICS}}
CALIBRATED = {"expected_calibration_error": NUMBER, "reliability": [[NUMBER]]}
CALIBRATION = {
    "split": str, "n": int, "accuracy": ENTRY, "temperature": NUMBER, "plain": CALIBRATED, "tempered": CALIBRATED,
    "coverage": [[NUMBER]], "abstaining": ENTRY | {"n": int, "share": NUMBER},
    "offset?": NUMBER, "centre_error?": ENTRY, "overlap?": [ENTRY | {"from": int, "to": int, "n": int}],
}  # fmt: skip
MEASURED = {  # by study, of those that train nothing
    "counts": {"*": {"n": int, "columns": int, "unknown": {"*": ENTRY}, "known": {"*": ENTRY}}},
    "tta": {"splits": {"*": {"n": int, "again": ENTRY, "once": ENTRY, "several": ENTRY}}},
    "pseudo_labels": {"strips": int, "digits": int, "glyphs": int, "right": ENTRY},
    "calibration": CALIBRATION,
    "ensemble": CALIBRATION,
    "handwriting": {
        "n": int, "told": ENTRY, "open": ENTRY, "pictures": ENTRY, "kinds": {"*": int}, "of_each": int,
        "cheques": ENTRY | {"n": int}, "cheques_chosen_on": ENTRY | {"n": int}, "temperature": NUMBER,
        "sure": {"*": ENTRY | {"n": int}}, "reliability": [[NUMBER]],
    },
    "cheques": {"n": int, "folds": int, "rows": {"*": ENTRY | {"told": int}}},
}  # fmt: skip
COMPARED = {
    "split": str, "data": {"fingerprint": str}, "design_effect": {"*": NUMBER},
    "systems": [{"experiment": str, "seed": int, "validation": NUMBER, "accuracy": NUMBER}],
    "pairs": [{"better": str, "next": str, "only_better": int, "only_next": int, "p": NUMBER, "mae": ENTRY}],
}  # fmt: skip


def load_all(results: str | Path) -> tuple[list[Record], Studies, Record | None]:
    """Return the published records, the studies' and the comparison. Raises RecordError also if nothing is there."""
    records = load_records(results)
    if not records:
        raise RecordError(f"{results}/{SOURCE} holds no records; restore them, or train some")
    return records, load_studies(results, records), load_comparison(results, records)


def load_records(results: str | Path) -> list[Record]:
    """Read every published record, results/mnist/*-seed*.json, in the order of EXPERIMENTS and of seeds.

    Raises RecordError for a file that is no whole record or has no place there, and for records on different data.
    """
    return _read_folder(Path(results, SOURCE), list(EXPERIMENTS), RUN)


def load_studies(results: str | Path, published: Sequence[Record]) -> Studies:
    """Read every record of a study, results/studies/mnist/<study>/*.json.

    The records of a study's base are `published`. Raises RecordError as `load_records` does.
    """
    studies, rows = {}, one_row_each(published)
    for study, about in STUDIES.items():
        wanted = BOTH | {"measured": MEASURED[study]} if study in MEASURED else CUT if study == "cut_digits" else RUN
        names = [variant.name for variant in variants_of(study)] or list(about.readers)
        found = _read_folder(Path(results, "studies", SOURCE, study), names, wanted)
        seeds = {name: [record for record in found if record["experiment"] == name] for name in names}
        if found and about.base in seeds:
            seeds[about.base] = rows.get(about.base, [])
        studies[study] = {name: each for name, each in seeds.items() if each}
    return studies


def load_comparison(results: str | Path, records: Sequence[Record]) -> Record | None:
    """Read the comparison of the published `records`, None if nobody has made one.

    Raises RecordError if it is not whole, or of other runs.
    """
    path, again = Path(results, SOURCE, "comparison.json"), "make it again: python -m research compare"
    if not path.exists():
        return None
    comparison, systems = read_json(path, COMPARED, again), ranking(records)
    pairs = [(pair["better"], pair["next"]) for pair in comparison["pairs"]]
    if (comparison["systems"], pairs) != (systems, list(pairwise(system["experiment"] for system in systems))):
        raise RecordError(f"{path} compares other runs than those on record; {again}")
    return comparison


def read_json(path: Path, wanted: Any, remedy: str = "restore it, or run that experiment again") -> Record:
    """Read a file that holds all that is `wanted`, and perhaps more. Raises RecordError with the first fault."""
    try:
        record = load_json(path)
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} holds no record ({error}); {remedy}") from error
    for fault in _faults(record, wanted):
        raise RecordError(f"{path} lacks {fault}, or holds it as another type; {remedy}")
    return record


def _read_folder(folder: Path, names: Sequence[str], wanted: Any) -> list[Record]:
    """Read all records of a folder, in the order of `names` and of seeds."""
    records = []
    for path in folder.glob("*-seed*.json"):
        record = read_json(path, wanted)
        name = f"{record['experiment']}-seed{record['seed']}.json"
        if record["experiment"] not in names or (record["source"], name) != (SOURCE, path.name):
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


def rows_of(records: Sequence[Record]) -> list[list[Record]]:
    """Return the tables' rows, each the seeds of one experiment with the same settings.

    The most accurate on `unseen` comes first, and the references come last.
    """
    rows: dict[str, list[Record]] = {}
    for record in records:
        rows.setdefault(json.dumps([record["experiment"], record["changed"]], sort_keys=True), []).append(record)

    def rank(seeds: Sequence[Record]) -> tuple[bool, float]:
        accuracy = statistics.mean(seed["metrics"]["unseen"]["accuracy"]["value"] for seed in seeds)
        return seeds[0]["experiment"] in REFERENCES, -accuracy

    return sorted(rows.values(), key=rank)


def one_row_each(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return one row of each experiment, in the tables' order: with its own settings, if there is such a row."""
    own = {record["experiment"] for record in records if not record["changed"]}
    rows = rows_of([record for record in records if not record["changed"] or record["experiment"] not in own])
    return {seeds[0]["experiment"]: seeds for seeds in rows}


def best_seed(seeds: Sequence[Record]) -> Record:
    """Return the record that is best on validation, of equals the one of the lowest seed."""
    return max(seeds, key=lambda record: (record["metrics"]["val"]["accuracy"]["value"], -record["seed"]))


def ranking(records: Sequence[Record]) -> list[Record]:
    """Return the systems to compare, the best seed of each, the most accurate on `unseen` first.

    It leaves out runs that depart from their settings, and records without answers.
    """
    systems = []
    for name, seeds in one_row_each(records).items():
        run = best_seed(seeds)
        if "answers" in run and not run["changed"]:
            validation, accuracy = (run["metrics"][split]["accuracy"]["value"] for split in ("val", "unseen"))
            systems.append({"experiment": name, "seed": run["seed"], "validation": validation, "accuracy": accuracy})
    return sorted(systems, key=lambda system: -system["accuracy"])


def trained_on(record: Record) -> int:
    """Return how many strips a run learned from."""
    strips, limit = record["data"]["strips"]["train"], record["settings"].get("train_limit")
    return strips if limit is None else min(strips, limit)
