"""Studies of the reader: variants of it, trained like any experiment, and measurements of trained readers."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

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
SEEDS = (0, 1, 2)

MODELS |= {"pooled_reader": variants.PooledReader, "cut_digits": variants.CutDigits}
OBJECTIVES |= {
    "additive_regression": variants.AdditiveRegression(), "expected_sum": variants.ExpectedSum(),
}  # fmt: skip


@dataclass(frozen=True)
class Study:
    """A question to the reader, answered by training variants of `base` or by measuring trained readers."""

    about: str
    variants: Callable[[Experiment], dict[str, tuple]] | None = None  # by name: a sentence, and changes of the base
    base: str = SMALL
    data: Callable[[Data, str | Path, Experiment], Data] = lambda data, root, experiment: data  # that a variant sees
    measure: Callable[..., dict[str, Any]] | None = None
    readers: tuple[str, ...] = ("reader",)  # the experiments whose weights are measured
    together: bool = False  # measure all of them as one, not each


class Variant(NamedTuple):
    """One row of a study: its name, a sentence on what it is, and all its settings."""

    name: str
    sentence: str
    experiment: Experiment


STUDIES: dict[str, Study] = {
    "ablations": Study(f"Each row removes or replaces one part of `{SMALL}`.", variants.ablations),
    "sums": Study(
        f"Accuracy by the number of strips. All rows train for as many steps as `{SMALL}`: a smaller set is repeated.",
        variants.fewer_strips,
    ),
    "more_strips": Study(
        "Many strips of the same digits, each seen once. The ordinary reader sees fewer strips more often.",
        variants.more_strips, base=READER, data=variants.more_data,
    ),
    "cut_digits": Study(
        "The task of the neuro-symbolic literature: digits come as separate images, labelled with their sum. Rows of "
        f"four digits train for as many steps as `{SMALL}`. Their test is 2,500 sums of MNIST's test digits, each used "
        "once; that of more digits 1,000 sums.",
        variants.cut_digits, data=variants.cut_data,
    ),
    "counts": Study(
        "The reader is trained on four digits and reads strips of other numbers of digits. They are composed of unseen "
        "digits, on canvases as wide as they may need.",
        measure=measurements.counts,
    ),
    "tta": Study("The same weights with and without test-time augmentation.", measure=measurements.tta),
    "calibration": Study(
        "How well the probability of the reader's sum fits its accuracy on `unseen`, and where it reads digits. The "
        "temperature is fitted on validation. So is the offset of the columns, to the ink alone.",
        measure=measurements.calibration,
    ),
    "ensemble": Study(
        "Readers of several seeds as one, by the mean of their probabilities, on `unseen`.",
        measure=measurements.calibration, together=True,
    ),
    "pseudo_labels": Study(
        "Labels from sums alone: isolated digits of the training strips are cut out and labelled by the reader.",
        measure=measurements.pseudo_labels,
    ),
    "handwriting": Study(
        "Readers on pictures and on real cheque amounts, the number of digits left open, and how sure they may be.",
        measure=cheques.measure, readers=("reader", "reader_handwriting"),
    ),
    "cheques": Study(
        "The reader, trained on with amounts of real cheques of which only the sum is told, or more, in five folds.",
        measure=cheques.teach, readers=("reader_handwriting",),
    ),
}  # fmt: skip


def variants_of(study: str) -> list[Variant]:
    """Return what a study trains: nothing if it only measures."""
    make, base = STUDIES[study].variants, EXPERIMENTS[STUDIES[study].base]
    rows = make(base) if make else {}
    return [Variant(name, about, replace(base, label=name, **changes)) for name, (about, changes) in rows.items()]


def run_study(
    name: str, data: Data, *, seeds: Sequence[int] = SEEDS, only: Sequence[str] = (), device: str = "auto",
    root: str | Path = "data", models: str | Path = "models", results: str | Path = "results", **options: Any,
) -> Iterator[tuple[Path, dict[str, Any]]]:  # fmt: skip
    """Answer one study: yield each record with its path, results/studies/<source>/<study>/<row>-seed<k>.json.

    A record with the same settings on the same data is not made again. An unchanged base is trained as the ordinary
    experiment, so its record is that. `only` chooses variants by name, `options` are those of `run_experiment`.
    """
    study, own = STUDIES[name], f"studies/{data.source}/{name}"
    if study.measure:
        for files in _readers(Path(models, data.source), study):
            yield _measured(study.measure, files, data, device, root, Path(results, own))
        return
    rows = [row for row in variants_of(name) if not only or row.name in only]
    for seed, (row, _, experiment) in itertools.product(seeds, rows):
        folder = data.source if experiment == EXPERIMENTS[study.base] else own
        seen = study.data(data, root, experiment)
        path = Path(results, folder, f"{row}-seed{seed}.json")
        # Not left to `run_experiment`, which looks for weights too: of variants, only records are published.
        record = _recorded(path, seen, asdict(experiment))
        yield path, record or run_experiment(
            experiment, seen, seed=seed, device=device, folder=folder, models=models, results=results, **options
        )  # fmt: skip


def _readers(folder: Path, study: Study) -> list[list[Path]]:
    """Return the weights to measure: all together, or each alone."""
    files = [file for name in study.readers for file in sorted(folder.glob(f"{name}-seed*.safetensors"))]
    if len(files) < max(len(study.readers), 1 + study.together):
        raise CheckpointError(
            f"{folder} holds weights of too few readers for this study ({len(files)}). Train {study.readers[-1]}: "
            "docs/reader.md and docs/handwriting.md have the commands."
        )
    return [files] if study.together else [[file] for file in files]


def _recorded(path: Path, data: Data, settings: dict[str, Any], **more: Any) -> dict[str, Any] | None:
    """Return the record at `path` if it is of this data and has these settings, and what `more` says."""
    try:
        record = load_json(path)
        same = record["data"]["fingerprint"] == data.fingerprint and same_settings(record["settings"], settings)
        return record if same and more.items() <= record.items() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _measured(
    measure: Callable[..., dict[str, Any]], files: Sequence[Path], data: Data, device: str, root: str | Path,
    folder: Path,
) -> tuple[Path, dict[str, Any]]:  # fmt: skip
    """Return the record of measuring readers, with its path. It tells which readers by their seeds and commit."""
    each, place, started = [read_metadata(file) for file in files], pick_device(device), time.perf_counter()
    if any(about["data"] != data.fingerprint for about in each):
        raise CheckpointError(f"{files[0].parent} holds readers that were trained on other data. Train them again.")
    settings, seeds = each[0]["settings"], [about["seed"] for about in each]
    name = each[0]["experiment"]
    path, whose = folder / f"{name}-seed{seeds[0]}.json", {"seeds": seeds, "weights_commit": each[0]["commit"]}
    if record := _recorded(path, data, settings, **whose):
        return path, record
    record = {
        "experiment": name, "source": data.source, "seed": seeds[0], "settings": settings, **whose,
        "weights": " ".join(about["digest"] for about in each), **provenance(place),
        "data": {"fingerprint": data.fingerprint, "seed": data.seed},
        "measured": measure([load_checkpoint(file, place) for file in files], data, root),
        "seconds": {"total": round(time.perf_counter() - started, 1)},
    }  # fmt: skip
    write_json(record, path)
    return path, record
