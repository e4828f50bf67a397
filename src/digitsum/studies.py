"""Studies of the reader: variants of it, each trained like an experiment, and measurements of trained readers."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import calibration
from .augment import Augmentation
from .checkpoints import CheckpointError, load_checkpoint, read_metadata
from .compose import DIGIT_WIDTH, compose, lay_out
from .data import Data, source_glyphs
from .devices import pick_device
from .evaluation import Predictions, centre_errors, inputs, mean, predictions, share, strings_read
from .experiments import EXPERIMENTS, Experiment
from .models import StripModel
from .models.cut_digits import cells, joined
from .models.ensemble import Ensemble
from .models.reader import SHIFTS, Reader
from .pseudo_labels import label_digits
from .runs import alone, circumstances, commit, folder_of_run, record_of, recorded, runs_alike, write_record
from .training import train

READER = "reader"  # the experiment that is studied
SMALL = "reader_small"  # in its place where much has to be trained
SEEDS = (0, 1, 2)
STRIPS = 24_000  # that the reader's epoch goes over
CUT_SUMS, CUT_TEST_SUMS = 15_000, 2_500  # every one of MNIST's training and test digits once
COUNTS = (1, 2, 3, 4, 5, 6, 8, 16)
COUNT_STRIPS = 2_000  # of each count
ABSTAIN = 0.05  # the share of strips, those it trusts least, to which it gives no answer
OVERLAPS = ((-14, 0), (1, 5), (6, 9), (10, 13), (14, 16))  # columns, both ends included


Measure = Callable[[StripModel, Data, str | Path], dict[str, Any]]


@dataclass(frozen=True)
class Variant:
    """One row of a study: a sentence on what it is, and all its settings."""

    name: str
    sentence: str
    experiment: Experiment


@dataclass(frozen=True)
class Study:
    """A question to the reader, answered by training variants of it or by measuring readers that were trained.

    `variants` makes them from the settings of the experiment `base`; `data` makes theirs from the source's. `measure`
    takes a trained reader, the source's data and the folder with MNIST, and returns what a record keeps under
    "measured"; where it measures them `together`, all readers at once, as an ensemble.
    """

    about: str
    variants: Callable[[Experiment], list[Variant]] | None = None
    base: str = READER
    data: Callable[[Data, str | Path], Data] = lambda data, root: data
    measure: Measure | None = None
    together: bool = False


# What is trained


def without_one(augment: Augmentation) -> dict[str, Augmentation]:
    """The augmentation without each of the kinds that it has, by the name of the kind."""
    defaults: dict[str, Any] = {kind.name: kind.default for kind in fields(augment)}
    return {
        kind: replace(augment, **{kind: default})
        for kind, default in defaults.items()
        if getattr(augment, kind) != default
    }


def _ablations(reader: Experiment) -> list[Variant]:
    known = reader.objective_args
    flat = reader.model_args | {"empty_bias": 0.0}  # where no output means "nothing"
    # Three rows train on strips with all of their blank columns, as those to be read have them: a likelihood says that
    # these hold nothing, but a total or a mean over the columns is another without them.
    changes: dict[str, tuple[str, dict[str, Any]]] = {
        reader.name: (f"`{reader.name}` as it is.", {}),
        "no_start": (
            "Without the start-up: the likelihood from the first step on.",
            {"objective_args": known | {"start_steps": 0}},
        ),
        "additive_regression": (
            "Every column gives a number, and the squared error of their total is all there is to learn from. "
            "Strips are not cropped.",
            {"objective": "additive_regression", "objective_args": {}, "model_args": flat, "crop": False},
        ),
        "expected_sum": (
            "The columns tell symbols as ever, but only the mean of the sum is held to the label, by its squared "
            "error. Strips are not cropped.",
            {"objective": "expected_sum", "objective_args": {}, "crop": False},
        ),
        "classification": (
            "The columns' mean, a hidden layer, and a class for each of the 37 sums. Strips are not cropped.",
            {"model": "pooled_reader", "objective": "classification", "objective_args": {}, "crop": False},
        ),
        "count_1_to_8": (
            "Not told that there are four digits, only that there are one to eight.",
            {"objective_args": known | {"count": (1, 8)}},
        ),
        "count_unknown": (
            "Not told how many digits there are: any number, none included. "
            "A sum cannot tell a zero from nothing then.",
            {"objective_args": known | {"count": None}},
        ),
    }
    if reader.augment:
        for part, rest in without_one(reader.augment).items():
            changes[f"no_{part}"] = (f"Without `{part}` in the augmentation.", {"augment": rest})
        changes["clean"] = (
            "Only moved, no longer bent, in the last epochs, after He et al., Data Augmentation Revisited (2019).",
            {"clean": 0.15},
        )
        changes["no_augmentation"] = ("Without any augmentation.", {"augment": None})
    # What makes training fast, taken back.
    changes["uncropped"] = ("Strips are not cropped.", {"crop": False})
    changes["float32"] = ("Trained in float32, not in bfloat16.", {"bfloat16": False})
    return [_variant(reader, name, sentence, **changed) for name, (sentence, changed) in changes.items()]


def _sums(reader: Experiment) -> list[Variant]:
    return [
        *(
            _variant(reader, f"{n}", f"The first {n:,} strips only.", **_same_steps(reader, n))
            for n in (500, 1_000, 2_000, 5_000, 10_000)
        ),
        _variant(reader, reader.name, f"All {STRIPS:,}: `{reader.name}` as it is."),
    ]


def _cut_digits(reader: Experiment) -> list[Variant]:
    alone: dict[str, Any] = {"model": "cut_digits", "augment": None, "crop": False}
    lenet = alone | {
        "model_args": {"network": "lenet"}, "optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0,
    }  # fmt: skip
    ours = alone | {"model_args": reader.model_args | {"network": "reader"}}
    networks = {
        "lenet": ("LeNet, the literature's network, and the reader's objective", lenet),
        reader.name: (f"the network of `{reader.name}`, its columns averaged, and its objective", ours),
    }
    if reader.augment:
        augmented = ours | {"augment": AugmentEachDigit(**vars(reader.augment))}
        networks[f"{reader.name}_augmented"] = (
            f"the network of `{reader.name}`, each digit augmented as the reader's strips are",
            augmented,
        )
    return [
        _variant(reader, f"{name}-{n}", f"{n:,} sums: {what}.", **changes, **_same_steps(reader, n))
        for n in (5_000, CUT_SUMS)
        for name, (what, changes) in networks.items()
    ]


def variants_of(study: str) -> list[Variant]:
    """What a study trains, made from its base as that stands; none where it only measures."""
    make, base = STUDIES[study].variants, EXPERIMENTS[STUDIES[study].base]
    return make(base) if make else []


def _variant(reader: Experiment, name: str, sentence: str, **changes: Any) -> Variant:
    return Variant(name, sentence, replace(reader, label=name, **changes))


def _same_steps(reader: Experiment, n: int) -> dict[str, int]:
    """Settings for `n` strips, or for its limit, in as many steps as `reader` takes over all, to the nearest epoch."""
    n = min(n, reader.train_limit or n)
    passes = max(STRIPS // n, 1)
    return {"train_limit": n, "passes": passes, "epochs": max(round(reader.epochs * STRIPS / (n * passes)), 1)}


@dataclass(frozen=True)
class AugmentEachDigit(Augmentation):
    """The augmentation of strips of cut digits, drawn for each digit on its own."""

    def __call__(self, images: Tensor) -> Tensor:
        return joined(super().__call__(cells(images)), len(images))


def cut_digits(data: Data, root: str | Path = "data") -> Data:
    """The literature's task: sums of four cut digits, of a source that is composed of glyphs.

    Training sums use every training digit once before any comes again, as do those of validation, in another order, and
    of test, from the digits of `unseen`. Validation therefore holds digits that training has seen; it has only to
    choose the epoch.
    """
    seen, unseen = source_glyphs(data.source, root, data.seed)
    train, val, test = (
        lay_out(*glyphs, n, seed=(data.seed, part))
        for part, (glyphs, n) in enumerate(((seen, CUT_SUMS), (seen, CUT_TEST_SUMS), (unseen, CUT_TEST_SUMS)), start=1)
    )
    return Data(data.source, train, val, test, None, f"{data.reason}, cut", data.seed)


# What is measured


def _counts(model: StripModel, data: Data, root: str | Path) -> dict[str, Any]:
    """Strips of other numbers of digits, made of unseen glyphs on canvases as wide as they may need."""
    _, unseen = source_glyphs(data.source, root, data.seed)
    measured = {}
    for digits in COUNTS:
        strips = compose(*unseen, COUNT_STRIPS, seed=(data.seed, digits), digits=digits)
        assert strips.digits is not None
        entry: dict[str, Any] = {
            "n": len(strips), "columns": digits * DIGIT_WIDTH, "fingerprint": strips.fingerprint,
        }  # fmt: skip
        for way, count in (("unknown", None), ("known", digits)):
            readings = predictions(_counting(model, count), strips.images).readings
            sums = np.array([sum(reading.digits) for reading in readings])
            right = sum(len(reading.digits) == digits for reading in readings)
            entry[way] = {
                "strings": strings_read(Predictions(sums, sums, readings), strips.digits),
                "sums": share(int((sums == strips.sums).sum()), len(strips)),
                "count": share(right, len(strips)),
            }
        measured[str(digits)] = entry
    return measured


def _counting(model: StripModel, count: int | None) -> StripModel:
    """The same reader, told that strips hold `count` digits."""
    told = copy.copy(model)
    told.objective = replace(model.objective, count=count)
    return told


def _calibration(model: StripModel, data: Data, root: str | Path) -> dict[str, Any]:
    """How far its probabilities of sums can be trusted, and where it errs.

    From validation are the temperature and, without labels, the offset of the digits' places.
    """
    split, strips = list(data.splits.items())[-1]
    known, read = (predictions(model, part.images) for part in (data.val, strips))
    temperature, log_p = calibration.fit_temperature(known.log_p, data.val.sums), read.log_p
    right = log_p.argmax(axis=1) == strips.sums
    measured: dict[str, Any] = {"split": split, "n": len(strips), "temperature": temperature}
    for name, tempered in (("plain", log_p), ("tempered", calibration.tempered(log_p, temperature))):
        bins = calibration.reliability(np.exp(tempered.max(axis=1)), right)
        measured[name] = {
            "expected_calibration_error": bins.error,
            "negative_log_likelihood": calibration.negative_log_likelihood(tempered, strips.sums),
            "reliability": [list(row) for row in zip(*(part.tolist() for part in bins), strict=True)],
        }
    answered, accuracy = calibration.coverage(np.exp(log_p.max(axis=1)), right)
    hundredths = np.unique(np.ceil(np.arange(1, 101) / 100 * len(strips)).astype(int)) - 1
    kept = round((1 - ABSTAIN) * len(strips))
    measured |= {
        "accuracy": share(int(right.sum()), len(strips)),
        "coverage": [[answered[k].item(), accuracy[k].item()] for k in hundredths],
        "abstaining": {"share": ABSTAIN, "n": kept} | share(round(accuracy[kept - 1] * kept), kept),
    }
    if strips.corners is not None and model.stride is not None:
        columns = [reading.columns for reading in known.readings]
        offset = calibration.fit_offset(data.val.images, columns, model.stride)
        errors = centre_errors(read, strips.corners, model.stride, offset)
        overlap = calibration.closest(strips.corners)
        groups = [(low, high, right[(overlap >= low) & (overlap <= high)]) for low, high in OVERLAPS]
        measured |= {
            "offset": offset,
            "centre_error": mean(errors),
            "overlap": [
                {"from": low, "to": high, "n": len(group)} | share(int(group.sum()), len(group))
                for low, high, group in groups
                if len(group)
            ],
        }
    return measured


def _pseudo_labels(model: StripModel, data: Data, root: str | Path) -> dict[str, Any]:
    """The digits that stand alone in the training strips, and how often the reader has them right."""
    assert model.stride is not None
    found = label_digits(data.train, predictions(model, data.train.images).readings, model.stride)
    measured = {
        "strips": len(data.train),
        "digits": len(found.labels),
        "glyphs": len(np.unique(found.glyphs, axis=0)),
        "of_each": np.bincount(found.labels, minlength=10).tolist(),
    }
    if data.train.digits is not None and len(found.labels):
        right = found.labels == data.train.digits[tuple(found.places.T)]
        measured["right"] = share(int(right.sum()), len(right))
    return measured


def _second_look(model: StripModel, data: Data, root: str | Path) -> dict[str, Any]:
    """What looking again is worth: right sums with and without it, and how many strips it looks at again."""
    assert isinstance(model, Reader)
    once = copy.deepcopy(model)
    once.second_look = 0.0
    measured: dict[str, Any] = {"looks": 1 + len(SHIFTS), "below": model.second_look, "splits": {}}
    for split, strips in (("val", data.val), list(data.splits.items())[-1]):
        with torch.no_grad():
            again = sum(int(model.doubts(model.glance(batch)).sum()) for _, batch in inputs(model, strips.images))
        measured["splits"][split] = {"n": len(strips), "again": share(again, len(strips))} | {
            name: share(int((predictions(reader, strips.images).sums == strips.sums).sum()), len(strips))
            for name, reader in (("once", once), ("several", model))
        }
    return measured


STUDIES: dict[str, Study] = {
    "ablations": Study(
        f"One thing at a time is taken from `{SMALL}` or put in its place.", variants=_ablations, base=SMALL
    ),
    "sums": Study(
        "How accuracy grows with the number of sums to learn from. Steps, batches, schedule and augmentation are those "
        f"of `{SMALL}`: a smaller set is gone over more often.",
        variants=_sums,
        base=SMALL,
    ),
    "counts": Study(
        "The reader, trained on four digits only, reads strips of other numbers of digits, made in the same way of "
        "unseen glyphs, on canvases as wide as they may need.",
        measure=_counts,
    ),
    "cut_digits": Study(
        "The task of the neuro-symbolic literature: four digits that come as separate images, labelled with their sum. "
        f"As many steps as those of `{SMALL}`; tested on 2,500 sums of MNIST's test digits, each used once.",
        variants=_cut_digits,
        base=SMALL,
        data=cut_digits,
    ),
    "calibration": Study(
        "How far the probability that the reader gives its sum can be trusted, on `unseen` strips, and how well it "
        "knows where digits stand. Fitted on validation are the temperature and, to the ink alone, the offset.",
        measure=_calibration,
    ),
    "second_look": Study(
        "What the second look is worth to the reader: the same weights without it and with it.",
        measure=_second_look,
    ),
    "ensemble": Study(
        "What readers of several seeds are worth together on `unseen` strips, by the mean of their probabilities.",
        measure=_calibration,
        together=True,
    ),
    "pseudo_labels": Study(
        "What knowing only sums is worth in labels: the digits that stand alone in the training strips, cut out and "
        "labelled by the reader, against what they are.",
        measure=_pseudo_labels,
    ),
}


def run_study(
    name: str,
    data: Data,
    *,
    seeds: Sequence[int] = SEEDS,
    only: Sequence[str] = (),
    changes: dict[str, Any] | None = None,
    checkpoints: Sequence[str | Path] = (),
    device: str = "auto",
    root: str | Path = "data",
    models: str | Path = "models",
    results: str | Path = "results",
    progress: bool = True,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Answer one study of STUDIES; yields each record with its path, also those that were there already.

    Records are results/studies/<source>/<study>/<variant>-seed<seed>.json. One with the same settings on the same data
    is not made again, nor is the base itself where its published record will do; a run that was interrupted goes on.
    `only` picks variants by name, and `changes` replaces settings of the base that they are made from. What is measured
    are the `checkpoints`, by default the reader's published weights; together, the weights of all its runs.
    """
    commit()
    study, place = STUDIES[name], pick_device(device)
    base = EXPERIMENTS[study.base]
    folder = Path(results) / "studies" / data.source / name
    if study.measure:
        weights = Path(models) / data.source
        if study.together:
            several = checkpoints or _trained_alike(weights, Path(results) / data.source)
            if len(several) < 2:
                raise CheckpointError(
                    f"The study {name} needs the weights of several readers, trained as the published one, and "
                    f"{weights / 'runs'} holds those of {len(several)}. Train some: python -m digitsum train {READER} "
                    f"--source {data.source} --preset full --seed 0 1 2; or name them by --checkpoint."
                )
            yield _measured(name, study.measure, several, data, place, root, folder)
        else:
            for checkpoint in checkpoints or [weights / f"{READER}.safetensors"]:
                yield _measured(name, study.measure, [checkpoint], data, place, root, folder)
    if study.variants:
        usual = {variant.name: variant.experiment for variant in variants_of(name)}
        variants = study.variants(replace(base, **changes or {}))
        data = study.data(data, root)
        wanted = [variant for variant in variants if variant.name in (only or usual)]
        for seed, variant in itertools.product(dict.fromkeys(seeds), wanted):
            experiment, path = variant.experiment, folder / f"{variant.name}-seed{seed}.json"
            published = Path(results) / data.source / path.name
            if experiment == base and recorded(published, asdict(experiment), data.fingerprint):
                path = published
            record = recorded(path, asdict(experiment), data.fingerprint)
            if record is None:
                run_folder = folder_of_run(Path(models) / data.source, f"{name}-{path.stem}", experiment, data)
                state = run_folder / "resume.pt"
                with alone(run_folder):  # which also removes it, once empty
                    run = train(experiment, data, seed=seed, device=place, state_path=state, progress=progress)
                    record = record_of(variant.name, usual[variant.name], run, data, place, "full") | {"study": name}
                    write_record(record, path)
                    state.unlink(missing_ok=True)
            yield path, record


