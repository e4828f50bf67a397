"""Markdown tables: the published ones in README.md come from the records in results/, never from a keyboard."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .checkpoints import replacing
from .claims import judged
from .comparison import FILE
from .data import SOURCES
from .experiments import EXPERIMENTS
from .studies import READER, STUDIES, Variant

Record = dict[str, Any]
Entry = Mapping[str, float]  # {"value", "low", "high"}

PUBLISHED = SOURCES[1:]  # the folders of results/ whose records are published: all sources but "auto"
STUDIED = "mnist"  # the source whose studies are published
WAYS = ("unknown", "known")  # whether the reader is told how many digits there are
SPLITS = {
    "train": "train", "val": "validation", "test": "test", "unseen": "unseen", "entire": "entire",
    "first_10000": "first 10,000",
}  # fmt: skip
MEASURES = ("accuracy", "floor", "ceiling", "rounded", "within_half", "mse", "mae")
COLLAPSED = 0.5  # a seed below this share of the best seed's validation accuracy never got going
NOTHING = "–"
EMPTY = "No records yet:"
COMMAND = "python -m digitsum train"
COMPARE = "python -m digitsum compare --source mnist"

# What the reports themselves give, on the course's files; their numbers, not ours.
REPORTED = {
    "baseline_cnn-regression": "A: test MSE 12.463",
    "baseline_cnn-classification": "A: test 9.22 %, MAE 3.76",
    "cnn_attention-regression": "E: validation 75.25 %, train 96.77 %",
    "resnet50-classification": "B: test 84–85 %, entire 90–91 %",
    "cnn3_dropout-classification": "B: validation about 13.5 %",
    "cnn2_dropout-regression": "D: validation 11.72 %, MAE 2.8462",
    "cnn2_linear-regression": "E: entire 16 %",
    "cnn_no_attention-regression": "E: validation 70.02 %, train 94.74 %",
    "cnn_attention_several-regression": "E: validation 65.48 %, train 86.75 %",
    "cnn_attention_between-regression": "E: validation 70.95 %, train 93.09 %",
    "vgg16_frozen-regression": "C: no better than its CNN",
    "vit-regression": "E: 6.4 %",
    "ocr": "E: 7.8 % of 10,000",
    "yolo-boxes_digit_labels": "E: finds no digits",
}

# What other public systems reach, as they state it: (system, learns from, accuracy, parameters).
PEERS_ON_STRIPS = (
    ("ResNet-18, fine-tuned", "sums, and 50,000 more composed strips", "95.55 % test", "11 M"),
    (
        "ResNet with four heads",
        "digit labels: 330 by hand, the rest by a labeller trained on MNIST",
        "93.6–95.2 % test",
        "1.22 M",
    ),
    ("segmentation, then LeNet", "MNIST's digit labels", "78.06 % of all 30,000", NOTHING),
    ("CNN, 7x7 kernels, average pooling", "sums", "53.00 % test", "2.5 M"),
    ("regression on generated strips", "MNIST", "39.35 %", NOTHING),
    ("CNN in Keras", "sums", "16.83 %", "0.6 M"),
)
PEERS_ON_CUT_DIGITS = (
    ("CTSketch", "15,000 sums of two 2-digit numbers", "96.7 %", NOTHING),
    ("DeepSoftLog", "15,000 sums of two 2-digit numbers", "96.6 %", NOTHING),
    ("DeepStochLog", "15,000 sums of two 2-digit numbers", "96.4 %", NOTHING),
    ("A-NeSI", "15,000 sums of two 2-digit numbers", "95.96 ± 0.38 %", NOTHING),
    ("DeepProbLog", "15,000 sums of two 2-digit numbers", "95.2 %", NOTHING),
    ("LTN", "15,000 sums of two 2-digit numbers", "77.5 ± 35.6 % (seeds collapse)", NOTHING),
    ("DeepSoftLog", "5,000 sums of four digits", "94.13 %", NOTHING),
    ("A-NeSI", "5,000 sums of four digits", "93.53 %", NOTHING),
    ("IndeCateR", "5,000 sums of four digits", "92.55 %", NOTHING),
    ("CTSketch", "5,000 sums of four digits", "92.17 %", NOTHING),
    ("Scallop", "5,000 sums of four digits", "88.90 %", NOTHING),
)


class TableError(Exception):
    """Records or a README from which no tables can be made; the message names the file, the fault and the remedy."""


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


def renew(readme: str | Path = "README.md", results: str | Path = "results") -> bool:
    """Write the tables of the records in `results` between their markers in `readme`; returns whether it changed.

    Everything outside the markers stays as it is, byte for byte. Raises TableError and leaves the file alone where a
    record or a marker is wrong.
    """
    readme = Path(readme)
    if not readme.is_file():
        raise TableError(f"{readme} is not there; run this in the repository's root")
    old = readme.read_bytes().decode("utf-8")
    records = load_records(results)
    new = renewed(old, records, readme, load_comparison(results, records), load_studies(results))
    if new == old:
        return False
    with replacing(readme) as temporary:
        temporary.write_bytes(new.encode("utf-8"))
    return True


def renewed(
    text: str,
    records: Sequence[Record],
    where: str | Path = "README.md",
    comparison: Record | None = None,
    studied: Sequence[Record] = (),
) -> str:
    """The text with the tables of the records (see `filled`)."""
    return filled(text, render(records, comparison) | render_studies(studied, records), where)


def filled(text: str, tables: Mapping[str, str], where: str | Path) -> str:
    """The text with every table between its markers `<!-- table:NAME -->` and `<!-- /table:NAME -->` made anew.

    A marker stands alone on its line. Raises TableError for a marker of no table, one without its partner, two of the
    same name, and for records whose table has no marker.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    found = [(bool(slash), name) for slash, name in re.findall(r"^<!-- (/?)table:(\S+) -->\r?$", text, re.MULTILINE)]
    names = list(dict.fromkeys(name for _, name in found))
    for name in names:
        if name not in tables:
            raise TableError(f"{where} has a marker for {name!r}, which is no table; use one of {', '.join(tables)}")
    for name in names:
        if [marker for marker in found if marker[1] == name] != [(False, name), (True, name)]:
            raise TableError(f"{where} must have one <!-- table:{name} --> and after it one <!-- /table:{name} -->")
    if found != [(slash, name) for name in names for slash in (False, True)]:
        raise TableError(f"{where} has one table's markers within another's; close each before the next")
    for name, table in tables.items():
        if name not in names and table and not table.startswith(EMPTY):
            raise TableError(
                f"{where} has no place for {name}; put <!-- table:{name} --> and <!-- /table:{name} --> there"
            )

    def between(match: re.Match[str]) -> str:
        table = tables[match[1]]
        lines = ["", *table.split("\n"), ""] if table else []
        return newline.join([f"<!-- table:{match[1]} -->", *lines, f"<!-- /table:{match[1]} -->"])

    return re.sub(r"^<!-- table:(\S+) -->\r?\n.*?^<!-- /table:\1 -->", between, text, flags=re.MULTILINE | re.DOTALL)


