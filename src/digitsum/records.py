"""The published records in results/, read and held to what tables and paper need of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .data import SOURCES
from .experiments import EXPERIMENTS
from .studies import READER, STUDIES, variants_of

Record = dict[str, Any]
Wanted = Mapping[str, type | tuple[type, ...]]  # what stands under which dotted name

PUBLISHED = SOURCES[1:]  # the folders of results/ whose records are published: all sources but "auto"
STUDIED = "mnist"  # the source whose studies are published
WAYS = ("unknown", "known")  # whether the reader is told how many digits there are
MEASURES = ("accuracy", "floor", "ceiling", "rounded", "within_half", "mse", "mae")
COMPARISON = "comparison.json"  # beside the records of its source
COMPARE = "python -m digitsum compare --source mnist"
RENEW = f"make it anew: {COMPARE}"


class TableError(Exception):
    """Records or pages from which no tables can be made; the message names the file, the fault and the remedy."""


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


def load_streams(results: str | Path = "results") -> list[Record]:
    """The record of every run on streamed strips, results/<source>-stream<n>/*.json, by the number of strips.

    Those of presets that shorten have folders of their own and are in no table. Raises TableError for a file that is
    not a whole record.
    """
    found = [_whole(path, _faults) for path in sorted(Path(results).glob("*-stream*[0-9]/*-seed*.json"))]
    return sorted(found, key=lambda record: record["data"]["strips"]["train"])


def load_comparison(results: str | Path, records: Sequence[Record]) -> Record | None:
    """The comparison of the published runs on mnist, None where there is none yet.

    Raises TableError where it is not whole, or not of the runs that are published by now.
    """
    path = Path(results) / STUDIED / COMPARISON
    comparison = read_comparison(path)
    if comparison is None:
        return None
    compared = {system["experiment"]: system for system in comparison["systems"]}
    runs = by_experiment([record for record in records if record["source"] == STUDIED])
    for name in compared.keys() | runs.keys() - comparison["left_out"].keys():
        if name not in compared or name not in runs or not _is_of(comparison, compared[name], runs[name]):
            raise TableError(f"{path} is of another run of {name} than the one on record; {RENEW}")
    return comparison


def read_comparison(path: Path) -> Record | None:
    """A comparison, None where there is none. Raises TableError where it is not whole."""
    return _whole(path, _faults_of_comparison, RENEW) if path.exists() else None


def _is_of(comparison: Record, system: Record, record: Record) -> bool:
    """Whether what was compared as a system is this run."""
    metrics, split = record["metrics"], comparison["split"]
    return (comparison["data"]["fingerprint"], system["seed"], system["validation"], system["accuracy"]) == (
        record["data"]["fingerprint"], record["seed"], metrics["val"]["accuracy"]["value"],
        metrics.get(split, {}).get("accuracy", {}).get("value"),
    )  # fmt: skip


def by_experiment(records: Sequence[Record]) -> dict[str, Record]:
    """The record of each experiment's published run, of those with its own settings where there are some."""
    names = dict.fromkeys(record["experiment"] for record in records)
    runs = {name: [record for record in records if record["experiment"] == name] for name in names}
    return {name: published([run for run in seeds if not run["changed"]] or seeds) for name, seeds in runs.items()}


def in_rows(records: Sequence[Record]) -> list[list[Record]]:
    """The records of each row: the seeds of one experiment with the same settings."""
    rows: dict[str, list[Record]] = {}
    for record in records:
        rows.setdefault(json.dumps([record["experiment"], record["changed"]], sort_keys=True), []).append(record)
    return list(rows.values())


def published(seeds: Iterable[Record]) -> Record:
    """The record of the seed whose weights are published: the best on validation, of equals the lowest."""
    return max(seeds, key=lambda record: (record["metrics"]["val"]["accuracy"]["value"], -record["seed"]))


def trained_on(record: Record) -> int:
    """How many strips a run learned from."""
    strips, limit = record["data"]["strips"]["train"], record["settings"].get("train_limit")
    return strips if limit is None else min(strips, limit)


# Reading and checking


def _on_the_same_data(found: Mapping[Path, Record]) -> None:
    fingerprints = {record["data"]["fingerprint"]: path for path, record in found.items()}
    if len(fingerprints) > 1:
        kinds = ", ".join(f"{fingerprint} in {path.name}" for fingerprint, path in fingerprints.items())
        raise TableError(
            f"{next(iter(found)).parent} holds records on different data ({kinds}), which share no table; "
            "train them again on the same, or take the others away"
        )


def _parsed(path: Path, remedy: str) -> Any:
    try:
        return json.loads(path.read_bytes(), parse_constant=_refuse)
    except (OSError, ValueError) as error:
        raise TableError(f"{path} is not valid JSON ({error}); {remedy}") from error


def _whole(
    path: Path, find_faults: Callable[[Any], Iterator[str]], remedy: str = "restore it, or run that experiment again"
) -> Record:
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


def unchanged(records: Sequence[Record], experiment: str) -> list[Record]:
    """The records of an experiment, on the source that is studied, with all settings its own."""
    return [r for r in records if (r["experiment"], r["source"], r["changed"]) == (experiment, STUDIED, {})]


def _names(study: str) -> list[str]:
    return [variant.name for variant in variants_of(study)] or [READER]  # what is measured is the reader


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
        "settings.supervision": str, "settings.report": str, "settings.left_open": str, "data.strips.train": int,
    }  # fmt: skip
    if _get(record, "prediction") is not ...:  # which the first records lack
        wanted |= {"prediction.images": int, "prediction.seconds": float}
    if _get(record, "answers") is not ...:  # likewise
        wanted |= {"answers.values": str, "answers.sums": str}
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
    elif _get(record, "study") == "second_look":
        wanted |= {"measured.looks": int, "measured.below": float, "measured.splits": dict}
        splits = _get(record, "measured.splits")
        for split in splits if isinstance(splits, dict) else []:
            wanted[f"measured.splits.{split}.n"] = int
            shares += [f"splits.{split}.{key}" for key in ("again", "once", "several")]
    elif _get(record, "study") == "pseudo_labels":
        wanted |= {f"measured.{key}": int for key in ("strips", "digits", "glyphs")}
        shares = ["right"]
    else:
        wanted |= {"measured.n": int, "measured.temperature": float, "measured.abstaining.share": float}
        wanted |= {f"measured.{way}.expected_calibration_error": float for way in ("plain", "tempered")}
        shares = ["accuracy", "abstaining"]
    if _get(record, "study") == "ensemble":
        wanted["seeds"] = list
    wanted |= {f"measured.{share}.{key}": float for share in shares for key in ("value", "low", "high")}
    yield from _lacking(record, wanted)


def _faults_of_comparison(comparison: Any) -> Iterator[str]:
    parts: dict[str, Wanted] = {
        "systems": {"experiment": str, "seed": int, "validation": float, "accuracy": float},
        "pairs": {"only_better": int, "only_next": int, "p": float}
        | {f"mae.{key}": float for key in ("value", "low", "high")},
    }
    whole = {"data.fingerprint": str, "split": str, "left_out": dict}
    yield from _lacking(comparison, whole | dict.fromkeys(parts, list))
    entries = {part: found if isinstance(found := _get(comparison, part), list) else [] for part in parts}
    for part, wanted in parts.items():
        yield from (f"{part}.{k}.{name}" for k, each in enumerate(entries[part]) for name in _lacking(each, wanted))
    names = [_get(system, "experiment") for system in entries["systems"]]
    for k, each in enumerate(entries["pairs"]):
        yield from (f"the system pairs.{k}.{side}" for side in ("better", "next") if _get(each, side) not in names)


def _lacking(record: Any, wanted: Wanted) -> Iterator[str]:
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
