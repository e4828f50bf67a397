"""Whole runs on a handful of strips: the files they leave, what their records say, who may write them."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from conftest import Told, interrupt, save

from digitsum import provenance, training
from digitsum.checkpoints import best_checkpoint, load_checkpoint, read_metadata, replacing
from digitsum.compose import Strips
from digitsum.errors import CheckpointError, RecordError, TrainingError, WeightsError
from digitsum.evaluation import evaluate, unpack
from digitsum.experiments import EXPERIMENTS, shorten
from digitsum.provenance import commit
from digitsum.runs import (
    find_weights,
    locked,
    metrics_table,
    or_random_start,
    read_record,
    results_table,
    run_experiment,
    settings_table,
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
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", [NAME, "baseline_cnn-classification", "reader"])
def test_a_run_leaves_weights_and_a_record_and_nothing_else(name, smoke, tiny, tmp_path):
    experiment = replace(shorten(EXPERIMENTS[name], "smoke"), batch_size=16)
    record = smoke(experiment, seed=3)
    weights, path = tmp_path / f"models/digits/{name}-seed3.safetensors", tmp_path / f"results/digits/{name}-seed3.json"
    assert {tmp_path / name for name in files(tmp_path)} == {weights, path}
    assert read_record(path) == json.loads(json.dumps(record))

    model = load_checkpoint(weights)
    metrics, predicted = evaluate(model, tiny)
    assert metrics == record["metrics"] == json.loads(json.dumps(record["metrics"]))
    assert unpack(record["answers"]).sums.tolist() == predicted["unseen"].sums.tolist()
    about = model.metadata
    assert (about["experiment"], about["seed"], about["source"], about["weights"]) == (name, 3, "digits", "none")
    assert about["data"] == tiny.fingerprint and about["validation"] == record["metrics"]["val"]
    assert about["settings"] == json.loads(json.dumps(asdict(experiment)))
    assert about["versions"] == record["versions"] and about["commit"] == record["commit"]
    assert best_checkpoint(tmp_path / "models/digits", name) == weights


def test_the_record_says_what_was_done(smoke, tiny):
    record = smoke(seed=1)
    assert (record["experiment"], record["source"], record["seed"], record["weights"]) == (NAME, "digits", 1, "none")
    assert record["settings"] == asdict(SMOKE)
    usual = EXPERIMENTS[NAME]
    assert record["changed"]["epochs"] == [usual.epochs, 1] and record["changed"]["train_limit"] == [None, 64]
    assert (
        record["parameters"]
        == record["trained_parameters"]
        == sum(p.numel() for p in training.build(SMOKE).parameters())
    )
    strips = {"train": 48, "val": 16, "test": 16, "unseen": 16}
    assert record["data"] == {"fingerprint": tiny.fingerprint, "seed": tiny.seed, "strips": strips}
    assert {split: entry["n"] for split, entry in record["metrics"].items()} == strips | {"entire": 80}
    assert [row["epoch"] for row in record["history"]] == [1] and record["best_epoch"] == 1
    assert 0 <= record["seconds"]["train"] <= record["seconds"]["total"]
    assert record["hardware"]["device"] == "cpu" and record["hardware"]["threads"] == torch.get_num_threads()
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0] and "sessions" not in record


def test_digits_are_counted_where_they_are_read_and_known(smoke, tiny):
    reader = replace(shorten(EXPERIMENTS["reader"], "smoke"), batch_size=16, evaluate_limit=8)
    record = smoke(reader)
    assert record["strings"].keys() == tiny.splits.keys()
    assert {entry["n"] for split, entry in record["metrics"].items() if split != "entire"} == {8}
    unknown = {split: Strips(strips.images, strips.sums) for split, strips in tiny.splits.items()}
    course = replace(tiny, **unknown, source="course")
    course = replace(course, unseen=None)
    record = smoke(reader, data=course)
    assert record["strings"] == {} and list(record["metrics"]) == ["train", "val", "test", "entire"]


# What is on record


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


def test_damaged_files_are_refused_before_training(smoke, tmp_path, monkeypatch):
    smoke()
    monkeypatch.setattr(training, "train_epoch", None)
    weights, path = (tmp_path / name for name in sorted(files(tmp_path)))
    record = json.loads(path.read_text())
    without = {key: value for key, value in record.items() if key != "metrics"}
    for junk in ("no record", "[]", "null", "{}", json.dumps(record | {"seed": float("nan")}), json.dumps(without)):
        path.write_text(junk)
        with pytest.raises(RecordError, match=r"seed0\.json is not a record"):
            smoke()
    path.write_text(json.dumps(record))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="seed0.safetensors"):
        smoke()


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


# One process to a run, in folders that can be written


def test_a_run_that_another_process_trains_is_left_to_it(smoke, tmp_path):
    paths = tmp_path / f"models/digits/{NAME}-seed0.safetensors", tmp_path / f"results/digits/{NAME}-seed0.json"
    with locked(*paths):
        with pytest.raises(TrainingError, match=f"{NAME}-seed0"):
            smoke()
        assert smoke(seed=1)["seed"] == 1
    paths[0].with_name(f".{NAME}-seed0.lock").touch()  # as a process leaves it that is killed
    assert smoke()["seed"] == 0


def test_what_killed_processes_left_is_swept(smoke, tmp_path):
    for place, suffix in (("models", "safetensors"), ("results", "json")):
        for seed in (0, 1):
            path = tmp_path / place / "digits" / f".{NAME}-seed{seed}.{suffix}.0123abcd.tmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    smoke()
    left = {name for name in files(tmp_path) if name.endswith(".tmp")}
    assert len(left) == 2 and all("seed1" in name for name in left), "another run's are its own"


@pytest.mark.parametrize("place", ["models", "results"])
def test_a_folder_that_cannot_be_written_is_found_before_training(place, smoke, tmp_path, monkeypatch):
    (tmp_path / place).write_text("a file where the folder should be")
    monkeypatch.setattr(training, "train_epoch", None)
    with pytest.raises(OSError, match=place):
        smoke()


def test_a_failed_write_leaves_the_older_file(tmp_path):
    path = tmp_path / "record.json"
    path.write_text("older")
    with pytest.raises(RuntimeError, match="stopped"), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stopped")
    assert path.read_text() == "older" and list(tmp_path.iterdir()) == [path]


# Published weights


@pytest.mark.usefixtures("no_weights")
def test_a_random_start_is_asked_for_and_said(smoke, tmp_path):
    experiment = EXPERIMENTS["resnet50-regression"]
    with pytest.raises(WeightsError, match="IMAGENET1K_V1"):
        smoke(experiment)
    assert not files(tmp_path)
    assert or_random_start(experiment) == replace(experiment, weights=None)
    assert or_random_start(SMOKE) == SMOKE


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


# Tables and provenance


def test_tables_have_a_row_for_each(smoke, tiny):
    records = [smoke(), smoke(replace(SMOKE, label="another"))]
    results = results_table(records)
    assert list(results.index) == [NAME, "another"] and not results.isna().any().any()
    metrics = metrics_table(records[0]["metrics"])
    assert list(metrics.index) == [*tiny.splits, "entire"]
    value = records[0]["metrics"]["unseen"]["mae"]["value"]
    assert f"{value:.2f}" in " ".join(map(str, results.loc[NAME])) and f"{value:.2f}" in str(
        metrics.loc["unseen", "MAE"]
    )
    assert list(settings_table([SMOKE, EXPERIMENTS["reader"]]).index) == [NAME, "reader"]


def test_a_commit_is_that_of_the_code_that_was_imported(tmp_path, monkeypatch):
    """With its changes said; None outside a git checkout."""

    def git(*words: str) -> None:
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *names, *words], cwd=tmp_path, check=True, capture_output=True)

    known = commit()
    assert known is None or len(known.removesuffix("-dirty")) == 12
    code = tmp_path / "src" / "code.py"
    code.parent.mkdir()
    code.touch()
    monkeypatch.setattr(provenance, "__file__", str(code))
    assert commit() == known
    try:
        commit.cache_clear()
        assert commit() is None
        git("init")
        git("add", ".")
        git("commit", "-m", "it")
        for text, end in (("", ""), ("changed", "-dirty")):
            code.write_text(text)
            commit.cache_clear()
            assert re.fullmatch("[0-9a-f]{12}" + end, commit())
    finally:
        commit.cache_clear()
