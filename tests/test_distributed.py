"""Two processes train as one does: the same loss curve, every strip once, one writer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ENVIRONMENT
from hypothesis import given
from hypothesis import strategies as st

import digitsum.data
from digitsum import devices
from digitsum.__main__ import main
from digitsum.errors import DeviceError

PLAIN, WITH_STATISTICS = "baseline_cnn-regression", "reader"  # without and with batch normalisation
# 67 strips: batches of 13 and 14, which two processes divide unevenly.
TRAIN = [
    "train", PLAIN, WITH_STATISTICS, "--source", "digits", "--preset", "smoke", "--device", "cpu", "--epochs", "2",
    "--train-limit", "67", "--batch-size", "16",
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
    environment = ENVIRONMENT | {"TMPDIR": str(two), "OMP_NUM_THREADS": "1"}  # torchrun leaves files of its own
    done = subprocess.run([*torchrun, *TRAIN], cwd=two, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (two / "said").write_text(done.stdout)
    return {1: one, 2: two}


def record(folder: Path, name: str) -> dict:
    return json.loads((folder / "results" / "digits-smoke" / f"{name}-seed0.json").read_text())


def curve(folder: Path, name: str) -> list[float]:
    return [row[key] for row in record(folder, name)["history"] for key in ("train_loss", "val_loss")]


def test_two_processes_have_the_loss_curve_of_one(runs):
    """But for batch normalisation, which sees shards: there the curve is near that of one process."""
    assert curve(runs[2], PLAIN) == pytest.approx(curve(runs[1], PLAIN), rel=1e-3)
    assert curve(runs[2], WITH_STATISTICS) == pytest.approx(curve(runs[1], WITH_STATISTICS), rel=0.2)
    accuracies = [[row["train_accuracy"] for row in record(runs[n], PLAIN)["history"]] for n in (1, 2)]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.1)


def test_two_processes_have_the_metrics_of_one(runs):
    one, two = record(runs[1], PLAIN), record(runs[2], PLAIN)
    assert (one["hardware"]["processes"], two["hardware"]["processes"]) == (1, 2)
    for split, metrics in one["metrics"].items():
        assert two["metrics"][split]["n"] == metrics["n"]
        for name in ("mae", "mse"):
            assert two["metrics"][split][name]["value"] == pytest.approx(metrics[name]["value"], rel=1e-3)


def test_only_the_first_process_writes_and_speaks(runs):
    files = {number: {p.relative_to(f).as_posix() for p in f.rglob("*.*") if p.is_file()} for number, f in runs.items()}
    assert files[2] - {"process.py"} == files[1]
    assert (runs[2] / "said").read_text().count("safetensors") == 2


def test_running_statistics_become_their_mean(monkeypatch):
    norm = torch.nn.BatchNorm1d(2)
    for values, value in ((norm.running_mean, 2), (norm.running_var, 3), (norm.num_batches_tracked, 7)):
        values.fill_(value)
    monkeypatch.setattr(devices, "world_size", lambda: 2)
    monkeypatch.setattr(devices, "all_reduce", lambda values: values + 4)  # the other process holds 4
    devices.average_statistics(norm)
    assert (norm.running_mean.tolist(), norm.running_var.tolist()) == ([3, 3], [3.5, 3.5])
    assert norm.num_batches_tracked == 7


def test_processes_that_would_share_a_gpu_are_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "here")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(DeviceError, match="--device cuda without a number"), devices.init_distributed("cuda:1"):
        raise AssertionError("joined")


@given(rows=st.integers(0, 50), processes=st.integers(1, 9))
def test_shards_are_the_whole_without_padding(rows, processes):
    parts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "world_size", lambda: processes)
        for rank in range(processes):
            patch.setattr(devices, "rank", lambda rank=rank: rank)
            parts.append(devices.shard(np.arange(rows)))
    assert np.array_equal(np.concatenate(parts), np.arange(rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
