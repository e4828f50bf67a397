"""What the reports claim, each claim judged by our records."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from digitsum.evaluation import proportion_ci
from digitsum.experiments import EXPERIMENTS, same_settings
from digitsum.training import ACCURACY_EVERY

from ..systems import SUPERVISION
from .records import Entry, Record

Verdict = tuple[str, bool | None]  # the numbers, and whether a claim holds; None: undecided
Judge = Callable[[Record, Sequence[Record]], Verdict | None]  # of a run, beside all others; None: it says nothing
RISEN = 1.1  # a validation loss of this many times its lowest has risen
WORDS = {True: "holds", False: "does not hold", None: "undecided"}


def judged(records: Sequence[Record]) -> list[dict[str, str]]:
    """Return each claim with its report, what we measured, and the verdict, which counts systems or seeds.

    Runs that depart from their settings are not judged. A system whose seeds disagree is undecided.
    """
    rows = []
    for claim, report, names, judge in CLAIMS:
        measured, verdicts, several = [], [], len(names) > 1
        for name in names:
            runs = [run for run in records if run["experiment"] == name and not run["changed"]]
            found = {run["seed"]: verdict for run in runs if (verdict := judge(run, records))}
            if not found:
                continue
            seeds = "; ".join(f"seed {seed}: {numbers}" for seed, (numbers, _) in found.items())
            measured.append(f"`{name}`, {seeds}" if several else seeds)
            holds = [verdict for _, verdict in found.values()]
            verdicts += [holds[0] if len(set(holds)) == 1 else None] if several else holds
        n, unit = len(verdicts), "system" if several else "seed"
        words = [
            f"{WORDS[holds]} ({f'{count} of {n} {unit}s' if n > 1 else f'one {unit}'})"
            for holds, count in Counter(verdicts).items()
        ]
        rows.append({
            "claim": claim, "report": report, "measured": "; ".join(measured) or "no runs to compare",
            "verdict": ", ".join(words) or "not measured yet",
        })  # fmt: skip
    return rows


def above(one: Entry, other: Entry) -> Verdict:
    """Judge whether a proportion is above another: undecided if the 95 % interval of their difference holds zero.

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


def _overfits(run: Record, records: Sequence[Record]) -> Verdict:
    """Judge whether the validation loss rises to RISEN times its lowest while the training loss falls.

    Undecided if the last epoch has the lowest: nobody has seen what more epochs would do.
    """
    lowest, last = min(run["history"], key=lambda row: row["val_loss"]), run["history"][-1]
    rises = last["val_loss"] > RISEN * lowest["val_loss"] and last["train_loss"] < lowest["train_loss"]
    numbers = f"{lowest['val_loss']:.2f} after epoch {lowest['epoch']}, {last['val_loss']:.2f} after {last['epoch']}"
    return numbers, None if lowest is last else rises


def _rounding_hurts(run: Record, records: Sequence[Record]) -> Verdict:
    """Judge whether rounding down or up is right more often than rounding to the nearest, which is the accuracy."""
    metrics = run["metrics"]["val"]
    best = max(metrics["floor"], metrics["ceiling"], key=lambda entry: entry["value"])
    ways = ", ".join(f"{way} {100 * metrics[way]['value']:.1f} %" for way in ("floor", "ceiling", "accuracy"))
    return f"MSE {metrics['mse']['value']:.2f}, {ways}", above(best, metrics["accuracy"])[1]


def _beats(other: str, accuracy: Callable[[Record], Entry] = _best_epoch) -> Judge:
    """Return the judge of a claim that an experiment beats another one with the same seed."""

    def judge(run: Record, records: Sequence[Record]) -> Verdict | None:
        for each in records:
            if (each["experiment"], each["seed"]) == (other, run["seed"]) and not each["changed"]:
                return above(accuracy(run), accuracy(each))
        return None

    return judge


def _pretraining_helps(run: Record, records: Sequence[Record]) -> Verdict | None:
    for each in records:
        if same_settings(each["settings"], run["settings"] | {"weights": None}):
            return above(_best_epoch(run), _best_epoch(each))
    return None


ATTENTION, DROPOUT = "cnn_attention-regression", "cnn2_dropout-regression"
REGRESSOR, CLASSIFIER = "baseline_cnn-regression", "baseline_cnn-classification"
RESNET = "resnet50_imagenet-classification"
SCRATCH = [n for n, e in EXPERIMENTS.items() if not (e.weights or e.report == "this repository" or n in SUPERVISION)]
CLAIMS: tuple[tuple[str, str, Sequence[str], Judge], ...] = (  # claim, report (–: our question), experiments, judge
    ("Regression beats classification on every seed: validation, last epochs", "C",
     [REGRESSOR], _beats(CLASSIFIER, _last_epoch)),
    ("Regression beats classification in the network with attention: validation, best epochs", "–",
     [ATTENTION], _beats("cnn_attention-classification")),
    ("Attention beats more convolutions, on validation", "E", [ATTENTION], _beats("cnn_no_attention-regression")),
    ("One attention layer beats several, with settings chosen for one", "E",
     [ATTENTION], _beats("cnn_attention_several-regression")),
    ("Attention at the end beats attention between convolutions, with settings chosen for the end", "E",
     [ATTENTION], _beats("cnn_attention_between-regression")),
    ("Pre-training helps, on validation", "B", [RESNET], _pretraining_helps),
    ("More epochs overfit: lowest and last validation loss", "B, D",
     ["cnn3_dropout-classification", DROPOUT, CLASSIFIER], _overfits),
    ("Rounding to the nearest hurts, although the MSE is low", "D", [DROPOUT, ATTENTION], _rounding_hurts),
    ("The classifier memorises: training against validation, last epochs", "C",
     [CLASSIFIER], lambda run, records: above(_last_epoch(run, "train"), _last_epoch(run))),
    ("A split that repeats glyphs flatters: test against unseen, by other writers", "–", SCRATCH,
     lambda run, records: above(run["metrics"]["test"]["accuracy"], run["metrics"]["unseen"]["accuracy"])),
)  # fmt: skip
