"""The table of experiments, its presets, and how settings are compared."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from conftest import CORE

from digitsum.experiments import EXPERIMENTS, PRESETS, Augmentation, Experiment, changed, same_settings, shorten
from digitsum.models import MODELS
from digitsum.objectives import OBJECTIVES
from digitsum.optim import OPTIMIZERS
from digitsum.training import SCHEDULES


@pytest.mark.parametrize("name", CORE)
def test_settings_name_things_that_exist(name):
    experiment = EXPERIMENTS[name]
    assert experiment.name == name and experiment.report
    assert experiment.model in MODELS and experiment.objective in OBJECTIVES
    assert experiment.optimizer in OPTIMIZERS and experiment.schedule in SCHEDULES
    assert experiment.select in ("accuracy", "loss")
    assert experiment.epochs > 0 and experiment.batch_size > 0 and experiment.lr > 0


@pytest.mark.parametrize("name", CORE)
def test_presets_only_shorten(name):
    experiment = EXPERIMENTS[name]
    assert shorten(experiment, "full") == experiment
    for preset in PRESETS[1:]:
        short = shorten(experiment, preset)
        assert short.name == name and short.weights is None, "a short run waits for no download"
        assert set(changed(short, experiment)) <= {
            "epochs", "batch_size", "weights", "trim", "train_limit", "evaluate_limit"
        }  # fmt: skip
        assert short.epochs < experiment.epochs and short.train_limit
    assert shorten(experiment, "smoke").train_limit <= 64
    with pytest.raises(ValueError, match=r"'fast'\. Use one of full, quick, smoke"):
        shorten(experiment, "fast")


def test_a_change_is_told_with_the_usual_value():
    experiment = EXPERIMENTS["cnn_attention-regression"]
    other = replace(experiment, lr=0.5, model_args={"heads": 2})
    assert changed(other, experiment) == {"lr": [experiment.lr, 0.5], "model_args": [{}, {"heads": 2}]}
    assert changed(experiment, experiment) == {}


@pytest.mark.parametrize("name", CORE)
def test_settings_are_the_same_after_json_and_without_what_is_at_its_default(name):
    settings = asdict(EXPERIMENTS[name])
    written = json.loads(json.dumps(settings))
    defaults = asdict(Experiment("", ""))
    short = {key: value for key, value in written.items() if value != defaults[key]}
    assert same_settings(settings, written) and same_settings(short, settings)
    assert same_settings(written | {"report": "in other words"}, settings)
    for other in ({"lr": 0.123}, {"repeats": 2}, {"model_args": {"more": 1}}, {"augment": asdict(Augmentation(1))}):
        assert not same_settings(written | other, settings)
        assert not same_settings(settings, short | other)
