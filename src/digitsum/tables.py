"""Markdown tables: the published ones in PAGES come from the records in results/, never from a keyboard."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .checkpoints import replacing
from .claims import judged
from .experiments import EXPERIMENTS
from .records import (
    COMPARE,
    PUBLISHED,
    STUDIED,
    Record,
    TableError,
    in_rows,
    load_comparison,
    load_records,
    load_studies,
    trained_on,
    unchanged,
)
from .reported import NOTHING, PEERS_ON_CUT_DIGITS, PEERS_ON_STRIPS, REPORTED
from .studies import READER, STUDIES, variants_of

Entry = Mapping[str, float]  # {"value", "low", "high"}

SPLITS = {
    "train": "train", "val": "validation", "test": "test", "unseen": "unseen", "entire": "entire",
    "first_10000": "first 10,000",
}  # fmt: skip
FIGURES = ("accuracy", "rounded", "floor", "ceiling", "within 0.5", "MSE", "MAE")  # of one network on one set of strips
COLLAPSED = 0.5  # a seed below this share of the best seed's validation accuracy never got going
REFERENCES = ("most_common", "oracle-digit_labels")  # what the systems are held against, and stands below them
PAGES = ("README.md", "docs/results.md", "docs/reader.md", "docs/performance.md")  # where tables are published
EMPTY = "No records yet:"
COMMAND = "python -m digitsum train"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in GitHub's Markdown. Raises ValueError where a row has not as many cells as the header."""
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row has {len(row)} cells for {len(header)} columns: {' | '.join(row)}")
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def percent(entry: Entry) -> str:
    """A share with its interval: "75.3 % (74.0–76.5)"."""
    value, low, high = (f"{100 * entry[key]:.1f}" for key in ("value", "low", "high"))
    return f"{value} % ({low}–{high})"


