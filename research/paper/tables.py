"""The tables of README.md and docs/, made from the records in results/. The sentences around them are in the pages."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from digitsum.checkpoints import replacing
from digitsum.errors import RecordError

from ..studies import STUDIES, variants_of
from ..systems import SYSTEMS
from . import cells
from .claims import judged
from .records import (
    SOURCE,
    Record,
    in_rows,
    last_split,
    load_comparison,
    load_records,
    load_studies,
    supervision,
    trained_on,
    unchanged,
)
from .reported import NOTHING, PEERS_ON_CUT_DIGITS, PEERS_ON_STRIPS, REPORTED

PAGES = ("README.md", "docs/results.md", "docs/reader.md", "docs/performance.md")
PLACE = re.compile(r"^<!-- table:(\S+) -->$.*?^<!-- /table:\1 -->$", re.MULTILINE | re.DOTALL)
EMPTY = "No records yet:"

Row = dict[str, str]  # cells by the names of their columns


def published_tables(results: str | Path = "results") -> dict[str, str]:
    """Return every table by name, as Markdown. Raises RecordError if a record is wrong, or if there are none."""
    records, studied = cells.ranked(load_records(results)), load_studies(results)
    if not records:
        raise RecordError(f"{results}/{SOURCE} holds no records, and without them the tables would be empty")
    rows = in_rows(records)
    short = [seeds for seeds in rows if "evaluate_limit" in seeds[0]["changed"]]
    comparison = load_comparison(results, records)
    tables = {
        "core": [_core(seeds) for seeds in rows if seeds[0]["experiment"] not in SYSTEMS.keys() - cells.REFERENCES],
        "results": [_result(seeds) for seeds in rows if seeds not in short],
        "shortened": [_result(seeds) for seeds in short],
        "strings": [_strings(seeds) for seeds in rows if seeds[0]["strings"] and seeds not in short],
        "details": [_detail(seeds, split) for seeds in rows for split in cells.SPLITS if split in seeds[0]["metrics"]],
        "runs": [_run(record) for record in records],
        "comparison": _comparison(comparison) if comparison else [],
        "claims": [dict(zip(("claim", "report", "measured", "verdict"), row, strict=True)) for row in judged(records)],
        "peers": _peers(rows),
    }
    commands = "\n".join(["```bash", *dict.fromkeys(map(cells.command, records)), "```"])
    return {name: markdown(table) for name, table in tables.items()} | {"commands": commands} | {
        f"study-{name}": study_table(name, [record for record in studied if record["study"] == name], records)
        for name in STUDIES
    }  # fmt: skip


def markdown(rows: Sequence[Row]) -> str:
    """Return a table in GitHub's Markdown, without the blanks that align its columns."""
    table = pd.DataFrame(rows).to_markdown(index=False, tablefmt="github", disable_numparse=True)
    return re.sub(" {2,}", " ", re.sub("-{4,}", "---", table))


def renew(tables: Mapping[str, str], pages: Sequence[str | Path] = PAGES) -> list[Path]:
    """Write the tables into the pages and return those that changed: all pages or, after a RecordError, none."""
    if missing := [str(page) for page in pages if not Path(page).is_file()]:
        raise RecordError(f"{', '.join(missing)} is missing; run this in the repository's root")
    old = {Path(page): Path(page).read_text(encoding="utf-8") for page in pages}
    new = filled(old, tables)
    changed = [page for page in old if new[page] != old[page]]
    for page in changed:
        with replacing(page) as temporary:
            temporary.write_text(new[page], encoding="utf-8")
    return changed


def filled(pages: Mapping[Path, str], tables: Mapping[str, str]) -> dict[Path, str]:
    """Return the pages with every table between its markers, <!-- table:NAME --> and <!-- /table:NAME -->.

    A marker stands alone on its line. Raises RecordError if a marker has no partner or no table, or if a table has no
    place or two of them.
    """
    names = [match[1] for text in pages.values() for match in PLACE.finditer(text)]
    markers = [name for text in pages.values() for name in re.findall(r"^<!-- /?table:(\S+) -->$", text, re.MULTILINE)]
    needed = [name for name, table in tables.items() if not table.startswith(EMPTY)]
    faults = {
        "markers without a partner": [name for name in markers if names.count(name) * 2 != markers.count(name)],
        "several places": [name for name in names if names.count(name) > 1],
        "no table": [name for name in names if name not in tables],
        "no place": [name for name in needed if name not in names],
    }
    for fault, found in faults.items():
        if found:
            raise RecordError(f"{', '.join(map(str, pages))}: {fault} for {', '.join(dict.fromkeys(found))}; mend it")

    def place(match: re.Match[str]) -> str:
        return f"<!-- table:{match[1]} -->\n\n{tables[match[1]]}\n\n<!-- /table:{match[1]} -->"

    return {page: PLACE.sub(place, text) for page, text in pages.items()}