# Records


def load_records(results: str | Path = "results") -> list[Record]:
    """Every published record, results/<source>/*.json, in the order of sources, experiments and seeds.

    Folders of shortened runs, such as mnist-quick, are not looked at. Raises TableError for a file that is not a whole
    record, or not one of its folder, and for a folder whose records are on different data.
    """
    order = list(EXPERIMENTS)
    records = []
    for source in PUBLISHED:
        found = {path: _read(path, source) for path in sorted((Path(results) / source).glob("*-seed*.json"))}
        _on_the_same_data(found)
        records += sorted(found.values(), key=lambda record: (order.index(record["experiment"]), record["seed"]))
    return records


def _on_the_same_data(found: Mapping[Path, Record]) -> None:
    fingerprints = {record["data"]["fingerprint"]: path for path, record in found.items()}
    if len(fingerprints) > 1:
        kinds = ", ".join(f"{fingerprint} in {path.name}" for fingerprint, path in fingerprints.items())
        raise TableError(
            f"{next(iter(found)).parent} holds records on different data ({kinds}), which share no table; "
            "train them again on the same, or take the others away"
        )


def load_comparison(results: str | Path, records: Sequence[Record]) -> Record | None:
    """The comparison of the published weights on mnist, None where there is none yet.

    Raises TableError where it is not valid, or of other weights than those that the records speak of.
    """
    path = Path(results) / "mnist" / FILE
    if not path.exists():
        return None
    remedy = f"make it anew: {COMPARE}"
    comparison = _parsed(path, remedy)
    known = {(each["experiment"], each["seed"]): each for each in records if each["source"] == "mnist"}
    try:
        for system in comparison["systems"]:
            record = known[system["experiment"], system["seed"]]
            trained = record["data"]["fingerprint"], record["metrics"]["val"]["accuracy"]["value"]
            if trained != (comparison["data"]["fingerprint"], system["validation"]):
                raise TableError(f"{path} is of other weights of {system['experiment']} than its record; {remedy}")
        _comparison(comparison)
    except (KeyError, TypeError) as error:
        raise TableError(f"{path} is not whole, or of weights without a record ({error}); {remedy}") from error
    return comparison