def number(entry: Entry, digits: int = 2) -> str:
    """A number with its interval: "12.46 (11.90–13.02)"."""
    value, low, high = (f"{entry[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low}–{high})"


def figures(measures: Mapping[str, Entry]) -> list[str]:
    """The cells of FIGURES; dashes for the ways of rounding where the network answers with whole numbers anyway."""
    ways = [measures[way] for way in ("rounded", "floor", "ceiling", "within_half")]
    whole = all(way == measures["accuracy"] for way in ways)
    rounded = [NOTHING if whole else percent(way) for way in ways]
    return [percent(measures["accuracy"]), *rounded, number(measures["mse"]), number(measures["mae"])]


def difference(entry: Entry) -> str:
    """A difference with its interval: "−0.013 (−0.026 to −0.001)"."""
    value, low, high = (f"{entry[key]:+.3f}".replace("-", "−") for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def renew(tables: Mapping[str, str], pages: Sequence[str | Path] = PAGES) -> list[Path]:
    """Write the tables between their markers in the `pages`; returns those that changed.

    Everything outside the markers stays as it is, byte for byte. Raises TableError and leaves all pages alone where one
    is not there or a marker is wrong (see `filled`).
    """
    old = {}
    for page in map(Path, pages):
        if not page.is_file():
            raise TableError(f"{page} is not there; run this in the repository's root")
        old[page] = page.read_bytes().decode("utf-8")
    new = filled(old, tables)
    changed = [page for page in old if new[page] != old[page]]
    for page in changed:
        with replacing(page) as temporary:
            temporary.write_bytes(new[page].encode("utf-8"))
    return changed


def filled(pages: Mapping[Path, str], tables: Mapping[str, str]) -> dict[Path, str]:
    """The pages' texts with every table between its markers `<!-- table:NAME -->` and `<!-- /table:NAME -->` made anew.

    A marker stands alone on its line. Raises TableError for a marker of no table, one without its partner, two of the
    same name, on two pages too, and for records whose table has no marker.
    """
    places: dict[str, Path] = {}
    for page, text in pages.items():
        for name in _marked(text, page, tables):
            if name in places:
                raise TableError(f"{places[name]} and {page} both have a place for {name}; keep one")
            places[name] = page
    for name, table in tables.items():
        if name not in places and table and not table.startswith(EMPTY):
            raise TableError(
                f"there is no place for {name} in {', '.join(map(str, pages))}; put <!-- table:{name} --> and "
                f"<!-- /table:{name} --> there"
            )
    return {page: _filled(text, tables) for page, text in pages.items()}


def _marked(text: str, page: Path, tables: Mapping[str, str]) -> list[str]:
    """The names between whose markers tables belong, in order; raises TableError as `filled` does."""
    found = [(bool(slash), name) for slash, name in re.findall(r"^<!-- (/?)table:(\S+) -->\r?$", text, re.MULTILINE)]
    names = list(dict.fromkeys(name for _, name in found))
    for name in names:
        if name not in tables:
            raise TableError(f"{page} has a marker for {name!r}, which is no table; use one of {', '.join(tables)}")
    for name in names:
        if [marker for marker in found if marker[1] == name] != [(False, name), (True, name)]:
            raise TableError(f"{page} must have one <!-- table:{name} --> and after it one <!-- /table:{name} -->")
    if found != [(slash, name) for name in names for slash in (False, True)]:
        raise TableError(f"{page} has one table's markers within another's; close each before the next")
    return names


def _filled(text: str, tables: Mapping[str, str]) -> str:
    newline = "\r\n" if "\r\n" in text else "\n"

    def between(match: re.Match[str]) -> str:
        table = tables[match[1]]
        lines = ["", *table.split("\n"), ""] if table else []
        return newline.join([f"<!-- table:{match[1]} -->", *lines, f"<!-- /table:{match[1]} -->"])

    return re.sub(r"^<!-- table:(\S+) -->\r?\n.*?^<!-- /table:\1 -->", between, text, flags=re.MULTILINE | re.DOTALL)


# Tables


def published_tables(results: str | Path = "results") -> dict[str, str]:
    """Every table of the records in `results` by name, as Markdown. Raises TableError where one is wrong."""
    if not Path(results).is_dir():
        raise TableError(f"{results} is not there, and without records the tables would be emptied; name their folder")
    records = load_records(results)
    return render(records, load_comparison(results, records)) | render_studies(load_studies(results), records)


def render(records: Sequence[Record], comparison: Record | None = None) -> dict[str, str]:
    """Every table of runs by name, as Markdown.

    Results, strings, details, choices and runs of each source, the best on strips of unseen glyphs first and the
    references last; of mnist also comparison, claims and peers.
    Where a source has no records, its results are a sentence that says how to make some; its other tables are empty.
    """
    tables: dict[str, str] = {}
    for source in PUBLISHED:
        here = ranked([record for record in records if record["source"] == source])
        if here:
            tables |= {
                f"results-{source}": _results(here),
                f"strings-{source}": _strings(here),
                f"details-{source}": _details(here),
                f"choices-{source}": _choices(here),
                f"runs-{source}": _runs(here),
            }
        else:
            first = next(iter(EXPERIMENTS))
            sentence = f"{EMPTY} `{COMMAND} {first} --source {source} --preset full` makes the first."
            others = {f"{table}-{source}": "" for table in ("strings", "details", "choices", "runs")}
            tables |= {f"results-{source}": sentence} | others
    on_mnist = [record for record in records if record["source"] == "mnist"]
    return tables | {
        "peers": _peers(on_mnist),
        "comparison": _comparison(comparison) if comparison else f"{EMPTY} `{COMPARE}` makes it.",
        "claims": markdown_table(["claim", "report", "measured", "verdict"], judged(on_mnist)) if on_mnist else "",
    }


def _results(records: Sequence[Record]) -> str:
    """A row per experiment: what its report got, and what it gets here."""
    rows = []
    for seeds in in_rows(records):
        name, note = seeds[0]["experiment"], departures(seeds[0])
        rows.append([
            f"`{name}`" + (f"<br>{note}" if note else ""),
            _stated(seeds[0]),
            f"{learned_from(seeds[0])}; seeds: {seeds_words(seeds)}",
            *(mean_share(_entries(seeds, split)) for split in ("val", "test")), share_of(seeds, "unseen"),
            *(mean_error(_entries(seeds, "test", measure)) for measure in ("mae", "mse")),
        ])  # fmt: skip
    header = [
        "experiment", "its report, course files (theirs)", "learns from", "validation", "test", "unseen",
        "test MAE", "test MSE",
    ]  # fmt: skip
    strips = ", ".join(f"{n:,} {SPLITS[split]}" for split, n in records[0]["data"]["strips"].items())
    below = (
        f"The best on `{_last_split(records[0])}` first, the references last. Strips: {strips}; data "
        f"`{records[0]['data']['fingerprint']}`. In brackets: 95 % intervals."
    )
    if any(len(seeds) > 1 for seeds in in_rows(records)):
        below += " Where there are several seeds: mean ± standard deviation over them, and on `unseen` the worst."
    below += in_float32(records)
    return f"{markdown_table(header, rows)}\n\n{below}"


def _stated(record: Record) -> str:
    """What its report states of a run's system, and where nothing that it gives was changed, why ours may differ."""
    stated = REPORTED.get(record["experiment"])
    if stated is None:
        return NOTHING
    return stated.short + (f"<br>{stated.differs}" if stated.differs and not record["changed"] else "")


def _strings(records: Sequence[Record]) -> str:
    """A table of how the experiments that read digit by digit do so, and one of how near to the digits' centres.

    Neither where there is no such experiment.
    """
    tables = []
    for part, about, cell in (
        ("strings", "All digits of a strip read right, from left to right:", mean_share),
        (
            "centre_error",
            "From where a digit is read to the centre of its glyph, mean in pixels, less the offset that all have in "
            "common, fitted to the ink of validation strips:",
            mean_error,
        ),
    ):
        rows = in_rows([record for record in records if record.get(part)])
        if rows:
            splits = list(rows[0][0][part])
            cells = [
                [f"`{seeds[0]['experiment']}`", *(cell([seed[part][split] for seed in seeds]) for split in splits)]
                for seeds in rows
            ]
            tables += [about, markdown_table(["experiment", *(SPLITS[split] for split in splits)], cells)]
    return "\n\n".join(tables)


def _details(records: Sequence[Record]) -> str:
    """A row per experiment and set of strips: the ways in which the reports turn a real number into a sum."""
    rows = []
    for seeds in in_rows(records):
        whole = all(each["floor"] == each["ceiling"] for each in seeds[0]["metrics"].values())  # as a classifier's are
        for split in (split for split in SPLITS if split in seeds[0]["metrics"]):
            ways = [
                NOTHING if whole else share_of(seeds, split, way)
                for way in ("floor", "ceiling", "rounded", "within_half")
            ]
            n = f"{seeds[0]['metrics'][split]['n']:,}"
            rows.append([f"`{seeds[0]['experiment']}`", SPLITS[split], n, share_of(seeds, split), *ways])
    return markdown_table(["experiment", "strips", "n", "accuracy", "floor", "ceiling", "rounded", "within 0.5"], rows)


def _choices(records: Sequence[Record]) -> str:
    """A row per sentence on what a report left open, said once for all experiments of which it is the same."""
    said: dict[tuple[str, str], list[str]] = {}
    for name in dict.fromkeys(record["experiment"] for record in records):
        said.setdefault((EXPERIMENTS[name].report, EXPERIMENTS[name].left_open), []).append(f"`{name}`")
    rows = [[", ".join(names), *words] for words, names in said.items()]
    return markdown_table(["experiment", "report", "what it left open, and what was chosen here"], rows)


def _runs(records: Sequence[Record]) -> str:
    """A row per run: what it cost and on what; below them the command that makes each again."""
    rows = [
        [
            f"`{record['experiment']}`",
            str(record["seed"]),
            f"{record['settings']['epochs']}, best {record['best_epoch']}",
            f"{record['parameters']:,}",
            f"{record['seconds']['train' if record['history'] else 'total'] / 60:.1f}",
            _speed(record),
            hardware_words(record["hardware"]),
            _code(record),
        ]
        for record in records
    ]
    header = ["experiment", "seed", "epochs", "parameters", "minutes", "images/s", "hardware", "code"]
    return markdown_table(header, rows) + "\n\n```bash\n" + "\n".join(map(command, records)) + "\n```"


def _code(record: Record) -> str:
    """What it was trained with, and where its figures were measured again since, the commit of that."""
    commit = f"`{record['commit']}`, " if record["commit"] else ""
    measured = f"; measured again at `{record['measured']['commit']}`" if "measured" in record else ""
    if measured and record["measured"]["hardware"] != record["hardware"]:
        measured += f" on {hardware_words(record['measured']['hardware'])}"
    return f"{commit}torch {record['versions']['torch']}{measured}"


def _comparison(comparison: Record) -> str:
    """A row per pair of neighbours in the ranking of the published runs."""
    accuracy = {system["experiment"]: system["accuracy"] for system in comparison["systems"]}
    rows = [
        [f"`{each['better']}`", f"`{each['next']}`"]
        + [f"{100 * accuracy[name]:.1f} %" for name in (each["better"], each["next"])]
        + [
            f"{each['only_better']:,}",
            f"{each['only_next']:,}",
            f"{each['p']:.2g}" if each["p"] else "< 1e-300",
            difference(each["mae"]),
        ]
        for each in comparison["pairs"]
    ]
    header = [
        "better",
        "next",
        "accuracy",
        "accuracy of the next",
        "only it is right",
        "only the next is",
        "p",
        "MAE, difference",
    ]
    below = []
    if out := "; ".join(f"`{name}`: {why}" for name, why in comparison["left_out"].items()):
        below.append(f"Not compared: {out}.")
    if wider := ", ".join(f"{factor:.1f} for `{name}`" for name, factor in comparison.get("widening", {}).items()):
        below.append(
            "Strips that share a glyph are read right or wrong together, so that for other handwriting the interval of "
            f"an accuracy is wider than for other strips of the same glyphs. By these factors: {wider}."
        )
    if kept := [each["commit"] for each in comparison["pairs"] if "commit" in each]:
        at = ", ".join(f"`{commit}`" for commit in dict.fromkeys(kept))
        below.append(
            f"{len(kept)} of {len(rows)} pairs were compared from weights, before records held answers, at {at}."
        )
    return "\n\n".join([markdown_table(header, rows), *below])


def _peers(records: Sequence[Record]) -> str:
    """What others reach, each kind of data in a column of its own, and our experiment that is best on validation."""
    rows = []
    if records:
        sums_only = [record for record in records if record["settings"]["supervision"] == "sums"]
        best = max(in_rows(sums_only), key=lambda seeds: statistics.mean(_values(seeds, "val", "accuracy")))
        name, learns = best[0]["experiment"], f"{trained_on(best[0]):,} {best[0]['settings']['supervision']}"
        size = f"{best[0]['parameters'] / 1e6:.2f} M"
        rows.append([f"`{name}`, this repository", learns, NOTHING, NOTHING, share_of(best, "unseen"), size])
    rows += [[name, learns, score, NOTHING, NOTHING, size] for name, learns, score, size in PEERS_ON_STRIPS]
    rows += [[name, learns, NOTHING, score, NOTHING, size] for name, learns, score, size in PEERS_ON_CUT_DIGITS]
    header = [
        "system", "learns from", "course files (theirs)", "four cut digits (theirs)", "`mnist`, unseen (ours)",
        "parameters",
    ]  # fmt: skip
    return markdown_table(header, rows)


def command(record: Record) -> str:
    """The shell command that makes a record again."""
    options = "".join(
        f" --{key.replace('_', '-')} {'none' if ours is None else ours}" for key, (_, ours) in record["changed"].items()
    )
    data_seed = f" --data-seed {record['data']['seed']}" if record["data"]["seed"] else ""
    usual = f"--source {record['source']} --preset full --seed {record['seed']}"
    return f"{COMMAND} {record['experiment']} {usual}{data_seed}{options}"


def ranked(records: Sequence[Record]) -> list[Record]:
    """The records of one source, row by row, the most accurate on strips of unseen glyphs first, references last."""

    def rank(seeds: Sequence[Record]) -> tuple[bool, float]:
        return seeds[0]["experiment"] in REFERENCES, -statistics.mean(_values(seeds, _last_split(seeds[0]), "accuracy"))

    return [record for seeds in sorted(in_rows(records), key=rank) for record in seeds]


# Cells


def _last_split(record: Record) -> str:
    return next(split for split in ("unseen", "test") if split in record["metrics"])


def _speed(record: Record) -> str:
    """Images read in a second; a dash where that was not measured."""
    timed = record.get("prediction")
    return f"{timed['images'] / timed['seconds']:,.0f}" if timed else NOTHING


def _values(seeds: Sequence[Record], split: str, measure: str) -> list[float]:
    return [entry["value"] for entry in _entries(seeds, split, measure)]


def share_of(seeds: Sequence[Record], split: str, measure: str = "accuracy") -> str:
    """One seed with its interval, several as "98.1 ± 0.2 %, worst 97.8 %"; a dash where there is no such split."""
    return spread(_entries(seeds, split, measure)) if split in seeds[0]["metrics"] else NOTHING


def _entries(seeds: Sequence[Record], split: str, measure: str = "accuracy") -> list[Entry]:
    return [seed["metrics"][split][measure] for seed in seeds]


def spread(seeds: Sequence[Entry]) -> str:
    """A share of one seed with its interval, of several as in `share_of`."""
    worst = f", worst {100 * min(seed['value'] for seed in seeds):.1f} %" if len(seeds) > 1 else ""
    return mean_share(seeds) + worst


def mean_share(seeds: Sequence[Entry]) -> str:
    """The same for a share of which neither end is the worse."""
    if len(seeds) == 1:
        return percent(seeds[0])
    values = [100 * seed["value"] for seed in seeds]
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} %"


def error_of(seeds: Sequence[Record], split: str, measure: str) -> str:
    """As `share_of` for an error, of which the worst is the largest."""
    return error_spread(_entries(seeds, split, measure))


def error_spread(seeds: Sequence[Entry]) -> str:
    """As `spread` for an error."""
    worst = f", worst {max(seed['value'] for seed in seeds):.2f}" if len(seeds) > 1 else ""
    return mean_error(seeds) + worst


def mean_error(seeds: Sequence[Entry]) -> str:
    """The same without the worst."""
    if len(seeds) == 1:
        return number(seeds[0])
    values = [seed["value"] for seed in seeds]
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def seeds_words(seeds: Sequence[Record]) -> str:
    """How many there are, and which of them never got going."""
    scores = _values(seeds, "val", "accuracy")
    collapsed = [
        str(record["seed"]) for record, score in zip(seeds, scores, strict=True) if score < COLLAPSED * max(scores)
    ]
    return str(len(seeds)) + (f", collapsed: {', '.join(collapsed)}" if collapsed else "")


def learned_from(record: Record) -> str:
    """What a run saw besides the images, and of how many strips, in words."""
    supervision = record["settings"]["supervision"]
    return supervision if supervision == "nothing" else f"{supervision} of {trained_on(record):,} strips"


def departures(record: Record) -> str:
    """What a run starts from and the settings in which it departs from its experiment, in words; "" where in none."""
    words = [f"from {record['weights']}"] if record["weights"] != "none" else []
    start = "random start" if record["trained_parameters"] == record["parameters"] else "frozen as drawn at random"
    for key, (theirs, ours) in record["changed"].items():
        if key == "epochs":
            words.append(f"{ours} of {theirs} epochs" if ours < theirs else f"{ours} epochs instead of {theirs}")
        elif key == "weights":
            words.append(f"{start} instead of {theirs}" if ours is None else f"instead of {theirs or 'at random'}")
        elif key == "train_limit":
            words.append(f"{'all' if ours is None else f'the first {ours:,}'} training strips")
        elif key == "evaluate_limit":
            words.append(f"measured on {'all' if ours is None else f'the first {ours:,}'} strips of each split")
        else:
            words.append(f"{key} {ours} instead of {theirs}")
    return "; ".join(words)


def hardware_words(hardware: Mapping[str, Any]) -> str:
    """The device, or the processor with its threads; what it computes in; processes where there were several."""
    device, cpu, threads = hardware["device"], hardware["cpu"], hardware["threads"]
    words = (
        [cpu, f"{threads} thread{'s' * (threads != 1)}"] if device == "cpu" else [cpu if device == "mps" else device]
    )
    processes = hardware.get("processes", 1)
    return ", ".join(words + ["bfloat16"] * hardware["bfloat16"] + [f"{processes} processes"] * (processes > 1))


def in_float32(records: Sequence[Record]) -> str:
    """A sentence on the runs whose processor had them in float32 while others were in bfloat16; "" where all agree."""
    plain = sum(not record["hardware"]["bfloat16"] for record in records)
    if plain in (0, len(records)):
        return ""
    return f" {plain} of {len(records)} runs were on a processor that is not fast in bfloat16, and so in float32."


def _cell(text: str) -> str:
    return " ".join(text.replace("|", r"\|").split())


# Studies


def render_studies(studied: Sequence[Record], published: Sequence[Record] = ()) -> dict[str, str]:
    """The table of every study by name, as Markdown; a sentence that says how to make it where it has no records.

    A row that is the study's base itself is filled from the `published` records where it has none of its own.
    """
    tables = {}
    measured = {
        "counts": _counts, "calibration": _calibration, "second_look": _second_look, "ensemble": _ensemble,
        "pseudo_labels": _pseudo_labels,
    }  # fmt: skip
    for name, study in STUDIES.items():
        here = [record for record in studied if record["study"] == name]
        again = study_command(name, here)
        if not here:
            tables[f"study-{name}"] = f"{EMPTY} `{again}` makes them."
            continue
        table = measured[name](here) if name in measured else _trained(name, here, unchanged(published, study.base))
        tables[f"study-{name}"] = f"{study.about} `{again}` makes it.\n\n{table}"
    return tables


def study_command(name: str, records: Sequence[Record]) -> str:
    """What makes a study's records again; where readers of several seeds were measured, these have to be named."""
    command = f"python -m digitsum study {name} --source {STUDIED}"
    several = STUDIES[name].measure and len(records) > 1
    return command + f" --checkpoint models/{STUDIED}/runs/{READER}-seed*/best.safetensors" * bool(several)


def _trained(name: str, records: Sequence[Record], base: Sequence[Record]) -> str:
    """A row per variant, of which one may be the `base`; beside those on cut digits, what others reach there."""
    split = _last_split(records[0])
    theirs = [
        [system, f"{learns}.", NOTHING, NOTHING, NOTHING, score] for system, learns, score, _ in PEERS_ON_CUT_DIGITS
    ]
    rows = []
    for variant in variants_of(name):
        seeds_of_it = [record for record in records if record["experiment"] == variant.name]
        if variant.name == STUDIES[name].base:
            seeds_of_it = seeds_of_it or list(base)
        for seeds in in_rows(seeds_of_it):
            note = departures(seeds[0])
            read = [seed["strings"][split] for seed in seeds if split in seed.get("strings", {})]
            rows.append([
                f"`{variant.name}`", variant.sentence + (f"<br>{note}" if note else ""), seeds_words(seeds),
                share_of(seeds, "val"), share_of(seeds, split), spread(read) if read else NOTHING,
            ])  # fmt: skip
    header = ["variant", "what it is", "seeds", "validation", SPLITS[split], f"{SPLITS[split]}, digit by digit"]
    if name == "cut_digits":
        header = [*header[:-2], f"{SPLITS[split]} (ours)", f"{SPLITS[split]} (theirs)"]
        rows = [[*row[:-1], NOTHING] for row in rows] + theirs
    n, data = records[0]["metrics"][split]["n"], records[0]["data"]["fingerprint"]
    below = (
        f"Right sums of {n:,} {SPLITS[split]} strips; data `{data}`. One seed: 95 % interval; several: mean ± standard "
        "deviation over them, and the worst."
    )
    if name == "cut_digits":
        below += (
            " Of 15,000 sums, ours are of four digits, theirs of two 2-digit numbers, which tell more: only with 5,000 "
            "is the task the same."
        )
    return f"{markdown_table(header, rows)}\n\n{below}{in_float32(records)}"


def _counts(records: Sequence[Record]) -> str:
    """A row per number of digits."""
    rows = []
    for digits in records[0]["measured"]:
        seeds = [record["measured"][digits] for record in records]
        shares = [
            spread([seed[way][what] for seed in seeds])
            for way, what in (("unknown", "strings"), ("unknown", "sums"), ("unknown", "count"), ("known", "strings"))
        ]
        rows.append([digits, f"{seeds[0]['columns']}", f"{seeds[0]['n']:,}", *shares])
    header = [
        "digits", "columns", "strips", "digit by digit, count unknown", "sum", "count", "digit by digit, count known",
    ]  # fmt: skip
    return markdown_table(header, rows)


def _pseudo_labels(records: Sequence[Record]) -> str:
    """A row per reader."""
    header = ["seed", "training strips", "digits that stand alone", "of them different", "labelled right"]
    rows = [
        [
            f"{record['seed']}", *(f"{record['measured'][key]:,}" for key in ("strips", "digits", "glyphs")),
            f"{100 * record['measured']['right']['value']:.2f} %",
        ]
        for record in records
    ]  # fmt: skip
    return markdown_table(header, rows)


def _second_look(records: Sequence[Record]) -> str:
    """A row per split."""
    header = ["strips", "n", "looked at again", "right sums with one look", "right sums as published"]
    seeds = [record["measured"]["splits"] for record in records]
    rows = [
        [SPLITS[split], f"{seeds[0][split]['n']:,}", mean_share([seed[split]["again"] for seed in seeds])]
        + [spread([seed[split][key] for seed in seeds]) for key in ("once", "several")]
        for split in seeds[0]
    ]  # fmt: skip
    return markdown_table(header, rows)


def _ensemble(records: Sequence[Record]) -> str:
    """A table per ensemble, of which there is one as a rule."""
    return "\n\n".join(
        f"{_calibration([record])}\n\nThe readers of the seeds {', '.join(map(str, record['seeds']))}."
        for record in records
    )


def _calibration(records: Sequence[Record]) -> str:
    """A row per figure."""
    seeds = [record["measured"] for record in records]

    def mean_of(values: Sequence[float], unit: str = "") -> str:
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.2f}{spread}{unit}"

    rows = [["right sums", spread([seed["accuracy"] for seed in seeds])]]
    rows += [
        [
            f"expected calibration error, {words}",
            mean_of([100 * s[way]["expected_calibration_error"] for s in seeds], " %"),
        ]
        for way, words in (("plain", "as it is"), ("tempered", "at the temperature below"))
    ]
    rows += [
        ["temperature that validation asks for", mean_of([seed["temperature"] for seed in seeds])],
        [
            f"right sums without the {100 * seeds[0]['abstaining']['share']:.0f} % that it trusts least",
            spread([seed["abstaining"] for seed in seeds]),
        ],
    ]
    if "centre_error" in seeds[0]:
        errors = [seed["centre_error"] for seed in seeds]
        rows += [
            [
                "from where a digit is read, moved by the offset, to its glyph's centre, mean in pixels",
                error_spread(errors),
            ],
            ["offset of the places, in pixels", mean_of([seed["offset"] for seed in seeds])],
        ]
    for k, group in enumerate(seeds[0].get("overlap", [])):
        where = "apart" if group["to"] == 0 else f"overlapping by {group['from']}–{group['to']} columns"
        shares = [seed["overlap"][k] for seed in seeds]
        rows.append([f"right sums, closest neighbours {where} (n = {group['n']:,})", spread(shares)])
    return markdown_table(["figure", f"{seeds[0]['split']}, n = {seeds[0]['n']:,}"], rows)
