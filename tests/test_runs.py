"""Whole runs on a handful of strips: the files they leave, what their records say, who may write them."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import Told, interrupt, save

from digitsum import provenance, training
from digitsum.checkpoints import best_checkpoint, load_checkpoint, read_metadata
from digitsum.errors import CheckpointError, RecordError, TrainingError
from digitsum.evaluation import evaluate, unpack
from digitsum.experiments import EXPERIMENTS, shorten
from digitsum.provenance import commit
from digitsum.runs import (
    find_weights,
    locked,
    metrics_table,
    read_record,
    results_table,
    run_experiment,
)

NAME = "baseline_cnn-regression"
SMOKE = replace(shorten(EXPERIMENTS[NAME], "smoke"), model_args={"channels": (4, 8), "hidden": 8}, batch_size=16)


@pytest.fixture
def smoke(tiny, tmp_path):
    """A function that runs an experiment shortened as for tests, into a temporary folder."""

    def run(experiment=SMOKE, data=tiny, **options) -> dict:
        folders = {"models": tmp_path / "models", "results": tmp_path / "results"}
        return run_experiment(experiment, data, **{"device": "cpu", "progress": False, **folders, **options})

    return run


def files(folder: Path) -> set[str]:
    """Return what is in a folder, but for locks."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*") if path.is_file()}


@pytest.mark.parametrize("name", [NAME, "baseline_cnn-classification", "reader"])
def test_a_run_leaves_weights_and_a_record_and_nothing_else(name, smoke, tiny, tmp_path):
    experiment = replace(shorten(EXPERIMENTS[name], "smoke"), batch_size=16)
    record = smoke(experiment, seed=3)
    weights, path = tmp_path / f"models/digits/{name}-seed3.safetensors", tmp_path / f"results/digits/{name}-seed3.json"
    assert {tmp_path / name for name in files(tmp_path)} == {weights, path}
    assert read_record(path) == json.loads(json.dumps(record))

    assert weights.stat().st_size < 2.2 * record["parameters"] + 20_000, "weights take two bytes each"
    model = load_checkpoint(weights)
    metrics, predicted = evaluate(model, tiny)
    assert metrics == record["metrics"] == json.loads(json.dumps(record["metrics"]))
    assert unpack(record["answers"]).sums.tolist() == predicted["unseen"].sums.tolist()
    assert record["changed"]["epochs"] == [EXPERIMENTS[name].epochs, 1] and record["best_epoch"] == 1
    assert {split: entry["n"] for split, entry in metrics.items()} == record["data"]["strips"] | {"entire": 80}
    assert list(results_table([record]).index) == [name] and list(metrics_table(metrics).index) == list(metrics)
    about = model.metadata
    assert (about["experiment"], about["seed"], about["source"], about["weights"]) == (name, 3, "digits", "none")
    assert about["data"] == tiny.fingerprint and about["validation"] == record["metrics"]["val"]
    assert about["settings"] == json.loads(json.dumps(asdict(experiment)))
    assert about["versions"] == record["versions"] and about["commit"] == record["commit"]
    assert best_checkpoint(tmp_path / "models/digits", name) == weights


def test_a_second_call_returns_the_record_on_file(smoke, tiny, monkeypatch):
    """Settings that differ in words only are the same; `again` trains again."""
    record = smoke()
    with monkeypatch.context() as patch:
        patch.setattr(training, "train_epoch", None)
        assert smoke(replace(SMOKE, report="other words")) == json.loads(json.dumps(record))
        with pytest.raises(TypeError):
            smoke(again=True)
    assert smoke(again=True)["metrics"] == record["metrics"]


def test_another_run_is_never_touched(smoke, tiny, tmp_path):
    """Neither by another seed or folder, nor by other settings or data under the same name."""
    smoke()
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    smoke(seed=1)
    smoke(folder="digits-smoke")
    for options in ({"experiment": replace(SMOKE, lr=0.5)}, {"data": tiny.head(40)}):
        for again in (False, True):
            with pytest.raises(RecordError, match="other settings or other data.*another folder"):
                smoke(**options, again=again)
    (tmp_path / f"models/digits/{NAME}-seed0.safetensors").unlink()
    with pytest.raises(RecordError, match=r"seed0\.json .*another folder"):
        smoke(data=tiny.head(40))
    del before[f"models/digits/{NAME}-seed0.safetensors"]
    assert all((tmp_path / name).read_bytes() == content for name, content in before.items())
    smoke()  # weights that were lost are made again
    assert len(files(tmp_path)) == 6


