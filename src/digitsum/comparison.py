"""Paired comparisons of the published weights: the same strips read by neighbours in the ranking."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from .checkpoints import CheckpointError, load_checkpoint, write_json
from .data import Data
from .devices import pick_device
from .evaluation import Predictions, mean, read
from .experiments import EXPERIMENTS
from .extras import ExtraError
from .runs import folder_name, provenance

FILE = "comparison.json"


def compare(
    data: Data, *, device: str = "auto", models: str | Path = "models", results: str | Path = "results"
) -> dict[str, Any]:
    """Read `unseen` (`test` where there is none) with every published full run, and compare each with the next best.

    Returns the record, also written to results/<source>/comparison.json: `systems` in the order of their accuracy,
    `pairs` of neighbours (see `pair`), and `left_out`: weights trained on other data, or of a model that needs what is
    not installed, and experiments on record without weights, each with why it is out.
    """
    started = time.perf_counter()
    chosen = pick_device(device)
    split = "unseen" if data.unseen is not None else "test"
    strips = data.splits[split]
    folder = Path(models) / folder_name(data.source, "full")
    systems, predicted, left_out = [], {}, {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            model = load_checkpoint(path, chosen)
        except ExtraError as error:
            left_out[path.stem] = str(error)
            continue
        if model.metadata["data"] != data.fingerprint:
            left_out[path.stem] = "trained on other data"
            continue
        predicted[path.stem] = read(model, strips)
        systems.append({
            "experiment": path.stem, "seed": model.metadata["seed"],
            "validation": model.metadata["validation"]["accuracy"]["value"],
            "accuracy": float(np.mean(predicted[path.stem].sums == strips.sums)),
        })  # fmt: skip
    records = Path(results) / folder_name(data.source, "full")
    for name in EXPERIMENTS:
        if any(records.glob(f"{name}-seed*.json")) and not (folder / f"{name}.safetensors").exists():
            left_out[name] = "its weights are not here"
    if not systems:
        raise CheckpointError(
            f"{folder} holds no weights that were trained on this data; train some: python -m digitsum train NAME "
            f"--source {data.source} --preset full"
        )
    systems.sort(key=lambda system: -system["accuracy"])
    record = {
        "source": data.source, "split": split, "n": len(strips),
        "data": {"fingerprint": data.fingerprint, "seed": data.seed},
        "systems": systems,
        "pairs": [
            {"better": better, "next": other} | pair(predicted[better], predicted[other], strips.sums)
            for better, other in pairwise(system["experiment"] for system in systems)
        ],
        "left_out": left_out,
        "seconds": {"total": round(time.perf_counter() - started, 1)},
    } | provenance(chosen)  # fmt: skip
    write_json(record, records / FILE)
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
