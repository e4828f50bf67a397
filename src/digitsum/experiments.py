"""The table of named experiments: a model, an objective, hyperparameters, and where they come from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .augment import Augmentation


@dataclass(frozen=True)
class Experiment:
    """One row of the comparison: everything that decides what is trained, apart from the data and the seed."""

    model: str  # a key of MODELS
    objective: str  # a key of OBJECTIVES
    report: str  # the report or paper that it follows
    left_open: str  # what that left open, and what was chosen here
    model_args: dict[str, Any] = field(default_factory=dict)
    objective_args: dict[str, Any] = field(default_factory=dict)  # in place of the objective's own settings
    weights: str | None = None  # published weights to start from, as torchvision names them; None: a random start
    epochs: int = 15  # none where nothing is trained
    passes: int = 1  # how often an epoch goes over the training strips
    batch_size: int = 64
    optimizer: str = "adam"  # a key of OPTIMIZERS
    lr: float = 1e-3  # learning rate; the highest one under the one-cycle schedule
    weight_decay: float = 0.0
    schedule: str = "constant"  # a key of SCHEDULES
    warmup: float = 0.3  # share of the steps in which the one-cycle schedule rises
    augment: Augmentation | None = None  # drawn per image on the device; None: the images as they are
    clean: float = 0.0  # share of the epochs, the last ones, in which images are moved but not bent, and so stay sharp
    crop: bool = False  # batches of strips of similar width, without the blank columns to their right
    bfloat16: bool = True  # train in it where the device is built for it; otherwise in float32
    select: str = "accuracy"  # what the best epoch is best at, on validation: "accuracy" or "loss"
    train_limit: int | None = None  # only the first so many training strips; None: all of them
    evaluate_limit: int | None = None  # only the first so many strips of each split at the end; None: all of them
    supervision: str = "sums"  # what training sees besides the images
    label: str = ""  # the name of the row where that is not model and objective

    @property
    def name(self) -> str:
        """The key of table rows, checkpoints and records: model and objective, or the label where there is one."""
        return self.label or f"{self.model}-{self.objective}"


# Settings that are words about a run and do not change it.
DESCRIPTIONS = ("report", "left_open", "supervision")

LEFT_OPEN_A = (
    "Optimiser, batch size and length were left open: Adam at 1e-3, batches of 64, and report C's 15 epochs for the "
    "same kind of network. Report C compares a CNN regressor with a CNN classifier and gives no layers for them, so "
    "these are its experiments too, at its seeds 0, 10 and 42; it does not stop early, which the history shows."
)
LEFT_OPEN_E = (
    "The report gives the order of the layers and the choice by validation score; left open were widths, the kind of "
    "attention (see `models/cnn_attention.py`), optimiser and length: Muon, one cycle up to 3e-3, batches of 64, 16 "
    "epochs."
)
LEFT_OPEN_B = "The report gives all settings for classification; the input's scaling is that of the ImageNet weights."

LEFT_OPEN_READER = (
    "Every setting was chosen here, on validation strips and on further strips of training digits that no training "
    "strip holds."
)
# `sharpen` is such that bent strips have, on average, as steep edges as those of MNIST had before.
BENT = Augmentation(shift=4, scale=0.1, slant=0.2, thickness=0.3, warps=((1.5, 20), (0.5, 8)), sharpen=0.4)


def _attention(name: str, layers: str, **model_args: Any) -> Experiment:
    """A variant of report E's network: the experiment cnn_attention-regression with other layers."""
    return Experiment(
        "cnn_attention", "regression", label=f"{name}-regression", report="E", model_args=model_args,
        left_open=f"The report gives the change, {layers}; all else is as in cnn_attention-regression.",
        epochs=16, optimizer="muon", lr=3e-3, weight_decay=0.02, schedule="one_cycle", warmup=0.05,
    )  # fmt: skip


_READER = Experiment(
    "reader", "sum_likelihood", label="reader", report="this repository", left_open=LEFT_OPEN_READER,
    model_args={"depths": (1, 1, 2, 1)}, crop=True, augment=BENT,
    epochs=40, optimizer="muon", lr=3e-3, weight_decay=0.02, schedule="one_cycle", warmup=0.025,
)  # fmt: skip

