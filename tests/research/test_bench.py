"""The benchmark in miniature: it measures what it says and records it. No test asks how fast anything is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from digitsum.errors import DataError, RecordError
from research import bench
from research.bench import PARTS, Setup, by_turns, measure

CPU = torch.device("cpu")
SMALL = {
    "SECONDS": 0.001, "REPEATS": 2, "COMPARED": ("reader_small",), "BATCH": 2, "BATCHES": (2,),
    "COLUMNS": (8, 16), "DIGITS": (1, 2), "CUT": (2, 3), "WORKERS": 1,
    "TIMED_TO_ACCURACY": (("cnn_attention-classification", 2),),
}  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(bench, name, value)


def test_works_take_turns_and_the_first_call_does_not_count(monkeypatch):
    clock, done = [0.0], []
    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])

    def work(name: str, seconds: float) -> None:
        clock[0] += seconds if done.count(name) else 100
        done.append(name)

    monkeypatch.setattr(bench, "SECONDS", 6)
    works = {"short": lambda: work("short", 0.5), "long": lambda: work("long", 4.0)}
    assert by_turns(works, CPU) == {"short": [0.5, 0.5], "long": [4.0, 4.0]}
    assert done[4:] == (["short"] * 6 + ["long"]) * 2, "short works are called often in a measurement"


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_recorded_beside_the_others(part, tiny, tmp_path):
    first = measure("likelihood", tiny, device="cpu", results=tmp_path)
    record = measure(part, tiny, device="cpu", minutes=0.001, models=tmp_path, results=tmp_path)
    (path,) = (tmp_path / "bench").iterdir()
    assert json.loads(path.read_text()) == json.loads(json.dumps(record))
    found, others = record["parts"].pop(part), record["parts"]
    assert part == "likelihood" or others == json.loads(json.dumps(first["parts"]))
    assert found["data"] == tiny.fingerprint and found["versions"]["torch"]
    if part == "epoch":
        assert {loop: len(seconds) for loop, seconds in found["rows"][0]["seconds"].items()} == {"ours": 2, "usual": 2}
    if part == "prediction":
        (row,) = found["rows"]
        assert len(row["seconds"]) == 3 and not row["trained"]  # in a process of its own
        assert row["peak_bytes"] >= row["peak_bytes_before"] > 2**20


@pytest.mark.parametrize("junk", ["", "[]", "{}", '{"hardware": {}, "parts": []}'])
def test_a_damaged_record_is_refused_before_anything_is_measured(junk, tiny, tmp_path, monkeypatch):
    measure("likelihood", tiny, device="cpu", results=tmp_path)
    (path,) = (tmp_path / "bench").iterdir()
    path.write_text(junk)
    monkeypatch.setitem(PARTS, "likelihood", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(RecordError, match=path.name):
        measure("likelihood", tiny, device="cpu", results=tmp_path)


@pytest.mark.parametrize("target", [0.0, 2.0])
def test_time_to_accuracy_is_that_of_the_first_check_or_none(target, tiny, monkeypatch):
    monkeypatch.setattr(bench, "TARGETS", (target,))
    (row,) = bench.accuracy(Setup(tiny, CPU, minutes=1))["rows"]
    seconds = [check["seconds"] for check in row["checks"]]
    assert row["reached"] == {str(target): seconds[0] if target == 0 else None}
    assert seconds == sorted(seconds) and len(seconds) == (1 if target == 0 else 2 * bench.CHECKS)
    with pytest.raises(DataError, match="unseen"):
        bench.accuracy(Setup(replace(tiny, unseen=None), CPU))
