"""What the reports claim, each claim judged by our records."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

from digitsum.evaluation import proportion_ci
from digitsum.experiments import EXPERIMENTS, same_settings
from digitsum.training import ACCURACY_EVERY

from ..systems import SUPERVISION
from .records import Entry, Record

Verdict = bool | None  # None: undecided
RISEN = 1.1  # a validation loss of this many times its lowest has risen
WORDS = {True: "holds", False: "does not hold", None: "undecided"}


class Claim(NamedTuple):
    """A claim of a report, or a question of ours, with the experiments that it needs.

    `judge` takes a run, or with `alike` two that go together; it returns the numbers and whether the claim holds.
    """

    text: str
    report: str
    needs: Sequence[str]
    judge: Callable[..., tuple[str, Verdict]]
    alike: Callable[[Record, Record], bool] | None = None


def judged(records: Sequence[Record]) -> list[tuple[str, str, str, str]]:
    """Return for each claim its text, its report, what we measured, and the verdict.

    A comparison of two accuracies is undecided if the 95 % interval of their difference holds zero.
    """
    rows = []
    for claim in CLAIMS:
        runs = {name: [record for record in records if record["experiment"] == name] for name in claim.needs}
        found = _comparisons(claim, runs)
        texts = [
            (f"`{system}`, " if system else "") + "; ".join(f"seed {seed}: {numbers}" for _, seed, numbers, _ in of_it)
            for system, of_it in groupby(found, key=lambda comparison: comparison[0])
        ]
        if missing := ", ".join(f"`{name}`" for name in runs if not runs[name]):
            texts.append(f"records missing: {missing}")
        rows.append((claim.text, claim.report, "; ".join(texts) or "no runs to compare", _verdict(found)))
    return rows


def _comparisons(claim: Claim, runs: dict[str, list[Record]]) -> list[tuple[str, int, str, Verdict]]:
    """Return each comparison: the system, or "" if the claim is of no more than one; the seed; what `judge` says."""
    if claim.alike:
        first, second = claim.needs
        pairs = [(a, b) for a in runs[first] for b in runs[second] if claim.alike(a, b)]
        return [("", a["seed"], *claim.judge(a, b)) for a, b in pairs]
    whole = [run for each in runs.values() for run in each if not run["changed"]]
    return [(run["experiment"] if len(runs) > 1 else "", run["seed"], *claim.judge(run)) for run in whole]


def _verdict(found: Sequence[tuple[str, int, str, Verdict]]) -> str:
    """Count the systems, or the seeds of a single one. A system whose seeds disagree is undecided."""
    verdicts: dict[str | int, set[Verdict]] = {}
    for system, seed, _, holds in found:
        verdicts.setdefault(system or seed, set()).add(holds)
    counts = Counter(WORDS[each.pop() if len(each) == 1 else None] for each in verdicts.values())
    n, unit = len(verdicts), "system" if any(system for system, *_ in found) else "seed"
    words = [f"{word} ({f'{count} of {n} {unit}s' if n > 1 else f'one {unit}'})" for word, count in counts.items()]
    return ", ".join(words) or "not measured yet"


def above(one: Entry, other: Entry) -> Verdict:
    """Tell whether a proportion is above another; None if the 95 % interval of their difference holds zero.

    For two proportions of the same strips the interval is too wide, as they mostly rise and fall together.
    Source: Newcombe, "Interval estimation for the difference between independent proportions" (method 10).
    """
    difference = one["value"] - other["value"]
    if difference > math.hypot(one["value"] - one["low"], other["high"] - other["value"]):
        return True
    return False if -difference > math.hypot(one["high"] - one["value"], other["value"] - other["low"]) else None


def _against(one: Entry, other: Entry) -> tuple[str, Verdict]:
    return f"{100 * one['value']:.1f} against {100 * other['value']:.1f} %", above(one, other)


def _best_epochs(one: Record, other: Record) -> tuple[str, Verdict]:
    return _against(one["metrics"]["val"]["accuracy"], other["metrics"]["val"]["accuracy"])


def _last_epoch(record: Record, split: str = "val") -> Entry:
    """Return the accuracy of the last epoch, which need not be the best, on "train" or "val"."""
    n = record["data"]["strips"][split] // (ACCURACY_EVERY if split == "train" else 1)
    return proportion_ci(round(record["history"][-1][f"{split}_accuracy"] * n), n)


def _same_seed(one: Record, other: Record) -> bool:
    return one["seed"] == other["seed"] and not one["changed"] and not other["changed"]


def _weights_apart(one: Record, other: Record) -> bool:
    """Tell whether the first run is from published weights, and the other one from random weights and else the same."""
    return one["weights"] != "none" and same_settings(other["settings"], one["settings"] | {"weights": None})


def _overfits(record: Record) -> tuple[str, Verdict]:
    """Tell whether the validation loss rises to RISEN times its lowest while the training loss falls.

    Undecided if the last epoch has the lowest: nobody has seen what more epochs would do.
    """
    lowest, last = min(record["history"], key=lambda row: row["val_loss"]), record["history"][-1]
    rises = last["val_loss"] > RISEN * lowest["val_loss"] and last["train_loss"] < lowest["train_loss"]
    numbers = f"{lowest['val_loss']:.2f} after epoch {lowest['epoch']}, {last['val_loss']:.2f} after {last['epoch']}"
    return numbers, None if lowest is last else rises


def _rounding_hurts(record: Record) -> tuple[str, Verdict]:
    """Tell whether rounding down or up is right more often than rounding to the nearest, which is the accuracy."""
    metrics = record["metrics"]["val"]
    best = max(metrics["floor"], metrics["ceiling"], key=lambda entry: entry["value"])
    ways = ", ".join(f"{way} {100 * metrics[way]['value']:.1f} %" for way in ("floor", "ceiling", "accuracy"))
    return f"MSE {metrics['mse']['value']:.2f}, {ways}", above(best, metrics["accuracy"])


OURS, NOBODY = "this repository", "–"
ATTENTION, DROPOUT = "cnn_attention-regression", "cnn2_dropout-regression"
REGRESSOR, CLASSIFIER, RESNET = "baseline_cnn-regression", "baseline_cnn-classification", "resnet50-classification"
SCRATCH = [name for name, e in EXPERIMENTS.items() if not (e.weights or e.report == OURS or name in SUPERVISION)]
CLAIMS = (
    Claim("Regression beats classification on every seed: validation, last epochs", "C",
          (REGRESSOR, CLASSIFIER), lambda a, b: _against(_last_epoch(a), _last_epoch(b)), _same_seed),
    Claim("Regression beats classification in the network with attention: validation, best epochs", NOBODY,
          (ATTENTION, "cnn_attention-classification"), _best_epochs, _same_seed),
    Claim("Attention beats more convolutions, on validation", "E",
          (ATTENTION, "cnn_no_attention-regression"), _best_epochs, _same_seed),
    Claim("One attention layer beats several, with settings chosen for one", "E",
          (ATTENTION, "cnn_attention_several-regression"), _best_epochs, _same_seed),
    Claim("Attention at the end beats attention between convolutions, with settings chosen for the end", "E",
          (ATTENTION, "cnn_attention_between-regression"), _best_epochs, _same_seed),
    Claim("Pre-training helps, on validation", "B", (RESNET, RESNET), _best_epochs, _weights_apart),
    Claim("More epochs overfit: lowest and last validation loss", "B, D",
          ("cnn3_dropout-classification", DROPOUT, CLASSIFIER), _overfits),
    Claim("Rounding to the nearest hurts, although the MSE is low", "D", (DROPOUT, ATTENTION), _rounding_hurts),
    Claim("The classifier memorises: training against validation, last epochs", "C", (CLASSIFIER,),
          lambda run: _against(_last_epoch(run, "train"), _last_epoch(run))),
    Claim("A split that repeats glyphs flatters: test against unseen, by other writers", NOBODY, SCRATCH,
          lambda run: _against(run["metrics"]["test"]["accuracy"], run["metrics"]["unseen"]["accuracy"])),
)  # fmt: skip
