"""Paired comparisons of the published runs: the same strips read by neighbours in the ranking."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from .checkpoints import write_json
from .data import Data
from .evaluation import Predictions, mean, widening
from .records import COMPARISON, TableError, by_experiment, load_records, read_comparison
from .runs import provenance


def compare(data: Data, *, results: str | Path = "results") -> dict[str, Any]:
    """Compare every full run on record with the next best on `unseen` (`test` where there is none), strip by strip.

    Of an experiment's seeds it is the one that is best on validation, of equals the lowest, whose weights are published
    too. What they answered stands in their records, so no weights are needed.

    Returns the record, also written to results/<source>/comparison.json: `systems` in the order of their accuracy,
    `pairs` of neighbours (see `pair`), `widening` of the intervals of systems whose answers are on record, for other
    handwriting, and `left_out`, with why: a run that departs from its experiment's settings says nothing of its system.
    A run whose record holds no answers, since these were not always kept, stays where it was in the comparison on
    record, as far as that is of the same run; a pair taken over from there names the `commit` that compared it.
    Raises TableError for records that are not whole, and where there are none.
    """
    split = "unseen" if data.unseen is not None else "test"
    truth, glyphs = data.splits[split].sums, data.splits[split].glyphs
    path = Path(results) / data.source / COMPARISON
    earlier = _earlier(path, data.fingerprint)
    systems, answers, left_out = [], {}, {}
    records = [record for record in load_records(results) if record["source"] == data.source]
    for name, record in by_experiment(records).items():
        system = {
            "experiment": name, "seed": record["seed"], "validation": record["metrics"]["val"]["accuracy"]["value"],
            "accuracy": record["metrics"].get(split, {}).get("accuracy", {}).get("value"),
        }  # fmt: skip
        if record["changed"]:
            left_out[name] = "departs from its settings"
        elif record["data"]["fingerprint"] != data.fingerprint:
            left_out[name] = "trained on other data"
        elif "answers" in record:
            answers[name] = Predictions.unpacked(record["answers"])
        elif system not in earlier["systems"]:
            left_out[name] = "its record holds no answers"
        if name not in left_out:
            systems.append(system)
    if not systems:
        raise TableError(
            f"{path.parent} holds no record that could be compared; make some: python -m digitsum train NAME "
            f"--source {data.source} --preset full"
        )
    systems.sort(key=lambda system: -system["accuracy"])
    kept = {(each["better"], each["next"]): {"commit": earlier["commit"]} | each for each in earlier["pairs"]}
    pairs = []
    for two in pairwise(systems):
        better, other = (system["experiment"] for system in two)
        if better in answers and other in answers:
            pairs.append({"better": better, "next": other} | pair(answers[better], answers[other], truth))
        elif (better, other) in kept and all(system in earlier["systems"] for system in two):
            pairs.append(kept[better, other])
        else:
            left_out[f"{better}, {other}"] = "one of the two records holds no answers"
    record = {
        "source": data.source, "split": split, "n": len(truth),
        "data": {"fingerprint": data.fingerprint, "seed": data.seed},
        "systems": systems, "pairs": pairs, "left_out": left_out,
        "widening": {
            system["experiment"]: widening(answers[system["experiment"]].sums == truth, glyphs)
            for system in systems
            if glyphs is not None and system["experiment"] in answers
        },
    } | provenance(torch.device("cpu"))  # fmt: skip
    write_json(record, path)
    return record


def pair(first: Predictions, second: Predictions, truth: np.ndarray) -> dict[str, Any]:
    """Two systems on the same strips: how many sums only one of them reads right, and how much smaller its errors are.

    `p` is McNemar's exact test: were both equally good, each strip that only one reads right would be either's with
    probability 1/2. `mae` is the first's mean absolute error less the second's, with a 95 % bootstrap interval over
    strips. Source: Dietterich, "Approximate statistical tests for comparing supervised classification learning
    algorithms".
    """
    right = first.sums == truth, second.sums == truth
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    apart = only_first + only_second
    return {
        "only_better": only_first,
        "only_next": only_second,
        "p": float(stats.binomtest(only_first, apart).pvalue) if apart else 1.0,
        "mae": mean(np.abs(first.values - truth) - np.abs(second.values - truth)),
    }


def _earlier(path: Path, fingerprint: str) -> dict[str, Any]:
    """The comparison on record; one of nothing where there is none of these strips, or none that can be read."""
    nothing: dict[str, Any] = {"systems": [], "pairs": [], "commit": None}
    try:
        there = read_comparison(path)
    except TableError:
        return nothing
    return there if there is not None and there["data"]["fingerprint"] == fingerprint else nothing