def test_an_interrupted_run_is_finished_by_running_it_again(smoke, tmp_path, monkeypatch):
    """The record tells of each part with what code it was trained, if that differs."""
    two_epochs = replace(SMOKE, epochs=2)  # of three steps each
    uninterrupted = smoke(two_epochs, folder="other")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(provenance, "commit", lambda: "another")
        interrupt(patch, 5)
        smoke(two_epochs)
    assert files(tmp_path / "models" / "digits") == {f"{NAME}-seed0.resume.pt"}
    resumed = smoke(two_epochs)
    assert files(tmp_path / "models" / "digits") == {f"{NAME}-seed0.safetensors"}
    assert resumed["metrics"] == uninterrupted["metrics"] and len(resumed["history"]) == 2
    assert [session["commit"] for session in resumed["sessions"]] == ["another", commit()]


def test_a_run_starts_from_another_run_of_its_seed_but_for_the_last_layer(smoke, tiny, tmp_path):
    first = replace(SMOKE, objective="classification")
    second = replace(SMOKE, weights="baseline_cnn-classification", lr=1e-30)
    with pytest.raises(TrainingError, match=r"starts from .*baseline_cnn-classification-seed0\.safetensors"):
        smoke(second)
    smoke(first)
    with pytest.raises(TrainingError, match="on the same strips"):
        smoke(second, data=tiny.head(40))
    assert smoke(second)["weights"] == "baseline_cnn-classification"
    paths = [tmp_path / f"models/digits/{each.name}-seed0.safetensors" for each in (first, second)]
    trained, started = (dict(load_checkpoint(path).named_parameters()) for path in paths)
    new = {name for name in trained if trained[name].shape != started[name].shape}
    assert 0 < len(new) < len(trained) and all(trained[name].equal(started[name]) for name in {*trained} - new)


def test_a_run_that_another_process_trains_is_left_to_it(smoke, tmp_path):
    paths = tmp_path / f"models/digits/{NAME}-seed0.safetensors", tmp_path / f"results/digits/{NAME}-seed0.json"
    with locked(*paths):
        with pytest.raises(TrainingError, match=f"{NAME}-seed0"):
            smoke()
        assert smoke(seed=1)["seed"] == 1
    stale = paths[1].with_name(f".{NAME}-seed0.json.tmp")  # as a process leaves it that is killed
    stale.touch()
    assert smoke()["seed"] == 0 and not stale.exists()


@pytest.mark.parametrize("place", ["models", "results"])
def test_a_folder_that_cannot_be_written_is_found_before_training(place, smoke, tmp_path, monkeypatch):
    (tmp_path / place).write_text("a file where the folder should be")
    monkeypatch.setattr(training, "train_epoch", None)
    with pytest.raises(OSError, match=place):
        smoke()


def test_weights_are_found_of_the_best_seed_and_the_first_folder_that_has_any(tmp_path, tiny):
    with pytest.raises(CheckpointError, match="digits-quick"):
        find_weights("digits", models=tmp_path)
    model, experiment = Told(), EXPERIMENTS[NAME]
    for folder in ("digits-quick", "digits", "mine"):
        for seed, value in ((0, 0.1), (1, 0.7), (2, 0.3)):
            about = {"seed": seed, "validation": {"accuracy": {"value": value}}}
            save(model, tmp_path / folder / f"{NAME}-seed{seed}.safetensors", experiment, **about)
        found = find_weights("digits", folder if folder == "mine" else None, tmp_path)
        assert found == (tmp_path / folder, {NAME: tmp_path / folder / f"{NAME}-seed1.safetensors"})
    assert read_metadata(found[1][NAME])["seed"] == 1
