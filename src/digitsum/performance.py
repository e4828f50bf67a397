"""The tables and the figure of docs/performance.md, made from the benchmark's records."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import numpy as np

from .bench import TARGETS
from .checkpoints import replacing
from .plots import step_phases
from .records import TableError, load_streams
from .tables import EMPTY, NOTHING, hardware_words, markdown_table, share_of

Record = dict[str, Any]
Part = dict[str, Any]

FIGURE = "reader_step.svg"
MIB = 2**20


def load_records(results: str | Path = "results") -> list[Record]:
    """The record of every machine, results/bench/*.json. Raises TableError for a file that is none."""
    records = []
    for path in sorted((Path(results) / "bench").glob("*.json")):
        try:
            record = json.loads(path.read_bytes())
            hardware_words(record["hardware"]), record["parts"].items()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TableError(f"{path} is not a benchmark's record ({error!r}); restore it, or measure again") from error
        records.append(record)
    return records


def published_tables(results: str | Path = "results") -> dict[str, str]:
    """Every table of speed by name, as Markdown. Raises TableError where a record is wrong."""
    return tables(load_records(results)) | {"streams": streams(load_streams(results))}


def draw(folder: str | Path = "docs", results: str | Path = "results") -> None:
    """Draw the parts of a step into the folder, a panel for each machine; nothing where none has measured them."""
    having = _having(load_records(results), "phases")
    machines = {hardware_words(record["hardware"]): record["parts"]["phases"]["phases"] for record in having}
    if machines:
        # The salt makes the names within the file the same every time.
        with replacing(Path(folder) / FIGURE) as temporary, mpl.rc_context({"svg.hashsalt": FIGURE}):
            step_phases(machines).savefig(temporary, format="svg", metadata={"Date": None})


def tables(records: Sequence[Record]) -> dict[str, str]:
    """Every table by the name of the part that it shows; a sentence where no record has the part."""
    made = {}
    for part, (header, rows) in TABLES.items():
        having = _having(records, part)
        option = "--time-to-accuracy 30" if part == "accuracy" else f"--only {part}"
        if not having:
            made[part] = f"{EMPTY} `python -m digitsum bench {option}` makes the first."
            continue
        cells = [[hardware_words(r["hardware"]), *row] for r in having for row in rows(r["parts"][part])]
        made[part] = "\n\n".join([markdown_table(["hardware", *header], cells), *_below(part, having)])
    return made


def streams(records: Sequence[Record]) -> str:
    """A row per run on streamed strips."""
    if not records:
        return f"{EMPTY} `python -m digitsum train reader --stream 300000 --epochs 1 --preset full` makes the first."
    rows = [
        [
            f"`{record['experiment']}`", record["source"].partition("-")[0],
            f"{record['data']['strips']['train']:,} × {record['settings']['epochs']}",
            *(share_of([record], split) for split in ("val", "test", "unseen")),
            f"{record['seconds']['train'] / 60:.0f}", hardware_words(record["hardware"]),
        ]
        for record in records
    ]  # fmt: skip
    header = ["experiment", "source", "strips × epochs", "validation", "test", "unseen", "minutes", "hardware"]
    return markdown_table(header, rows)


def _having(records: Sequence[Record], part: str) -> list[Record]:
    return [record for record in records if part in record["parts"]]


def _below(part: str, records: Sequence[Record]) -> list[str]:
    """A picture where there is one, and what the numbers were measured with."""
    measured = (
        f"{hardware_words(r['hardware'])}: torch {p['versions']['torch']}, commit `{p['commit']}`, {p['date']}, "
        # Trainings to an accuracy are made once, and for so long at most.
        + (f"up to {p['minutes']:g} minutes a training, " if part == "accuracy" else f"{p['repeats']} repeats, ")
        + f"source {p['source']}"
        for r in records
        for p in [r["parts"][part]]
    )
    picture = [f"![Time of each phase of a step of the reader, by group of operations]({FIGURE})"]
    return picture * (part == "phases") + ["; ".join(measured) + "."]


def _epoch(part: Part) -> list[list[str]]:
    rows = []
    for row in part["rows"]:
        seconds, n = row["seconds"], row["strips"]
        turns = list(zip(seconds["ours"], seconds["usual"], seconds["ready"], strict=True))
        ratios = [usual / ours for ours, usual, _ in turns]
        rows.append([
            f"`{row['experiment']}`", f"{n / median(seconds['ours']):,.0f}", f"{n / median(seconds['usual']):,.0f}",
            f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
            f"{100 * median(1 - ready / ours for ours, _, ready in turns):.1f} %",
        ])  # fmt: skip
    return rows


def _precision(part: Part) -> list[list[str]]:
    rows = []
    for row in part["rows"]:
        bfloat16, float32 = (median(row["seconds"][way]) for way in ("bfloat16", "float32"))
        cells = f"{1000 * bfloat16:.1f}", f"{1000 * float32:.1f}", f"{float32 / bfloat16:.2f}"
        rows.append([f"`{row['experiment']}`", *cells])
    return rows


def _compiled(part: Part) -> list[list[str]]:
    rows = []
    for row in part["rows"]:
        plain, compiled = (median(row["seconds"][way]) for way in ("plain", "compiled"))
        extra = row["first"] - compiled
        worth = f"after {extra / (plain - compiled):,.0f} steps" if compiled < plain else "never"
        rows.append([
            f"`{row['experiment']}`", f"{1000 * plain:.1f}", f"{1000 * compiled:.1f}", f"{plain / compiled:.2f}",
            f"{extra:.0f}", worth,
        ])  # fmt: skip
    return rows


def _likelihood(part: Part) -> list[list[str]]:
    turns = zip(part["share"]["likelihood"], part["share"]["step"], strict=True)
    share = f"{100 * median(likelihood / step for likelihood, step in turns):.1f} %"
    return [[share, *_growth(part["columns"]), *_growth(part["digits"])]]


def _growth(times: dict[str, list[float]]) -> list[str]:
    """Milliseconds at each size, and the slope in log-log: 1 where the cost is linear."""
    medians = {int(size): median(seconds) for size, seconds in times.items()}
    slope = np.polyfit(np.log(list(medians)), np.log(list(medians.values())), 1)[0]
    return [", ".join(f"{size}: {1000 * seconds:.2f}" for size, seconds in medians.items()), f"{slope:.2f}"]


def _prediction(part: Part) -> list[list[str]]:
    def speed(row: Part) -> float:
        return row["images"] / median(row["seconds"])

    resnet = {
        row["images"]: speed(row)
        for row in part["rows"]
        if row["experiment"] == "resnet50-classification" and not row.get("bfloat16")
    }
    return [
        [
            f"`{row['experiment']}`" + ", bfloat16" * row.get("bfloat16", False),
            f"{row['images']:,}",
            f"{speed(row):,.0f}",
            f"{speed(row) / resnet[row['images']]:.1f}",
            f"{row['peak_bytes'] / MIB:,.0f}",
            f"{(row['peak_bytes'] - row['peak_bytes_before']) / MIB:,.0f}",
        ]
        for row in part["rows"]
    ]


def _accuracy(part: Part) -> list[list[str]]:
    def reached(seconds: float | None) -> str:
        return "not reached" if seconds is None else f"{seconds / 60:.1f} min"

    return [
        [
            f"`{row['experiment']}`" + (f" from {row['weights']}" if row["weights"] != "none" else ", random start"),
            f"{row['epochs']}",
            *map(reached, row["reached"].values()),
            f"{100 * row['checks'][-1]['accuracy']:.1f} % after {row['checks'][-1]['seconds'] / 60:.1f} min",
        ]
        for row in part["rows"]
    ]


def _generation(part: Part) -> list[list[str]]:
    ratio = f"{part['peak_bytes'] / part['result_bytes']:.2f}"
    return [[f"{part['strips']:,}", f"{median(part['compose']):.2f}", ratio]]


def _floor(part: Part) -> list[list[str]]:
    rate = part["multiply_flops"] / min(part["multiply"])  # the best of the repeats: a floor takes the peak
    bandwidth = part["copy_bytes"] / min(part["copy"])
    arithmetic, traffic = part["flops"] / rate, part["traffic_bytes"] / bandwidth
    step, loop = median(part["step"]), median(part["loop_step"])
    times = [f"{1000 * seconds:.2f}" for seconds in (arithmetic, traffic, step, loop)]
    return [[
        f"{part['flops'] / 1e9:.1f}", f"{rate / 1e12:.2f} in {part['dtype']}", f"{part['traffic_bytes'] / 1e9:.2f}",
        f"{bandwidth / 1e9:.1f}", *times, *(f"{seconds / max(arithmetic, traffic):.1f}" for seconds in (step, loop)),
    ]]  # fmt: skip


def _phases(part: Part) -> list[list[str]]:
    total = sum(sum(groups.values()) for groups in part["phases"].values())
    rows = []
    for phase, groups in part["phases"].items():
        largest = max(groups, key=lambda group: groups[group])
        own = sum(groups.values())
        rows.append([phase, f"{1000 * own:.2f}", f"{100 * own / total:.0f} %", largest if own else NOTHING])
    return rows


TABLES: dict[str, tuple[Sequence[str], Callable[[Part], list[list[str]]]]] = {
    "epoch": (["experiment", "ours, strips/s", "usual, strips/s", "ours over usual", "not model work"], _epoch),
    "precision": (["experiment", "bfloat16, ms", "float32, ms", "bfloat16, times as fast"], _precision),
    "compiled": (
        ["experiment", "step, ms", "compiled, ms", "times as fast", "seconds to compile", "pays"],
        _compiled,
    ),
    "likelihood": (
        ["share of a step", "ms by columns, 4 digits", "slope", "ms by digits, 42 columns", "slope"],
        _likelihood,
    ),
    "prediction": (
        ["experiment", "images a call", "images/s", "times ResNet-50", "peak MiB", "of that, by predicting"],
        _prediction,
    ),
    "accuracy": (["experiment", "epochs", *(f"{100 * target:g} %" for target in TARGETS), "last"], _accuracy),
    "generation": (["strips", "seconds", "peak memory over the result's"], _generation),
    "floor": (
        [
            "GFLOP a step", "TFLOP/s measured", "GB moved a step", "GB/s measured", "floor by arithmetic, ms",
            "floor by traffic, ms", "step, ms", "our loop's step, ms", "step over floor", "loop over floor",
        ],
        _floor,
    ),
    "phases": (["phase", "ms", "share", "most of it"], _phases),
}  # fmt: skip
