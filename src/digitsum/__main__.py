"""The command line: python -m digitsum train | evaluate | predict | draw."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from .errors import DataError, DigitsumError, shown
from .experiments import EXPERIMENTS  # commands import the rest, so that --help starts at once

Name: Any = Literal[tuple(EXPERIMENTS)]
Names = Annotated[Positional[tuple[Name, ...]], arg(metavar="NAME ...", help=", ".join(EXPERIMENTS))]
Source = Annotated[Literal["auto", "course", "mnist", "digits"], arg(help="where the strips come from")]
Preset = Annotated[Literal["full", "quick", "smoke"], arg(help="quick: what fits into --minutes; smoke: for tests")]
Device = Annotated[str, arg(help="cpu, cuda, cuda:1 or mps; auto: CUDA if it is there, else the CPU")]


def train(
    experiments: Names,
    source: Source = "auto",
    preset: Preset = "quick",
    minutes: Annotated[float, arg(help="that the preset quick may take, all runs of a seed together")] = 10,
    seed: Annotated[tuple[int, ...], arg(help="of weights and order of the data; several make several runs")] = (0,),
    epochs: Annotated[int | None, arg(help="instead of the experiment's own")] = None,
    batch_size: Annotated[int | None, arg(help="instead of the experiment's own")] = None,
    lr: Annotated[float | None, arg(help="learning rate instead of the experiment's own")] = None,
    train_limit: Annotated[int | None, arg(help="train on only so many strips")] = None,
    device: Device = "auto",
    again: Annotated[bool, arg(help="train even if the run is on record")] = False,
    folder: Annotated[str | None, arg(help="below models/ and results/, instead of SOURCE-PRESET")] = None,
    root: Annotated[Path, arg(help="folder of your files and of MNIST")] = Path("data"),
    models: Annotated[Path, arg(help="folder of the weights")] = Path("models"),
    results: Annotated[Path, arg(help="folder of the records")] = Path("results"),
) -> None:
    """Train experiments, save their weights and write their records.

    Example: python -m digitsum train reader --source mnist --preset full --seed 0 1 2
    """
    from . import load_data, run_experiment
    from .budget import shortened
    from .devices import init_distributed
    from .runs import results_table

    given = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "train_limit": train_limit}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if not experiments:
        raise DataError(f"Name one experiment or several: {', '.join(EXPERIMENTS)}.")
    if not all(value > 0 for value in changes.values()):
        raise DataError(f"{', '.join(changes)} must be larger than 0.")
    with init_distributed(device):
        data = load_data(source, root)
        print(data.reason)
        folder = folder or f"{data.source}-{preset}"
        plan, chosen = results / folder / "plan.json", [EXPERIMENTS[name] for name in experiments]
        where: Any = {"folder": folder, "models": models, "results": results}
        planned = shortened(chosen, preset, data, minutes=minutes, device=device, path=plan)
        if left_out := {*experiments} - {experiment.name for experiment in planned}:
            print(f"left out, too slow for {minutes:g} minutes here: {', '.join(sorted(left_out))}")
        for experiment in (replace(shorter, **changes) for shorter in planned):
            for each in seed:
                record = run_experiment(experiment, data, seed=each, device=device, again=again, **where)
                for setting, (usual, ours) in record["changed"].items():
                    print(f"{experiment.name}: {setting} is {ours}, not {usual}")
                print(results_table([record]).to_markdown())
                file = f"{folder}/{experiment.name}-seed{each}"
                print(f"weights: {models}/{file}.safetensors, record: {results}/{file}.json", flush=True)
        print(f'Next: inference.ipynb with FOLDER = "{folder}" draws what these weights read.')


def evaluate(
    checkpoints: Positional[tuple[Path, ...]] = (),
    source: Source = "auto",
    device: Device = "auto",
    root: Annotated[Path, arg(help="folder of your files and of MNIST")] = Path("data"),
    models: Annotated[Path, arg(help="folder of the weights")] = Path("models"),
) -> None:
    """Measure saved weights on every split: those named, or the published ones, or else those trained here.

    Example: python -m digitsum evaluate models/mnist/reader-seed1.safetensors --source mnist
    """
    from . import load_checkpoint, load_data
    from .evaluation import evaluate
    from .runs import find_weights, metrics_table

    data = load_data(source, root)
    print(data.reason)
    paths = checkpoints or tuple(find_weights(data.source, models=models)[1].values())
    for path in paths:
        model = load_checkpoint(path, device)
        print(f"\n{path}")
        if model.metadata["data"] != data.fingerprint:
            print("It was trained on other strips: those called test here may be among its training strips.")
        print(metrics_table(evaluate(model, data)[0]).rename_axis("split").to_markdown(), flush=True)
    print(f'Next: inference.ipynb with FOLDER = "{paths[-1].parent.name}" draws what these weights read.')


def predict(
    images: Positional[tuple[Path, ...]],
    checkpoint: Annotated[Path, arg(help="weights to read with")] = Path("models/mnist/reader_handwriting.safetensors"),
    digits: Annotated[int | None, arg(help="how many digits a row has; any number if this is not told")] = None,
    csv: Annotated[Path | None, arg(help="also write a table to this file")] = None,
    json: Annotated[Path | None, arg(help="also write the answers to this file")] = None,
    show: Annotated[Path | None, arg(help="also draw what the model gets, with the answers, as PNG")] = None,
    device: Device = "auto",
) -> int:
    """Read rows of digits: photographs, scans or drawings, .npy files of strips, or folders of them.

    Exit status 2 means that a row was not read. Example: python -m digitsum predict docs/example.png
    """
    import pandas as pd

    from . import load_checkpoint, plots, predictions
    from .checkpoints import replacing
    from .evaluation import answers
    from .images import read_strips

    if not images:
        raise DataError("Name one image or several, such as docs/example.png.")
    model = load_checkpoint(checkpoint, device)
    rows: list[dict[str, Any]] = []
    drawn: list[tuple[Any, str]] = []
    paths = [file for given in images for file in (sorted(given.iterdir()) if given.is_dir() else [given])]
    for path in paths:
        try:
            strips = read_strips(path)
            found = answers(predictions(model, strips, digits))
            titles = [str(row.get("digits") or row.get("sum", "no digits")) for row in found]
            drawn += zip(strips, titles, strict=True)
        except (DigitsumError, OSError) as error:  # the others can still be read
            found = [{"error": shown(str(error).removeprefix(str(path)).lstrip(": "))}]
        for row in found:
            rows.append({"file": shown(path)} | row)
            print(_line(rows[-1]), file=sys.stderr if "error" in row else sys.stdout, flush=True)
    table = pd.DataFrame(rows).convert_dtypes()
    writers: dict[Path | None, Any] = {
        csv: partial(table.to_csv, index=False),
        json: partial(table.to_json, orient="records", indent=1),
        show if drawn else None: lambda file: plots.captioned(*zip(*drawn, strict=True)).savefig(file, format="png"),
    }
    for target in filter(None, writers):
        with replacing(target) as temporary:
            writers[target](temporary)
    return 2 if any("error" in row for row in rows) else 0


def draw(
    checkpoint: Annotated[Path, arg(help="weights to read with")] = Path("models/mnist/reader_handwriting.safetensors"),
    port: Annotated[int, arg(help="of 127.0.0.1; 0: any that is free")] = 8000,
    open: Annotated[bool, arg(help="also open the page in the browser")] = False,
    device: Device = "auto",
) -> None:
    """Serve a page, to this machine alone, on which digits are drawn and read.

    Ctrl-C ends it. Example: python -m digitsum draw --open
    """
    import webbrowser
    from contextlib import suppress

    from . import load_checkpoint
    from .draw import server

    with server(load_checkpoint(checkpoint, device), port) as page, suppress(KeyboardInterrupt):
        address = f"http://127.0.0.1:{page.server_port}/"
        print(f"Draw at {address} and end with Ctrl-C.", flush=True)
        if open:
            webbrowser.open(address)
        page.serve_forever()
    print("\nStopped.")


def _line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"digitsum: {row['file']}: {row['error']}"
    if "probability" not in row:
        return f"{row['file']}: {row['sum']} (predicted {row['predicted']})"
    unsure = "UNSURE, " if row["unsure"] else ""
    read = f"{row['sum']}, digits {' '.join(row['digits'])}"
    return f"{row['file']}: {unsure}{read}, probability {row['probability']:.1%}, next {row['runner-up']}"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status. An expected fault is one line on standard error, and status 1."""
    commands: dict[str, Any] = {"train": train, "evaluate": evaluate, "predict": predict, "draw": draw}
    about: Any = {"prog": "python -m digitsum", "description": "Read the sum of handwritten digits."}
    try:
        return tyro.extras.subcommand_cli_from_dict(commands, args=arguments, **about) or 0
    except (DigitsumError, OSError) as error:
        print(f"digitsum: {shown(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("digitsum: stopped. Whole epochs are kept; the same command goes on from there.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
