"""python -m digitsum train | reproduce | evaluate | compare | predict | study | bench | tables | report."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.models import ResNet50_Weights

from . import (
    EXPERIMENTS,
    CheckpointError,
    DataError,
    ExtraError,
    TrainingError,
    WeightsError,
    bench,
    distributed,
    evaluate,
    load_checkpoint,
    load_data,
    performance,
    predictions,
    run_experiment,
    stream,
)
from .comparison import compare
from .data import SOURCES
from .devices import pick_device
from .evaluation import InputError
from .experiments import PRESETS
from .images import ImageError, read_strips
from .many import run_alone, side_by_side, study_alone
from .records import STUDIED, TableError
from .report import ReportError, make_report
from .reproduce import plan
from .runs import find_checkpoints, measure_again
from .studies import READER, SEEDS, STUDIES, run_study, variants_of
from .tables import FIGURES, PAGES, SPLITS, figures, markdown_table, percent, published_tables, renew

EXPECTED = (
    CheckpointError, DataError, ExtraError, ImageError, InputError, OSError, ReportError, TableError, TrainingError,
    WeightsError, distributed.DeviceError,
)  # fmt: skip
PUBLISHED = Path("models") / STUDIED / f"{READER}.safetensors"  # which comes with the repository


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
    with distributed.joined(options.device):
        return _train_here(options)


def _train_here(options: argparse.Namespace) -> int:
    if options.processes > 1 and distributed.processes() > 1:
        raise distributed.DeviceError("torchrun's processes share every run; leave --processes away")
    load = partial(stream.load, options.source, options.root, options.data_seed, options.stream)
    with distributed.first_alone():
        data = load()
    print(data.reason)
    given = {key: getattr(options, key) for key in ("epochs", "batch_size", "lr", "train_limit", "evaluate_limit")}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if options.stream:
        changes["train_limit"] = None  # which a preset may have set
    if options.weights is not None:
        changes["weights"] = None if options.weights == "none" else options.weights
    for name in options.experiments:
        if changes.get("weights") and EXPERIMENTS[name].weights is None:
            raise WeightsError(f"{name} takes no published weights; leave --weights {options.weights} away")
    settings = {
        "device": options.device, "preset_name": options.preset, "changes": changes, "models": options.models,
        "results": options.results, "on_missing_weights": options.on_missing_weights, "again": not options.missing,
    }  # fmt: skip
    jobs = list(dict.fromkeys((name, seed) for name in options.experiments for seed in options.seed))
    if options.processes == 1:
        for name, seed in jobs:
            _report((name, seed), run_experiment(name, data, seed=seed, **settings))
        return 0
    return _side_by_side(partial(run_alone, load, settings), jobs, options.processes, _report)


def _side_by_side(
    work: Callable[[tuple[str, int]], Any],
    jobs: Sequence[tuple[str, int]],
    processes: int,
    report: Callable[[tuple[str, int], Any], None],
) -> int:
    failed = False
    for (name, seed), future in side_by_side(work, jobs, processes):
        try:
            report((name, seed), future.result())
        except EXPECTED as error:  # the others go on
            print(f"digitsum: {name}, seed {seed}: {error}", file=sys.stderr)
            failed = True
        except BrokenProcessPool:  # none goes on
            print(
                f"digitsum: {name}, seed {seed}: a process was killed, as where memory runs out, and all ended with "
                "it. Run it again with fewer --processes; what was begun goes on, and `train --missing` "
                "leaves out what is done",
                file=sys.stderr,
            )
            return 1
    return int(failed)


def _report(job: tuple[str, int], record: dict[str, Any]) -> None:
    name, seed = job
    for setting, (usual, chosen) in record["changed"].items():
        print(f"{name}: {setting} is {chosen} (the experiment's own: {usual})")
    print(f"{name}, seed {seed}:", _metrics_table(record["metrics"]), record["checkpoint"], sep="\n", flush=True)


def _reproduce(options: argparse.Namespace) -> int:
    data = load_data(options.source, options.root, options.data_seed)
    print(data.reason)
    planned = plan(
        data, options.experiments or list(EXPERIMENTS), seeds=options.seeds, preset_name=options.preset,
        from_scratch=options.on_missing_weights == "scratch", keep_changed=options.keep_changed,
        results=options.results,
    )  # fmt: skip
    rows = [
        [row.experiment, str(row.seed), row.why or "on record"]
        + ["" if not row.why else "not known" if row.minutes is None else f"{row.minutes:.0f}"]
        for row in planned
    ]
    print(markdown_table(["experiment", "seed", "state", "minutes"], rows))
    left = [row for row in planned if row.why]
    known = [row.minutes for row in left if row.minutes is not None]
    print(f"{len(left)} of {len(planned)} runs to train")
    if known:
        print(f"about {sum(known) / 60:.1f} hours for {len(known)} of them, on the hardware of the records")
    faults = []
    for row in [] if options.dry_run else left:
        try:
            record = run_experiment(
                row.experiment, data, seed=row.seed, device=options.device, preset_name=options.preset,
                on_missing_weights=options.on_missing_weights, models=options.models, results=options.results,
                again=False,  # another process may have trained it since
            )  # fmt: skip
        except (CheckpointError, DataError, ExtraError, TrainingError, WeightsError) as error:  # the others go on
            faults.append(f"{row.experiment} seed {row.seed}: {error}")
            continue
        accuracy = percent(record["metrics"]["val"]["accuracy"])
        print(f"{row.experiment} seed {row.seed}: validation {accuracy}; {record['checkpoint']}")
    for fault in faults:
        print(f"digitsum: {fault}", file=sys.stderr)
    return int(bool(faults))


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
        seed, before = (model.metadata.get(key, "not told") for key in ("seed", "weights"))
        print(f"\n{path} (seed {seed}, weights before training: {before})")
        if model.metadata.get("data") != data.fingerprint:
            print("It was trained on other strips than these: those it calls test may be among its training strips.")
        if options.renew:
            print(f"{measure_again(model, path, data, options.results)} has its figures of today's code")
        else:
            print(_metrics_table(evaluate(model, data)[0]))
    return 0


def _predict(options: argparse.Namespace) -> int:
    model = load_checkpoint(options.checkpoint, pick_device(options.device))
    failed = False
    for path in options.images:
        try:
            predicted = predictions(model, read_strips(path))
        except (ImageError, InputError, OSError) as error:  # the others can still be read
            about = f"{path}: " * isinstance(error, InputError)  # the others name the file themselves
            print(f"digitsum: {about}{error}", file=sys.stderr)
            failed = True
            continue
        likely = np.exp(predicted.log_p)
        for row, (value, total) in enumerate(zip(predicted.values, predicted.sums, strict=True)):
            line = f"{path}[{row}]: {total}" + (f" ({value:.2f})" if value != total else "")
            if len(likely):
                reading, other = predicted.readings[row], likely[row].argsort()[-2]
                line += (
                    f" with probability {likely[row, total]:.1%}, digits {' '.join(map(str, reading.digits))} with "
                    f"probability {reading.probability:.1%}; next {other} with probability {likely[row, other]:.1%}"
                )
            print(line)
    return int(failed)


def _compare(options: argparse.Namespace) -> int:
    data = load_data(options.source, options.root, options.data_seed)
    print(data.reason)
    record = compare(data, results=options.results)
    for system in record["systems"]:
        print(f"{system['experiment']} seed {system['seed']}: {system['accuracy']:.1%} on {record['split']}")
    for name, why in record["left_out"].items():
        print(f"{name} is left out: {why}")
    return 0


def _study(options: argparse.Namespace) -> int:
    chosen = list(STUDIES) if options.study == "all" else [options.study]
    known = dict.fromkeys(variant.name for name in chosen for variant in variants_of(name))
    if unknown := [name for name in options.only if name not in known]:
        has = f"it has {', '.join(known)}" if known else "it trains nothing"
        raise TrainingError(f"the study {options.study} has no variant {', '.join(unknown)}: {has}")
    load = partial(load_data, options.source, options.root, options.data_seed)
    data = load()
    print(data.reason)
    given = {key: getattr(options, key) for key in ("epochs", "train_limit")}
    settings: dict[str, Any] = {
        "changes": {k: v for k, v in given.items() if v}, "checkpoints": options.checkpoint, "device": options.device,
        "root": options.root, "models": options.models, "results": options.results,
    }  # fmt: skip
    failed = 0
    for name in chosen:
        variants = [each.name for each in variants_of(name) if each.name in options.only or not options.only]
        if options.processes > 1 and variants:
            work = partial(study_alone, load, name, settings)
            jobs = [(variant, seed) for seed in options.seeds for variant in variants]
            failed |= _side_by_side(work, jobs, options.processes, lambda _, records: _list(records))
            continue
        try:
            _list(run_study(name, data, seeds=options.seeds, only=options.only, **settings))
        except EXPECTED as error:  # the other studies go on
            print(f"digitsum: study {name}: {error}", file=sys.stderr)
            failed = 1
    return failed


def _list(records: Iterable[tuple[Path, dict[str, Any]]]) -> None:
    for path, record in records:
        metrics = record.get("metrics", {})
        shown = (f"{split} {percent(metrics[split]['accuracy'])}" for split in SPLITS if split in metrics)
        print(path, *shown, flush=True)


def _tables(options: argparse.Namespace) -> int:
    changed = renew(published_tables(options.results) | performance.published_tables(options.results))
    performance.draw(results=options.results)
    for page in PAGES:
        print(f"{page} {'has new tables' if Path(page) in changed else 'agrees with the records already'}")
    return 0


def _bench(options: argparse.Namespace) -> int:
    if options.threads:
        torch.set_num_threads(options.threads)
    data = load_data(options.source, options.root, options.data_seed)
    print(data.reason)
    timed = ["accuracy"] if options.time_to_accuracy else []
    for part in (options.only or ([] if timed else bench.USUAL_PARTS)) + timed:
        record = bench.measure(
            part, data, device=options.device, repeats=options.repeats, minutes=options.time_to_accuracy,
            results=options.results,
        )  # fmt: skip
        print(f"\n{performance.tables([record])[part]}", flush=True)
    return 0


def _paper(options: argparse.Namespace) -> int:
    changed = make_report(options.results, options.models, options.root, output=options.output, redraw=options.redraw)
    print(f"{options.output} {'is new' if changed else 'agrees with the records already'}")
    return 0


def _metrics_table(metrics: dict[str, Any]) -> str:
    rows = [[split, str(metrics[split]["n"]), *figures(metrics[split])] for split in SPLITS if split in metrics]
    return markdown_table(["split", "strips", *FIGURES], rows)


def _experiment(text: str) -> str:  # with `choices`, argparse would refuse an empty list
    if text not in EXPERIMENTS:
        raise argparse.ArgumentTypeError(f"{text} is no experiment; use some of {', '.join(EXPERIMENTS)}")
    return text


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 0 or more")
    return int(text)


def _positive(text: str) -> int:
    if _natural(text) == 0:
        raise argparse.ArgumentTypeError("it must be 1 or more")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return rate


def _device(text: str) -> str:
    try:
        torch.empty(0, device=pick_device(text))
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"{text}: {str(error).splitlines()[0]}") from error
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m digitsum", description="Read the sum of four touching handwritten digits."
    )
    commands = parser.add_subparsers(required=True)
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--source", default="auto", choices=SOURCES, help="where the strips come from (auto)")
    data.add_argument("--root", type=Path, default=Path("data"), help="folder of the user's files and of MNIST (data)")
    data.add_argument("--data-seed", type=_natural, default=0, help="draws strips and splits (0)")
    device = argparse.ArgumentParser(add_help=False)
    device.add_argument(
        "--device", type=_device, default="auto", help="cpu, cuda, cuda:1, or, untried, mps (CUDA or else the CPU)"
    )
    folders = argparse.ArgumentParser(add_help=False)
    folders.add_argument("--models", type=Path, default=Path("models"), help="folder of the weights (models)")
    folders.add_argument("--results", type=Path, default=Path("results"), help="folder of the records (results)")

    runs = argparse.ArgumentParser(add_help=False)
    runs.add_argument(
        "--on-missing-weights", default="error", choices=["error", "scratch"],
        help="stop, or go on from a random start, where published weights cannot be had (error)",
    )  # fmt: skip

    train = commands.add_parser(
        "train", parents=[data, device, folders, runs], help="train experiments, save weights, write records"
    )
    train.add_argument("experiments", nargs="+", choices=list(EXPERIMENTS), metavar="NAME", help=", ".join(EXPERIMENTS))
    train.add_argument(
        "--preset",
        default="auto",
        choices=["auto", *PRESETS],
        help="full: the settings of the reports; long: the same; quick, smoke: shortened. All but full write to "
        "folders of their own. auto: long on CUDA, otherwise quick (auto)",
    )
    train.add_argument(
        "--seed",
        "--seeds",
        type=_natural,
        nargs="+",
        default=[0],
        help="start of the weights and order of the data, one or more (0)",
    )
    train.add_argument("--processes", type=_positive, default=1, help="runs side by side, each on a device (1)")
    train.add_argument("--missing", action="store_true", help="leave out runs that have left their record already")
    train.add_argument("--epochs", type=_positive, help="in place of the experiment's own")
    train.add_argument("--batch-size", type=_positive, help="in place of the experiment's own")
    train.add_argument("--lr", type=_rate, help="learning rate in place of the experiment's own")
    amount = train.add_mutually_exclusive_group()
    amount.add_argument("--train-limit", type=_positive, help="train on only so many strips")
    amount.add_argument(
        "--stream", type=_positive, metavar="N", help="train on N strips composed on the fly, never all in memory"
    )
    train.add_argument("--evaluate-limit", type=_positive, help="measure on only so many strips of each split")
    train.add_argument(
        "--weights", choices=["none", *ResNet50_Weights.__members__],
        help="published weights to start from, in place of the experiment's own",
    )  # fmt: skip
    train.set_defaults(run=_train)

    reproduce = commands.add_parser(
        "reproduce",
        parents=[data, device, folders, runs],
        help="train all that the results tables lack, going on where it stopped",
    )
    reproduce.add_argument(
        "experiments", nargs="*", type=_experiment, metavar="NAME", help="only these (all experiments)"
    )
    reproduce.add_argument("--seeds", nargs="+", type=_natural, help="in place of the usual ones, which the plan shows")
    reproduce.add_argument("--preset", default="full", choices=list(PRESETS), help="quick and smoke shorten (full)")
    reproduce.add_argument("--dry-run", action="store_true", help="print the plan and train nothing")
    reproduce.add_argument("--keep-changed", action="store_true", help="keep records that say what they changed")
    reproduce.set_defaults(run=_reproduce)

    evaluate = commands.add_parser(
        "evaluate", parents=[data, device, folders], help="metrics of saved weights on every split"
    )
    evaluate.add_argument("checkpoints", nargs="*", type=Path, help="weights (all there are for the source)")
    evaluate.add_argument("--renew", action="store_true", help="put the figures into the record of the weights' run")
    evaluate.set_defaults(run=_evaluate)

    compare = commands.add_parser("compare", parents=[data], help="paired tests between the published runs")
    compare.add_argument("--results", type=Path, default=Path("results"), help="folder of the records (results)")
    compare.set_defaults(run=_compare)

    predict = commands.add_parser("predict", parents=[device], help="print the sums of images")
    predict.add_argument("images", nargs="+", type=Path, help=".npy strips, or PNG or JPEG images of a row of digits")
    predict.add_argument("--checkpoint", type=Path, default=PUBLISHED, help="weights to predict with (the reader's)")
    predict.set_defaults(run=_predict)

    study = commands.add_parser(
        "study", parents=[data, device, folders], help="vary the reader, or measure it, for the tables"
    )
    study.add_argument("study", choices=["all", *STUDIES], metavar="NAME", help=", ".join(["all", *STUDIES]))
    study.add_argument("--seeds", type=_natural, nargs="+", default=SEEDS, help="of the runs ({} {} {})".format(*SEEDS))
    study.add_argument("--only", nargs="+", default=(), metavar="VARIANT", help="train only these of it (all)")
    study.add_argument("--processes", type=_positive, default=1, help="variants side by side, each on a device (1)")
    study.add_argument("--epochs", type=_positive, help="in place of the study's own")
    study.add_argument("--train-limit", type=_positive, help="train on only so many strips")
    study.add_argument("--checkpoint", type=Path, nargs="+", default=(), help="readers to measure (the published one)")
    study.set_defaults(run=_study)

    speed = commands.add_parser("bench", parents=[data, device], help="measure speed and memory, and write a record")
    speed.add_argument(
        "--only", nargs="+", choices=bench.PARTS_TO_NAME, metavar="PART", help=", ".join(bench.PARTS_TO_NAME)
    )
    speed.add_argument(
        "--time-to-accuracy", type=_rate, metavar="MINUTES",
        help="train up to so many minutes each, and record when unseen strips are read well enough",
    )  # fmt: skip
    speed.add_argument("--threads", type=_positive, help="of the processor (as many as it has cores)")
    speed.add_argument("--repeats", type=_positive, default=5, help="of every measurement (5)")
    speed.add_argument("--results", type=Path, default=Path("results"), help="folder of the records (results)")
    speed.set_defaults(run=_bench)

    tables = commands.add_parser("tables", help=f"renew the tables of {', '.join(PAGES)} from the records")
    tables.add_argument("--results", type=Path, default=Path("results"), help="folder of the records (results)")
    tables.set_defaults(run=_tables)

    report = commands.add_parser("report", help="build report.pdf from the records")
    report.add_argument("--results", type=Path, default=Path("results"), help="folder of the records (results)")
    report.add_argument("--models", type=Path, default=Path("models"), help="folder of the weights (models)")
    report.add_argument("--root", type=Path, default=Path("data"), help="folder of MNIST (data)")
    report.add_argument("--output", type=Path, default=Path("report.pdf"), help="the paper (report.pdf)")
    report.add_argument(
        "--redraw", action="store_true", help="also pictures of strips, though the weights are the same"
    )
    report.set_defaults(run=_paper)
    return parser


if __name__ == "__main__":
    sys.exit(main())
