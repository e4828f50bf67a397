"""Studies of the reader: variants of it, trained like any experiment, and measurements of trained readers."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from digitsum.checkpoints import load_checkpoint, read_metadata, write_json
from digitsum.data import Data
from digitsum.devices import pick_device
from digitsum.errors import CheckpointError
from digitsum.experiments import EXPERIMENTS, Experiment, same_settings
from digitsum.models import MODELS
from digitsum.objectives import OBJECTIVES
from digitsum.provenance import provenance
from digitsum.runs import load_json, run_experiment

from ..systems import SYSTEMS
from . import cheques, measurements, variants

READER = "reader"  # the experiment that is measured
SMALL = SYSTEMS["reader_small"].name  # the experiment that is varied

MODELS |= {"pooled_reader": variants.PooledReader, "cut_digits": variants.CutDigits}
OBJECTIVES |= {"additive_regression": variants.AdditiveRegression(), "expected_sum": variants.ExpectedSum()}


@dataclass(frozen=True)
class Study:
    """A question to the reader, answered by training variants of `base` or by measuring trained readers."""

    variants: Callable[[Experiment], dict[str, tuple]] = lambda base: {}  # by name: a sentence, and changes of the base
    base: str = SMALL
    data: Callable[[Data, str | Path, Experiment], Data] = lambda data, root, experiment: data  # that a variant sees
    measure: Callable[..., dict[str, Any]] | None = None
    readers: tuple[str, ...] = (READER,)  # the experiments whose weights are measured
    together: bool = False  # measure all of them as one, not each


STUDIES: dict[str, Study] = {  # docs/reader.md and docs/handwriting.md say what they ask
    "ablations": Study(variants.ablations),
    "sums": Study(variants.fewer_strips),
    "more_strips": Study(variants.more_strips, base=READER, data=variants.more_data),
    "cut_digits": Study(variants.cut_digits, data=variants.cut_data),
    "counts": Study(measure=measurements.counts),
    "tta": Study(measure=measurements.tta),
    "calibration": Study(measure=measurements.calibration),
    "ensemble": Study(measure=measurements.calibration, together=True),
    "pseudo_labels": Study(measure=measurements.pseudo_labels),
    "handwriting": Study(measure=cheques.measure, readers=(READER, "reader_handwriting")),
    "cheques": Study(measure=cheques.teach, readers=("reader_handwriting",)),
}


def variants_of(study: str) -> dict[str, tuple[str, Experiment]]:
    """Return what a study trains, a sentence on each variant and its settings: nothing if it only measures."""
    base = EXPERIMENTS[STUDIES[study].base]
    rows = STUDIES[study].variants(base)
    return {name: (sentence, replace(base, label=name, **changes)) for name, (sentence, changes) in rows.items()}


def run_study(
    name: str, data: Data, *, seeds: Sequence[int] = (0, 1, 2), only: Sequence[str] = (), device: str = "auto",
    root: str | Path = "data", models: str | Path = "models", results: str | Path = "results", **options: Any,
) -> Iterator[tuple[Path, dict[str, Any]]]:  # fmt: skip
    """Answer one study: yield each record with its path, results/studies/<source>/<study>/<row>-seed<k>.json.

    A record of the same data and settings is not made again; an unchanged base is the ordinary experiment. `only`
    chooses variants by name, `options` are those of `run_experiment`.
    """
    study = STUDIES[name]
    if study.measure:
        yield from _measured(name, data, device, root, models, results)
        return
    rows = {row: experiment for row, (_, experiment) in variants_of(name).items() if not only or row in only}
    for row, experiment in rows.items():
        folder = data.source if experiment == EXPERIMENTS[study.base] else f"studies/{data.source}/{name}"
        seen = study.data(data, root, experiment)
        for seed in seeds:
            path = Path(results, folder, f"{row}-seed{seed}.json")
            # Not left to `run_experiment`, which looks for weights too: of variants, only records are published.
            yield path, on_record(path, seen, experiment) or run_experiment(
                experiment, seen, seed=seed, device=device, folder=folder, models=models, results=results, **options
            )  # fmt: skip


def on_record(path: Path, data: Data, experiment: Experiment, **more: Any) -> dict[str, Any] | None:
    """Return the record at `path` if it is of this data and has the experiment's settings, and what `more` says."""
    try:
        record = load_json(path)
        same = record["data"]["fingerprint"] == data.fingerprint
        same &= same_settings(record["settings"], asdict(experiment))
        return record if same and more.items() <= record.items() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _measured(
    name: str, data: Data, device: str, root: str | Path, models: str | Path, results: str | Path
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the records of measuring readers, all together or each alone, known by their seeds and commit."""
    study, folder = STUDIES[name], Path(models, data.source)
    assert study.measure is not None
    files = [file for reader in study.readers for file in sorted(folder.glob(f"{reader}-seed*.safetensors"))]
    if len(files) < max(len(study.readers), 1 + study.together):
        raise CheckpointError(
            f"{folder} holds weights of too few readers for this study ({len(files)}). Train {study.readers[-1]}: "
            "docs/reader.md and docs/handwriting.md have the commands."
        )
    for group in [files] if study.together else [[file] for file in files]:
        each, place, started = [read_metadata(file) for file in group], pick_device(device), time.perf_counter()
        if any(about["data"] != data.fingerprint for about in each):
            raise CheckpointError(f"{folder} holds readers that were trained on other data. Train them again.")
        reader, seeds = each[0]["experiment"], [about["seed"] for about in each]
        whose = {"seeds": seeds, "weights_commit": each[0]["commit"]}
        path = Path(results, "studies", data.source, name, f"{reader}-seed{seeds[0]}.json")
        record = on_record(path, data, EXPERIMENTS[reader], **whose)
        if record is None:
            record = {
                "experiment": reader, "source": data.source, "seed": seeds[0], "settings": each[0]["settings"],
                "weights": " ".join(about["digest"] for about in each), **whose, **provenance(place),
                "data": {"fingerprint": data.fingerprint, "seed": data.seed},
                "measured": study.measure([load_checkpoint(file, place) for file in group], data, root),
                "seconds": {"total": round(time.perf_counter() - started, 1)},
            }  # fmt: skip
            write_json(record, path)
        yield path, record
