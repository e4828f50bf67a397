"""Many runs: several seeds by one command, side by side, and only those that are missing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import digitsum.data
from digitsum import runs
from digitsum.__main__ import main
from digitsum.many import side_by_side

NAME = "baseline_cnn-regression"
TRAIN = ["train", NAME, "--source", "digits", "--preset", "smoke", "--device", "cpu", "--seed", "0", "1"]


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(digitsum.data, "STRIPS", 100)
    monkeypatch.setattr(digitsum.data, "UNSEEN", 20)


def test_one_that_fails_does_not_stop_the_others():
    found = {job: future.exception() or future.result() for job, future in side_by_side(math.sqrt, [4, -1, 9], 2)}
    assert found[4] == 2 and found[9] == 3 and isinstance(found[-1], ValueError)


def test_processes_are_given_the_options_and_report(workplace, monkeypatch, capsys):
    """Without the processes themselves, which would have to load torch: what they are to do, and what is said of it."""

    def here(work, jobs, processes):
        class Done:
            def __init__(self, job):
                self.job = job

            def result(self):
                if self.job[1] == 1:
                    raise runs.CheckpointError("damaged")
                return work(self.job)

        assert processes == 2 and list(jobs) == [(NAME, 0), (NAME, 1)]
        return ((job, Done(job)) for job in jobs)

    monkeypatch.setattr("digitsum.__main__.side_by_side", here)
    assert main([*TRAIN, "--processes", "2"]) == 1
    said = capsys.readouterr()
    assert f"{NAME}, seed 0:" in said.out and f"digitsum: {NAME}, seed 1: damaged" in said.err
    assert [path.name for path in Path("results/digits-smoke").glob("*.json")] == [f"{NAME}-seed0.json"]


def test_only_missing_runs_are_made(workplace, monkeypatch):
    trained = []
    train = runs.train
    monkeypatch.setattr(runs, "train", lambda *a, **options: trained.append(options["seed"]) or train(*a, **options))
    assert main([*TRAIN, "2"]) == 0 and trained == [0, 1, 2]
    Path(f"results/digits-smoke/{NAME}-seed1.json").unlink()
    assert main([*TRAIN, "2", "--missing"]) == 0 and trained == [0, 1, 2, 1]
    assert main([*TRAIN, "--missing", "--lr", "0.01"]) == 0 and trained == [0, 1, 2, 1, 0, 1]
