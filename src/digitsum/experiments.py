"""The table of experiments: a model, an objective, the settings, and the report that it follows."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Augmentation:
    """Set how far strips are moved and bent. Each amount is the largest to either side, drawn uniformly per image."""

    shift: float = 0.0  # whole pixels, across and down
    scale: float = 0.0  # a fraction of height and of width
    shear: float = 0.0  # columns per row
    dilation: float = 0.0  # a fraction of one pixel more (dilation) or less (erosion) of pen on each side
    elastic: tuple[tuple[float, float], ...] = ()  # random displacements: ((standard deviation, grid distance), ...)
    sharpen: float = 0.0  # contrast added around mid-grey: interpolation flattens edges, this steepens them again


@dataclass(frozen=True)
class Experiment:
    """Describe one row of the comparison: everything that decides a training but the data and the seed."""

    model: str  # a key of MODELS
    objective: str  # a key of OBJECTIVES
    report: str = ""  # the report that it follows
    label: str = ""  # the row's name where that is not model and objective
    model_args: dict[str, Any] = field(default_factory=dict)
    objective_args: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None  # published weights, or the experiment, that the model starts from; None: at random
    epochs: int = 15
    repeats: int = 1  # how often an epoch goes over the training strips
    batch_size: int = 64
    optimizer: str = "adam"  # a key of OPTIMIZERS
    lr: float = 1e-3  # learning rate; the highest one under one_cycle
    weight_decay: float = 0.0
    schedule: str = "constant"  # a key of SCHEDULES
    warmup: float = 0.3  # the fraction of the steps in which one_cycle rises
    augment: Augmentation | None = None
    trim: bool = False  # batch strips of similar width, without the blank columns on their right
    bfloat16: bool = True  # train in bfloat16 where the device is fast in it
    select: str = "accuracy"  # keep the epoch with the best validation "accuracy" or "loss"
    train_limit: int | None = None  # use only the first so many training strips
    evaluate_limit: int | None = None  # measure only the first so many strips of each split

    @property
    def name(self) -> str:
        """Name the row, its checkpoints and its records."""
        return self.label or f"{self.model}-{self.objective}"


# `sharpen` gives bent strips, on average, edges as steep as MNIST's.
BENT = Augmentation(shift=4, scale=0.1, shear=0.2, dilation=0.3, elastic=((1.5, 20), (0.5, 8)), sharpen=0.4)
_ATTENTION: dict[str, Any] = {
    "report": "E", "epochs": 16, "optimizer": "muon", "lr": 3e-3, "weight_decay": 0.02,
    "schedule": "one_cycle", "warmup": 0.05,
}  # fmt: skip
_RESNET: dict[str, Any] = {
    "report": "B", "model_args": {"dropout": 0.0}, "epochs": 8, "batch_size": 64, "optimizer": "adamw", "lr": 1e-3,
    "weight_decay": 0.02, "schedule": "one_cycle", "warmup": 0.1,
}  # fmt: skip
_FINE_TUNED = {"weights": "resnet50-classification", "epochs": 1, "lr": 5e-4}

# What the reports leave open, and what was chosen, stands in docs/choices.md.
EXPERIMENTS: dict[str, Experiment] = {
    row.name: row
    for row in (
        Experiment("baseline_cnn", "regression", report="A, C", select="loss"),
        Experiment("baseline_cnn", "classification", report="A, C"),
        Experiment("cnn_attention", "regression", **_ATTENTION),
        Experiment("cnn_attention", "classification", **_ATTENTION),
        Experiment("resnet50", "classification", **_RESNET),
        Experiment("resnet50", "regression", **_RESNET | _FINE_TUNED),
        Experiment(
            "reader", "sum_likelihood", label="reader", report="this repository",
            model_args={"depths": (1, 1, 2, 1)}, trim=True, augment=BENT, epochs=40, optimizer="muon", lr=3e-3,
            weight_decay=0.02, schedule="one_cycle", warmup=0.025,
        ),
    )
}  # fmt: skip


def shorten(experiment: Experiment, preset: str) -> Experiment:
    """Return the experiment as the preset "full" or "smoke" has it; `budget.shortened` knows "quick" too."""
    if preset == "full":
        return experiment
    if preset != "smoke":
        raise ValueError(f"There is no preset {preset!r}. Use full, quick or smoke.")
    return replace(
        experiment, epochs=min(1, experiment.epochs), batch_size=32, train_limit=64, evaluate_limit=64, weights=None
    )


def changed(experiment: Experiment, usual: Experiment) -> dict[str, list[Any]]:
    """Return the settings in which `experiment` departs from `usual`: {setting: [usual's value, its own value]}."""
    ours, theirs = asdict(experiment), asdict(usual)
    return {key: [theirs[key], ours[key]] for key in ours if ours[key] != theirs[key]}


def same_settings(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Tell whether two runs' settings, as dicts or as JSON has them, decide the same training.

    A setting that is missing counts as its default, since older records lack newer settings. `report` does not count.
    """
    usual = asdict(Experiment("", ""))
    one, other = (json.dumps(usual | dict(each) | {"report": ""}) for each in (ours, theirs))
    return json.loads(one) == json.loads(other)  # as JSON, tuples are lists
