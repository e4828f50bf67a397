"""The tables of README.md and docs/, made from the records in results/. The sentences around them are in the pages."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence

import pandas as pd

from ..studies import STUDIES, variants_of
from ..systems import SUPERVISION, SYSTEMS
from . import cells
from .cells import NOTHING, PEERS, REPORTED
from .claims import judged
from .records import REFERENCES, SOURCE, Record, Studies, rows_of

Row = dict[str, str]  # cells by the names of their columns
Measured = Mapping[str, Sequence[Record]]  # what a study has measured, by reader


def markdown(rows: Sequence[Row]) -> str:
    """Return a table in GitHub's Markdown, without the blanks that align its columns; "" without rows."""
    if not rows:
        return ""
    table = pd.DataFrame(rows).fillna(NOTHING).to_markdown(index=False, tablefmt="github", disable_numparse=True)
    return re.sub(" {2,}", " ", re.sub("-{4,}", "---", table))


def tables_of(records: Sequence[Record], studies: Studies, comparison: Record | None) -> dict[str, list[Row]]:
    """Return the rows of every table by its name."""
    rows = rows_of(records)
    short = [seeds for seeds in rows if "evaluate_limit" in seeds[0]["changed"]]
    tables = {
        "core": [_core(seeds) for seeds in rows if seeds[0]["experiment"] not in SYSTEMS.keys() - {*REFERENCES}],
        "results": [_result(seeds) for seeds in rows if seeds not in short],
        "shortened": [_result(seeds) for seeds in short],
        "strings": [_strings(seeds) for seeds in rows if seeds[0]["strings"] and seeds not in short],
        "details": [_detail(seeds, split) for seeds in rows for split in cells.SPLITS if split in seeds[0]["metrics"]],
        "runs": [_run(record) for seeds in rows for record in seeds],
        "comparison": _comparison(comparison) if comparison else [],
        "claims": judged(records),
        "peers": _peers(rows),
    }
    for study, found in studies.items():
        if not STUDIES[study].measure:
            tables[f"study-{study}"] = _variants(study, found)
    for name, (study, rows_from) in MEASURED.items():
        measured = {reader: cells.column(seeds, "measured") for reader, seeds in studies.get(study, {}).items()}
        tables[name] = rows_from(measured) if measured else []
    return tables


# Rows of runs; each takes the seeds of one row


def _named(seeds: Sequence[Record]) -> str:
    return "<br>".join(filter(None, [f"`{seeds[0]['experiment']}`", cells.departures(seeds[0])]))


def _core(seeds: Sequence[Record]) -> Row:
    report = seeds[0]["settings"]["report"]
    return {
        "experiment": _named(seeds), "report": NOTHING if report == "this repository" else report,
        "test MSE": cells.of_runs(seeds, "test", "mse"), "test MAE": cells.of_runs(seeds, "test", "mae"),
        **{f"rounded accuracy, {split}": cells.of_runs(seeds, split) for split in ("test", "unseen")},
        "seeds": str(len(seeds)), "parameters": f"{seeds[0]['parameters']:,}",
    }  # fmt: skip


def _result(seeds: Sequence[Record]) -> Row:
    stated = REPORTED.get(seeds[0]["experiment"])
    theirs = f"{stated['report']}: {stated['states']}" if stated else NOTHING
    if stated and stated["differs"] and not seeds[0]["changed"]:
        theirs += f"<br>{stated['differs']}"
    return {
        "experiment": _named(seeds), "its report, course files (theirs)": theirs,
        "learns from": f"{cells.learned_from(seeds[0])}; seeds: {len(seeds)}",
        "validation": cells.of_runs(seeds, "val"), "test": cells.of_runs(seeds, "test"),
        "unseen": cells.of_runs(seeds, "unseen", worst=True),
        "test MSE": cells.of_runs(seeds, "test", "mse"), "test MAE": cells.of_runs(seeds, "test", "mae"),
    }  # fmt: skip


def _strings(seeds: Sequence[Record]) -> Row:
    return {"experiment": _named(seeds)} | {
        cells.SPLITS[split]: cells.summary(cells.column(seeds, "strings", split)) for split in seeds[0]["strings"]
    }


