"""The command line: python -m digitsum train | evaluate | predict."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from .errors import DataError, DigitsumError, shown
from .experiments import EXPERIMENTS

# Everything that needs torch is imported by the command that needs it, so that --help starts at once.

Name: Any = Literal[tuple(EXPERIMENTS)]
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
    from .devices import first_alone, init_distributed, pick_device
    from .runs import results_table, run_experiment

    changes: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "train_limit": train_limit}
    changes = {key: value for key, value in changes.items() if value is not None}
    if not experiments:
        raise DataError(f"Name one experiment or several: {', '.join(EXPERIMENTS)}.")
    if any(value <= 0 for value in changes.values()):
        raise DataError(f"{', '.join(changes)} must be larger than 0.")
    if weights is not None:
        changes["weights"] = None if weights == "none" else weights
    with init_distributed(device):
        with first_alone():  # it may download
            data = load_data(source, root)
        print(data.reason)
        if preset == "auto":
            preset = "full" if pick_device(device).type == "cuda" else "quick"
        folder = folder or f"{data.source}-{preset}"
        chosen = [EXPERIMENTS[name] for name in experiments]
        plan = results / folder / "plan.json"
        where: Any = {"folder": folder, "models": models, "results": results}
        for experiment in shortened(chosen, preset, data, minutes=minutes, device=device, path=plan):
            experiment, name = replace(experiment, **changes), experiment.name
            for each in seed:
                record = run_experiment(experiment, data, seed=each, device=device, again=again, **where)
                for setting, (usual, ours) in record["changed"].items():
                    print(f"{name}: {setting} is {ours}, not {usual}")
                print(results_table([record]).to_markdown())
                file = f"{folder}/{name}-seed{each}"
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
    digits: Annotated[str, arg(help="how many digits a row has: 4, 1-8 or any")] = "any",
    csv: Annotated[Path | None, arg(help="also write a table to this file")] = None,
    json: Annotated[Path | None, arg(help="also write the answers to this file")] = None,
    show: Annotated[Path | None, arg(help="also draw the strips as the model gets them, with the answers")] = None,
    device: Device = "auto",
) -> int:
    """Read rows of digits: photographs, scans or drawings, .npy files of strips, or folders of them.

    Exit status 2 means that a row was not read. Example: python -m digitsum predict docs/example.png
    """
    import numpy as np
    import pandas as pd
    from tqdm import tqdm

    from . import plots
    from .checkpoints import load_checkpoint, replacing
    from .devices import pick_device
    from .evaluation import answers, predictions
    from .images import read_strips

    if not images:
        raise DataError("Name one image or several, such as docs/example.png.")
    model, rows, strips, titles = load_checkpoint(checkpoint, pick_device(device)), [], [], []
    paths = [each for path in images for each in (sorted(path.iterdir()) if path.is_dir() else [path])]
    for path in tqdm(paths, disable=len(paths) < 20):
        try:
            found = read_strips(path)
            described = answers(predictions(model, found, _count(digits)))
            rows += [{"file": str(path)} | row for row in described]
            strips += list(found)
            titles += [str(row.get("digits") or row.get("sum", "no digits")) for row in described]
        except (DigitsumError, OSError) as error:  # the others can still be read
            rows.append({"file": str(path), "error": str(error)})
    for row in rows:
        print(_line(row), file=sys.stderr if "error" in row else sys.stdout)
    table = pd.DataFrame(rows).convert_dtypes()
    for target, write in (
        (csv, lambda file: table.to_csv(file, index=False)),
        (json, lambda file: table.to_json(file, orient="records", indent=1)),
    ):
        if target:
            with replacing(target) as temporary:
                write(temporary)
    if show and strips:
        width = max(strip.shape[1] for strip in strips)
        padded = np.stack([np.pad(strip, [(0, 0), (0, width - strip.shape[1])]) for strip in strips])
        plots.captioned(padded, titles).savefig(show)
    return 2 if any("error" in row for row in rows) else 0


def _line(row: dict[str, Any]) -> str:
    """Describe one answer."""
    name = shown(row["file"])
    if "error" in row:
        return shown(f"digitsum: {row['file']}: {row['error'].removeprefix(row['file']).lstrip(': ')}")
    if "probability" not in row:
        return f"{name}: {row['sum']} (predicted {row['predicted']})"
    unsure = "UNSURE, " if row["unsure"] else ""
    read = f"{row['sum']}, digits {' '.join(row['digits'])}"
    return f"{name}: {unsure}{read}, probability {row['probability']:.1%}, next {row['runner-up']}"


def _count(text: str) -> Any:
    """Turn "4", "1-8" or "any" into a count of digits."""
    parts = text.split("-")
    if text == "any":
        return None
    if not all(part.isdecimal() for part in parts) or len(parts) > 2:
        raise DataError(f"--digits {text} is no count. Use a number such as 4, a range such as 1-8, or any.")
    least, most = int(parts[0]), int(parts[-1])
    if least > most:
        raise DataError(f"--digits {text} is empty. Put the smaller number first.")
    return least if least == most else (least, most)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status. An expected fault is one line on standard error, and status 1."""
    commands: dict[str, Any] = {"train": train, "evaluate": evaluate, "predict": predict}
    try:
        about: Any = {"prog": "python -m digitsum", "description": "Read the sum of handwritten digits."}
        return tyro.extras.subcommand_cli_from_dict(commands, args=arguments, **about) or 0
    except (DigitsumError, OSError) as error:
        print(f"digitsum: {shown(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("digitsum: stopped. Whole epochs are kept; the same command goes on from there.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
