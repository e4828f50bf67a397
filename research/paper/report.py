"""report.pdf: facts and charts from the records, and report.typ, which holds the sentences, compiled by Typst."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typst

from digitsum import plots
from digitsum.checkpoints import replacing, write_json
from digitsum.errors import RecordError, refusing
from digitsum.runs import load_json

from ..studies import READER, SMALL, STUDIES
from . import cells, charts
from .published import load_all
from .records import Entry, Record, Studies, best_seed, one_row_each
from .tables import tables_of

WAYS = {"plain": "as it is", "tempered": "with one temperature"}
SHOWN = ("ablations", "sums", "counts", "cut_digits", "tta", "calibration", "ensemble", "pseudo_labels")
MARKERS = {"o": "●○", "s": "■□", "D": "◆◇", "^": "▲△", "v": "▼▽"}  # of plots, filled and hollow
MEASURES = {"accuracy": "", "floor": " floor", "ceiling": " ceiling", "mse": " MSE", "mae": " MAE"}
HERE = Path(__file__).parent  # report.typ, references.bib and figures/
CURVES = 4  # draw at most so many experiments of each objective


def make_report(
    results: str | Path = "results", models: str | Path = "models", root: str | Path = "data",
    output: str | Path = "report.pdf", redraw: bool = False,
) -> None:  # fmt: skip
    """Build the paper at `output`; `redraw` first makes figures/ and results/report anew, from MNIST and the reader.

    Raises RecordError for records that are missing or contradict a sentence, and leaves an old paper alone.
    """
    seen, output = Path(results) / "report" / "mnist.json", Path(output)
    if redraw:
        write_json(charts.look(root, Path(models) / "mnist" / f"{READER}.safetensors", HERE / "figures"), seen)
    published = load_all(results)
    with refusing(seen, "Make it again: python -m research report --redraw", RecordError):
        looked = load_json(seen)
    with TemporaryDirectory() as folder:
        source = Path(shutil.copytree(HERE, Path(folder) / "paper"))
        try:
            write_json(facts(*published, looked), source / "facts.json")
            draw_charts(*published[:2], source / "charts")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise RecordError(f"{results} lacks what the paper tells ({error!r}). Restore its records.") from error
        paper = compile_paper(source / "report.typ")
    with replacing(output) as temporary:
        temporary.write_bytes(paper)


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
    charts.save(
        plots.accuracies({name: shares(row)["unseen"] for name, row in rows.items()}),
        folder / "accuracies.pdf",
        6.4,
        0.6 + 0.18 * len(rows),
    )
    whole = [row[0] for row in rows.values() if row[0]["history"] and not row[0]["changed"]]
    whole.sort(key=lambda run: -run["metrics"]["val"]["accuracy"]["value"])
    kinds = [run["settings"]["objective"] for run in whole]
    drawn = [run for k, run in enumerate(whole) if kinds[:k].count(kinds[k]) < CURVES]
    charts.save(plots.curves(drawn), folder / "curves.pdf", 11, 2.3 * len(set(kinds)))
    best = best_seed(rows[READER])["seed"]
    (measured,) = (each["measured"] for each in studies["calibration"][READER] if each["seed"] == best)
    errors = {way: f"calibration error {measured[way]['expected_calibration_error']:.2%}" for way in WAYS}
    diagrams = {f"{words}\n{errors[way]}": measured[way]["reliability"] for way, words in WAYS.items()}
    charts.save(charts.reliability(diagrams), folder / "reliability.pdf", 7.5, 3.6)
    charts.save(charts.coverage(measured["coverage"]), folder / "coverage.pdf", 5, 2.5)
    outside = {name: record["measured"] for name, (record,) in studies["handwriting"].items()}
    diagrams = {f"{name}\ntemperature {each['temperature']:.2f}": each["reliability"] for name, each in outside.items()}
    charts.save(charts.reliability(diagrams), folder / "handwriting.pdf", 7.5, 3.6)


# What report.typ reads: records as they are, and what Python can say of them better than Typst


def facts(records: Sequence[Record], studies: Studies, comparison: Record | None, seen: Record) -> dict[str, Any]:
    """Return all that the paper tells. Raises RecordError if records are missing."""
    rows = one_row_each(records)
    lacking = [f"of {name}" for name in (*cells.REPORTED, READER, SMALL) if name not in rows]
    lacking += [f"of the study {name} (python -m research study {name})" for name in SHOWN if not studies.get(name)]
    if lacking or comparison is None:
        raise RecordError(f"The paper lacks records {', '.join(lacking or ['of the comparison'])}")
    return {
        "systems": {name: _system(seeds) for name, seeds in rows.items()},
        "theirs": {name: stated | {"ours": _beside(stated, rows[name])} for name, stated in cells.REPORTED.items()},
        "tables": tables_of(records, studies, comparison),
        "variants": {name: shares(seeds) for study in ("ablations", "sums") for name, seeds in studies[study].items()},
        "measured": {name: cells.column(studies[name][READER], "measured") for name in SHOWN if STUDIES[name].measure},
        "ensemble_of": len(studies["ensemble"][READER][0]["seeds"]),
        "comparison": comparison, "seen": seen, "data": records[0]["data"],
    }  # fmt: skip


def shares(seeds: Sequence[Record]) -> dict[str, Any]:
    """Return the accuracy on each split, and `strings`: unseen strips with all digits right, if a row reads digits."""
    entries = {split: cells.column(seeds, "metrics", split, "accuracy") for split in seeds[0]["metrics"]}
    return {name: of_seeds(each) for name, each in (entries | {"strings": cells.strings(seeds)}).items() if each}


def of_seeds(seeds: Sequence[Entry]) -> dict[str, Any]:
    """Return the mean of value, low and high over seeds, the extremes, and text.

    All seeds read the same strips, so together they are no larger sample and the interval stays that of one seed.
    The extremes of a single seed are its interval.
    """
    means = {key: statistics.mean(seed[key] for seed in seeds) for key in ("value", "low", "high")}
    values = [seed["value"] for seed in seeds] if len(seeds) > 1 else [means["low"], means["high"]]
    texts = {"brief": cells.summary(seeds), "text": cells.summary(seeds, worst=True)}
    return means | {"least": min(values), "most": max(values)} | texts


def _system(seeds: Sequence[Record]) -> dict[str, Any]:
    """Describe a row of seeds."""
    first, look = seeds[0], plots.look_of(seeds[0]["experiment"])
    return {
        "name": first["experiment"], "settings": first["settings"], "seeds": len(seeds), "colour": look["color"],
        "marker": MARKERS[look["marker"]][look["markerfacecolor"] != look["color"]],
        "learned": cells.learned_from(first), "note": cells.departures(first), "departs": bool(first["changed"]),
        "parameters": f"{first['parameters']:,}", "millions": f"{first['parameters'] / 1e6:.2f}",
        "best_epoch": _span([seed["best_epoch"] for seed in seeds]),
        "minutes": _span([round(seed["seconds"]["train"] / 60) for seed in seeds]),
        "hardware": list(dict.fromkeys(cells.hardware_words(seed["hardware"]) for seed in seeds)),
        **{error: cells.of_runs(seeds, "test", error) for error in ("mae", "mse")}, **shares(seeds),
    }  # fmt: skip


def _span(values: Sequence[int]) -> str:
    """Return the lowest and the highest value, "12–16"; one number if they are the same."""
    return "–".join(map(str, sorted({min(values), max(values)})))


def _beside(stated: Mapping[str, str], seeds: Sequence[Record]) -> str:
    """Return the same measures of ours as a report states."""
    measures = [measure.split() for measure in stated["measures"].split(", ")]
    return "; ".join(
        f"{cells.SPLITS[split]}{MEASURES[each]} {cells.of_runs(seeds, split, each, worst=True)}"
        for split, each in measures
    )
