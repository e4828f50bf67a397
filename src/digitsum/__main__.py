"""The command line: python -m digitsum train | evaluate | predict."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from .errors import DataError, DigitsumError
from .experiments import EXPERIMENTS

# Everything that needs torch is imported by the command that needs it, so that --help starts at once.

Name = Literal[tuple(EXPERIMENTS)]  # type: ignore[valid-type]
Source = Annotated[Literal["auto", "course", "mnist", "digits"], arg(help="where the strips come from")]
Root = Annotated[Path, arg(help="folder of your files and of MNIST")]
Preset = Annotated[
    Literal["auto", "full", "quick", "smoke"],
    arg(help="full; quick: what fits into --minutes; smoke: for tests; auto: full on CUDA, else quick"),
]
Device = Annotated[str, arg(help="cpu, cuda, cuda:1 or mps; auto: CUDA if it is there, else the CPU")]


def train(
    experiments: Annotated[Positional[tuple[Name, ...]], arg(metavar="NAME ...", help=", ".join(EXPERIMENTS))],
    source: Source = "auto",
    preset: Preset = "auto",
    minutes: Annotated[float, arg(help="that the preset quick may take, all runs of a seed together")] = 10,
    seed: Annotated[tuple[int, ...], arg(help="of weights and order of the data; several make several runs")] = (0,),
    epochs: Annotated[int | None, arg(help="instead of the experiment's own")] = None,
    batch_size: Annotated[int | None, arg(help="instead of the experiment's own")] = None,
    lr: Annotated[float | None, arg(help="learning rate instead of the experiment's own")] = None,
    train_limit: Annotated[int | None, arg(help="train on only so many strips")] = None,
    weights: Annotated[str | None, arg(help="published weights to start from; none: a random start")] = None,
    device: Device = "auto",
    again: Annotated[bool, arg(help="train even if the run is on record")] = False,
    folder: Annotated[str | None, arg(help="below models/ and results/, instead of SOURCE-PRESET")] = None,
    root: Root = Path("data"),
    models: Annotated[Path, arg(help="folder of the weights")] = Path("models"),
    results: Annotated[Path, arg(help="folder of the records")] = Path("results"),
) -> None:
    """Train experiments, save their weights and write their records.

    Example: python -m digitsum train reader --source mnist --preset full --seed 0 1 2
    """
    from .budget import shortened
    from .data import load_data
    from .devices import barrier, init_distributed, pick_device, rank
    from .runs import results_table, run_experiment

    changes: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "train_limit": train_limit}
    changes = {key: value for key, value in changes.items() if value is not None}
    if any(value <= 0 for value in changes.values()):
        raise DataError(f"{', '.join(changes)} must be larger than 0.")
    if weights is not None:
        changes["weights"] = None if weights == "none" else weights
    with init_distributed(device):
        if rank() == 0:
            load_data(source, root)  # the first process downloads alone
        barrier()
        data = load_data(source, root)
        print(data.reason)
        if preset == "auto":
            preset = "full" if pick_device(device).type == "cuda" else "quick"
        where = {"folder": folder or f"{data.source}-{preset}", "models": models, "results": results}
        chosen = [EXPERIMENTS[name] for name in experiments]
        plan = results / where["folder"] / "plan.json"
        for experiment in shortened(chosen, preset, data, minutes=minutes, device=device, path=plan):
            experiment, name = replace(experiment, **changes), experiment.name
            for each in seed:
                record = run_experiment(experiment, data, seed=each, device=device, again=again, **where)  # type: ignore[arg-type]
                for setting, (usual, ours) in record["changed"].items():
                    print(f"{name}: {setting} is {ours}, not {usual}")
                print(results_table([record]).to_markdown())
                file = f"{where['folder']}/{name}-seed{each}"
                print(f"weights: {models}/{file}.safetensors, record: {results}/{file}.json", flush=True)


def evaluate(
    checkpoints: Positional[tuple[Path, ...]] = (),
    source: Source = "auto",
    device: Device = "auto",
    root: Root = Path("data"),
    models: Annotated[Path, arg(help="folder of the weights")] = Path("models"),
) -> None:
    """Measure saved weights on every split: those named, or the published ones, or else those trained here.

    Example: python -m digitsum evaluate models/mnist/reader-seed1.safetensors --source mnist
    """
    from .checkpoints import load_checkpoint
    from .data import load_data
    from .devices import pick_device
    from .evaluation import evaluate
    from .runs import find_weights, metrics_table

    data = load_data(source, root)
    print(data.reason)
    for path in checkpoints or find_weights(data.source, models=models)[1].values():
        model = load_checkpoint(path, pick_device(device))
        print(f"\n{path}")
        if model.metadata.get("data") != data.fingerprint:
            print("It was trained on other strips: those called test here may be among its training strips.")
        print(metrics_table(evaluate(model, data)[0]).rename_axis("split").to_markdown(), flush=True)


def predict(
    images: Positional[tuple[Path, ...]],
    checkpoint: Annotated[Path, arg(help="weights to read with")] = Path("models/mnist/reader.safetensors"),
    digits: Annotated[str, arg(help="how many digits a row has: 4, 1-8 or any")] = "4",
    device: Device = "auto",
) -> None:
    """Read images: photographs, scans or drawings of one row of digits, or .npy files of strips.

    Example: python -m digitsum predict docs/example.png
    """
    import numpy as np

    from .checkpoints import load_checkpoint
    from .devices import pick_device
    from .evaluation import predictions
    from .images import read_strips

    model, failed = load_checkpoint(checkpoint, pick_device(device)), False
    for path in images:
        try:
            predicted = predictions(model, read_strips(path), _count(digits))
        except (DigitsumError, OSError) as error:  # the others can still be read
            print(f"digitsum: {path}: {error}", file=sys.stderr)
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
    if failed:
        sys.exit(1)


def _count(text: str) -> Any:
    """Turn "4", "1-8" or "any" into a count of digits."""
    parts = text.split("-")
    if text == "any":
        return None
    if not all(part.isdecimal() for part in parts) or len(parts) > 2:
        raise DataError(f"--digits {text} is no count. Use a number such as 4, a range such as 1-8, or any.")
    return int(text) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status. An expected fault is one line on standard error, and status 1."""
    commands = {"train": train, "evaluate": evaluate, "predict": predict}
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands, prog="python -m digitsum", description="Read the sum of handwritten digits.", args=arguments
        )
    except (DigitsumError, OSError) as error:
        print(f"digitsum: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("digitsum: stopped. Whole epochs are kept; the same command goes on from there.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