_core = [
    Experiment(
        "baseline_cnn", "regression", report="A, C", left_open=LEFT_OPEN_A, select="loss",
    ),
    Experiment(
        "baseline_cnn", "classification", report="A, C", left_open=LEFT_OPEN_A,
    ),
    Experiment(
        "cnn_attention", "regression", report="E", left_open=LEFT_OPEN_E,
        epochs=16, optimizer="muon", lr=3e-3, weight_decay=0.02, schedule="one_cycle", warmup=0.05,
    ),
    Experiment(
        "cnn_attention", "classification", report="E",
        left_open=LEFT_OPEN_E + " The report has it as a regressor only; the classifier shares every setting.",
        epochs=16, optimizer="muon", lr=3e-3, weight_decay=0.02, schedule="one_cycle", warmup=0.05,
    ),
    Experiment(
        "resnet50", "regression", report="B",
        left_open=LEFT_OPEN_B + " It has it as a classifier only; the regressor shares every setting.",
        weights="IMAGENET1K_V1", epochs=25, lr=5e-4,
    ),
    Experiment(
        "resnet50", "classification", report="B", left_open=LEFT_OPEN_B,
        weights="IMAGENET1K_V1", epochs=25, lr=5e-4,
    ),
    _READER,
]  # fmt: skip

_further = [
    replace(
        _READER, label="reader_small", model_args={"widths": (16, 32, 64), "depths": (1, 1, 2, 1)}, epochs=12,
        left_open="The reader at half of its widths and 12 of its 40 epochs: what remains of it on a small budget.",
    ),
    Experiment(
        "baseline_cnn", "classification", label="cnn3_dropout-classification", report="B",
        left_open="The report gives all but kernels and the choice of the epoch: 3x3, and by validation accuracy.",
        model_args={"channels": (32, 64, 128), "hidden": 256, "dropout": 0.7}, epochs=8,
    ),
    Experiment(
        "baseline_cnn", "regression", label="cnn2_dropout-regression", report="D",
        left_open="Learning rate, batch size and the rate of dropout were left open: 1e-3, 64 and 0.5. Of its "
        "split of 80/20, half of the 20 % validate here and half test.",
        model_args={"dropout": 0.5, "normalise": (0.5, 0.5)}, epochs=100, select="loss",
    ),
    Experiment(
        "baseline_cnn", "regression", label="cnn2_linear-regression", report="E",
        left_open="Widths, learning rate, batch size and length were left open: as for report A's network, whose "
        "convolutions these are.",
        model_args={"hidden": None},
    ),
    _attention("cnn_no_attention", "two convolutions more and no attention", convolutions=7, attention_after=()),
    _attention("cnn_attention_several", "attention after each of the last three", attention_after=(3, 4, 5)),
    _attention("cnn_attention_between", "attention between convolutions 3 and 4", attention_after=(3,)),
    Experiment(
        "vgg16_frozen", "regression", report="C",
        left_open="Which VGG, the sizes of what is trained, optimiser, batch size and length were left open: VGG-16, "
        "the head in VGG16Frozen, and what report C's other networks are trained with. As a convolution before the "
        "frozen ones is learned, their features change and cannot be computed once.",
        weights="IMAGENET1K_V1",
    ),
    Experiment(
        "vit", "regression", report="E",
        left_open="The report gives the length; which transformer, how strips come to its size, objective, optimiser "
        "and batch size were left open: ViT-B/16 and the resize in ViT, regression as in all of report E, and Adam in "
        "one cycle up to 5e-5, batches of 64.",
        weights="IMAGENET1K_V1", epochs=4, lr=5e-5, schedule="one_cycle", warmup=0.1,
    ),
    Experiment(
        "most_common", "classification", label="most_common", report="this repository",
        left_open="What no report states and every number needs beside it: one step of gradient descent over all "
        "strips at once counts their sums (see `models/most_common.py`).",
        epochs=1, batch_size=100_000, optimizer="sgd", lr=1.0,
    ),
    Experiment(
        "digit_cnn", "classification", label="oracle-digit_labels", report="this repository",
        left_open="What all labels are worth to a network of report E's kind: trained with the label of every digit, "
        "cut out at its true place, and read the same way; its history counts digits, its metrics sums. Optimiser, "
        "learning rate, weight decay and augmentation are the reader's, but for smaller shifts.",
        epochs=16, batch_size=256, optimizer="muon", lr=3e-3, weight_decay=0.02, schedule="one_cycle", warmup=0.05,
        augment=replace(BENT, shift=2), supervision="digit labels and positions",
    ),
    Experiment(
        "tesseract", "text", label="ocr", report="E",
        left_open="The report names pytesseract, and that the digits read are summed; how strips are brought to it was "
        "left open: see `models/tesseract.py`, with settings chosen on validation strips. Where nothing is "
        "read, the sum is 0.",
        model_args={"mode": 7, "scale": 0.75, "border": 10}, epochs=0, supervision="nothing",
    ),
    Experiment(
        "yolo", "boxes", label="yolo-boxes_digit_labels", report="E",
        left_open="The report runs a YOLO with weights for its own 80 categories; none of them is a digit, so it can "
        "find none, and there is nothing to measure. Here the smallest YOLOv8 is trained from a random start with a "
        "box and a label for every digit; the four most confident are added up. Every setting was chosen here.",
        epochs=20, optimizer="adamw", lr=2e-3, weight_decay=0.02, schedule="one_cycle", warmup=0.1, crop=True,
        supervision="digit labels and boxes",
    ),
]  # fmt: skip
EXPERIMENTS: dict[str, Experiment] = {row.name: row for row in _core + _further}
CORE = tuple(row.name for row in _core)  # what training.ipynb trains; the others are trained by name or by `reproduce`

