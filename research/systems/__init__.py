"""The reports' other systems and two references. Importing this package adds them to the tables of `digitsum`.

What the reports leave open, and what was chosen, stands in docs/choices.md.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from digitsum.checkpoints import best_checkpoint, load_checkpoint, write_json
from digitsum.compose import Strips
from digitsum.data import Data
from digitsum.errors import CheckpointError
from digitsum.experiments import BENT, EXPERIMENTS, Experiment
from digitsum.models import MODELS
from digitsum.objectives import OBJECTIVES
from digitsum.runs import run_experiment
from digitsum.training import Run, build, train

from .handwriting import ROWS, CountedLikelihood, train_reader
from .networks import DigitCNN, MostCommon, ResNet50ImageNet, VGG16Frozen, ViT, side_by_side, single
from .outside import PACKAGES, Boxes, Tesseract, Text, Yolo, boxed, require

_ATTENTION = EXPERIMENTS["cnn_attention-regression"]
_READER = EXPERIMENTS["reader"]
SYSTEMS: dict[str, Experiment] = {
    row.name: row
    for row in (
        replace(_READER, label="reader_small", model_args={"widths": (16, 32, 64), "depths": (1, 1, 2, 1)}, epochs=12),
        replace(_READER, label="reader_handwriting", epochs=4, lr=1e-3, warmup=0.1),
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
        Experiment(
            "resnet50_imagenet", "classification", report="B", weights="IMAGENET1K_V1", epochs=25, lr=5e-4,
        ),
        Experiment("vgg16_frozen", "regression", report="C", weights="IMAGENET1K_V1"),
        Experiment(
            "vit", "regression", report="E", weights="IMAGENET1K_V1", epochs=4, lr=5e-5, schedule="one_cycle",
            warmup=0.1,
        ),
        Experiment(  # the settings from `epochs` on are those of its older records
            "most_common", "classification", label="most_common", report="this repository",
            epochs=1, batch_size=100_000, optimizer="sgd", lr=1.0,
        ),
        replace(
            _ATTENTION, model="digit_cnn", objective="classification", label="oracle-digit_labels",
            report="this repository", batch_size=256, augment=replace(BENT, shift=2),
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
    "resnet50_imagenet": ResNet50ImageNet,
    "vgg16_frozen": VGG16Frozen,
    "vit": ViT,
    "most_common": MostCommon,
    "digit_cnn": DigitCNN,
    "tesseract": Tesseract,
    "yolo": Yolo,
}
OBJECTIVES |= {"text": Text(), "boxes": Boxes(), "counted_likelihood": CountedLikelihood()}
EXPERIMENTS |= SYSTEMS
SUPERVISION = {  # what an experiment learns from, if not from sums
    "oracle-digit_labels": "digit labels and positions",
    "yolo-boxes_digit_labels": "digit labels and boxes",
    "ocr": "nothing",
    "reader_handwriting": f"sums of {ROWS:,} written rows and",
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
    experiment: Experiment, data: Data, *, seed: int = 0, results: str | Path = "results",
    models: str | Path = "models", **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Train, save, evaluate and record an experiment, whatever it learns from; returns the record.

    Files, errors and `options` are those of `digitsum.runs.run_experiment`. Raises ExtraError if an optional package
    is missing.
    """
    name, package = experiment.name, PACKAGES.get(experiment.model)
    require(experiment.model)
    learn: Callable[..., Run] = _learn if experiment.model in ("most_common", "digit_cnn", "tesseract") else train
    more: dict[str, Any] = {}  # what the record says beyond that of `run_experiment`
    if name == "reader_handwriting":
        start = best_checkpoint(Path(models, data.source), "reader")
        if start is None:
            raise CheckpointError(f"{name} goes on from a reader in {Path(models, data.source)}. Train one first.")
        learn = partial(train_reader, reader=load_checkpoint(start), start=start.stem)
    record = run_experiment(
        experiment, prepare(name, data), seed=seed, results=results, models=models, learn=learn, **options
    )
    if package:
        module = import_module(package)
        more["versions"] = {package: module.__version__} | record["versions"]
        if package == "pytesseract":
            more["versions"] = {"tesseract": str(module.get_tesseract_version())} | more["versions"]
    if not more.items() <= record.items():
        write_json(record | more, Path(results, data.source, f"{name}-seed{seed}.json"))
    return record | more


def _learn(experiment: Experiment, data: Data, *, seed: int, device: Any, **options: Any) -> Run:
    """Train the oracle on single digits, count sums for the most common one, and leave OCR as it is."""
    if experiment.model == "digit_cnn":
        return train(experiment, _changed(data, single), seed=seed, device=device, **options)
    model = build(experiment, seed)
    if isinstance(model, MostCommon):
        model.count(data.train.sums[: experiment.train_limit])
    return Run(experiment, seed, model.to(device).eval())
