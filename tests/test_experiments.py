"""The table of experiments and its presets."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict, replace

import pytest

from digitsum.experiments import EXPERIMENTS, PRESETS, UnknownNameError, differences, named, preset
from digitsum.models import MODELS
from digitsum.objectives import OBJECTIVES
from digitsum.training import OPTIMIZERS, SCHEDULES

OF_THE_REPORTS = [
    f"{model}-{objective}"
    for model in ("baseline_cnn", "cnn_attention", "resnet50")
    for objective in ("regression", "classification")
]

LIMITS = {"train_limit", "evaluate_limit"}


def test_the_six_experiments_of_the_reports_are_there():
    assert set(OF_THE_REPORTS) <= set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_settings_name_things_that_exist(name):
    experiment = EXPERIMENTS[name]
    assert experiment.name == name
    assert experiment.model in MODELS and experiment.objective in OBJECTIVES
    assert experiment.optimizer in OPTIMIZERS and experiment.schedule in SCHEDULES
    assert experiment.select in ("accuracy", "loss")
    assert (experiment.epochs > 0) == (experiment.supervision != "nothing")
    assert experiment.batch_size > 0 and experiment.lr > 0
    assert all(getattr(experiment, limit) is None for limit in LIMITS)
    with pytest.raises(FrozenInstanceError):
        experiment.epochs = 1


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_each_says_where_its_settings_come_from(name):
    assert EXPERIMENTS[name].report
    assert len(EXPERIMENTS[name].left_open) > 40 and EXPERIMENTS[name].left_open.endswith(".")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_settings_can_be_written_as_json(name):
    assert json.loads(json.dumps(asdict(EXPERIMENTS[name])))["epochs"] == EXPERIMENTS[name].epochs


@pytest.mark.parametrize("objective", ["regression", "classification"])
def test_report_b_is_followed(objective):
    experiment = EXPERIMENTS[f"resnet50-{objective}"]
    assert (experiment.optimizer, experiment.lr, experiment.batch_size, experiment.epochs) == ("adam", 5e-4, 64, 25)
    assert experiment.weights == "IMAGENET1K_V1"


def test_presets():
    assert list(PRESETS) == ["full", "long", "quick", "smoke"]
    with pytest.raises(UnknownNameError, match="'fast'; there are: full, long, quick, smoke"):
        preset(EXPERIMENTS["baseline_cnn-regression"], "fast")


def test_an_unknown_experiment_is_told_the_known_ones():
    assert named("reader") is EXPERIMENTS["reader"]
    with pytest.raises(UnknownNameError, match="'resnet50'; there are: baseline_cnn-regression, "):
        named("resnet50")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_presets_only_shorten(name):
    experiment = EXPERIMENTS[name]
    assert preset(experiment, "full") == experiment
    for shorter in ("quick", "smoke"):
        changed = differences(preset(experiment, shorter), experiment)
        assert set(changed) <= {*LIMITS, "epochs", "batch_size", "weights", "crop"}
        assert preset(experiment, shorter).epochs < experiment.epochs or experiment.epochs <= 1
        assert ("train_limit" in changed) == (name not in ("most_common", "ocr"))
        assert preset(experiment, shorter).weights is None, "a short run should not wait for a download"
    assert preset(experiment, "smoke").epochs == min(1, experiment.epochs)
    assert (preset(experiment, "smoke").train_limit or 0) <= 64


def test_differences_are_of_and_ours():
    experiment = EXPERIMENTS["cnn_attention-regression"]
    changed = replace(experiment, lr=0.5, model_args={"heads": 2})
    assert differences(changed, experiment) == {"lr": [experiment.lr, 0.5], "model_args": [{}, {"heads": 2}]}
    assert differences(experiment, experiment) == {}