def _detail(seeds: Sequence[Record], split: str) -> Row:
    name, metrics = seeds[0]["experiment"], seeds[0]["metrics"]
    row = {"experiment": f"`{name}`", "strips": cells.SPLITS[split], "n": f"{metrics[split]['n']:,}"}
    row |= {way: cells.of_runs(seeds, split, way, worst=True) for way in ("accuracy", "floor", "ceiling")}
    if all(entry["floor"] == entry["ceiling"] for entry in metrics.values()):  # as a classifier's answers are
        row |= {"floor": NOTHING, "ceiling": NOTHING}
    return row


def _run(record: Record) -> Row:
    return {
        "experiment": f"`{record['experiment']}`", "seed": str(record["seed"]),
        "epochs": f"{record['settings']['epochs']}, best {record['best_epoch']}",
        "parameters": f"{record['parameters']:,}",
        "minutes": f"{record['seconds']['train' if record['history'] else 'total'] / 60:.1f}",
        "hardware": cells.hardware_words(record["hardware"]),
        "code": f"`{record['commit']}`, torch {record['versions']['torch']}",
    }  # fmt: skip


def _comparison(comparison: Record) -> list[Row]:
    rows = []
    for system, pair in zip(comparison["systems"][:-1], comparison["pairs"], strict=True):  # the last has no next
        mae, low, high = (f"{pair['mae'][key]:+.3f}".replace("-", "−") for key in ("value", "low", "high"))
        rows.append({
            "system": f"`{system['experiment']}`", "accuracy": f"{100 * system['accuracy']:.1f} %",
            "interval": f"× {comparison['design_effect'][system['experiment']] ** 0.5:.1f}",
            "next": f"`{pair['next']}`",
            "only it is right": f"{pair['only_better']:,}", "only the next is": f"{pair['only_next']:,}",
            "p": f"{pair['p']:.2g}" if pair["p"] else "< 1e-300", "MAE, difference": f"{mae} ({low} to {high})",
        })  # fmt: skip
    return rows


def _peers(rows: Sequence[Sequence[Record]]) -> list[Row]:
    """Give each kind of data its own column. Ours is the system taught by sums that is best on validation."""
    taught = [seeds for seeds in rows if seeds[0]["experiment"] not in SUPERVISION]
    if not taught:
        return []
    best = max(taught, key=lambda seeds: statistics.mean(cells.column(seeds, "metrics", "val", "accuracy", "value")))
    ours = {
        "system": f"`{best[0]['experiment']}`, this repository", "learns from": cells.learned_from(best[0]),
        **dict.fromkeys([peer["data"] for peer in PEERS], NOTHING),
        f"`{SOURCE}`, unseen (ours)": cells.of_runs(best, "unseen", worst=True),
        "parameters": f"{best[0]['parameters'] / 1e6:.2f} M",
    }  # fmt: skip
    shared = ("system", "learns from", "parameters")
    return [ours] + [{key: peer[key] for key in shared} | {peer["data"]: peer["accuracy"]} for peer in PEERS]


# Tables of studies


def _variants(study: str, found: Mapping[str, Sequence[Record]]) -> list[Row]:
    """Make a row for each variant, and on cut digits for what others reach."""
    rows, cut = [], study == "cut_digits"
    for name, (sentence, _) in variants_of(study).items():
        if not (seeds := found.get(name)):
            continue
        row = {
            "variant": f"`{name}`", "what it is": sentence, "seeds": str(len(seeds)),
            "validation": cells.of_runs(seeds, "val", worst=True),
            "test (ours)" if cut else "unseen": cells.of_runs(seeds, "test" if cut else "unseen", worst=True),
        }  # fmt: skip
        rows.append(row if cut else row | {"digit by digit": cells.summary(cells.strings(seeds), worst=True)})
    return rows + [
        {"variant": peer["system"], "what it is": f"{peer['learns from']}.", "test (theirs)": peer["accuracy"]}
        for peer in PEERS if rows and cut and peer["data"] == "cut digits (theirs)"
    ]  # fmt: skip


def _counts(found: Measured) -> list[Row]:
    columns = {
        "digit by digit, count unknown": ("unknown", "strings"), "sum": ("unknown", "sums"),
        "count": ("unknown", "count"), "digit by digit, count known": ("known", "strings"),
    }  # fmt: skip
    (measured,) = found.values()
    return [
        {"digits": digits, "columns": str(first["columns"]), "strips": f"{first['n']:,}"}
        | {title: cells.summary(cells.column(measured, digits, *path), worst=True) for title, path in columns.items()}
        for digits, first in measured[0].items()
    ]