# What a preset shortens, by model: "full" and "long" nothing, "quick" trains CORE on two CPU cores within ten minutes,
# "smoke" is for tests. Only the files of "full" are published ones; those of the others go to folders of their own.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "full": {},
    "long": {},
    "quick": {
        "baseline_cnn": {"epochs": 3, "train_limit": 12_000, "evaluate_limit": 3_000},
        "cnn_attention": {"epochs": 3, "train_limit": 12_000, "evaluate_limit": 3_000},
        "resnet50": {"epochs": 1, "train_limit": 3_000, "evaluate_limit": 500, "weights": None},
        # so short a run is uncropped, since with more blank columns it gets going sooner
        "reader": {"epochs": 3, "train_limit": 12_000, "evaluate_limit": 3_000, "crop": False},
        "vgg16_frozen": {"epochs": 1, "train_limit": 3_000, "evaluate_limit": 500, "weights": None},
        "vit": {"epochs": 1, "train_limit": 1_000, "evaluate_limit": 200, "weights": None},
        "digit_cnn": {"epochs": 3, "train_limit": 12_000, "evaluate_limit": 3_000},
        "yolo": {"epochs": 3, "train_limit": 12_000, "evaluate_limit": 3_000},
        "tesseract": {"evaluate_limit": 300},
    },
    "smoke": {
        name: {"epochs": 1, "train_limit": 64, "batch_size": 32, "weights": None}
        for name in ("baseline_cnn", "cnn_attention", "resnet50", "reader", "vgg16_frozen", "vit", "digit_cnn", "yolo")
    }
    | {"tesseract": {"evaluate_limit": 8}},
}


class UnknownNameError(ValueError):
    """There is no experiment or preset of that name; the message says which there are."""


def named(name: str) -> Experiment:
    """The experiment of that name. Raises `UnknownNameError`."""
    if name not in EXPERIMENTS:
        raise UnknownNameError(f"There is no experiment {name!r}; there are: {', '.join(EXPERIMENTS)}.")
    return EXPERIMENTS[name]


def preset(experiment: Experiment, name: str) -> Experiment:
    """The experiment shortened by a preset of PRESETS. Raises `UnknownNameError`."""
    if name not in PRESETS:
        raise UnknownNameError(f"There is no preset {name!r}; there are: {', '.join(PRESETS)}.")
    return replace(experiment, **PRESETS[name].get(experiment.model, {}))


def differences(experiment: Experiment, of: Experiment) -> dict[str, list[Any]]:
    """The settings in which `experiment` departs from `of`: {setting: [of's value, experiment's value]}."""
    ours, theirs = asdict(experiment), asdict(of)
    return {key: [theirs[key], ours[key]] for key in ours if ours[key] != theirs[key]}


def decisive(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of an experiment, as JSON has them, that are neither words nor at their default.

    A setting that is not there counts as its default, as where it did not exist yet.
    """
    defaults = asdict(Experiment(model="", objective="", report="", left_open=""))
    written = json.loads(json.dumps(settings, sort_keys=True))  # tuples become lists
    return {key: value for key, value in written.items() if key not in DESCRIPTIONS and value != defaults.get(key, ...)}