def _parsed(path: Path, remedy: str) -> Any:
    try:
        return json.loads(path.read_bytes(), parse_constant=_refuse)
    except (OSError, ValueError) as error:
        raise TableError(f"{path} is not valid JSON ({error}); {remedy}") from error


def _whole(path: Path, find_faults: Callable[[Any], Iterator[str]]) -> Record:
    remedy = "restore it, or run that experiment again"
    record = _parsed(path, remedy)
    faults = list(find_faults(record))
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise TableError(f"{path} is not a whole record: it lacks {', '.join(faults[:3])}{more}; {remedy}")
    return record


def _read(path: Path, source: str) -> Record:
    record = _whole(path, _faults)
    if record["experiment"] not in EXPERIMENTS:
        raise TableError(
            f"{path} is of {record['experiment']!r}, which is no experiment; take it away, or put its row back into "
            "experiments.py"
        )
    name = f"{record['experiment']}-seed{record['seed']}.json"
    if (record["source"], record["preset"], name) != (source, "full", path.name):
        raise TableError(
            f"{path} holds {name} of source {record['source']!r} and preset {record['preset']!r}; move it to where it "
            "belongs"
        )
    return record


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _faults(record: Any) -> Iterator[str]:
    """The dotted names of what a record lacks, or holds as something else than it must be."""
    wanted: dict[str, type | tuple[type, ...]] = {
        "experiment": str, "source": str, "seed": int, "preset": str, "weights": str, "settings": dict, "changed": dict,
        "parameters": int, "trained_parameters": int, "history": list, "best_epoch": int,
        "data.fingerprint": str, "data.seed": int, "data.strips": dict,
        "hardware.device": str, "hardware.cpu": str, "hardware.threads": int, "hardware.bfloat16": bool,
        "seconds.train": (int, float), "versions.torch": str, "commit": (str, type(None)), "settings.epochs": int,
        "settings.supervision": str, "data.strips.train": int,
    }  # fmt: skip
    strips = _get(record, "data.strips")  # the course's files, for one, have no unseen strips
    splits = ["train", "val", "test", "entire"] + (
        ["unseen"] if isinstance(strips, dict) and "unseen" in strips else []
    )
    for split in splits:
        wanted[f"metrics.{split}.n"] = int
        wanted |= {f"metrics.{split}.{name}.{key}": float for name in MEASURES for key in ("value", "low", "high")}
    for part in ("strings", "centre_error"):  # only of experiments that read digit by digit
        entries = _get(record, part)
        for split in entries if isinstance(entries, dict) else []:
            wanted |= {f"{part}.{split}.{key}": float for key in ("value", "low", "high")}
    yield from _lacking(record, wanted)
    changed = _get(record, "changed")
    if isinstance(changed, dict):
        yield from (f"both values of changed.{key}" for key, pair in changed.items() if not _is_pair(pair))


def _lacking(record: Any, wanted: Mapping[str, type | tuple[type, ...]]) -> Iterator[str]:
    return (name for name, kind in wanted.items() if not isinstance(_get(record, name), kind))


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def _get(record: Any, dotted: str) -> Any:
    """What stands under a dotted name; Ellipsis, an instance of nothing that is wanted, where nothing does."""
    for key in dotted.split("."):
        if not isinstance(record, dict) or key not in record:
            return ...
        record = record[key]
    return record


