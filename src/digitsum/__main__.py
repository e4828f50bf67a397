"""python -m digitsum train | evaluate | predict | tables | report: the package's functions from a shell."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import torch
from torchvision.models import ResNet50_Weights

from . import (
    EXPERIMENTS,
    CheckpointError,
    DataError,
    TrainingError,
    WeightsError,
    evaluate,
    load_checkpoint,
    load_data,
    predictions,
    run_experiment,
)
from .data import SOURCES
from .evaluation import InputError
from .experiments import PRESETS
from .images import ImageError, read_strips
from .report import ReportError, make_report
from .runs import find_checkpoints
from .tables import TableError, markdown_table, number, percent, renew
from .training import pick_device

EXPECTED = (
    CheckpointError, DataError, ImageError, InputError, OSError, ReportError, TableError, TrainingError,
    WeightsError,
)  # fmt: skip
SPLITS = ("train", "val", "test", "unseen", "entire")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status. Expected faults are one line on standard error, and status 1."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except EXPECTED as error:
        print(f"digitsum: {error}", file=sys.stderr)
        return 1


def _train(options: argparse.Namespace) -> int:
    data = load_data(options.source, options.root, options.data_seed)
    print(data.reason)
    given = {key: getattr(options, key) for key in ("epochs", "batch_size", "lr", "train_limit")}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if options.weights is not None:
        changes["weights"] = None if options.weights == "none" else options.weights
    for name in options.experiments:
        if changes.get("weights") and EXPERIMENTS[name].weights is None:
            raise WeightsError(f"{name} takes no published weights; leave --weights {options.weights} away")
        record = run_experiment(
            name, data, seed=options.seed, device=options.device, preset_name=options.preset, changes=changes,
            on_missing_weights=options.on_missing_weights, models=options.models, results=options.results,
        )  # fmt: skip
        for setting, (usual, chosen) in record["changed"].items():
            print(f"{name}: {setting} is {chosen} (the experiment's own: {usual})")
        print(_metrics_table(record["metrics"]), record["checkpoint"], sep="\n")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    data = load_data(options.source, options.root, options.data_seed)
    print(data.reason)
    paths = options.checkpoints or [p for p in find_checkpoints(data.source, models=options.models).values() if p]
    if not paths:
        raise CheckpointError(
            f"{options.models} holds no weights for the source {data.source}. Train some: python -m digitsum train "
            f"{next(iter(EXPERIMENTS))} --source {data.source}"
        )
    for path in paths:
        model = load_checkpoint(path, pick_device(options.device))
        print(f"\n{path} (seed {model.metadata['seed']}, weights before training: {model.metadata['weights']})")
        if model.metadata["data"] != data.fingerprint:
            print("It was trained on other strips than these: those it calls test may be among its training strips.")
        print(_metrics_table(evaluate(model, data)[0]))
    return 0


def _predict(options: argparse.Namespace) -> int:
    model = load_checkpoint(options.checkpoint, pick_device(options.device))
    for path in options.images:
        predicted = predictions(model, read_strips(path))
        for row, (value, total) in enumerate(zip(predicted.values, predicted.sums, strict=True)):
            line = f"{path}[{row}]: {total}" + (f" ({value:.2f})" if value != total else "")
            if predicted.readings:
                reading = predicted.readings[row]
                line += f", digits {' '.join(map(str, reading.digits))} with probability {reading.probability:.1%}"
            print(line)
    return 0


def _tables(options: argparse.Namespace) -> int:
    changed = renew(options.readme, options.results)
    print(f"{options.readme} {'has new tables' if changed else 'agrees with the records already'}")
    return 0


def _report(options: argparse.Namespace) -> int:
    changed = make_report(
        options.results, options.models, options.root, output=options.output, redraw=options.redraw
    )  # fmt: skip
    print(f"{options.output} {'is new' if changed else 'agrees with the records already'}")
    return 0


def _metrics_table(metrics: dict[str, Any]) -> str:
    header = ["split", "strips", "accuracy", "rounded", "floor", "ceiling", "MAE", "MSE"]
    rows = [
        [split, str(metrics[split]["n"])]
        + [percent(metrics[split][name]) for name in ("accuracy", "rounded", "floor", "ceiling")]
        + [number(metrics[split][name]) for name in ("mae", "mse")]
        for split in SPLITS
        if split in metrics
    ]
    return markdown_table(header, rows)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 0 or more")
    return int(text)


def _positive(text: str) -> int:
    if _natural(text) == 0:
        raise argparse.ArgumentTypeError("it must be 1 or more")
    return int(text)


def _rate(text: str) -> float:
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return float(text)


def _device(text: str) -> str:
    try:
        torch.empty(0, device=pick_device(text))
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"{text}: {str(error).splitlines()[0]}") from error
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="digitsum", description="Read the sum of four touching handwritten digits.")
    commands = parser.add_subparsers(required=True)
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--source", default="auto", choices=SOURCES, help="where the strips come from (auto)")
    data.add_argument("--root", type=Path, default=Path("data"), help="folder of the user's files and of MNIST (data)")
    data.add_argument("--data-seed", type=_natural, default=0, help="draws strips and splits (0)")
    device = argparse.ArgumentParser(add_help=False)
    device.add_argument("--device", type=_device, default="auto", help="auto, cpu, cuda, cuda:1, mps (auto)")
    device.add_argument("--models", type=Path, default=Path("models"), help="folder of the weights (models)")

    train = commands.add_parser("train", parents=[data, device], help="train experiments, save weights, write records")
    train.add_argument("experiments", nargs="+", choices=list(EXPERIMENTS), metavar="NAME", help=", ".join(EXPERIMENTS))
    train.add_argument("--preset", default="auto", choices=["auto", *PRESETS], help="full: the report's settings")
    train.add_argument("--seed", type=_natural, default=0, help="start of the weights and order of the data (0)")
    train.add_argument("--epochs", type=_positive, help="in place of the experiment's own")
    train.add_argument("--batch-size", type=_positive, help="in place of the experiment's own")
    train.add_argument("--lr", type=_rate, help="learning rate in place of the experiment's own")
    train.add_argument("--train-limit", type=_positive, help="train on only so many strips")
    train.add_argument(
        "--weights", choices=["none", *ResNet50_Weights.__members__],
        help="published weights to start from, in place of the experiment's own",
    )  # fmt: skip
    train.add_argument(
        "--on-missing-weights", default="error", choices=["error", "scratch"],
        help="stop, or go on from a random start, where published weights cannot be had (error)",
    )  # fmt: skip
    train.add_argument("--results", type=Path, default=Path("results"), help="folder of the records (results)")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("evaluate", parents=[data, device], help="metrics of saved weights on every split")
    evaluate.add_argument("checkpoints", nargs="*", type=Path, help="weights (all there are for the source)")
    evaluate.set_defaults(run=_evaluate)

    predict = commands.add_parser("predict", parents=[device], help="print the sums of images")
    predict.add_argument("images", nargs="+", type=Path, help=".npy strips, or PNG or JPEG images of a row of digits")
    predict.add_argument("--checkpoint", type=Path, required=True, help="weights to predict with")
    predict.set_defaults(run=_predict)

    tables = commands.add_parser("tables", help="renew the tables of the README from the records")
    tables.add_argument("--readme", type=Path, default=Path("README.md"))
    tables.add_argument("--results", type=Path, default=Path("results"))
    tables.set_defaults(run=_tables)

    report = commands.add_parser("report", help="build report.pdf from the records")
    report.add_argument("--results", type=Path, default=Path("results"), help="folder of the records (results)")
    report.add_argument("--models", type=Path, default=Path("models"), help="folder of the weights (models)")
    report.add_argument("--root", type=Path, default=Path("data"), help="folder of MNIST (data)")
    report.add_argument("--output", type=Path, default=Path("report.pdf"))
    report.add_argument(
        "--redraw", action="store_true", help="also the pictures of strips, though the weights are the same"
    )
    report.set_defaults(run=_report)
    return parser


if __name__ == "__main__":
    sys.exit(main())
