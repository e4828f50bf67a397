"""Whole runs on a handful of strips: the files they leave, what their records admit, which weights are published."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from filelock import FileLock

from digitsum import distributed, provenance, runs, training
from digitsum.checkpoints import CheckpointError, load_checkpoint, read_metadata, save_checkpoint
from digitsum.compose import Strips
from digitsum.evaluation import confusion, evaluate, predict
from digitsum.experiments import EXPERIMENTS, differences, preset
from digitsum.models import WeightsError, pretrained
from digitsum.runs import (
    alone,
    commit,
    find_checkpoints,
    folder_name,
    folder_of_run,
    measure_again,
    resolve_preset,
    run_experiment,
)
from digitsum.training import TrainingError

NAME = "baseline_cnn-regression"
RECORD = {
    "experiment", "source", "seed", "preset", "weights", "settings", "changed", "parameters", "trained_parameters",
    "data", "history", "best_epoch", "hardware", "versions", "commit", "date", "metrics", "confusion", "strings",
    "centre_error", "answers", "prediction", "seconds", "checkpoint",
}  # fmt: skip


@pytest.fixture
def smoke(tiny, tmp_path):
    """A function that runs an experiment shortened as for tests, into a temporary folder."""

    def run(name: str = NAME, data=tiny, **options) -> dict:
        folders = {"models": tmp_path / "models", "results": tmp_path / "results"}
        return run_experiment(
            name, data, **{"device": "cpu", "preset_name": "smoke", "progress": False, **folders, **options}
        )

    return run


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def strict_json(path: Path) -> dict:
    """The content of a JSON file, which knows no NaN and no infinity."""

    def refuse(constant: str):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.mark.parametrize("name", [name for name, e in EXPERIMENTS.items() if not e.weights and e.epochs])
def test_a_run_leaves_weights_and_a_record_and_nothing_else(name, smoke, tiny, tmp_path):
    record = smoke(name, seed=3)
    (folder,) = (tmp_path / "models" / "digits-smoke" / "runs").glob("*/")
    assert folder.name.startswith(f"{name}-seed3-")
    assert files(tmp_path / "results") == {f"digits-smoke/{name}-seed3.json"}
    assert files(tmp_path / "models") == {
        f"digits-smoke/{name}.safetensors",
        f"digits-smoke/runs/{folder.name}/best.safetensors",
        f"digits-smoke/runs/{folder.name}/last.safetensors",
        f"digits-smoke/runs/{name}.lock",
    }
    written = strict_json(tmp_path / "results" / "digits-smoke" / f"{name}-seed3.json")
    assert written == json.loads(json.dumps(record))

    published = load_checkpoint(tmp_path / "models" / "digits-smoke" / f"{name}.safetensors")
    assert json.loads(json.dumps(evaluate(published, tiny)[0])) == written["metrics"]
    about = published.metadata
    assert (about["experiment"], about["seed"], about["source"], about["preset"]) == (name, 3, "digits", "smoke")
    assert about["data"] == tiny.fingerprint and about["weights"] == "none"
    assert about["validation"] == written["metrics"]["val"]
    assert about["versions"] == written["versions"] and about["commit"] == written["commit"]


def test_the_record_says_what_was_done(smoke, tiny):
    record = smoke(seed=1)
    assert set(record) == RECORD
    assert (record["experiment"], record["source"], record["seed"], record["preset"]) == (NAME, "digits", 1, "smoke")
    assert record["settings"] == asdict(preset(EXPERIMENTS[NAME], "smoke"))
    assert record["settings"]["supervision"] == "sums"
    assert record["parameters"] == record["trained_parameters"] == 3_459_713
    strips = {"train": 48, "val": 16, "test": 16, "unseen": 16}
    assert record["data"] == {"fingerprint": tiny.fingerprint, "seed": tiny.seed, "strips": strips}
    assert {split: entry["n"] for split, entry in record["metrics"].items()} == strips | {"entire": 80}
    assert [row["epoch"] for row in record["history"]] == [1] and record["best_epoch"] == 1
    assert 0 <= record["seconds"]["train"] <= record["seconds"]["total"]
    assert record["prediction"]["images"] == 16 and record["prediction"]["seconds"] > 0
    assert record["hardware"]["device"] == "cpu" and record["hardware"]["threads"] == torch.get_num_threads()
    assert record["hardware"]["cpu"] and record["hardware"]["cores"] >= 1
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0] and record["versions"]["python"]


def test_changed_lists_what_was_shortened(smoke):
    record = smoke(changes={"lr": 5e-4, "batch_size": 16})
    usual = EXPERIMENTS[NAME]
    assert record["changed"] == {
        "epochs": [usual.epochs, 1], "train_limit": [None, 64], "batch_size": [usual.batch_size, 16],
        "lr": [usual.lr, 5e-4],
    }  # fmt: skip
    assert record["changed"] == differences(replace(usual, **record["settings"]), usual)


def test_the_confusion_matrix_is_kept_as_its_entries(smoke, tiny, tmp_path):
    record = smoke()
    model = load_checkpoint(tmp_path / "models" / "digits-smoke" / f"{NAME}.safetensors")
    for split, strips in tiny.splits.items():
        matrix = np.zeros((37, 37), int)
        for truth, predicted, count in record["confusion"][split]:
            matrix[truth, predicted] = count
        assert np.array_equal(matrix, confusion(predict(model, strips.images), strips.sums))


@pytest.mark.parametrize("name", [name for name, e in EXPERIMENTS.items() if e.objective == "sum_likelihood"])
def test_digits_are_counted_where_they_are_read_and_known(name, smoke, tiny):
    record = smoke(name)
    assert record["strings"].keys() == record["centre_error"].keys() == tiny.splits.keys()
    assert all(0 < entry["value"] < 168 for entry in record["centre_error"].values())
    unknown = {split: Strips(strips.images, strips.sums) for split, strips in tiny.splits.items()}
    record = smoke(name, data=replace(tiny, **unknown))
    assert record["strings"] == record["centre_error"] == {}


def test_measuring_again_renews_the_figures_and_keeps_what_was_trained(smoke, tiny, tmp_path):
    record = smoke("reader", seed=2)
    path = tmp_path / "results" / "digits-smoke" / "reader-seed2.json"
    weights = tmp_path / "models" / "digits-smoke" / "reader.safetensors"
    stale = json.loads(json.dumps(record))
    stale["metrics"]["unseen"]["mae"] = stale["metrics"]["test"]["mae"] | {"value": 99.0}
    stale["strings"] = {}
    path.write_text(json.dumps(stale), encoding="utf-8")
    written = weights.stat().st_mtime_ns
    assert measure_again(load_checkpoint(weights), weights, tiny, tmp_path / "results") == path
    assert weights.stat().st_mtime_ns == written, "weights that have nothing new to say are left alone"
    renewed = strict_json(path)
    measured = renewed.pop("measured")
    for entry in (renewed, stale, record):
        del entry["prediction"]
    assert renewed == json.loads(json.dumps(record)) and renewed != stale
    assert set(measured) == {"hardware", "versions", "commit", "date"}
    about = load_checkpoint(weights).metadata
    elsewhere = about["validation"] | {"mse": about["validation"]["mae"]}  # as another machine may have found
    save_checkpoint(load_checkpoint(weights), weights, **about | {"validation": elsewhere})
    measure_again(load_checkpoint(weights), weights, tiny, tmp_path / "results")
    assert load_checkpoint(weights).metadata["validation"] == about["validation"] == renewed["metrics"]["val"]
    (twin,) = tmp_path.glob("models/digits-smoke/runs/*/best.safetensors")
    renewed["metrics"]["val"]["mse"]["value"] += 1e-6
    path.write_text(json.dumps(renewed), encoding="utf-8")
    assert measure_again(load_checkpoint(twin), twin, tiny, tmp_path / "results") == path


def test_figures_of_other_weights_are_not_renewed(smoke, tiny, tmp_path):
    smoke("reader", seed=2)
    path = tmp_path / "results" / "digits-smoke" / "reader-seed2.json"
    weights = tmp_path / "models" / "digits-smoke" / "reader.safetensors"
    other = json.loads(path.read_text(encoding="utf-8"))
    (last,) = tmp_path.glob("models/digits-smoke/runs/*/last.safetensors")
    with pytest.raises(CheckpointError, match="is not the record of"):
        measure_again(load_checkpoint(last), last, tiny, tmp_path / "results")
    other["commit"] = "another"
    path.write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(CheckpointError, match="is not the record of"):
        measure_again(load_checkpoint(weights), weights, tiny, tmp_path / "results")
    assert json.loads(path.read_text(encoding="utf-8")) == other
    path.unlink()
    with pytest.raises(CheckpointError, match="is not the record of"):
        measure_again(load_checkpoint(weights), weights, tiny, tmp_path / "results")


def test_course_data_have_no_unseen_split(smoke, tiny, tmp_path):
    record = smoke(data=replace(tiny, source="course", unseen=None))
    assert list(record["metrics"]) == ["train", "val", "test", "entire"]
    assert "unseen" not in record["confusion"] and "unseen" not in record["data"]["strips"]
    assert files(tmp_path / "results") == {f"course-smoke/{NAME}-seed0.json"}


def test_the_limit_of_evaluation_is_kept(smoke, tiny):
    record = smoke(changes={"evaluate_limit": 8})
    assert {entry["n"] for split, entry in record["metrics"].items() if split != "entire"} == {8}
    assert record["changed"]["evaluate_limit"] == [None, 8]
    assert sum(count for *_, count in record["confusion"]["train"]) == 8
    assert record["data"]["fingerprint"] == tiny.fingerprint


# Folders and presets


def test_only_full_runs_go_where_the_published_ones_are():
    folders = {"full": "mnist", "long": "mnist-long", "quick": "mnist-quick", "smoke": "mnist-smoke"}
    assert {preset_name: folder_name("mnist", preset_name) for preset_name in folders} == folders


@pytest.mark.parametrize("preset_name", ["quick", "smoke"])
def test_a_shortened_run_leaves_published_files_alone(preset_name, smoke, tiny, tmp_path):
    names = [f"models/digits/{NAME}.safetensors", f"results/digits/{NAME}-seed0.json"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("published")
    smoke(preset_name=preset_name, data=tiny.head(8, 4), changes={"epochs": 1})
    assert [(tmp_path / name).read_text() for name in names] == ["published"] * 2
    assert files(tmp_path / "results") == {f"digits/{NAME}-seed0.json", f"digits-{preset_name}/{NAME}-seed0.json"}


def test_a_full_run_writes_into_the_folder_of_its_source(smoke, tiny, tmp_path):
    record = smoke(preset_name="full", data=tiny.head(8, 4), changes={"epochs": 1})
    assert record["preset"] == "full" and record["changed"] == {"epochs": [EXPERIMENTS[NAME].epochs, 1]}
    assert files(tmp_path / "results") == {f"digits/{NAME}-seed0.json"}
    assert (tmp_path / "models" / "digits" / f"{NAME}.safetensors").exists()


def test_auto_is_long_on_cuda_and_quick_elsewhere():
    devices = {"cuda": "long", "cpu": "quick", "mps": "quick"}
    assert {device: resolve_preset("auto", torch.device(device)) for device in devices} == devices
    assert resolve_preset("smoke", torch.device("cuda")) == "smoke"


def test_finds_the_weights_of_the_preset_before_others(tmp_path):
    def touch(folder: str) -> Path:
        path = tmp_path / folder / f"{NAME}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.touch()
        return path

    assert find_checkpoints("mnist", models=tmp_path) == dict.fromkeys(EXPERIMENTS)
    touch("mnist-smoke"), touch("digits")
    assert find_checkpoints("mnist", models=tmp_path)[NAME] is None
    quick = touch("mnist-quick")
    assert find_checkpoints("mnist", models=tmp_path)[NAME] == quick
    full = touch("mnist")
    assert find_checkpoints("mnist", models=tmp_path)[NAME] == full
    assert find_checkpoints("mnist", "quick", models=tmp_path)[NAME] == quick


# Published weights: those of the seed that is best on validation


@pytest.fixture
def scripted(monkeypatch):
    """A function that lets the next run end with a given accuracy on validation."""

    def script(accuracy: float) -> None:
        def pretend(model, data):
            metrics, predicted = evaluate(model, data)
            metrics["val"]["accuracy"]["value"] = accuracy
            return metrics, predicted

        monkeypatch.setattr(runs, "evaluate", pretend)

    return script


def test_the_best_seed_stays(smoke, scripted, tmp_path):
    path = tmp_path / "models" / "digits-smoke" / f"{NAME}.safetensors"
    holds, keeps = f"{path.name} holds this run", f"{path.name} keeps seed 1, which is better on validation"
    keeps += ", or as good and lower"
    script = [(0.5, 0, holds), (0.7, 1, holds), (0.6, 1, keeps), (0.7, 1, keeps)]
    for seed, (accuracy, kept, said) in enumerate(script):
        scripted(accuracy)
        assert smoke(seed=seed)["checkpoint"] == said
        assert read_metadata(path)["seed"] == kept
    assert len(files(tmp_path / "results")) == len(script)
    assert len(list(path.parent.glob("runs/*/best.safetensors"))) == len(script)


def test_best_and_last_weights_are_those_of_their_epochs(smoke, tiny, tmp_path, monkeypatch):
    falling = iter([0.5, 0.4] * 2)
    monkeypatch.setattr(training, "validate", lambda *_: {"loss": 1.0, "accuracy": next(falling), "mae": 1.0})
    smoke(changes={"epochs": 2})
    run = training.train(replace(preset(EXPERIMENTS[NAME], "smoke"), epochs=2), tiny, device="cpu", progress=False)
    for file, weights in (("best", run.model.state_dict()), ("last", run.last)):
        (path,) = tmp_path.glob(f"models/digits-smoke/runs/*/{file}.safetensors")
        found = load_checkpoint(path).state_dict()
        assert all(torch.equal(found[name], weights[name]) for name in weights), file


def test_runs_publish_one_after_the_other(smoke, tmp_path):
    folder = tmp_path / "models" / "digits-smoke"
    with ThreadPoolExecutor(1) as pool, FileLock(folder / "runs" / f"{NAME}.lock"):
        run = pool.submit(smoke)
        while not any(folder.glob("runs/*/last.safetensors")):
            assert not run.done()
            time.sleep(0.05)
        with pytest.raises(TimeoutError):
            run.result(timeout=0.5)
        assert not list(folder.glob("*.safetensors"))
    assert run.result()["checkpoint"] and (folder / f"{NAME}.safetensors").exists()


def test_a_seed_that_is_run_again_replaces_its_own_weights(smoke, scripted, tmp_path):
    path = tmp_path / "models" / "digits-smoke" / f"{NAME}.safetensors"
    for accuracy in (0.7, 0.4):
        scripted(accuracy)
        smoke(seed=1)
    assert read_metadata(path)["validation"]["accuracy"]["value"] == 0.4


def test_a_seed_that_gets_worse_gives_way_to_the_best(smoke, scripted, tmp_path):
    """Also where its better weights of before, by code with other words, are still in a folder of their own."""
    path = tmp_path / "models" / "digits-smoke" / f"{NAME}.safetensors"
    for seed, accuracy in enumerate((0.7, 0.6, 0.6)):
        scripted(accuracy)
        smoke(seed=seed)
    (before,) = path.parent.glob("runs/*-seed0-*/")
    before.rename(before.with_name(f"{NAME}-seed0-ffffffff"))
    scripted(0.5)
    said = smoke(seed=0)["checkpoint"]
    assert said == f"{path.name} now holds seed 1, which is better on validation, or as good and lower"
    (best,) = path.parent.glob("runs/*-seed1-*/best.safetensors")
    assert path.read_bytes() == best.read_bytes()
    best.write_bytes(b"not weights")
    scripted(0.4)
    assert "keeps seed 1," in smoke(seed=0)["checkpoint"], "which is still there"
    assert load_checkpoint(path).metadata["seed"] == 1


def test_last_weights_put_where_the_best_belong_are_set_aside(smoke, tmp_path):
    """They do not tell how they read validation strips, so they cannot be the better ones."""
    smoke(seed=0)
    path = tmp_path / "models" / "digits-smoke" / f"{NAME}.safetensors"
    (last,) = path.parent.glob("runs/*-seed0-*/last.safetensors")
    shutil.copyfile(last, path)
    assert "replaced" in smoke(seed=1)["checkpoint"]
    assert (path.parent / "replaced" / path.name.replace(".", "-1.")).read_bytes() == last.read_bytes()
    assert read_metadata(path)["validation"]


def test_weights_and_record_of_another_run_are_set_aside(smoke, scripted, tiny, tmp_path):
    weights = tmp_path / "models" / "digits-smoke" / f"{NAME}.safetensors"
    record = tmp_path / "results" / "digits-smoke" / f"{NAME}-seed0.json"
    scripted(0.9)
    smoke()
    before = weights.read_bytes(), record.read_bytes()
    scripted(0.1)
    said = smoke(data=tiny.head(40))["checkpoint"]  # other data
    aside = weights.parent / "replaced" / f"{NAME}-1.safetensors"
    assert str(aside) in said
    assert aside.read_bytes() == before[0]
    assert (record.parent / "replaced" / f"{NAME}-seed0-1.json").read_bytes() == before[1]
    assert read_metadata(weights)["data"] == tiny.head(40).fingerprint

    smoke(data=tiny.head(40), changes={"lr": 1e-4})  # other settings
    assert (weights.parent / "replaced" / f"{NAME}-2.safetensors").exists()
    assert strict_json(record)["settings"]["lr"] == 1e-4
    weights.write_bytes(b"not weights")
    record.write_text("not a record")
    smoke(data=tiny.head(40), changes={"lr": 1e-4})  # unreadable
    assert (weights.parent / "replaced" / f"{NAME}-3.safetensors").read_bytes() == b"not weights"
    assert (record.parent / "replaced" / f"{NAME}-seed0-3.json").read_text() == "not a record"
    assert read_metadata(weights)["settings"]["lr"] == 1e-4


# Interrupted


TWO_EPOCHS = {"epochs": 2, "batch_size": 16}  # of three steps each


def stopping_at(step: int) -> type:
    """A progress bar at whose given step Ctrl-C is pressed."""

    class Bar(training.tqdm):
        left = step

        def update(self, n=1):
            Bar.left -= 1
            if Bar.left == 0:
                raise KeyboardInterrupt

    return Bar


def test_an_interrupted_run_is_finished_by_running_it_again(smoke, tmp_path, monkeypatch):
    uninterrupted = smoke(changes=TWO_EPOCHS, models=tmp_path / "other", results=tmp_path / "other")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "tqdm", stopping_at(5))
        smoke(changes=TWO_EPOCHS)
    (state,) = (tmp_path / "models").rglob("*.pt")
    assert not (tmp_path / "results").exists()

    resumed = smoke(changes=TWO_EPOCHS)
    assert not state.exists()
    assert resumed["metrics"] == uninterrupted["metrics"]
    for one, other in zip(resumed["history"], uninterrupted["history"], strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}
    assert resumed["seconds"]["train"] == pytest.approx(sum(row["seconds"] for row in resumed["history"]), abs=0.06)
    assert "earlier" not in resumed, "since the code, for one, is still the same"


def test_the_record_tells_with_what_code_each_part_was_trained(smoke, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(provenance, "commit", lambda: "another")
        patch.setattr(training, "tqdm", stopping_at(5))
        smoke(changes=TWO_EPOCHS)
    record = smoke(changes=TWO_EPOCHS)
    (earlier,) = record["earlier"]
    assert earlier["commit"] == "another" != record["commit"] == commit()
    assert all(earlier[key] == record[key] for key in ("hardware", "versions"))
    assert strict_json(tmp_path / "results" / "digits-smoke" / f"{NAME}-seed0.json")["earlier"] == [earlier]


def test_a_run_is_told_apart_by_what_decides(tiny, tmp_path):
    row = EXPERIMENTS[NAME]
    today = folder_of_run(tmp_path, f"{NAME}-seed0", row, tiny)
    assert folder_of_run(tmp_path, f"{NAME}-seed0", replace(row, left_open="In other words."), tiny) == today
    assert folder_of_run(tmp_path, f"{NAME}-seed0", replace(row, lr=0.5), tiny) != today
    assert folder_of_run(tmp_path, f"{NAME}-seed0", row, tiny.head(40)) != today


# One process to a run


def test_a_run_that_another_process_trains_is_left_to_it(smoke, tiny, tmp_path):
    experiment = preset(EXPERIMENTS[NAME], "smoke")
    folder = folder_of_run(tmp_path / "models" / "digits-smoke", f"{NAME}-seed0", experiment, tiny)
    with alone(folder):
        with pytest.raises(TrainingError, match=f"{folder.name} is being trained by another process"):
            smoke()
        assert smoke(seed=1)["seed"] == 1
    assert not folder.exists() and folder.parent.exists()
    with alone(tmp_path / "new" / "runs" / "run"):
        pass
    assert not (tmp_path / "new").exists()
    folder.mkdir()
    (folder / "training.lock").touch()  # as a process leaves it that is killed
    smoke()
    assert files(folder) == {"best.safetensors", "last.safetensors"}


def test_of_torchruns_processes_the_first_stands_for_all(tmp_path, monkeypatch):
    with alone(tmp_path / "run"):
        monkeypatch.setattr(distributed, "rank", lambda: 1)
        with alone(tmp_path / "run"):
            pass
        assert files(tmp_path) == {"run/training.lock"}


# Published weights to start from that cannot be had


@pytest.fixture
def no_weights(monkeypatch):
    """No published weights are to be had."""

    def fail(weights):
        raise WeightsError(f"no {weights}")

    monkeypatch.setattr(pretrained, "pretrained_state", fail)


@pytest.mark.parametrize("name", [name for name, e in EXPERIMENTS.items() if e.weights])
def test_missing_weights_stop_the_run_before_it_starts(name, smoke, no_weights, tmp_path):
    with pytest.raises(WeightsError, match="IMAGENET1K_V1"):
        smoke(name, preset_name="full")
    assert files(tmp_path) == set()


@pytest.mark.parametrize("name", ["resnet50-regression", "vgg16_frozen-regression"])
def test_a_random_start_is_never_called_anything_else(name, smoke, no_weights, tiny, tmp_path):
    """Only where it is asked for; and weights and record say `none`."""
    changes = {"epochs": 1, "batch_size": 2, "train_limit": 2, "evaluate_limit": 2}
    record = smoke(name, preset_name="full", data=tiny.head(2, 2), changes=changes, on_missing_weights="scratch")
    assert record["weights"] == "none" and record["settings"]["weights"] is None
    assert record["changed"]["weights"] == ["IMAGENET1K_V1", None]
    assert {read_metadata(path)["weights"] for path in (tmp_path / "models").rglob("*.safetensors")} == {"none"}


def test_weights_that_can_be_had_are_used_and_recorded(tiny, monkeypatch):
    """Without running ResNet-50: what it would start from and its record would say."""
    monkeypatch.setattr(pretrained, "pretrained_state", lambda weights: torchvision.models.resnet50().state_dict())
    experiment = runs.with_available_weights(EXPERIMENTS["resnet50-regression"], "scratch")
    model = torch.nn.Linear(3, 1)
    model.bias.requires_grad_(False)
    run = training.Run(experiment, 0, model, {}, [], 1, 0.0)
    record = runs._record(
        "resnet50-regression", EXPERIMENTS["resnet50-regression"], run, tiny, torch.device("cpu"), "full"
    )
    assert record["weights"] == "IMAGENET1K_V1" and record["changed"] == {}
    assert (record["parameters"], record["trained_parameters"]) == (4, 3)


# What the code was


def test_commit_is_that_of_the_code_that_was_imported(monkeypatch, tmp_path):
    """Asked for once and remembered; None outside a git checkout."""
    known = commit()
    assert known is None or len(known.removesuffix("-dirty")) == 12
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert commit() == known
    commit.cache_clear()
    assert commit() is None
    commit.cache_clear()


def test_a_commit_with_changes_says_so(tmp_path, monkeypatch):
    def git(*words: str) -> None:
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *names, *words], cwd=tmp_path, check=True, capture_output=True)

    code = tmp_path / "code.py"
    git("init")
    code.touch()
    git("add", ".")
    git("commit", "-m", "it")
    monkeypatch.setattr(provenance, "__file__", str(code))
    for text, end in (("", ""), ("changed", "-dirty")):
        code.write_text(text)
        commit.cache_clear()
        assert re.fullmatch("[0-9a-f]{12}" + end, commit())
    commit.cache_clear()


def test_a_record_is_found_by_settings_and_data(tmp_path):
    """Also one from before a setting was there, which then had its default."""
    path, settings = tmp_path / "record.json", asdict(EXPERIMENTS["reader"])
    assert runs.recorded(path, settings, "a") is None
    older = {key: value for key, value in settings.items() if key != "passes"}
    record = {"settings": older, "data": {"fingerprint": "a"}, "seed": 0}
    runs.write_record(record, path)
    assert runs.recorded(path, settings, "a")["seed"] == 0
    assert runs.recorded(path, settings | {"passes": 2}, "a") is runs.recorded(path, settings, "b") is None
    for junk in ("not a record", "[]", "null", '"a"', "{}", '{"data": "a", "settings": {}}'):
        path.write_text(junk)
        assert runs.recorded(path, settings, "a") is None
        runs.write_record(record, path)
    assert len(list((tmp_path / "replaced").iterdir())) == 6


def test_a_record_is_written_at_once_or_not_at_all(tmp_path):
    path = tmp_path / "record.json"
    record = {"settings": {}, "data": {"fingerprint": "a"}}
    runs.write_record(record, path)
    with pytest.raises(TypeError):
        runs.write_record(record | {"more": object()}, path)
    assert strict_json(path) == record and list(tmp_path.iterdir()) == [path]