# Tables


def render(records: Sequence[Record], comparison: Record | None = None) -> dict[str, str]:
    """Every table by name, as Markdown: results, details and runs of each source; on mnist comparison, claims, peers.

    Where a source has no records, its results are a sentence that says how to make some; its other tables are empty.
    """
    tables: dict[str, str] = {}
    for source in PUBLISHED:
        here = [record for record in records if record["source"] == source]
        if here:
            tables |= {
                f"results-{source}": _results(here),
                f"details-{source}": _details(here),
                f"runs-{source}": _runs(here),
            }
        else:
            first = next(iter(EXPERIMENTS))
            sentence = f"{EMPTY} `{COMMAND} {first} --source {source} --preset full` makes the first."
            tables |= {f"results-{source}": sentence, f"details-{source}": "", f"runs-{source}": ""}
    on_mnist = [record for record in records if record["source"] == "mnist"]
    return tables | {
        "peers": _peers(on_mnist),
        "comparison": _comparison(comparison) if comparison else f"{EMPTY} `{COMPARE}` makes it.",
        "claims": markdown_table(["claim", "report", "measured", "verdict"], judged(on_mnist)) if on_mnist else "",
    }


def _results(records: Sequence[Record]) -> str:
    """A row per experiment: what its report got, and what it gets here."""
    rows = []
    for seeds in _rows(records):
        name, note = seeds[0]["experiment"], _departures(seeds[0])
        rows.append([
            f"`{name}`" + (f"<br>{note}" if note else ""),
            REPORTED.get(name, NOTHING),
            _seeds(seeds),
            *(_shares(seeds, split) for split in ("val", "test", "unseen")),
            *(_errors(seeds, "test", measure) for measure in ("mae", "mse")),
        ])  # fmt: skip
    header = [
        "experiment", "its report, course files (theirs)", "seeds", "validation", "test", "unseen",
        "test MAE", "test MSE",
    ]  # fmt: skip
    strips = ", ".join(f"{n:,} {SPLITS[split]}" for split, n in records[0]["data"]["strips"].items())
    below = f"Strips: {strips}; data `{records[0]['data']['fingerprint']}`. In brackets: 95 % intervals."
    if any(len(seeds) > 1 for seeds in _rows(records)):
        below += " Where there are several seeds: mean ± standard deviation over them, and the worst."
    return "\n\n".join([markdown_table(header, rows), below, *_strings(records)])


def _strings(records: Sequence[Record]) -> list[str]:
    """A sentence on the experiments that read a strip digit by digit; none where there is no such experiment.

    And one on how far from a digit's centre it is read.
    """
    sentences = []
    for part, claim, cell in (
        ("strings", "All digits of a strip read right, from left to right.", _share),
        (
            "centre_error",
            "From the column in which a digit is read to the centre of its glyph, mean in pixels.",
            _error,
        ),
    ):
        read = []
        for seeds in _rows([record for record in records if record.get(part)]):
            entries = ((SPLITS[split], [seed[part][split] for seed in seeds]) for split in seeds[0][part])
            read.append(f"`{seeds[0]['experiment']}`: " + "; ".join(f"{split} {cell(each)}" for split, each in entries))
        if read:
            sentences.append(f"{claim} {'. '.join(read)}.")
    return sentences


def _details(records: Sequence[Record]) -> str:
    """A row per experiment and set of strips: the ways in which the reports turn a real number into a sum."""
    rows = []
    for seeds in _rows(records):
        whole = all(each["floor"] == each["ceiling"] for each in seeds[0]["metrics"].values())  # as a classifier's are
        for split in (split for split in SPLITS if split in seeds[0]["metrics"]):
            ways = [
                NOTHING if whole else _shares(seeds, split, way)
                for way in ("floor", "ceiling", "rounded", "within_half")
            ]
            n = f"{seeds[0]['metrics'][split]['n']:,}"
            rows.append([f"`{seeds[0]['experiment']}`", SPLITS[split], n, _shares(seeds, split), *ways])
    return markdown_table(["experiment", "strips", "n", "accuracy", "floor", "ceiling", "rounded", "within 0.5"], rows)


