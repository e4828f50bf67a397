"""The table of experiments, its presets, the budget of minutes, and how settings are compared."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from conftest import CORE

from digitsum import budget
from digitsum.experiments import EXPERIMENTS, Augmentation, Experiment, changed, same_settings, shorten
from digitsum.models import MODELS
from digitsum.objectives import OBJECTIVES
from digitsum.optim import OPTIMIZERS
from digitsum.training import SCHEDULES


@pytest.mark.parametrize("name", CORE)
def test_settings_name_things_that_exist_and_presets_only_shorten(name):
    experiment = EXPERIMENTS[name]
    assert experiment.name == name and experiment.select in ("accuracy", "loss")
    assert experiment.model in MODELS and experiment.objective in OBJECTIVES
    assert experiment.optimizer in OPTIMIZERS and experiment.schedule in SCHEDULES
    assert shorten(experiment, "full") == experiment
    short = shorten(experiment, "smoke")
    assert short.name == name and short.epochs == 1 and short.train_limit <= 64
    limits = {"epochs", "batch_size", "trim", "train_limit", "evaluate_limit", "weights"}
    changes = changed(short, experiment)
    assert set(changes) <= limits and changes.get("epochs", [1, 1]) == [experiment.epochs, 1]


@pytest.mark.parametrize("name", CORE)
def test_settings_are_the_same_after_json_and_without_what_is_at_its_default(name):
    settings = asdict(EXPERIMENTS[name])
    written = json.loads(json.dumps(settings))
    short = {key: value for key, value in written.items() if value != asdict(Experiment("", ""))[key]}
    assert same_settings(settings, written) and same_settings(short, settings)
    assert same_settings(asdict(replace(EXPERIMENTS[name], report="other words")), settings)
    for other in ({"lr": 0.123}, {"repeats": 2}, {"model_args": {"more": 1}}, {"augment": asdict(Augmentation(1))}):
        assert not same_settings(written | other, settings) and not same_settings(settings, short | other)


def test_quick_fits_into_the_minutes_and_is_chosen_once(digits, tmp_path, monkeypatch):
    wanted, path = [EXPERIMENTS[name] for name in CORE], tmp_path / "plan.json"
    cost = {"resnet50": 0.1, "reader": 0.005}  # seconds per strip
    with monkeypatch.context() as patch:
        patch.setattr(budget, "_seconds_per_strip", lambda experiment, *_: cost.get(experiment.model, 0.001))
        chosen = budget.shortened(wanted, "quick", digits, minutes=10, device="cpu", path=path)
    assert [each.name for each in chosen] == [name for name in CORE if "resnet50" not in name]
    assert all(1 <= each.epochs <= EXPERIMENTS[each.name].epochs for each in chosen)
    seconds = sum(each.epochs * each.train_limit * cost.get(each.model, 0.001) for each in chosen)
    assert 200 < seconds < 600
    monkeypatch.setattr(budget, "train", None)
    assert budget.shortened(wanted, "quick", digits, minutes=10, device="cpu", path=path) == chosen
    with pytest.raises(TypeError):  # other minutes are timed anew
        budget.shortened(wanted, "quick", digits, minutes=20, device="cpu", path=path)


def test_quick_never_leaves_out_what_another_run_starts_from(digits, monkeypatch):
    wanted = [EXPERIMENTS[f"resnet50-{kind}"] for kind in ("classification", "regression")] + [EXPERIMENTS["reader"]]
    numbers = set()
    for cost in np.geomspace(0.005, 0.05, 100):  # seconds per strip
        monkeypatch.setattr(budget, "_seconds_per_strip", lambda *_, cost=cost: cost)
        chosen = budget.shortened(wanted, "quick", digits, device="cpu")
        assert {each.weights for each in chosen} <= {None, *(each.name for each in chosen)}
        numbers.add(len(chosen))
    assert numbers == {1, 3}


def test_quick_is_at_least_an_epoch(tiny):
    (short,) = budget.shortened([EXPERIMENTS["reader"]], "quick", tiny, minutes=0.001, device="cpu")
    assert (short.epochs, short.train_limit) == (1, 48)
