"""The command line of the published work: python -m research reproduce | study | bench | compare | tables | report."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

import digitsum
from digitsum.errors import DigitsumError, TrainingError  # commands import the rest, so that --help starts at once


@dataclass(frozen=True)
class Options:
    source: str = "mnist"  # where the strips come from
    root: Path = Path("data")  # folder with MNIST
    results: Path = Path("results")  # folder of the records
    models: Path = Path("models")  # folder of the weights
    device: str = "auto"  # cpu, cuda or cuda:1; auto takes a GPU if there is one

    def data(self) -> Any:
        return digitsum.load_data(self.source, self.root)

    def of_runs(self) -> dict[str, Any]:
        return {"results": self.results, "models": self.models, "device": self.device}


Given = Annotated[Options, arg(name="")]
Names = Annotated[tuple[str, ...], Positional, arg(help="experiments; all by default")]
Rows = Annotated[tuple[str, ...], arg(help="rows of the study; all by default")]
Weights = Annotated[Literal["published", "none"], arg(help="none: start from random weights instead")]
Part = Literal["epoch", "likelihood", "prediction", "accuracy"]
Parts = Annotated[tuple[Part, ...], arg(help="what to measure; accuracy trains five times, each up to --minutes")]


def reproduce(names: Names = (), weights: Weights = "published", dry_run: bool = False, given: Given = Options()):
    """Train what the tables take and the records lack. Example: python -m research reproduce reader --dry-run"""
    from .reproduce import plan, reproduce

    data = given.data()
    planned = plan(data, names, weights=weights, results=given.results)
    print(*planned, f"{sum(not row.done for row in planned)} of {len(planned)} runs to train", sep="\n", flush=True)
    return 0 if dry_run else min(reproduce(data, planned, **given.of_runs()), 1)


def study(name: Positional[str], seeds: tuple[int, ...] = (0, 1, 2), only: Rows = (), given: Given = Options()):
    """Train a study's rows, or measure readers. Example: python -m research study sums --seeds 0 --only 500 1000"""
    from .studies import STUDIES, run_study, variants_of

    if name not in STUDIES:
        raise TrainingError(f"There is no study {name}. Use one of {', '.join(STUDIES)}.")
    rows = variants_of(name)
    if unknown := [row for row in only if row not in rows]:
        raise TrainingError(f"{name} has no row {', '.join(unknown)} to train. It has {', '.join(rows) or 'none'}.")
    for path, record in run_study(name, given.data(), seeds=seeds, only=only, root=given.root, **given.of_runs()):
        print(path, *(f"{split} {each['accuracy']['value']:.1%}" for split, each in record.get("metrics", {}).items()))


def bench(only: Parts = ("epoch", "likelihood", "prediction"), minutes: float = 30, given: Given = Options()):
    """Measure speed and memory. Example: python -m research bench --only accuracy --minutes 12"""
    from . import bench
    from .paper import performance

    data = given.data()
    for part in only:
        record = bench.measure(part, data, minutes=minutes, **given.of_runs())
        print(f"\n{performance.tables([record])[part]}", flush=True)


def compare(given: Given = Options()):
    """Compare each published run with the next best, strip by strip. Example: python -m research compare"""
    from .paper import comparison

    record = comparison.compare(given.data(), results=given.results)
    for system in record["systems"]:
        print(f"{system['experiment']}, seed {system['seed']}: {system['accuracy']:.1%} on {record['split']}")


def tables(given: Given = Options()):
    """Renew the tables of README.md and docs/ from the records. Example: python -m research tables"""
    from .paper import performance, published

    changed = published.renew(published.published_tables(given.results) | performance.published_tables(given.results))
    print("New tables:", ", ".join(map(str, changed)) or "none")


def report(output: Path = Path("report.pdf"), redraw: bool = False, given: Given = Options()):
    """Build the paper from the records, --redraw with new pictures of strips. Example: python -m research report"""
    from .paper.report import make_report

    make_report(given.results, given.models, given.root, output, redraw)
    print(f"{output} is written")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status. An expected fault is one line on standard error, and status 1."""
    commands = {each.__name__: each for each in (reproduce, study, bench, compare, tables, report)}
    options: dict[str, Any] = {"prog": "python -m research", "config": [tyro.conf.FlagCreatePairsOff]}
    try:
        return tyro.extras.subcommand_cli_from_dict(commands, args=arguments, **options) or 0
    except (DigitsumError, OSError) as error:
        print(f"research: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