def _runs(records: Sequence[Record]) -> str:
    """A row per run: what it cost and on what; below them the command that makes each again."""
    rows = [
        [
            f"`{record['experiment']}`",
            str(record["seed"]),
            f"{record['settings']['epochs']}, best {record['best_epoch']}",
            f"{record['parameters']:,}",
            f"{record['seconds']['train' if record['history'] else 'total'] / 60:.1f}",
            hardware_words(record["hardware"]),
            record["versions"]["torch"],
            f"`{record['commit']}`" if record["commit"] else NOTHING,
        ]
        for record in records
    ]
    header = ["experiment", "seed", "epochs", "parameters", "minutes", "hardware", "torch", "commit"]
    return markdown_table(header, rows) + "\n\n```bash\n" + "\n".join(map(command, records)) + "\n```"


def _comparison(comparison: Record) -> str:
    """A row per pair of neighbours in the ranking of the published weights."""
    accuracy = {system["experiment"]: system["accuracy"] for system in comparison["systems"]}
    rows = [
        [f"`{each['better']}`", f"`{each['next']}`"]
        + [f"{100 * accuracy[name]:.1f} %" for name in (each["better"], each["next"])]
        + [f"{each['only_better']:,}", f"{each['only_next']:,}", f"{each['p']:.2g}", number(each["mae"])]
        for each in comparison["pairs"]
    ]
    header = [
        "better",
        "next",
        "its accuracy",
        "the next's",
        "only it is right",
        "only the next",
        "p",
        "MAE, difference",
    ]
    return markdown_table(header, rows)


def _peers(records: Sequence[Record]) -> str:
    """What others reach, each kind of data in a column of its own, and our experiment that is best on validation."""
    rows = []
    if records:
        sums_only = [record for record in records if record["settings"]["supervision"] == "sums"]
        best = max(_rows(sums_only), key=lambda seeds: statistics.mean(_values(seeds, "val", "accuracy")))
        name, learns = best[0]["experiment"], f"{_trained_on(best[0]):,} {best[0]['settings']['supervision']}"
        size = f"{best[0]['parameters'] / 1e6:.2f} M"
        rows.append([f"`{name}`, this repository", learns, NOTHING, NOTHING, _shares(best, "unseen"), size])
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


# Cells


def _rows(records: Sequence[Record]) -> list[list[Record]]:
    """The records of each row: the seeds of one experiment with the same settings."""
    rows: dict[str, list[Record]] = {}
    for record in records:
        rows.setdefault(json.dumps([record["experiment"], record["changed"]], sort_keys=True), []).append(record)
    return list(rows.values())


def _values(seeds: Sequence[Record], split: str, measure: str) -> list[float]:
    return [record["metrics"][split][measure]["value"] for record in seeds]


def _shares(seeds: Sequence[Record], split: str, measure: str = "accuracy") -> str:
    """One seed with its interval, several as "98.1 ± 0.2 %, worst 97.8 %"; a dash where there is no such split."""
    return _share([seed["metrics"][split][measure] for seed in seeds]) if split in seeds[0]["metrics"] else NOTHING


def _share(seeds: Sequence[Entry]) -> str:
    if len(seeds) == 1:
        return percent(seeds[0])
    values = [100 * seed["value"] for seed in seeds]
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} %, worst {min(values):.1f} %"


def _errors(seeds: Sequence[Record], split: str, measure: str) -> str:
    return _error([seed["metrics"][split][measure] for seed in seeds])


def _error(seeds: Sequence[Entry]) -> str:
    """As `_share` for an error, of which the worst is the largest."""
    if len(seeds) == 1:
        return number(seeds[0])
    values = [seed["value"] for seed in seeds]
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}, worst {max(values):.2f}"


def _seeds(seeds: Sequence[Record]) -> str:
    """How many there are, and which of them never got going."""
    scores = _values(seeds, "val", "accuracy")
    collapsed = [
        str(record["seed"]) for record, score in zip(seeds, scores, strict=True) if score < COLLAPSED * max(scores)
    ]
    return str(len(seeds)) + (f", collapsed: {', '.join(collapsed)}" if collapsed else "")


