"""report.pdf: facts and charts from the records, and report.typ, which holds the sentences, compiled by Typst."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typst

from digitsum import plots
from digitsum.checkpoints import replacing, write_json
from digitsum.errors import RecordError

from ..studies import READER
from . import charts
from .facts import facts, of_seeds
from .records import Record, Studies, best_seed, load_comparison, load_records, load_studies, one_row_each, read_json

HERE = Path(__file__).parent  # report.typ, references.bib and figures/
CURVES = 4  # draw at most so many experiments of each objective


def make_report(
    results: str | Path = "results", models: str | Path = "models", root: str | Path = "data",
    output: str | Path = "report.pdf", redraw: bool = False,
) -> bool:  # fmt: skip
    """Build the paper at `output` from the records in `results`; return whether it changed.

    `redraw` first makes figures/ and results/report anew, which needs MNIST in `root` and the reader's weights.
    Raises RecordError for records that are missing or contradict a sentence, and leaves an old paper alone.
    """
    seen, output = Path(results) / "report" / "mnist.json", Path(output)
    if redraw:
        from .look import look

        write_json(look(root, Path(models) / "mnist" / f"{READER}.safetensors", HERE / "figures"), seen)
    records = load_records(results)
    studies = load_studies(results, records)
    told = facts(records, studies, load_comparison(results, records), read_json(seen, {"errors": dict}))
    with TemporaryDirectory() as folder:
        source = Path(shutil.copytree(HERE, Path(folder) / "paper"))
        write_json(told, source / "facts.json")
        draw_charts(records, studies, source / "charts")
        paper = compile_paper(source / "report.typ")
    changed = not output.exists() or output.read_bytes() != paper
    if changed:
        with replacing(output) as temporary:
            temporary.write_bytes(paper)
    return changed


def compile_paper(path: Path) -> Any:
    """Return the PDF of a Typst source, in Typst's own fonts. Raises RecordError for errors and warnings."""
    try:
        compiler = typst.Compiler(path, root=path.parent, ignore_system_fonts=True)
        paper, warnings = compiler.compile_with_warnings(format="pdf")
    except typst.TypstError as error:
        raise RecordError(f"{path.name} does not compile: {error}") from error
    if warnings:
        raise RecordError(f"{path.name} compiles with warnings: {'; '.join(map(str, warnings))}")
    return paper


def draw_charts(records: Sequence[Record], studies: Studies, folder: Path) -> None:
    """Draw the figures that need no strips."""
    rows = one_row_each(records)
    accuracies = {name: of_seeds([run["metrics"]["unseen"]["accuracy"] for run in row]) for name, row in rows.items()}
    charts.save(plots.accuracies(accuracies), folder / "accuracies.pdf", 6.4, 0.6 + 0.18 * len(rows))
    whole = [row[0] for row in rows.values() if row[0]["history"] and not row[0]["changed"]]
    whole.sort(key=lambda run: -run["metrics"]["val"]["accuracy"]["value"])
    objectives = {run["experiment"]: run["settings"]["objective"] for run in whole}
    kinds = list(objectives.values())
    drawn = {run["experiment"]: run["history"] for k, run in enumerate(whole) if kinds[:k].count(kinds[k]) < CURVES}
    charts.save(plots.curves(drawn, objectives), folder / "curves.pdf", 11, 2.3 * len(set(kinds)))
    best = best_seed(rows[READER])["seed"]
    (measured,) = (record["measured"] for record in studies["calibration"][READER] if record["seed"] == best)
    charts.save(charts.reliability(measured), folder / "reliability.pdf", 7.5, 3.6)
    charts.save(charts.coverage(measured["coverage"]), folder / "coverage.pdf", 5, 2.5)
