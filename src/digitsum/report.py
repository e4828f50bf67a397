"""report.pdf: the records in results/ made into facts, charts and, with the Typst source in report/, a paper.

No number stands in the source: sentences and tables take them from facts.json, and where a sentence depends on which
of two numbers is larger, it is chosen here or there by comparing them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import typst

from . import plots
from .calibration import Reliability
from .checkpoints import read_metadata, replacing, write_json
from .data import mnist_is_there
from .evaluation import over_seeds
from .facts import by_variant, compared, facts_json
from .look import look, save
from .records import Record, load_comparison, load_records, load_studies, published, trained_on, unchanged
from .studies import READER, STUDIES

LOOK = Path("report") / "mnist.json"  # below results/: what look.py measured
CURVES = 4  # experiments at most are drawn of each objective


class ReportError(Exception):
    """A report that cannot be built; the message says what is missing or wrong, and what to do."""


def make_report(
    results: str | Path = "results",
    models: str | Path = "models",
    root: str | Path = "data",
    source: str | Path = "report",
    folder: str | Path = "build/report",
    output: str | Path = "report.pdf",
    redraw: bool = False,
) -> bool:
    """Build the paper at `output` from `source` and the records in `results`; returns whether it changed.

    Pictures of strips need MNIST in `root` and the reader's weights: they are kept in source/figures, their numbers in
    results/report, and both are made anew only for other weights, or on `redraw`. Everything else is made every time,
    in `folder`. Raises ReportError, and leaves the paper alone, where Typst has an error or a warning.
    """
    source, folder, output = Path(source), Path(folder), Path(output)
    if not (source / "report.typ").is_file():
        raise ReportError(f"{source / 'report.typ'} is not there; run this in the repository's root")
    records = [record for record in load_records(results) if record["source"] == "mnist"]
    if not any(record["experiment"] == READER for record in records):
        raise ReportError(f"{results} holds no record of the reader on mnist; train it, or restore its record")
    seen = _look(Path(results) / LOOK, Path(models) / "mnist" / f"{READER}.safetensors", Path(root), source, redraw)

    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    studies = by_variant(load_studies(results))
    facts = facts_json(records, seen, studies, load_comparison(results, records))
    (folder / "facts.json").write_text(facts, encoding="utf-8")
    draw_charts(records, studies, folder / "charts")
    paper = compile_paper(folder / "report.typ")
    if output.exists() and output.read_bytes() == paper:
        return False
    with replacing(output) as temporary:
        temporary.write_bytes(paper)
    return True


def compile_paper(path: Path) -> bytes:
    """The PDF of a Typst source, by Typst's own fonts. Raises ReportError for errors and for warnings."""
    compiler = typst.Compiler(path, root=path.parent, ignore_system_fonts=True)
    try:
        paper, warnings = compiler.compile_with_warnings(format="pdf")
    except typst.TypstError as error:
        raise ReportError(f"{path} cannot be compiled: {error}") from error
    if warnings:
        raise ReportError(f"{path} compiles with warnings: {'; '.join(map(str, warnings))}")
    assert isinstance(paper, bytes)  # one file, as PDF has all pages in one
    return paper


def _look(path: Path, weights: Path, root: Path, source: Path, redraw: bool) -> Record | None:
    """The record of what the reader's weights see, made anew where they have changed and all it takes is there."""
    possible = weights.exists() and mnist_is_there(root)
    try:
        there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except ValueError as error:
        if not possible:
            raise ReportError(f"{path} is not valid JSON ({error}); restore it, or make it where MNIST is") from error
        there = None
    if possible and (redraw or there is None or there["weights"] != read_metadata(weights)["digest"]):
        there = look(root, weights, source / "figures")
        write_json(there, path)
    return there


def draw_charts(records: Sequence[Record], studies: Mapping[str, Mapping[str, Sequence[Record]]], folder: Path) -> None:
    """The figures that need no strips, drawn from records."""
    rows = compared(records)
    entries = {
        seeds[0]["experiment"]: over_seeds([seed["metrics"]["unseen"]["accuracy"] for seed in seeds]) for seeds in rows
    }
    save(plots.accuracies(entries), folder / "accuracies.pdf", 6.4, 0.6 + 0.18 * len(entries))
    whole = [seeds[0] for seeds in rows if seeds[0]["history"] and not seeds[0]["changed"]]
    whole.sort(key=lambda record: -record["metrics"]["val"]["accuracy"]["value"])
    objectives = {record["experiment"]: record["settings"]["objective"] for record in whole}
    ranks = {name: list(objectives.values())[:k].count(objectives[name]) for k, name in enumerate(objectives)}
    histories = {record["experiment"]: record["history"] for record in whole if ranks[record["experiment"]] < CURVES}
    height = 2.4 * len(set(objectives.values()))
    save(plots.curves(histories, objectives), folder / "curves.pdf", 9.6, height)
    if "calibration" in studies:
        best = published(next(seeds for seeds in rows if seeds[0]["experiment"] == READER))["seed"]
        found = {record["seed"]: record["measured"] for record in studies["calibration"][READER]}
        measured = found.get(best, next(iter(found.values())))
        diagrams = {
            words: Reliability(*np.transpose(measured[way]["reliability"]))
            for way, words in (("plain", "as it is"), ("tempered", "with one temperature"))
        }
        save(plots.reliability(diagrams), folder / "reliability.pdf", 7.5, 3.6)
        shares, accuracies = np.transpose(measured["coverage"])
        save(plots.coverage({READER: (shares, accuracies)}), folder / "coverage.pdf", 5)
    if "sums" in studies:
        runs = [record for seeds in studies["sums"].values() for record in seeds]
        runs += unchanged(records, STUDIES["sums"].base)
        accuracy: dict[int, list[float]] = {}
        for run in runs:
            accuracy.setdefault(trained_on(run), []).append(run["metrics"]["unseen"]["accuracy"]["value"])
        save(plots.data_curve(accuracy), folder / "sums.pdf", 5)