# Rows of runs; each takes the seeds of one row


def _core(seeds: Sequence[Record]) -> Row:
    report = seeds[0]["settings"]["report"]
    return {
        "experiment": cells.named(seeds), "report": NOTHING if report == "this repository" else report,
        **_errors(seeds),
        **{f"rounded accuracy, {split}": cells.mean_share(cells.entries(seeds, split)) for split in ("test", "unseen")},
        "seeds": cells.seeds_words(seeds), "parameters": f"{seeds[0]['parameters']:,}",
    }  # fmt: skip


def _result(seeds: Sequence[Record]) -> Row:
    stated = REPORTED.get(seeds[0]["experiment"])
    differs = stated.differs if stated and not seeds[0]["changed"] else ""
    return {
        "experiment": cells.named(seeds),
        "its report, course files (theirs)": cells.lines_of(stated.short, differs) if stated else NOTHING,
        "learns from": f"{cells.learned_from(seeds[0])}; seeds: {cells.seeds_words(seeds)}",
        **{cells.SPLITS[split]: cells.mean_share(cells.entries(seeds, split)) for split in ("val", "test")},
        "unseen": cells.share_of(seeds, "unseen"),
        **_errors(seeds),
    }  # fmt: skip


def _errors(seeds: Sequence[Record]) -> Row:
    entries = {f"test {measure.upper()}": cells.entries(seeds, "test", measure) for measure in ("mse", "mae")}
    return {title: cells.mean_error(each) for title, each in entries.items()}


def _strings(seeds: Sequence[Record]) -> Row:
    entries = {cells.SPLITS[split]: [seed["strings"][split] for seed in seeds] for split in seeds[0]["strings"]}
    return {"experiment": cells.named(seeds)} | {title: cells.mean_share(each) for title, each in entries.items()}


def _detail(seeds: Sequence[Record], split: str) -> Row:
    metrics = seeds[0]["metrics"]
    whole = all(entry["floor"] == entry["ceiling"] for entry in metrics.values())  # as a classifier's answers are
    return {
        "experiment": f"`{seeds[0]['experiment']}`", "strips": cells.SPLITS[split], "n": f"{metrics[split]['n']:,}",
        "accuracy": cells.share_of(seeds, split),
        **{way: NOTHING if whole else cells.share_of(seeds, split, way) for way in ("floor", "ceiling")},
    }  # fmt: skip


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
    return [
        {
            "system": f"`{system['experiment']}`", "accuracy": f"{100 * system['accuracy']:.1f} %",
            "interval": f"× {comparison['design_effect'][system['experiment']] ** 0.5:.1f}",
            "next": f"`{pair['next']}`",
            "only it is right": f"{pair['only_better']:,}", "only the next is": f"{pair['only_next']:,}",
            "p": f"{pair['p']:.2g}" if pair["p"] else "< 1e-300", "MAE, difference": cells.difference(pair["mae"]),
        }
        for system, pair in zip(comparison["systems"], comparison["pairs"], strict=False)  # the last has no next
    ]  # fmt: skip


def _peers(rows: Sequence[Sequence[Record]]) -> list[Row]:
    """Give each kind of data its own column. Ours is the system taught by sums that is best on validation."""
    best = max(
        (seeds for seeds in rows if supervision(seeds[0]) == "sums"),
        key=lambda seeds: statistics.mean(entry["value"] for entry in cells.entries(seeds, "val")),
    )
    columns = ("course files (theirs)", "four cut digits (theirs)", f"`{SOURCE}`, unseen (ours)")
    name, sums, size = best[0]["experiment"], trained_on(best[0]), best[0]["parameters"]
    ours = f"`{name}`, this repository", f"{sums:,} sums", cells.share_of(best, "unseen"), f"{size / 1e6:.2f} M"
    lines = [(columns[2], ours)]
    lines += [(columns[0], peer) for peer in PEERS_ON_STRIPS] + [(columns[1], peer) for peer in PEERS_ON_CUT_DIGITS]
    return [
        {"system": system, "learns from": learns, **dict.fromkeys(columns, NOTHING), column: score, "parameters": size}
        for column, (system, learns, score, size) in lines
    ]


# Tables of studies


