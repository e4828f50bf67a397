"""The published records in results/, and the pages that show them: README.md and docs/."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from digitsum.checkpoints import replacing
from digitsum.errors import RecordError, refusing
from digitsum.experiments import EXPERIMENTS
from digitsum.runs import load_json

from ..studies import STUDIES, variants_of
from .cells import command
from .records import SOURCE, Record, Studies, one_row_each, ranking, rows_of
from .tables import markdown, tables_of

PAGES = ("README.md", "docs/results.md", "docs/reader.md", "docs/handwriting.md", "docs/performance.md")
PLACE = re.compile(r"^(<!-- table:(\S+) -->$).*?^(<!-- /table:\2 -->)$", re.MULTILINE | re.DOTALL)


def load_all(results: str | Path) -> tuple[list[Record], Studies, Record | None]:
    """Return the published records, the studies' and the comparison. Raises RecordError also if nothing is there."""
    records = load_records(results)
    if not records:
        raise RecordError(f"{results}/{SOURCE} holds no records. Restore them, or train some.")
    return records, load_studies(results, records), load_comparison(results, records)


def load_records(results: str | Path) -> list[Record]:
    """Read every published record, results/mnist/*-seed*.json, in the order of EXPERIMENTS and of seeds."""
    return _read_folder(Path(results, SOURCE), list(EXPERIMENTS))


def load_studies(results: str | Path, published: Sequence[Record]) -> Studies:
    """Read the records of every study, results/studies/mnist/<study>/*.json; those of its base are `published`."""
    studies, rows = {}, one_row_each(published)
    for study, about in STUDIES.items():
        names = list(variants_of(study) or about.readers)
        found = _read_folder(Path(results, "studies", SOURCE, study), names, study)
        seeds = {name: [record for record in found if record["experiment"] == name] for name in names}
        if found and about.base in seeds:
            seeds[about.base] = rows.get(about.base, [])
        studies[study] = {name: each for name, each in seeds.items() if each}
    return studies


def load_comparison(results: str | Path, records: Sequence[Record]) -> Record | None:
    """Read the comparison of the published `records`, None if nobody has made one."""
    path = Path(results, SOURCE, "comparison.json")
    if not path.exists():
        return None
    with refusing(path, "Make it again: python -m research compare", RecordError):
        comparison: Record = load_json(path)
        tables_of([], {}, comparison)
        if comparison["systems"] != ranking(records):
            raise ValueError("it compares other runs than those on record")
    return comparison


def _read_folder(folder: Path, names: Sequence[str], study: str = "") -> list[Record]:
    """Read all records of a folder, in the order of `names` and of seeds. One is whole if its tables can be made."""
    records, fingerprints = {}, set()
    for path in folder.glob("*-seed*.json"):
        with refusing(path, "Restore it, or take it away and run that experiment again.", RecordError):
            record, (name, _, seed) = load_json(path), path.stem.rpartition("-seed")
            if (record["source"], record["experiment"], record["seed"]) != (SOURCE, name, int(seed)):
                raise ValueError("it is of another source, experiment or seed")
            if study:
                tables_of([], {study: {name: [record]}}, None)
            else:
                tables_of([record], {}, None)
            digits = record["settings"]["objective_args"].get("count") if study == "cut_digits" else None
            fingerprints.add((digits, record["data"]["fingerprint"]))  # sums of other digits are other data
            records[names.index(name), int(seed)] = record
    if len(fingerprints) > len(dict(fingerprints)):
        raise RecordError(f"{folder} holds records on different data. Train again on the same, or take some away.")
    return [records[place] for place in sorted(records)]


def published_tables(results: str | Path = "results") -> dict[str, str]:
    """Return every table by name, as Markdown. Raises RecordError if a record is wrong, or if there are none."""
    records, studies, comparison = load_all(results)
    tables = {name: markdown(rows) for name, rows in tables_of(records, studies, comparison).items()}
    commands = dict.fromkeys(command(record) for seeds in rows_of(records) for record in seeds)
    return tables | {"commands": "\n".join(["```bash", *commands, "```"])}


def renew(tables: Mapping[str, str], pages: Sequence[str | Path] = PAGES) -> list[Path]:
    """Write the tables between their markers, which stand alone on their lines; return the pages that changed.

    Raises RecordError, and writes nothing, if a page is missing, or a table has not exactly one place.
    """
    if missing := [str(page) for page in pages if not Path(page).is_file()]:
        raise RecordError(f"{', '.join(missing)} is missing. Run this in the repository's root.")
    texts = {Path(page): Path(page).read_text(encoding="utf-8") for page in pages}
    places = [match[2] for text in texts.values() for match in PLACE.finditer(text)]
    for name in [*tables, *places]:
        if name not in tables or places.count(name) != 1:
            raise RecordError(
                f"{', '.join(map(str, pages))}: each table needs one place, between <!-- table:NAME --> and "
                f"<!-- /table:NAME -->. Mend the markers of {name}"
            )

    new = {page: PLACE.sub(lambda m: f"{m[1]}\n\n{tables[m[2]]}\n\n{m[3]}", text) for page, text in texts.items()}
    changed = [page for page in texts if new[page] != texts[page]]
    for page in changed:
        with replacing(page) as temporary:
            temporary.write_text(new[page], encoding="utf-8")
    return changed
