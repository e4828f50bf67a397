"""The table of named experiments: a model, an objective, hyperparameters, and where they come from."""

from __future__ import annotations

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
    epochs: int = 15
    passes: int = 1  # how often an epoch goes over the training strips
    batch_size: int = 64
    optimizer: str = "adam"  # a key of OPTIMIZERS
    lr: float = 1e-3  # learning rate; the highest one under the one-cycle schedule
    weight_decay: float = 0.0
    schedule: str = "constant"  # a key of SCHEDULES
    warmup: float = 0.3  # share of the steps in which the one-cycle schedule rises
    augment: Augmentation | None = None  # drawn per image on the device; None: the images as they are
    crop: bool = False  # batches of strips of similar width, without the blank columns to their right
    select: str = "accuracy"  # what the best epoch is best at, on validation: "accuracy" or "loss"
    train_limit: int | None = None  # only the first so many training strips; None: all of them
    evaluate_limit: int | None = None  # only the first so many strips of each split at the end; None: all of them
    supervision: str = "sums"  # what training sees besides the images
    label: str = ""  # the name of the row where that is not model and objective

    @property
    def name(self) -> str:
        """The key of table rows, checkpoints and records: model and objective, or the label where there is one."""
        return self.label or f"{self.model}-{self.objective}"


LEFT_OPEN_A = (
    "Optimiser, batch size and length were left open: Adam at 1e-3, batches of 64, and report C's 15 epochs for the "
    "same kind of network."
)
LEFT_OPEN_E = (
    "The report gives the order of the layers and the choice by validation score; left open were widths, the kind of "
    "attention (see CNNAttention), optimiser and length: Muon, one cycle up to 3e-3, batches of 64, 16 epochs."
)
LEFT_OPEN_B = "The report gives all settings for classification; the input's scaling is that of the ImageNet weights."

READER = "Every setting was chosen here, on validation strips."

_rows = [
    Experiment(
        "baseline_cnn", "regression", report="A", left_open=LEFT_OPEN_A, select="loss",
    ),
    Experiment(
        "baseline_cnn", "classification", report="A", left_open=LEFT_OPEN_A,
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
    Experiment(
        "reader", "sum_likelihood", label="reader", report="this repository", left_open=READER,
        epochs=16, optimizer="muon", lr=3e-3, weight_decay=0.02, schedule="one_cycle", warmup=0.025,
        augment=Augmentation(shift=4, scale=0.1, slant=0.2, thickness=0.3, warps=((1.5, 20), (0.5, 8))),
    ),
]  # fmt: skip
EXPERIMENTS: dict[str, Experiment] = {row.name: row for row in _rows}

# What a preset shortens, by model: "quick" trains all rows on two CPU cores within ten minutes, "smoke" is for tests.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "full": {},
    "quick": {
        "baseline_cnn": {"epochs": 3, "train_limit": 12_000, "evaluate_limit": 3_000},
        "cnn_attention": {"epochs": 3, "train_limit": 12_000, "evaluate_limit": 3_000},
        "resnet50": {"epochs": 1, "train_limit": 3_000, "evaluate_limit": 500, "weights": None},
        "reader": {"epochs": 3, "train_limit": 12_000, "evaluate_limit": 3_000},
    },
    "smoke": {
        name: {"epochs": 1, "train_limit": 64, "batch_size": 32, "weights": None}
        for name in ("baseline_cnn", "cnn_attention", "resnet50", "reader")
    },
}


def preset(experiment: Experiment, name: str) -> Experiment:
    """The experiment shortened by a preset of PRESETS. Raises KeyError for an unknown name."""
    return replace(experiment, **PRESETS[name].get(experiment.model, {}))


def differences(experiment: Experiment, of: Experiment) -> dict[str, list[Any]]:
    """The settings in which `experiment` departs from `of`: {setting: [of's value, experiment's value]}."""
    ours, theirs = asdict(experiment), asdict(of)
    return {key: [theirs[key], ours[key]] for key in ours if ours[key] != theirs[key]}
