"""The presets: what shortens experiments, and as much training as fits into some minutes on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .checkpoints import write_json
from .data import Data
from .devices import first_alone, pick_device
from .experiments import Experiment, shorten
from .optim import OPTIMIZERS
from .provenance import provenance
from .runs import load_json
from .training import SCHEDULES, build, resident, train_epoch

SHARES = {"reader": 0.4, "cnn_attention": 0.15, "resnet50": 0.1}  # of the minutes, by model; others get the rest
REST = 0.05
STEPS = 2  # that are timed, after one that is not
FEWEST, MOST = 3_000, 24_000  # strips of an epoch
MEASURED = 1_000  # strips of each split that are read at the end; reading costs a third of training


def shortened(
    experiments: Sequence[Experiment], preset: str, data: Data, *, minutes: float = 10, device: str = "auto",
    path: Path | None = None,
) -> list[Experiment]:  # fmt: skip
    """Shorten experiments by a preset: "full" changes nothing, "smoke" is for tests, "quick" fits into `minutes`.

    For "quick", a few steps of each model are timed. Then each experiment gets its share of the minutes, and ResNet-50
    is left out if it cannot have one epoch of 3,000 strips. The choice is kept at `path`, and used again for the same
    minutes on the same machine, so that interrupted runs can go on.
    """
    if preset != "quick":
        return [shorten(each, preset) for each in experiments]
    with first_alone():  # it chooses for all
        chosen = _plan(experiments, data, minutes, device, path)
    return [replace(each, **settings) for each in experiments if (settings := chosen[each.name])]


def _plan(
    experiments: Sequence[Experiment], data: Data, minutes: float, device: str, path: Path | None
) -> dict[str, dict[str, Any] | None]:
    """Return each experiment's settings by its name, from `path` or by timing; None leaves it out."""
    place = pick_device(device)
    key = {"minutes": minutes, "data": data.fingerprint, "hardware": provenance(place)["hardware"]}
    plan = _read_plan(path)
    chosen = plan.get("chosen", {}) if key.items() <= plan.items() else {}
    if missing := [each for each in experiments if each.name not in chosen]:
        cost = {each.model: _seconds_per_strip(each, data, place) for each in missing}
        unit = 60 * minutes / sum(SHARES.get(each.model, REST) for each in experiments)
        for each in missing:
            chosen[each.name] = _choose(each, data, SHARES.get(each.model, REST) * unit, cost[each.model])
        if path:
            write_json(key | {"chosen": chosen}, path)
    return chosen


def _read_plan(path: Path | None) -> dict[str, Any]:
    try:
        return dict(load_json(path)) if path else {}
    except (OSError, ValueError, TypeError):
        return {}  # there is none, or what is there is none: choose again


def _choose(experiment: Experiment, data: Data, seconds: float, cost: float) -> dict[str, Any] | None:
    """Return the settings that fit into the seconds; None leaves the experiment out."""
    splits, validation = len(data.splits), len(data.val) / 3
    strips = seconds / cost - splits * MEASURED / 3  # that can be trained on
    most = min(MOST, len(data.train))
    limit = min(max(int(strips / 3) // 1000 * 1000, FEWEST), most)  # three epochs rather than one long one
    epochs = min(int(strips / (limit + validation)), experiment.epochs)
    if epochs < 1 and experiment.model == "resnet50":
        return None
    epochs = max(epochs, 1)
    # An untrained reader gets going sooner on untrimmed strips, as more blank columns teach it to say "blank".
    return {"epochs": epochs, "train_limit": limit, "evaluate_limit": MEASURED, "weights": None, "trim": False}


def _seconds_per_strip(experiment: Experiment, data: Data, device: torch.device) -> float:
    """Time a few steps of training, without the first one."""
    experiment = replace(experiment, weights=None, trim=False)
    model = build(experiment).to(device).to(memory_format=torch.channels_last)
    optimizer = OPTIMIZERS[experiment.optimizer](model, experiment.lr, experiment.weight_decay)
    scheduler = SCHEDULES["constant"](optimizer, STEPS, 0)
    images, sums = resident(data.train[: STEPS * experiment.batch_size], device)

    def seconds(strips: int) -> float:
        few, started = (images[:strips], sums[:strips]), time.perf_counter()
        train_epoch(model, optimizer, scheduler, experiment, *few, experiment.epochs, tqdm(disable=True))
        return time.perf_counter() - started

    with torch.random.fork_rng():
        seconds(experiment.batch_size)  # the first step allocates memory and chooses algorithms
        return seconds(len(sums)) / len(sums)