def _departures(record: Record) -> str:
    """What a run starts from and the settings in which it departs from its experiment, in words; "" where in none."""
    supervision = record["settings"]["supervision"]
    words = {"sums": [], "nothing": ["not trained"]}.get(supervision, [f"trained with {supervision}"])
    words += [f"from {record['weights']}"] if record["weights"] != "none" else []
    start = "random start" if record["trained_parameters"] == record["parameters"] else "frozen as drawn at random"
    for key, (theirs, ours) in record["changed"].items():
        if key == "epochs":
            words.append(f"{ours} of {theirs} epochs" if ours < theirs else f"{ours} epochs instead of {theirs}")
        elif key == "weights":
            words.append(f"{start} instead of {theirs}" if ours is None else f"instead of {theirs or 'at random'}")
        elif key == "train_limit":
            words.append(f"{'all' if ours is None else f'the first {ours:,}'} training strips")
        else:
            words.append(f"{key} {ours} instead of {theirs}")
    return "; ".join(words)


def _trained_on(record: Record) -> int:
    """How many strips a run learned from."""
    strips, limit = record["data"]["strips"]["train"], record["settings"].get("train_limit")
    return strips if limit is None else min(strips, limit)


def hardware_words(hardware: Mapping[str, Any]) -> str:
    """The device, or the processor with its threads; what it computes in; processes where there were several."""
    device, cpu, threads = hardware["device"], hardware["cpu"], hardware["threads"]
    words = (
        [cpu, f"{threads} thread{'s' * (threads != 1)}"] if device == "cpu" else [cpu if device == "mps" else device]
    )
    processes = hardware.get("processes", 1)
    return ", ".join(words + ["bfloat16"] * hardware["bfloat16"] + [f"{processes} processes"] * (processes > 1))


def _cell(text: str) -> str:
    return " ".join(text.replace("|", r"\|").split())


# Studies


def load_studies(results: str | Path = "results") -> list[Record]:
    """Every record of a study that is published, results/studies/mnist/<study>/*.json, by study, variant and seed.

    Raises TableError as `load_records` does.
    """
    records = []
    for study in STUDIES:
        order = _names(study)
        folder = Path(results) / "studies" / STUDIED / study
        found = {path: _read_study(path, study) for path in sorted(folder.glob("*.json"))}
        _on_the_same_data(found)
        records += sorted(found.values(), key=lambda record: (order.index(record["experiment"]), record["seed"]))
    return records


def _variants(study: str) -> list[Variant]:
    make = STUDIES[study].variants
    return make(EXPERIMENTS[READER]) if make else []


def _names(study: str) -> list[str]:
    return [variant.name for variant in _variants(study)] or [READER]  # what is measured is the reader


def _read_study(path: Path, study: str) -> Record:
    record = _whole(path, _faults if STUDIES[study].variants else _faults_of_measurement)
    name = f"{record['experiment']}-seed{record['seed']}.json"
    there = (record.get("study"), record["source"], record["preset"], name)
    if there != (study, STUDIED, "full", path.name) or record["experiment"] not in _names(study):
        raise TableError(
            f"{path} holds {name} of study {there[0]!r}, source {there[1]!r} and preset {there[2]!r}, which has no "
            "place there; take it away"
        )
    return record


def _faults_of_measurement(record: Any) -> Iterator[str]:
    wanted: dict[str, type | tuple[type, ...]] = {
        "study": str, "experiment": str, "source": str, "seed": int, "preset": str, "weights": str,
        "data.fingerprint": str, "commit": (str, type(None)), "measured": dict,
    }  # fmt: skip
    shares: list[str] = []
    measured = _get(record, "measured")
    if _get(record, "study") == "counts":
        for digits in measured if isinstance(measured, dict) else []:
            wanted |= {f"measured.{digits}.{key}": int for key in ("n", "columns")}
            shares += [f"{digits}.{way}.{what}" for way in WAYS for what in ("strings", "sums", "count")]
    else:
        wanted |= {"measured.n": int, "measured.temperature": float, "measured.abstaining.share": float}
        wanted |= {f"measured.{way}.expected_calibration_error": float for way in ("plain", "tempered")}
        shares = ["accuracy", "abstaining"]
    wanted |= {f"measured.{share}.{key}": float for share in shares for key in ("value", "low", "high")}
    yield from _lacking(record, wanted)


