"""The reports' other systems and two references. Importing this package adds them to the tables of `digitsum`.

What the reports leave open, and what was chosen, stands in docs/choices.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from digitsum.checkpoints import write_json
from digitsum.compose import Strips
from digitsum.data import Data
from digitsum.devices import rank
from digitsum.experiments import BENT, EXPERIMENTS, Experiment
from digitsum.models import MODELS
from digitsum.objectives import OBJECTIVES
from digitsum.runs import run_experiment
from digitsum.training import Run, build, train

from .extras import PACKAGES, require
from .ocr import Tesseract, Text
from .references import DigitCNN, MostCommon, side_by_side, single
from .transfer import VGG16Frozen, ViT
from .yolo import Boxes, Yolo, boxed

_ATTENTION = EXPERIMENTS["cnn_attention-regression"]
_READER = EXPERIMENTS["reader"]
SYSTEMS: dict[str, Experiment] = {
    row.name: row
    for row in (
        replace(_READER, label="reader_small", model_args={"widths": (16, 32, 64), "depths": (1, 1, 2, 1)}, epochs=12),
        Experiment(
            "baseline_cnn", "classification", label="cnn3_dropout-classification", report="B", epochs=8,
            model_args={"channels": (32, 64, 128), "hidden": 256, "dropout": 0.7},
        ),
        Experiment(
            "baseline_cnn", "regression", label="cnn2_dropout-regression", report="D", epochs=100, select="loss",
            model_args={"dropout": 0.5, "normalise": (0.5, 0.5)},
        ),
        Experiment("baseline_cnn", "regression", "E", label="cnn2_linear-regression", model_args={"hidden": None}),
        replace(_ATTENTION, label="cnn_no_attention-regression", model_args={"convolutions": 7, "attention_after": ()}),
        replace(_ATTENTION, label="cnn_attention_several-regression", model_args={"attention_after": (3, 4, 5)}),
        replace(_ATTENTION, label="cnn_attention_between-regression", model_args={"attention_after": (3,)}),
        Experiment("vgg16_frozen", "regression", report="C", weights="IMAGENET1K_V1"),
        Experiment(
            "vit", "regression", report="E", weights="IMAGENET1K_V1", epochs=4, lr=5e-5, schedule="one_cycle",
            warmup=0.1,
        ),
        Experiment(  # the settings from `epochs` on are those of its older records
            "most_common", "classification", label="most_common", report="this repository",
            epochs=1, batch_size=100_000, optimizer="sgd", lr=1.0,
        ),
        Experiment(
            "digit_cnn", "classification", label="oracle-digit_labels", report="this repository",
            epochs=16, batch_size=256, optimizer="muon", lr=3e-3, weight_decay=0.02, schedule="one_cycle", warmup=0.05,
            augment=replace(BENT, shift=2),
        ),
        Experiment(
            "tesseract", "text", label="ocr", report="E", model_args={"mode": 7, "scale": 0.75, "border": 10}, epochs=0,
        ),
        Experiment(
            "yolo", "boxes", label="yolo-boxes_digit_labels", report="E", epochs=20, optimizer="adamw", lr=2e-3,
            weight_decay=0.02, schedule="one_cycle", warmup=0.1, trim=True,
        ),
    )
}  # fmt: skip

MODELS |= {
    "vgg16_frozen": VGG16Frozen,
    "vit": ViT,
    "most_common": MostCommon,
    "digit_cnn": DigitCNN,
    "tesseract": Tesseract,
    "yolo": Yolo,
}
OBJECTIVES |= {"text": Text(), "boxes": Boxes()}
EXPERIMENTS |= SYSTEMS
SUPERVISION = {  # what an experiment learns from, if not from sums
    "oracle-digit_labels": "digit labels and positions",
    "yolo-boxes_digit_labels": "digit labels and boxes",
    "ocr": "nothing",
}
_PREPARE = {"oracle-digit_labels": side_by_side, "yolo-boxes_digit_labels": boxed}


def prepare(name: str, data: Data) -> Data:
    """Return the data as an experiment reads them: cut digits for the oracle, boxes for YOLO, else unchanged.

    The fingerprint stays that of the original data. Raises DataError if digits and places are needed and unknown.
    """
    return _changed(data, _PREPARE[name]) if name in _PREPARE else data


def _changed(data: Data, change: Callable[[Strips], Strips]) -> Data:
    splits: Any = {split: change(strips) for split, strips in data.splits.items()}
    changed = replace(data, **splits)
    changed.__dict__["fingerprint"] = data.fingerprint
    return changed


def run_system(
    experiment: Experiment, data: Data, *, seed: int = 0, folder: str | None = None, results: str | Path = "results",
    **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Train, save, evaluate and record an experiment, whatever it learns from; returns the record.

    Files, errors and `options` are those of `digitsum.runs.run_experiment`. Raises ExtraError if an optional package
    is missing.
    """
    name, folder = experiment.name, folder or data.source
    require(experiment.model)
    learn = _learn if experiment.model in ("most_common", "digit_cnn", "tesseract") else train
    record = run_experiment(
        experiment, prepare(name, data), seed=seed, folder=folder, results=results, learn=learn, **options
    )
    package = PACKAGES.get(experiment.model)
    if package and package not in record["versions"] and rank() == 0:
        record["versions"][package] = import_module(package).__version__
        if package == "pytesseract":
            record["versions"]["tesseract"] = str(import_module(package).get_tesseract_version())
        write_json(record, Path(results, folder, f"{name}-seed{seed}.json"))
    return record


def _learn(experiment: Experiment, data: Data, *, seed: int, device: Any, **options: Any) -> Run:
    """Train the oracle on single digits, count sums for the most common one, and leave OCR as it is."""
    if experiment.model == "digit_cnn":
        return train(experiment, _changed(data, single), seed=seed, device=device, **options)
    model = build(experiment, seed)
    if isinstance(model, MostCommon):
        model.count(data.train.sums[: experiment.train_limit])
    return Run(experiment, seed, model.to(device).eval())
