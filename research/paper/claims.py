"""What the reports claim, each claim judged by our records."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby

from digitsum.evaluation import proportion_ci
from digitsum.experiments import EXPERIMENTS, same_settings
from digitsum.training import ACCURACY_EVERY

from ..systems import SUPERVISION
from .records import Entry, Record

Verdict = tuple[str, bool | None]  # the numbers, and whether a claim holds; None: undecided
Found = list[tuple[str, int, str, bool | None]]  # a verdict after its system, "" for a claim of one, and its seed
Judge = Callable[[Sequence[Record]], Found]
RISEN = 1.1  # a validation loss of this many times its lowest has risen
WORDS = {True: "holds", False: "does not hold", None: "undecided"}


def judged(records: Sequence[Record]) -> list[dict[str, str]]:
    """Return each claim with its report, what we measured, and the verdict."""
    rows = []
    for claim, report, judge in CLAIMS:
        found, measured = judge(records), []
        for system, of_it in groupby(found, key=lambda each: each[0]):
            seeds = "; ".join(f"seed {seed}: {numbers}" for _, seed, numbers, _ in of_it)
            measured.append(f"`{system}`, {seeds}" if system else seeds)
        numbers = "; ".join(measured) or "no runs to compare"
        rows.append({"claim": claim, "report": report, "measured": numbers, "verdict": _counted(found)})
    return rows


def _counted(found: Found) -> str:
    """Count the systems, or the seeds of a single one. A system whose seeds disagree is undecided."""
    verdicts: dict[str | int, set[bool | None]] = {}
    for system, seed, _, holds in found:
        verdicts.setdefault(system or seed, set()).add(holds)
    counts = Counter(WORDS[each.pop() if len(each) == 1 else None] for each in verdicts.values())
    n, unit = len(verdicts), "system" if any(system for system, *_ in found) else "seed"
    words = [f"{word} ({f'{count} of {n} {unit}s' if n > 1 else f'one {unit}'})" for word, count in counts.items()]
    return ", ".join(words) or "not measured yet"


def above(one: Entry, other: Entry) -> Verdict:
    """Judge whether a proportion is above another: undecided if the 95 % interval of their difference holds zero.

    For two proportions of the same strips the interval is too wide, as they mostly rise and fall together.
    Source: Newcombe, "Interval estimation for the difference between independent proportions" (method 10).
    """
    difference, holds = one["value"] - other["value"], None
    if difference > math.hypot(one["value"] - one["low"], other["high"] - other["value"]):
        holds = True
    elif -difference > math.hypot(one["high"] - one["value"], other["value"] - other["low"]):
        holds = False
    return f"{100 * one['value']:.1f} against {100 * other['value']:.1f} %", holds


def _best_epoch(record: Record) -> Entry:
    return record["metrics"]["val"]["accuracy"]


def _last_epoch(record: Record, split: str = "val") -> Entry:
    """Return the accuracy of the last epoch, which need not be the best, on "train" or "val"."""
    n = record["data"]["strips"][split] // (ACCURACY_EVERY if split == "train" else 1)
    return proportion_ci(round(record["history"][-1][f"{split}_accuracy"] * n), n)


def _overfits(record: Record) -> Verdict:
    """Judge whether the validation loss rises to RISEN times its lowest while the training loss falls.

    Undecided if the last epoch has the lowest: nobody has seen what more epochs would do.
    """
    lowest, last = min(record["history"], key=lambda row: row["val_loss"]), record["history"][-1]
    rises = last["val_loss"] > RISEN * lowest["val_loss"] and last["train_loss"] < lowest["train_loss"]
    numbers = f"{lowest['val_loss']:.2f} after epoch {lowest['epoch']}, {last['val_loss']:.2f} after {last['epoch']}"
    return numbers, None if lowest is last else rises


def _rounding_hurts(record: Record) -> Verdict:
    """Judge whether rounding down or up is right more often than rounding to the nearest, which is the accuracy."""
    metrics = record["metrics"]["val"]
    best = max(metrics["floor"], metrics["ceiling"], key=lambda entry: entry["value"])
    ways = ", ".join(f"{way} {100 * metrics[way]['value']:.1f} %" for way in ("floor", "ceiling", "accuracy"))
    return f"MSE {metrics['mse']['value']:.2f}, {ways}", above(best, metrics["accuracy"])[1]


def _same_seed(one: Record, other: Record) -> bool:
    return one["seed"] == other["seed"] and not one["changed"] and not other["changed"]


def _weights_apart(one: Record, other: Record) -> bool:
    """Tell whether the first run is from published weights, and the other one from random weights and else the same."""
    return one["weights"] != "none" and same_settings(other["settings"], one["settings"] | {"weights": None})


def _beats(
    first: str, second: str, accuracy: Callable[..., Entry] = _best_epoch, alike: Callable[..., bool] = _same_seed
) -> Judge:
    """Return the judge of a claim that an experiment beats another in runs that are `alike`."""

    def judge(records: Sequence[Record]) -> Found:
        ones, others = ([run for run in records if run["experiment"] == name] for name in (first, second))
        pairs = [(one, other) for one in ones for other in others if alike(one, other)]
        return [("", one["seed"], *above(accuracy(one), accuracy(other))) for one, other in pairs]

    return judge


def _each(names: Sequence[str], verdict: Callable[[Record], Verdict]) -> Judge:
    """Return the judge of a claim on every run of these experiments with its own settings."""

    def judge(records: Sequence[Record]) -> Found:
        runs = [run for name in names for run in records if run["experiment"] == name and not run["changed"]]
        return [(run["experiment"] if len(names) > 1 else "", run["seed"], *verdict(run)) for run in runs]

    return judge


ATTENTION, DROPOUT = "cnn_attention-regression", "cnn2_dropout-regression"
REGRESSOR, CLASSIFIER = "baseline_cnn-regression", "baseline_cnn-classification"
RESNET = "resnet50_imagenet-classification"
SCRATCH = [n for n, e in EXPERIMENTS.items() if not (e.weights or e.report == "this repository" or n in SUPERVISION)]
CLAIMS: tuple[tuple[str, str, Judge], ...] = (  # claim, report (–: our question), judge
    ("Regression beats classification on every seed: validation, last epochs", "C",
     _beats(REGRESSOR, CLASSIFIER, _last_epoch)),
    ("Regression beats classification in the network with attention: validation, best epochs", "–",
     _beats(ATTENTION, "cnn_attention-classification")),
    ("Attention beats more convolutions, on validation", "E", _beats(ATTENTION, "cnn_no_attention-regression")),
    ("One attention layer beats several, with settings chosen for one", "E",
     _beats(ATTENTION, "cnn_attention_several-regression")),
    ("Attention at the end beats attention between convolutions, with settings chosen for the end", "E",
     _beats(ATTENTION, "cnn_attention_between-regression")),
    ("Pre-training helps, on validation", "B", _beats(RESNET, RESNET, alike=_weights_apart)),
    ("More epochs overfit: lowest and last validation loss", "B, D",
     _each(("cnn3_dropout-classification", DROPOUT, CLASSIFIER), _overfits)),
    ("Rounding to the nearest hurts, although the MSE is low", "D", _each((DROPOUT, ATTENTION), _rounding_hurts)),
    ("The classifier memorises: training against validation, last epochs", "C",
     _each((CLASSIFIER,), lambda run: above(_last_epoch(run, "train"), _last_epoch(run)))),
    ("A split that repeats glyphs flatters: test against unseen, by other writers", "–",
     _each(SCRATCH, lambda run: above(run["metrics"]["test"]["accuracy"], run["metrics"]["unseen"]["accuracy"]))),
)  # fmt: skip