def study_table(name: str, records: Sequence[Record], published: Sequence[Record] = ()) -> str:
    """Return the table of one study's records. A row that is the study's base comes from `published` records."""
    if not records:
        return f"{EMPTY} `{cells.study_command(name)}` makes them."
    if name not in MEASURED:
        return markdown(_trained(name, records, published))
    measured = [record["measured"] for record in records]
    if name == "tta":
        measured = [each["splits"] for each in measured]
    return markdown(MEASURED[name](measured))


def _trained(study: str, records: Sequence[Record], published: Sequence[Record]) -> list[Row]:
    """Make a row for each variant, and on cut digits for what others reach."""
    split, cut, rows = last_split(records[0]), study == "cut_digits", []
    for variant in variants_of(study):
        seeds = [record for record in records if record["experiment"] == variant.name]
        if variant.name == STUDIES[study].base:
            seeds = seeds or unchanged(published, variant.name)
        if seeds:
            read = [seed["strings"][split] for seed in seeds if split in seed["strings"]]
            rows.append({
                "variant": f"`{variant.name}`",
                "what it is": cells.lines_of(variant.sentence, cells.departures(seeds[0])),
                "seeds": cells.seeds_words(seeds), "validation": cells.share_of(seeds, "val"),
                f"{cells.SPLITS[split]}{' (ours)' * cut}": cells.share_of(seeds, split),
            } | ({} if cut else {"digit by digit": cells.spread(read) if read else NOTHING}))  # fmt: skip
    if not cut:
        return rows
    theirs = [
        {"variant": system, "what it is": f"{learns}.", "test (theirs)": score}
        for system, learns, score, _ in PEERS_ON_CUT_DIGITS
    ]
    return [dict.fromkeys([*rows[0], "test (theirs)"], NOTHING) | row for row in rows + theirs]


def _counts(measured: Sequence[Record]) -> list[Row]:
    columns = {
        "digit by digit, count unknown": ("unknown", "strings"), "sum": ("unknown", "sums"),
        "count": ("unknown", "count"), "digit by digit, count known": ("known", "strings"),
    }  # fmt: skip
    return [
        {"digits": digits, "columns": str(first["columns"]), "strips": f"{first['n']:,}"}
        | {title: cells.spread([m[digits][way][what] for m in measured]) for title, (way, what) in columns.items()}
        for digits, first in measured[0].items()
    ]


def _pseudo_labels(measured: Sequence[Record]) -> list[Row]:
    columns = {"strips": "training strips", "digits": "isolated digits", "glyphs": "of them different"}
    return [
        {title: f"{seed[key]:,}" for key, title in columns.items()}
        | {"labelled right": f"{100 * seed['right']['value']:.2f} %"}
        for seed in measured
    ]


def _tta(splits: Sequence[Record]) -> list[Row]:
    columns = {"read again": "again", "right without TTA": "once", "right with TTA": "several"}
    return [
        {"strips": cells.SPLITS[split], "n": f"{first['n']:,}"}
        | {title: cells.mean_share([seed[split][key] for seed in splits]) for title, key in columns.items()}
        for split, first in splits[0].items()
    ]


def _calibration(measured: Sequence[Record]) -> list[Row]:
    first = measured[0]
    figures = {"accuracy": cells.spread([seed["accuracy"] for seed in measured])}
    for way, title in (("plain", "expected calibration error"), ("tempered", "the same at the temperature below")):
        figures[title] = f"{cells.mean_of([100 * seed[way]['expected_calibration_error'] for seed in measured])} %"
    figures |= {
        "temperature, fitted on validation": cells.mean_of([seed["temperature"] for seed in measured]),
        f"accuracy without the {100 * first['abstaining']['share']:.0f} % that it trusts least":
            cells.spread([seed["abstaining"] for seed in measured]),
    }  # fmt: skip
    if "centre_error" in first:
        centres = cells.error_spread([seed["centre_error"] for seed in measured])
        figures["distance to the digits' centres, less the offset, in pixels"] = centres
        figures["offset, in pixels"] = cells.mean_of([seed["offset"] for seed in measured])
    for k, group in enumerate(first.get("overlap", [])):
        where = "apart" if group["to"] == 0 else f"overlapping by {group['from']}–{group['to']} columns"
        shares = cells.spread([seed["overlap"][k] for seed in measured])
        figures[f"accuracy, closest neighbours {where} (n = {group['n']:,})"] = shares
    title = f"{cells.SPLITS[first['split']]}, n = {first['n']:,}"
    return [{"figure": figure, title: value} for figure, value in figures.items()]


MEASURED: dict[str, Callable[[Sequence[Record]], list[Row]]] = {
    "counts": _counts, "tta": _tta, "calibration": _calibration, "ensemble": _calibration,
    "pseudo_labels": _pseudo_labels,
}  # fmt: skip
