"""The presets: what shortens experiments, and as much training as fits into some minutes on this machine."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .checkpoints import write_json
from .data import Data
from .devices import all_reduce, pick_device, rank, world_size
from .experiments import Experiment, shorten
from .provenance import provenance
from .runs import load_json
from .training import train

SHARES = {"reader": 0.4, "cnn_attention": 0.15, "resnet50": 0.1}  # of the minutes, by model; others get the rest
REST = 0.05
STEPS = 2  # that are timed, after as many that are not
FEWEST, MOST = 3_000, 24_000  # strips of an epoch
MEASURED = 1_000  # strips of each split that are read at the end; reading costs a third of training


def shortened(
    experiments: Sequence[Experiment], preset: str, data: Data, *, minutes: float = 10, device: str = "auto",
    path: Path | None = None,
) -> list[Experiment]:  # fmt: skip
    """Shorten experiments by a preset: "full" changes nothing, "smoke" is for tests, "quick" fits into `minutes`.

    For "quick", a few steps of each model are timed, and ResNet-50 may be left out. The choice is kept at `path`, and
    used again for the same minutes on the same machine, so that interrupted runs can go on.
    """
    if preset != "quick":
        return [shorten(each, preset) for each in experiments]
    place = pick_device(device)
    key = {"minutes": minutes, "data": data.fingerprint, "hardware": provenance(place)["hardware"]}
    chosen = _chosen(path, key)
    total = sum(SHARES.get(each.model, REST) for each in experiments)  # what ResNet-50 does not take goes to the others
    costs: dict[str, float] = {}  # seconds per strip, by model
    for each in sorted(experiments, key=lambda each: each.model != "resnet50"):
        share = SHARES.get(each.model, REST)
        if each.name not in chosen:
            costs[each.model] = costs.get(each.model) or _seconds_per_strip(each, data, place)
            chosen[each.name] = _settings(each, data, 60 * minutes * share / total / costs[each.model])
        if each.weights in chosen and not chosen[each.weights]:
            chosen[each.name] = None  # what it starts from is left out
        total -= share * (chosen[each.name] is None)
    if path and costs and rank() == 0:
        write_json(key | {"chosen": chosen}, path)
    return [replace(each, **settings) for each in experiments if (settings := chosen[each.name])]


def _chosen(path: Path | None, key: dict[str, Any]) -> dict[str, Any]:
    try:
        plan = load_json(path) if path else {}
        return dict(plan["chosen"]) if key.items() <= plan.items() else {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}  # there is no plan, or what is there is none: choose again


def _settings(experiment: Experiment, data: Data, strips: float) -> dict[str, Any] | None:
    """Return settings that cost as much as training on so many strips; None leaves the experiment out."""
    strips -= len(data.splits) * MEASURED / 3
    most, val = min(MOST, len(data.train)), len(data.val) / 3
    if strips < FEWEST + val and experiment.model == "resnet50":
        return None
    epochs = min(max(int(strips / (FEWEST + val)), 1), 3, experiment.epochs)  # three epochs, no single long one
    limit = max(int(strips / epochs - val) // 100 * 100, FEWEST)
    if limit > most:
        limit, epochs = most, min(int(strips / (most + val)), experiment.epochs)
    # An untrained reader gets going sooner on untrimmed strips, as more blank columns teach it to say "blank".
    return {
        "epochs": max(epochs, 1), "train_limit": min(limit, most), "evaluate_limit": MEASURED, "trim": False,
        "objective_args": _at_once(experiment),
    }  # fmt: skip


def _at_once(experiment: Experiment) -> dict[str, Any]:
    """Return the objective's arguments without a reader's start-up, which would be most of a short training."""
    at_once = {"start_steps": 0} if experiment.objective == "sum_likelihood" else {}
    return experiment.objective_args | at_once


def _seconds_per_strip(experiment: Experiment, data: Data, device: torch.device) -> float:
    """Time a second epoch of a few steps; the first one allocates memory and chooses algorithms."""
    few = data.head(STEPS * experiment.batch_size, world_size())
    short = replace(experiment, weights=None, epochs=2, trim=False, objective_args=_at_once(experiment))
    run = train(short, few, device=device, progress=False)
    seconds = torch.tensor(run.history[1]["seconds"], device=device)
    return all_reduce(seconds).item() / world_size() / len(few.train)  # the same in all processes
