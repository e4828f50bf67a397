"""Two processes train as one does: the same loss curve, every strip once, one writer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ENVIRONMENT

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
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    folders = {}
    for processes, launcher in ((1, []), (2, torchrun)):
        folders[processes] = folder = tmp_path_factory.mktemp("run")
        (folder / "process.py").write_text(PROCESS)
        environment = ENVIRONMENT | {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}  # torchrun leaves files of its own
        command = [sys.executable, *launcher, "process.py", *TRAIN]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        (folder / "said.txt").write_text(done.stdout)
    return folders


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
    one, two = ({p.relative_to(f) for p in f.rglob("[!.]*.*") if p.is_file()} for f in runs.values())
    assert one == two
    assert (runs[2] / "said.txt").read_text().count("safetensors") == 2
