"""The tables of docs/performance.md, made from the benchmark's records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from ..bench import read_machine
from .cells import hardware_words
from .records import Record
from .tables import Row, markdown


def published_tables(results: str | Path = "results") -> dict[str, str]:
    """Return every table of speed by name, as Markdown. Raise RecordError if a record is wrong."""
    return tables([read_machine(path) for path in sorted((Path(results) / "bench").glob("*.json"))])


def tables(machines: Sequence[Record]) -> dict[str, str]:
    """Return a table per part with the rows of all machines' records, and below it when and how it was measured."""
    made = {}
    for name, rows_of in TABLES.items():
        parts = [(hardware_words(each["hardware"]), each["parts"][name]) for each in machines if name in each["parts"]]
        rows = [{"hardware": hardware} | row for hardware, part in parts for row in rows_of(part)]
        measured = "; ".join(_measured(hardware, part) for hardware, part in parts)
        made[name] = f"{markdown(rows)}\n\n{measured}." if parts else ""
    return made


def _measured(hardware: str, part: Record) -> str:
    limit = f"up to {part['minutes']:g} minutes each" if "minutes" in part else f"{part['repeats']} repeats"
    torch, commit = part["versions"]["torch"], part["commit"]
    return f"{hardware}: torch {torch}, commit `{commit}`, {part['date']}, {limit}, source {part['source']}"


def _epoch(part: Record) -> list[Row]:
    rows = []
    for row in part["rows"]:
        ours, usual = row["seconds"]["ours"], row["seconds"]["usual"]
        ratios = [slow / fast for fast, slow in zip(ours, usual, strict=True)]
        rows.append({
            "experiment": f"`{row['experiment']}`",
            "ours, strips/s": f"{row['strips'] / median(ours):,.0f}",
            "usual, strips/s": f"{row['strips'] / median(usual):,.0f}",
            "ours over usual": f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
        })  # fmt: skip
    return rows


def _likelihood(part: Record) -> list[Row]:
    rows = []
    for axis in (axis for axis in ("columns", "digits", "cut digits", "LeNet on them") if axis in part):
        seconds = {int(size): median(repeats) for size, repeats in part[axis].items()}
        slope = np.polyfit(np.log(list(seconds)), np.log(list(seconds.values())), 1)[0]
        times = ", ".join(f"{size}: {1000 * each:.1f}" for size, each in seconds.items())
        rows.append({"by": axis, "ms a batch": times, "slope": f"{slope:.2f}"})
        if axis == "cut digits":
            kept = {size: each / 2**20 for size, each in part["kept_bytes"].items()}
            rows[-1]["MiB kept for the gradient"] = ", ".join(f"{size}: {each:,.0f}" for size, each in kept.items())
    return rows


def _prediction(part: Record) -> list[Row]:
    rows = []
    for name in dict.fromkeys(row["experiment"] for row in part["rows"]):
        calls = [row for row in part["rows"] if row["experiment"] == name]
        speeds = {f"{c['images']:,} a call, images/s": f"{c['images'] / median(c['seconds']):,.0f}" for c in calls}
        peak, before = calls[-1]["peak_bytes"] / 2**20, calls[-1]["peak_bytes_before"] / 2**20
        memory = {"peak MiB": f"{peak:,.0f}", "of that, by predicting": f"{peak - before:,.0f}"}
        rows.append({"experiment": f"`{name}`"} | speeds | memory)
    return rows


def _accuracy(part: Record) -> list[Row]:
    rows = []
    for timed in part["rows"]:
        row, last = {"experiment": f"`{timed['experiment']}`", "epochs": f"{timed['epochs']}"}, timed["checks"][-1]
        for target, seconds in timed["reached"].items():
            row[f"{100 * float(target):g} %"] = f"{seconds / 60:.1f} min" if seconds else "not reached"
        rows.append(row | {"last": f"{100 * last['accuracy']:.1f} % after {last['seconds'] / 60:.1f} min"})
    return rows


TABLES: dict[str, Callable[[Record], list[Row]]] = {
    "epoch": _epoch, "likelihood": _likelihood, "prediction": _prediction, "accuracy": _accuracy,
}  # fmt: skip
