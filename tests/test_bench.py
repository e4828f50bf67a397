"""The benchmark in miniature: that it measures what it says and keeps it. How fast anything is, no test asks."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from digitsum import bench, provenance
from digitsum.__main__ import main
from digitsum.bench import by_turns, measure, per_call
from digitsum.data import DataError
from digitsum.records import TableError

CPU = torch.device("cpu")
SMALL = {
    "SECONDS": 0.001, "COMPARED": ("baseline_cnn-classification",), "BATCHES": (2,), "STRIPS": 40,
    "TIMED_TO_ACCURACY": (("baseline_cnn-classification", None),), "COLUMNS": (8, 16), "DIGITS": (1, 2),
}  # fmt: skip


@pytest.fixture
def small(monkeypatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(bench, name, value)


def test_works_take_turns_and_the_first_round_does_not_count():
    done = []
    seconds = by_turns({"a": lambda: done.append("a"), "b": lambda: done.append("b")}, 3, CPU)
    assert done == ["a", "b"] * 4
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_short_works_are_called_often_and_timed_singly(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(bench, "SECONDS", 6.0)

    def work(seconds):
        clock[0] += seconds

    seconds = per_call({"short": lambda: work(0.5), "long": lambda: work(4.0)}, 2, CPU)
    assert seconds == {"short": pytest.approx([0.5, 0.5]), "long": pytest.approx([4.0, 4.0])}
    assert clock[0] == 2 * (0.5 + 4.0) + 3 * (6 * 0.5 + 4.0)  # two of each to begin with; then three rounds


@pytest.mark.parametrize("part", ["epoch", "precision", "compiled", "likelihood", "prediction", "generation", "phases"])
def test_every_part_is_recorded(part, small, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # which needs no compiler
    record = measure(part, tiny, device="cpu", repeats=2, results=tmp_path)
    (path,) = (tmp_path / "bench").iterdir()
    assert json.loads(path.read_text()) == json.loads(json.dumps(record))
    found = record["parts"][part]
    assert found["repeats"] == 2 and found["data"] == tiny.fingerprint and found["versions"]["torch"]
    if part == "epoch":
        times = found["rows"][0]["seconds"]
        assert set(times) == {"ours", "usual", "ready"} and all(len(each) == 2 for each in times.values())
    if part == "precision":
        assert set(found["rows"][0]["seconds"]) == {"bfloat16", "float32"}
    if part == "compiled":
        row = found["rows"][0]
        assert set(row["seconds"]) == {"plain", "compiled"} and row["first"] > 0
    if part == "prediction":
        assert found["rows"][0]["peak_bytes"] >= found["rows"][0]["peak_bytes_before"] > 2**20
    if part == "generation":
        assert found["peak_bytes"] >= found["result_bytes"] > 40 * 40 * 168
    if part == "phases":
        spent = {phase: {group for group, s in groups.items() if s} for phase, groups in found["phases"].items()}
        assert list(spent) == ["augmentation", "forward", "likelihood", "backward", "optimiser"]
        assert "convolution" in spent["forward"] & spent["backward"] and "convolution" not in spent["likelihood"]


@pytest.mark.parametrize("there", [True, False])
def test_precision_is_measured_in_both_whichever_the_device_is_faster_in(there, small, tiny, monkeypatch):
    monkeypatch.setattr(bench, "has_bfloat16", lambda device: there)
    dtypes, forward = set(), torch.nn.Conv2d.forward

    def noted(self, x):
        y = forward(self, x)
        dtypes.add(y.dtype)
        return y

    monkeypatch.setattr(torch.nn.Conv2d, "forward", noted)
    found = {}

    def each(works, repeats, device):
        for way, work in works.items():
            dtypes.clear()
            work()
            found[way] = set(dtypes)
        return {}

    monkeypatch.setattr(bench, "per_call", each)
    bench.precision(tiny, CPU, 1, 0)
    assert found == {"bfloat16": {torch.bfloat16}, "float32": {torch.float32}}


def test_every_call_predicts_other_images(small, monkeypatch):
    images = np.arange(6, dtype=np.uint8)[:, None, None] * np.ones((1, 40, 168), np.uint8)
    seen = []
    monkeypatch.setattr(bench, "predict", lambda model, images: seen.append(images[:, 0, 0].tolist()))
    monkeypatch.setattr(bench, "per_call", lambda works, *_: {"predict": [works["predict"]() for _ in range(4)]})
    bench._predict_alone("baseline_cnn-classification", None, False, images, 2, "cpu", torch.get_num_threads(), 1)
    assert seen == [[0, 1], [2, 3], [4, 5], [0, 1]]


def test_a_part_leaves_the_others_in_the_record(small, tiny, tmp_path):
    first = measure("generation", tiny, device="cpu", repeats=1, results=tmp_path)
    both = measure("likelihood", tiny, device="cpu", repeats=1, results=tmp_path)
    assert set(both["parts"]) == {"generation", "likelihood"}
    assert both["parts"]["generation"] == json.loads(json.dumps(first["parts"]["generation"]))


def test_a_machine_that_computes_otherwise_begins_a_record_of_its_own(small, tiny, tmp_path, monkeypatch):
    measure("generation", tiny, device="cpu", repeats=1, results=tmp_path)
    there = provenance.has_bfloat16(CPU)
    monkeypatch.setattr(provenance, "has_bfloat16", lambda device: not there)
    record = measure("likelihood", tiny, device="cpu", repeats=1, results=tmp_path)
    assert set(record["parts"]) == {"likelihood"} and record["hardware"]["bfloat16"] is not there
    (aside,) = (tmp_path / "bench" / "replaced").iterdir()
    assert set(json.loads(aside.read_text())["parts"]) == {"generation"}


@pytest.mark.parametrize("junk", ["", "[]", "{}", '{"hardware": {}, "parts": []}'])
def test_a_damaged_record_is_refused_before_anything_is_measured(junk, small, tiny, tmp_path, monkeypatch):
    measure("generation", tiny, device="cpu", repeats=1, results=tmp_path)
    (path,) = (tmp_path / "bench").iterdir()
    path.write_text(junk)
    monkeypatch.setitem(bench.PARTS, "likelihood", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(TableError, match=f"{path.name} is not a benchmark's record .* take it away"):
        measure("likelihood", tiny, device="cpu", repeats=1, results=tmp_path)
    assert path.read_text() == junk


def test_what_another_process_measured_meanwhile_stays(small, tiny, tmp_path, monkeypatch):
    def meanwhile(*_):
        measure("generation", tiny, device="cpu", repeats=1, results=tmp_path)
        return {}

    monkeypatch.setitem(bench.PARTS, "likelihood", meanwhile)
    record = measure("likelihood", tiny, device="cpu", repeats=1, results=tmp_path)
    assert set(record["parts"]) == {"generation", "likelihood"}


def test_a_training_to_an_accuracy_is_one_repeat(small, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "TARGETS", (0.0,))
    record = measure("accuracy", tiny, device="cpu", repeats=5, minutes=0.001, results=tmp_path)
    assert record["parts"]["accuracy"]["repeats"] == 1


@pytest.mark.parametrize("target", [0.0, 2.0])
def test_time_to_accuracy_is_that_of_the_first_check_or_none(target, small, tiny, monkeypatch):
    monkeypatch.setattr(bench, "TARGETS", (target,))
    (row,) = bench.accuracy(tiny, CPU, 1, minutes=0.001)["rows"]
    first = row["checks"][0]
    assert row["reached"] == {str(target): first["seconds"] if target == 0 else None}
    assert first["seconds"] > 0 and row["checks"][-1]["seconds"] < 60


def test_the_way_to_an_accuracy_follows_the_experiments_schedule(small, tiny, monkeypatch):
    monkeypatch.setattr(
        bench, "TIMED_TO_ACCURACY", (("cnn_attention-classification", None), ("cnn_attention-classification", 3))
    )
    lengths = []
    schedule = bench.SCHEDULES["one_cycle"]
    monkeypatch.setitem(
        bench.SCHEDULES, "one_cycle", lambda o, steps, w: lengths.append(steps) or schedule(o, steps, w)
    )
    bench.accuracy(tiny, CPU, 1, minutes=0.001)
    # of a step each, on 48 strips
    assert lengths == [bench.EXPERIMENTS["cnn_attention-classification"].epochs, 3]


def test_time_to_accuracy_needs_unseen_strips(tiny):
    with pytest.raises(DataError, match="unseen"):
        bench.accuracy(replace(tiny, unseen=None), CPU, 1, minutes=1)


def test_traffic_is_what_operations_read_and_write():
    x, y = torch.zeros(10), torch.zeros(10)
    with bench._Traffic() as traffic:
        x.view(2, 5).t()
        assert traffic.bytes == 0
        x + y
    assert traffic.bytes == 3 * 40


def test_the_floor_counts_convolutions_forward_and_backward(small, tiny, monkeypatch):
    """A training step multiplies about three times as much as prediction does: for outputs, inputs and weights."""
    monkeypatch.setattr(bench, "per_call", lambda works, repeats, device: {name: [1.0] for name in works})
    found = bench.floor(tiny, CPU, 1, 0)
    model = bench.build(bench.EXPERIMENTS["reader"])
    with bench.FlopCounterMode(display=False) as forward:
        model(torch.zeros(found["batch"], 1, 40, 168))
    assert 2.5 * forward.get_total_flops() < found["flops"] < 3.5 * forward.get_total_flops()


def test_the_command_prints_a_table_and_leaves_a_record(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("digitsum.data.STRIPS", 40)
    monkeypatch.setattr("digitsum.data.UNSEEN", 10)
    options = ["--only", "generation", "--source", "digits", "--repeats", "1", "--device", "cpu"]
    assert main(["bench", *options]) == 0
    assert "| strips | seconds |" in capsys.readouterr().out
    assert len(list(Path("results/bench").glob("*-threads.json"))) == 1