def render_studies(studied: Sequence[Record], published: Sequence[Record] = ()) -> dict[str, str]:
    """The table of every study by name, as Markdown; a sentence that says how to make it where it has no records.

    A row that is the reader itself is filled from the `published` records where the study has none of its own.
    """
    tables = {}
    for name, study in STUDIES.items():
        here = [record for record in studied if record["study"] == name]
        again = f"python -m digitsum study {name} --source {STUDIED}"
        if not here:
            tables[f"study-{name}"] = f"{EMPTY} `{again}` makes them."
            continue
        if name == "counts":
            table = _counts(here)
        elif name == "calibration":
            table = _calibration(here)
        else:
            readers = [r for r in published if (r["experiment"], r["source"], r["changed"]) == (READER, STUDIED, {})]
            table = _trained(name, here, readers)
        tables[f"study-{name}"] = f"{study.about} `{again}` makes it.\n\n{table}"
    return tables


def _trained(name: str, records: Sequence[Record], readers: Sequence[Record]) -> str:
    """A row per variant; beside those on cut digits, what others reach there."""
    split = next(split for split in ("unseen", "test") if split in records[0]["metrics"])
    theirs = [
        [system, f"{learns}.", NOTHING, NOTHING, NOTHING, score] for system, learns, score, _ in PEERS_ON_CUT_DIGITS
    ]
    rows = []
    for variant in _variants(name):
        seeds_of_it = [record for record in records if record["experiment"] == variant.name]
        if variant.experiment == EXPERIMENTS[READER]:
            seeds_of_it = seeds_of_it or list(readers)
        for seeds in _rows(seeds_of_it):
            note = _departures(seeds[0])
            read = [seed["strings"][split] for seed in seeds if split in seed.get("strings", {})]
            rows.append([
                f"`{variant.name}`", variant.sentence + (f"<br>{note}" if note else ""), _seeds(seeds),
                _shares(seeds, "val"), _shares(seeds, split), _share(read) if read else NOTHING,
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
    return f"{markdown_table(header, rows)}\n\n{below}"


def _counts(records: Sequence[Record]) -> str:
    """A row per number of digits."""
    rows = []
    for digits in records[0]["measured"]:
        seeds = [record["measured"][digits] for record in records]
        shares = [
            _share([seed[way][what] for seed in seeds])
            for way, what in (("unknown", "strings"), ("unknown", "sums"), ("unknown", "count"), ("known", "strings"))
        ]
        rows.append([digits, f"{seeds[0]['columns']}", f"{seeds[0]['n']:,}", *shares])
    header = [
        "digits", "columns", "strips", "digit by digit, count unknown", "sum", "count", "digit by digit, count known",
    ]  # fmt: skip
    return markdown_table(header, rows)


def _calibration(records: Sequence[Record]) -> str:
    """A row per figure."""
    seeds = [record["measured"] for record in records]

    def mean_of(values: Sequence[float], unit: str = "") -> str:
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.2f}{spread}{unit}"

    rows = [["right sums", _share([seed["accuracy"] for seed in seeds])]]
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
            _share([seed["abstaining"] for seed in seeds]),
        ],
    ]
    if "centre_error" in seeds[0]:
        errors = [seed["centre_error"] for seed in seeds]
        rows.append(["from a digit's column to its glyph's centre, mean in pixels", _error(errors)])
    for k, group in enumerate(seeds[0].get("overlap", [])):
        where = "apart" if group["to"] == 0 else f"overlapping by {group['from']}–{group['to']} columns"
        shares = [seed["overlap"][k] for seed in seeds]
        rows.append([f"right sums, closest neighbours {where} (n = {group['n']:,})", _share(shares)])
    return markdown_table(["figure", f"{seeds[0]['split']}, n = {seeds[0]['n']:,}"], rows)