def _tta(found: Measured) -> list[Row]:
    columns = {"read again": "again", "right without TTA": "once", "right with TTA": "several"}
    (measured,) = found.values()
    return [
        {"strips": cells.SPLITS[split], "n": f"{first['n']:,}"}
        | {title: cells.summary(cells.column(measured, "splits", split, key)) for title, key in columns.items()}
        for split, first in measured[0]["splits"].items()
    ]


def _pseudo_labels(found: Measured) -> list[Row]:
    return [
        {
            "training strips": f"{each['strips']:,}", "isolated digits": f"{each['digits']:,}",
            "of them different": f"{each['glyphs']:,}", "labelled right": f"{100 * each['right']['value']:.2f} %",
        } for (each,) in found.values()
    ]  # fmt: skip


def _handwriting(found: Measured) -> list[Row]:
    rows = {
        "unseen strips, number of digits not told": "open",
        "pictures of 24 kinds, not told": "pictures", "amounts of real cheques, not told": "cheques",
    }  # fmt: skip
    return [
        {"right": what} | {f"`{name}`": cells.summary([each[key]]) for name, (each,) in found.items()}
        for what, key in rows.items()
    ]


def _kinds(found: Measured) -> list[Row]:
    (first, *_) = found.values()
    return [
        {"kind": kind.replace("_", " ")} | {f"`{name}`": str(each["kinds"][kind]) for name, (each,) in found.items()}
        for kind in first[0]["kinds"]
    ]


def _confidence(found: Measured) -> list[Row]:
    return [
        {
            "reader": f"`{name}`", "temperature": f"{each['temperature']:.2f}", "at least": f"{float(least):.0%}",
            "rows": f"{sure['n']:,}", "right": cells.summary([sure]),
        } for name, (each,) in found.items() for least, sure in each["sure"].items()
    ]  # fmt: skip


def _cheques(found: Measured) -> list[Row]:
    what = {"sums": "sum and number of digits", "sums_alone": "sum", "strings": "all digits"}
    return [
        {
            "amounts told": f"{row['told']}", "what of them": what[name.rpartition("-")[0]],
            f"read right of {each['n']:,}": cells.summary([row]),
        } for (each,) in found.values() for name, row in each["rows"].items()
    ]  # fmt: skip


def _calibration(found: Measured) -> list[Row]:
    (measured,) = found.values()
    first = measured[0]

    def mean(*path: str, unit: str = "") -> str:
        return cells.mean_of([(100 if unit else 1) * value for value in cells.column(measured, *path)]) + unit

    def spread(*path: str | int, error: bool = False) -> str:
        return cells.summary(cells.column(measured, *path), worst=True, error=error)

    figures = {
        "accuracy": spread("accuracy"),
        "expected calibration error": mean("plain", "expected_calibration_error", unit=" %"),
        "the same at the temperature below": mean("tempered", "expected_calibration_error", unit=" %"),
        "temperature, fitted on validation": mean("temperature"),
        f"accuracy without the {100 * first['abstaining']['share']:.0f} % that it trusts least": spread("abstaining"),
    }
    if "offset" in first:
        title = "distance to the digits' centres, less the offset, in pixels"
        figures |= {title: spread("centre_error", error=True), "offset, in pixels": mean("offset")}
    for k, group in enumerate(first.get("overlap", [])):
        where = "apart" if group["to"] == 0 else f"overlapping by {group['from']}–{group['to']} columns"
        figures[f"accuracy, closest neighbours {where} (n = {group['n']:,})"] = spread("overlap", k)
    title = f"{cells.SPLITS[first['split']]}, n = {first['n']:,}"
    return [{"figure": figure, title: value} for figure, value in figures.items()]


MEASURED = {  # by table: the study, and what makes rows of its measurements
    "study-counts": ("counts", _counts), "study-tta": ("tta", _tta),
    "study-pseudo_labels": ("pseudo_labels", _pseudo_labels), "study-cheques": ("cheques", _cheques),
    "study-calibration": ("calibration", _calibration), "study-ensemble": ("ensemble", _calibration),
    "study-handwriting": ("handwriting", _handwriting), "kinds": ("handwriting", _kinds),
    "confidence": ("handwriting", _confidence),
}  # fmt: skip
