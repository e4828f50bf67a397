"""Several processes train as one does: the same loss curve, every strip evaluated once, one writer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import digitsum.data
from digitsum import devices, distributed
from digitsum.__main__ import main

WITHOUT_STATISTICS, WITH_STATISTICS = "baseline_cnn-regression", "reader"
# 67 strips: batches of 13 and 14, which two processes divide unevenly.
TRAIN = [
    "train", WITHOUT_STATISTICS, WITH_STATISTICS, "--source", "digits", "--preset", "smoke", "--device", "cpu",
    "--epochs", "3", "--train-limit", "67", "--batch-size", "16",
]  # fmt: skip
PROCESS = """
import sys
import digitsum.data, digitsum.devices
digitsum.data.STRIPS, digitsum.data.UNSEEN = 100, 21
digitsum.devices.has_bfloat16 = lambda device: False
from digitsum.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[int, Path]:
    """The results of the same command by one process, and by two under torchrun."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(one)
        patch.setattr(digitsum.data, "STRIPS", 100)
        patch.setattr(digitsum.data, "UNSEEN", 21)
        patch.setattr(devices, "has_bfloat16", lambda device: False)
        assert main(TRAIN) == 0
    (two / "process.py").write_text(PROCESS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "process.py"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(two)}  # torchrun leaves its own
    done = subprocess.run([*torchrun, *TRAIN], cwd=two, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (two / "said").write_text(done.stdout)
    return {1: one, 2: two}


def record(folder: Path, name: str) -> dict:
    return json.loads((folder / "results" / "digits-smoke" / f"{name}-seed0.json").read_text())


def curve(folder: Path, name: str) -> list[float]:
    return [row[key] for row in record(folder, name)["history"] for key in ("train_loss", "val_loss", "train_accuracy")]


def test_same_loss_curve_without_batch_statistics(runs):
    assert curve(runs[2], WITHOUT_STATISTICS) == pytest.approx(curve(runs[1], WITHOUT_STATISTICS), rel=1e-4)


def test_batch_statistics_are_those_of_a_part(runs):
    """The documented difference: the curve is near that of one process, and not the same."""
    one, two = curve(runs[1], WITH_STATISTICS), curve(runs[2], WITH_STATISTICS)
    losses = [i for i in range(len(one)) if i % 3 < 2]
    assert [two[i] for i in losses] == pytest.approx([one[i] for i in losses], rel=0.1)
    assert two != pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize("name", [WITHOUT_STATISTICS, WITH_STATISTICS])
def test_every_strip_is_evaluated_once(name, runs):
    one, two = record(runs[1], name), record(runs[2], name)
    assert (one["hardware"]["processes"], two["hardware"]["processes"]) == (1, 2)
    assert {split: m["n"] for split, m in two["metrics"].items()} == {s: m["n"] for s, m in one["metrics"].items()}
    assert two["metrics"]["unseen"]["n"] == 21 and bool(two["strings"]) == (name == "reader")


@pytest.mark.parametrize("split", ["train", "val", "test", "unseen", "entire"])
def test_same_metrics_without_batch_statistics(split, runs):
    """They would be others if the processes' answers came in another order than the strips."""
    one, two = (record(runs[number], WITHOUT_STATISTICS)["metrics"][split] for number in (1, 2))
    for name in ("accuracy", "mae", "mse"):
        assert two[name]["value"] == pytest.approx(one[name]["value"], rel=1e-4), name


def test_only_the_first_process_writes_and_speaks(runs):
    files = {number: {p.relative_to(f).as_posix() for p in f.rglob("*.*") if p.is_file()} for number, f in runs.items()}
    assert files[2] - {"process.py"} == files[1]
    assert (runs[2] / "said").read_text().count("safetensors holds this run") == 2


def test_running_statistics_become_their_mean(monkeypatch):
    norm = torch.nn.BatchNorm1d(2)
    for values, value in ((norm.running_mean, 2), (norm.running_var, 3), (norm.num_batches_tracked, 7)):
        values.fill_(value)
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    monkeypatch.setattr(distributed, "total", lambda values: values + 4)  # the other process holds 4
    distributed.average_statistics(norm)
    assert (norm.running_mean.tolist(), norm.running_var.tolist()) == ([3, 3], [3.5, 3.5])
    assert norm.num_batches_tracked == 7


def test_what_makes_processes_share_a_device_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "here")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with (
        pytest.raises(distributed.DeviceError, match="give --device cuda in place of cuda:1"),
        distributed.joined("cuda:1"),
    ):
        raise AssertionError("joined")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    assert main([*TRAIN, "--processes", "2"]) == 1
    assert "leave --processes away" in capsys.readouterr().err


@given(rows=st.integers(0, 50), processes=st.integers(1, 9))
def test_parts_are_the_whole_without_padding(rows, processes):
    parts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "processes", lambda: processes)
        for rank in range(processes):
            patch.setattr(distributed, "rank", lambda rank=rank: rank)
            parts.append(distributed.mine(np.arange(rows)))
    assert np.array_equal(np.concatenate(parts), np.arange(rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(losses=st.lists(st.floats(0, 100, width=32), min_size=4, max_size=20), cut=st.integers(1, 3))
def test_weighted_losses_average_to_the_batchs_mean(losses, cut):
    values = torch.tensor(losses, dtype=torch.float64)
    parts = (values[:cut], values[cut:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "processes", lambda: 2)
        weighted = [distributed.weighted(part.mean(), len(part), len(values)) for part in parts]
    assert float(sum(weighted)) / 2 == pytest.approx(float(values.mean()), abs=1e-9)