def _trained_alike(folder: Path, records: Path) -> list[Path]:
    """Weights of the reader's runs that differ from the published ones by their seed at most, one file for each."""
    path = folder / f"{READER}.safetensors"
    about = read_metadata(path) if path.exists() else {}
    return list(runs_alike(path, about, records).values()) if about.keys() >= {"data", "settings"} else []


def _measured(
    name: str,
    measure: Measure,
    checkpoints: Sequence[str | Path],
    data: Data,
    device: torch.device,
    root: str | Path,
    folder: Path,
) -> tuple[Path, dict[str, Any]]:
    """The record of measuring one reader, or several together, which says whose weights it measured."""
    each = [read_metadata(checkpoint) for checkpoint in checkpoints]
    for checkpoint, about in zip(checkpoints, each, strict=True):
        if (of := about.get("experiment", "no experiment")) != READER:
            raise CheckpointError(f"{checkpoint} holds weights of {of}; the study {name} is of {READER}'s")
        if about.get("data") != data.fingerprint:
            raise CheckpointError(
                f"{checkpoint} was trained on other strips than these, and those called unseen may have been among "
                f"them. Train it on these: python -m digitsum train {READER} --source {data.source} --preset full"
            )
    about, weights = each[0], " ".join(about["digest"] for about in each)
    path = folder / f"{READER}-seed{about['seed']}.json"
    record = recorded(path, about["settings"], data.fingerprint)
    if record is None or record["weights"] != weights:
        started = time.perf_counter()
        readers = [load_checkpoint(checkpoint, device) for checkpoint in checkpoints]
        record = {
            "study": name, "experiment": READER, "source": data.source, "seed": about["seed"],
            "preset": about["preset"], "settings": about["settings"], "weights": weights,
            "seeds": [a["seed"] for a in each], "weights_commit": about["commit"], "changed": {},
            **circumstances(data, device),
            "measured": measure(readers[0] if len(readers) == 1 else Ensemble(readers), data, root),
        }  # fmt: skip
        record["seconds"] = {"total": round(time.perf_counter() - started, 1)}
        write_record(record, path)
    return path, record
