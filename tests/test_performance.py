"""docs/performance.md says what the records say, and its tables compute what their columns claim."""

from __future__ import annotations

import json

import pytest
from conftest import REPOSITORY

from digitsum.performance import FIGURE, draw, load_records, published_tables, streams, tables
from digitsum.records import TableError, load_streams

STAMP = {
    "versions": {"torch": "2.12.0"},
    "commit": "0123456789ab",
    "date": "2026-01-01",
    "repeats": 3,
    "source": "mnist",
}
HARDWARE = {"device": "cpu", "cpu": "Some CPU", "threads": 2, "bfloat16": False}


def row(part: str, **content) -> list[str]:
    """The first row of the table of a part with this content."""
    table = tables([{"hardware": HARDWARE, "parts": {part: content | STAMP}}])[part]
    return [cell.strip() for cell in table.splitlines()[2].strip("|").split("|")]


def test_epoch():
    seconds = {"ours": [1.0, 2.0, 1.0], "usual": [3.0, 4.0, 2.0], "ready": [0.9, 1.0, 0.95]}
    cells = row("epoch", rows=[{"experiment": "reader", "strips": 100, "seconds": seconds}])
    assert cells == ["Some CPU, 2 threads", "`reader`", "100", "33", "2.00 (2.00–3.00)", "10.0 %"]


def test_precision():
    seconds = {"bfloat16": [0.2, 0.3, 0.1], "float32": [0.1, 0.1, 0.1]}
    cells = row("precision", rows=[{"experiment": "reader", "seconds": seconds}])
    assert cells[1:] == ["`reader`", "200.0", "100.0", "0.50"]


def test_compiling_pays_when_its_time_has_come_back():
    seconds = {"plain": [0.2, 0.3, 0.1], "compiled": [0.1, 0.1, 0.1]}
    found = {"experiment": "reader", "first": 30.1}
    cells = row("compiled", rows=[found | {"seconds": seconds}])
    assert cells[1:] == ["`reader`", "200.0", "100.0", "2.00", "30", "after 300 steps"]
    assert row("compiled", rows=[found | {"seconds": seconds | {"plain": [0.1]}}])[-1] == "never"


def test_likelihood_shares_and_growth():
    share = {"step": [1.0, 1.0], "likelihood": [0.1, 0.3]}
    cells = row("likelihood", share=share, columns={"42": [0.01], "84": [0.02]}, digits={"2": [0.01], "4": [0.04]})
    assert cells[1:] == ["20.0 %", "42: 10.00, 84: 20.00", "1.00", "2: 10.00, 4: 40.00", "2.00"]


def test_prediction_against_resnet50():
    rows = [
        {"experiment": name, "images": 64, "seconds": [s], "peak_bytes": 3 * 2**20, "peak_bytes_before": 2**20} | more
        for name, s, more in (
            ("reader", 0.1, {}),
            ("resnet50-classification", 1.0, {"bfloat16": False}),
            ("resnet50-classification", 0.5, {"bfloat16": True}),
        )
    ]
    assert row("prediction", rows=rows)[1:] == ["`reader`", "64", "640", "10.0", "3", "2"]
    assert row("prediction", rows=rows[::-1])[1:4] == ["`resnet50-classification`, bfloat16", "64", "128"]


def test_an_accuracy_that_was_not_reached_is_said_so():
    reached = {"0.845": 90.0, "0.95": None, "0.9555": None, "0.97": None}
    found = {"epochs": 5, "weights": "none", "reached": reached, "checks": [{"accuracy": 0.9, "seconds": 600}]}
    cells = row("accuracy", rows=[{"experiment": "reader"} | found], minutes=12.0)
    assert cells[2:5] == ["5", "1.5 min", "not reached"]
    below = tables([{"hardware": HARDWARE, "parts": {"accuracy": {"rows": [], "minutes": 12.0} | STAMP}}])["accuracy"]
    assert "repeats" not in below and "up to 12 minutes a training" in below


def test_the_floor_is_the_larger_of_arithmetic_and_traffic():
    found = {"flops": 4e9, "multiply_flops": 1e9, "multiply": [1.0, 0.5], "dtype": "float32"}
    found |= {"traffic_bytes": 1e9, "copy_bytes": 2e9, "copy": [1.0], "step": [4.0], "loop_step": [6.0]}
    assert row("floor", **found)[5:] == ["2000.00", "500.00", "4000.00", "6000.00", "2.0", "3.0"]


def test_a_run_on_a_stream_has_a_row(tmp_path):
    record = json.loads((REPOSITORY / "results" / "mnist" / "reader_small-seed0.json").read_text(encoding="utf-8"))
    record["source"], record["data"]["strips"]["train"] = "mnist-stream300000", 300_000
    record["settings"]["epochs"], record["seconds"]["train"] = 1, 1020.0
    path = tmp_path / "mnist-stream300000" / "reader_small-seed0.json"
    path.parent.mkdir()
    path.write_text(json.dumps(record), encoding="utf-8")
    cells = [cell.strip() for cell in streams(load_streams(tmp_path)).splitlines()[2].strip("|").split("|")]
    assert cells[:3] == ["`reader_small`", "mnist", "300,000 × 1"] and cells[6] == "17"
    assert cells[5].startswith(f"{100 * record['metrics']['unseen']['accuracy']['value']:.1f} %")
    shortened = tmp_path / "mnist-stream300000-quick" / path.name
    shortened.parent.mkdir()
    shortened.write_text("{}", encoding="utf-8")
    assert len(load_streams(tmp_path)) == 1
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(TableError, match="reader_small-seed0.json"):
        load_streams(tmp_path)


def test_the_figure_is_drawn_where_there_is_something_to_draw_and_the_same_every_time(tmp_path):
    (tmp_path / "bench").mkdir()
    draw(tmp_path, tmp_path)
    assert all(table.startswith("No records yet") for table in published_tables(tmp_path).values())
    assert not (tmp_path / FIGURE).exists()
    phases = {phase: {"convolution": seconds} for phase, seconds in (("forward", 0.1), ("backward", 0.3))}
    record = {"hardware": HARDWARE, "parts": {"phases": {"phases": phases} | STAMP}}
    (tmp_path / "bench" / "cpu.json").write_text(json.dumps(record))
    assert "| backward | 300.00 | 75 % | convolution |" in published_tables(tmp_path)["phases"]
    draw(tmp_path, tmp_path)
    drawn = (tmp_path / FIGURE).read_bytes()
    draw(tmp_path, tmp_path)
    assert b"<svg" in drawn and (tmp_path / FIGURE).read_bytes() == drawn


@pytest.mark.parametrize("text", ["{", "[]", '{"hardware": {}, "parts": {}}'])
def test_what_is_no_record_is_named(text, tmp_path):
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "broken.json").write_text(text)
    with pytest.raises(TableError, match="broken.json"):
        load_records(tmp_path)
