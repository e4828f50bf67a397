"""Many runs: several seeds by one command, side by side, and only those that are missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import torch

import digitsum.data
from digitsum import runs
from digitsum.__main__ import main
from digitsum.checkpoints import CheckpointError
from digitsum.data import load_data
from digitsum.many import side_by_side

NAME = "baseline_cnn-regression"
TRAIN = ["train", NAME, "--source", "digits", "--preset", "smoke", "--device", "cpu", "--seed", "0", "1"]


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(digitsum.data, "STRIPS", 100)
    monkeypatch.setattr(digitsum.data, "UNSEEN", 20)


def test_seeds_side_by_side(tmp_path):
    """The command as it is given, on a few strips in files."""
    strips = load_data("digits").test[:60]
    np.save(tmp_path / "data0.npy", strips.images)
    np.save(tmp_path / "lab0.npy", strips.sums)
    options = ["--source", "course", "--root", ".", "--preset", "smoke", "--device", "cpu", "--seed", "0", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "digitsum", "train", NAME, *options, "--processes", "2"], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(f"{NAME}, seed {seed}:" in done.stdout for seed in (0, 1))
    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "results/course-smoke").iterdir())]
    assert [record["seed"] for record in records] == [0, 1]
    assert all(record["hardware"]["threads"] == max(1, torch.get_num_threads() // 2) for record in records)


def test_a_job_that_is_named_twice_is_done_once():
    assert [(job, future.result()) for job, future in side_by_side(abs, [-3, -3], 1)] == [(-3, 3)]


@pytest.fixture
def second_fails(monkeypatch) -> list:
    """Jobs side by side without the processes: what they are to do, of which the second fails; returns the jobs."""
    seen = []

    def here(work, jobs, processes):
        assert processes == 2
        seen.extend(jobs)
        for job in jobs:
            future = Future()
            if job == jobs[1]:
                future.set_exception(CheckpointError("damaged"))
            else:
                future.set_result(work(job))
            yield job, future

    monkeypatch.setattr("digitsum.__main__.side_by_side", here)
    return seen


def test_one_that_fails_does_not_stop_the_others(workplace, second_fails, capsys):
    assert main([*TRAIN, "--processes", "2"]) == 1 and second_fails == [(NAME, 0), (NAME, 1)]
    said = capsys.readouterr()
    assert f"{NAME}, seed 0:" in said.out and f"digitsum: {NAME}, seed 1: damaged" in said.err
    assert [path.name for path in Path("results/digits-smoke").glob("*.json")] == [f"{NAME}-seed0.json"]


def test_where_processes_are_killed_it_says_once_what_to_do(workplace, monkeypatch, capsys):
    def killed(work, jobs, processes):
        for job in jobs:
            future = Future()
            future.set_exception(BrokenProcessPool("terminated abruptly"))
            yield job, future

    monkeypatch.setattr("digitsum.__main__.side_by_side", killed)
    assert main([*TRAIN, "--processes", "2"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "fewer --processes" in line


def test_variants_of_a_study_side_by_side(workplace, second_fails, capsys):
    options = ["--source", "digits", "--device", "cpu", "--seeds", "3", "--epochs", "1", "--train-limit", "64"]
    study = ["study", "ablations", *options, "--only", "no_start", "clean", "no_shift", "--processes", "2"]
    assert main(study) == 1 and second_fails == [("no_start", 3), ("no_shift", 3), ("clean", 3)]
    said = capsys.readouterr()
    made = sorted(path.name for path in Path("results/studies/digits/ablations").glob("*.json"))
    assert made == ["clean-seed3.json", "no_start-seed3.json"] and all(name in said.out for name in made)
    assert "digitsum: no_shift, seed 3: damaged" in said.err


def test_only_missing_runs_are_made(workplace, monkeypatch):
    trained = []
    train = runs.train
    monkeypatch.setattr(runs, "train", lambda *a, **options: trained.append(options["seed"]) or train(*a, **options))
    assert main([*TRAIN, "2"]) == 0 and trained == [0, 1, 2]
    Path(f"results/digits-smoke/{NAME}-seed1.json").unlink()
    assert main([*TRAIN, "2", "--missing"]) == 0 and trained == [0, 1, 2, 1]
    assert main([*TRAIN, "--missing", "--lr", "0.01"]) == 0 and trained == [0, 1, 2, 1, 0, 1]
