"""docs/performance.md says what the records say, and its tables compute what their columns claim."""

from __future__ import annotations

import pytest

from digitsum.errors import RecordError
from research.paper.performance import published_tables, tables

HARDWARE = {"device": "cpu", "cpu": "Some CPU", "threads": 2, "bfloat16": False}
STAMP = {"versions": {"torch": "2.12.0"}, "commit": "0123456789ab", "date": "2026-01-01", "source": "mnist"}
NO, YES = {"seconds": 600, "accuracy": 0.9}, {"0.845": 90.0, "0.95": None}


def cells(part: str, row: int = 0, **content) -> list[str]:
    """The cells of a row in the table of a part with this content, without the hardware."""
    table = tables([{"hardware": HARDWARE, "parts": {part: {"repeats": 3} | content | STAMP}}])[part]
    first, *others = (cell.strip() for cell in table.splitlines()[2 + row].strip("|").split("|"))
    assert first == "Some CPU, 2 threads" and "commit `0123456789ab`" in table
    return others


def test_what_the_columns_claim():
    seconds = {"ours": [1.0, 2.0, 1.0], "usual": [3.0, 4.0, 2.0]}
    epoch = cells("epoch", rows=[{"experiment": "reader", "strips": 100, "seconds": seconds}])
    assert epoch == ["`reader`", "100", "33", "2.00 (2.00–3.00)"]
    sizes = {"columns": {"42": [0.01], "84": [0.02]}, "digits": {"2": [0.01], "4": [0.04]}}
    assert cells("likelihood", **sizes) == ["columns", "42: 10.0, 84: 20.0", "1.00"]
    assert cells("likelihood", 1, **sizes) == ["digits", "2: 10.0, 4: 40.0", "2.00"]
    sizes |= {"cut digits": {"1": [0.01], "2": [0.02]}, "kept_bytes": {"1": 2**20, "2": 2**21}}
    assert cells("likelihood", 2, **sizes) == ["cut digits", "1: 10.0, 2: 20.0", "1.00", "1: 1, 2: 2"]
    call = {"experiment": "reader", "seconds": [1.0, 0.5, 0.25], "peak_bytes": 3 * 2**20, "peak_bytes_before": 2**20}
    prediction = cells("prediction", rows=[call | {"images": 1, "peak_bytes": 0}, call | {"images": 1024}])
    assert prediction == ["`reader`", "2", "2,048", "3", "2"]
    timed = {"experiment": "reader", "epochs": 5, "reached": YES, "checks": [NO]}
    accuracy = cells("accuracy", rows=[timed], minutes=12.0)
    assert accuracy == ["`reader`", "5", "1.5 min", "not reached", "90.0 % after 10.0 min"]


def test_what_is_no_record_is_named(tmp_path):
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "broken.json").write_text('{"hardware": {}, "parts": {}}')
    with pytest.raises(RecordError, match="broken.json"):
        published_tables(tmp_path)
