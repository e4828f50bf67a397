"""What tables, claims and paper ask of the published records, which are plain dicts."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Record = dict[str, Any]
Entry = Mapping[str, float]  # {"value", "low", "high"}
Studies = Mapping[str, Mapping[str, Sequence[Record]]]  # the records of each study, by variant

SOURCE = "mnist"  # the only source whose records are published
REFERENCES = ("most_common", "oracle-digit_labels")  # what the systems are held against


def rows_of(records: Sequence[Record]) -> list[list[Record]]:
    """Return the seeds of each experiment and settings, the best on `unseen` first and the references last."""
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
    """Return the best seed of each experiment with its own settings and answers, the best on `unseen` first."""
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
