"""Two processes train as one does: the same loss curve, every strip once, one writer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ENVIRONMENT

import digitsum.data
from digitsum import devices
from digitsum.__main__ import main

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


def test_two_processes_have_the_curve_and_the_metrics_of_one(runs):
    """But for batch normalisation, which sees shards: there the curve is near that of one process."""
    for name, tolerance in ((PLAIN, 1e-3), (WITH_STATISTICS, 0.2)):
        one, two = (record(runs[k], name) for k in (1, 2))
        for key in ("train_loss", "val_loss"):
            curve = [row[key] for row in one["history"]]
            assert [row[key] for row in two["history"]] == pytest.approx(curve, rel=tolerance)
    one, two = record(runs[1], PLAIN), record(runs[2], PLAIN)
    assert (one["hardware"]["processes"], two["hardware"]["processes"]) == (1, 2)
    for split, metrics in one["metrics"].items():
        assert two["metrics"][split]["n"] == metrics["n"]
        assert two["metrics"][split]["mse"]["value"] == pytest.approx(metrics["mse"]["value"], rel=1e-3)


def test_only_the_first_process_writes_and_speaks(runs):
    files = {
        number: {p.relative_to(f).as_posix() for p in f.rglob("[!.]*.*") if p.is_file()} for number, f in runs.items()
    }
    assert files[2] - {"process.py"} == files[1]
    assert (runs[2] / "said").read_text().count("safetensors") == 2
