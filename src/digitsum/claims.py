"""What the reports claim, each claim judged by records alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from .evaluation import over_seeds, share
from .experiments import EXPERIMENTS
from .runs import same_settings
from .training import ACCURACY_EVERY

Record = dict[str, Any]
Share = Mapping[str, float]  # {"value", "low", "high"}
Runs = Mapping[str, Sequence[Record]]  # the records of each experiment
# Of each comparison: the experiment where the claim is of several and "" where it is of seeds, the rest in words, and
# whether the claim holds in it (None: undecided).
Judged = list[tuple[str, str, bool | None]]

WORSE = 1.1  # a validation loss this many times its lowest has risen
VERDICTS = {True: "holds", False: "does not hold", None: "undecided"}


@dataclass(frozen=True)
class Claim:
    """A claim of a report or of NOBODY, the experiments that it is judged by, and the comparisons of their runs."""

    text: str
    report: str
    needs: tuple[str, ...]
    judge: Callable[[Runs], Judged]


def judged(records: Sequence[Record]) -> list[tuple[str, str, str, str]]:
    """For each claim its text, its report, what was measured, and the verdict; records are those of one source.

    A comparison of two accuracies is undecided where the 95 % interval of their difference holds zero, and so is an
    experiment whose seeds disagree.
    """
    rows = []
    for claim in CLAIMS:
        runs = {name: [record for record in records if record["experiment"] == name] for name in claim.needs}
        if claim.judge is not _pretraining:  # which compares only runs that were shortened alike
            runs = {name: [record for record in found if not record["changed"]] for name, found in runs.items()}
        comparisons = claim.judge(runs)
        texts = []
        for name, of_it in groupby(comparisons, key=lambda comparison: comparison[0]):  # named once for all its seeds
            texts.append((f"`{name}`, " if name else "") + "; ".join(text for _, text, _ in of_it))
        if missing := [f"`{name}`" for name, found in runs.items() if not found]:
            texts.append(f"records missing: {', '.join(missing)}")
        measured = "; ".join(texts) or "no two runs to compare on record"
        rows.append((claim.text, claim.report, measured, _verdict(comparisons) or "not measured yet"))
    return rows


def _verdict(comparisons: Judged) -> str:
    """How many systems bear the claim out, or where it is of a single pair of them, how many seeds."""
    found: dict[str | int, set[bool | None]] = {}
    for k, (name, _, holds) in enumerate(comparisons):
        found.setdefault(name or k, set()).add(holds)
    counts = Counter(VERDICTS[holds.pop() if len(holds) == 1 else None] for holds in found.values())
    unit = "system" if any(name for name, *_ in comparisons) else "seed"
    n_of = (f"{{}} of {len(found)} {unit}s" if len(found) > 1 else f"one {unit}").format
    return ", ".join(f"{word} ({n_of(n)})" for word, n in counts.items())


def _above(one: Share, other: Share) -> bool | None:
    """Whether a share is above another; None where the 95 % interval of their difference holds zero.

    Source: Newcombe, "Interval estimation for the difference between independent proportions" (method 10, from the two
    Wilson intervals); of two shares of the same strips, which mostly rise and fall together, it is too wide.
    """
    difference = one["value"] - other["value"]
    if difference > math.hypot(one["value"] - one["low"], other["high"] - other["value"]):
        return True
    return False if -difference > math.hypot(one["high"] - one["value"], other["value"] - other["low"]) else None


def _percents(*shares: Share) -> str:
    return " against ".join(f"{100 * each['value']:.1f}" for each in shares) + " %"


def _validation(record: Record) -> Share:
    return record["metrics"]["val"]["accuracy"]


def _last_epoch(record: Record, split: str) -> Share:
    """The accuracy in training ("train") or on validation ("val") of the last epoch, which need not be the best."""
    n = record["data"]["strips"][split] // (ACCURACY_EVERY if split == "train" else 1)
    return share(round(record["history"][-1][f"{split}_accuracy"] * n), n)


def _beats(first: str, second: str, of: Callable[[Record], Share] = _validation) -> Callable[[Runs], Judged]:
    """Seed by seed, whether the first experiment is above the second."""

    def judge(runs: Runs) -> Judged:
        pairs = [(a, b) for a in runs[first] for b in runs[second] if a["seed"] == b["seed"]]
        return [("", f"seed {a['seed']}: {_percents(of(a), of(b))}", _above(of(a), of(b))) for a, b in pairs]

    return judge


def _pretraining(runs: Runs) -> Judged:
    """Runs from published weights against runs from a random start that share all other settings."""
    pairs = [(a, b) for records in runs.values() for a in records for b in records]
    return [
        (a["experiment"], f"{a['settings']['epochs']} epochs: {_percents(with_, without)}", _above(with_, without))
        for a, b, with_, without in ((a, b, _validation(a), _validation(b)) for a, b in pairs)
        if a["weights"] != "none" and same_settings(b["settings"], a["settings"] | {"weights": None})
    ]


def _overfits(runs: Runs) -> Judged:
    """Whether the validation loss rises to WORSE times its lowest while the training loss goes on falling.

    Undecided where it is lowest after the last epoch: what more of them would do has not been seen.
    """
    comparisons: Judged = []
    for name, records in runs.items():
        for record in records:
            lowest, last = min(record["history"], key=lambda row: row["val_loss"]), record["history"][-1]
            losses = f"seed {record['seed']}: {lowest['val_loss']:.2f} after epoch {lowest['epoch']}"
            if lowest is last:
                comparisons.append((name, losses + ", the last", None))
                continue
            rises = last["val_loss"] > WORSE * lowest["val_loss"] and last["train_loss"] < lowest["train_loss"]
            comparisons.append((name, f"{losses}, {last['val_loss']:.2f} after {last['epoch']}", rises))
    return comparisons


def _rounding(runs: Runs) -> Judged:
    """Whether rounding down or up is right more often than rounding to the nearest."""
    comparisons = []
    for name, records in runs.items():
        for record in records:
            metrics = record["metrics"]["val"]
            best = max(metrics["floor"], metrics["ceiling"], key=lambda each: each["value"])
            ways = ", ".join(f"{way} {_percents(metrics[way])}" for way in ("floor", "ceiling", "rounded"))
            text = f"seed {record['seed']}: MSE {metrics['mse']['value']:.2f}, {ways}"
            comparisons.append((name, text, _above(best, metrics["rounded"])))
    return comparisons


def _memorises(runs: Runs) -> Judged:
    return [
        ("", f"seed {record['seed']}: {_percents(train, val)}", _above(train, val))
        for records in runs.values()
        for record in records
        for train, val in [(_last_epoch(record, "train"), _last_epoch(record, "val"))]
    ]


def _repeats(runs: Runs) -> Judged:
    """Of each experiment by the mean over its seeds, of value and interval."""
    comparisons = []
    for name, records in runs.items():
        if records:
            test, unseen = (
                over_seeds([record["metrics"][split]["accuracy"] for record in records]) for split in ("test", "unseen")
            )
            comparisons.append((name, _percents(test, unseen), _above(test, unseen)))
    return comparisons


NOBODY = "–"  # in place of a report: a question of ours
ATTENTION, PLAIN = "cnn_attention-regression", "cnn_no_attention-regression"
REGRESSOR, CLASSIFIER = "baseline_cnn-regression", "baseline_cnn-classification"
FROM_SCRATCH = tuple(  # the reports' networks that are taught sums from a random start
    name
    for name, experiment in EXPERIMENTS.items()
    if experiment.supervision == "sums" and experiment.weights is None and experiment.report != "this repository"
)
CLAIMS = (
    Claim(
        "Regression beats classification on validation, on every seed: last epochs", "C", (REGRESSOR, CLASSIFIER),
        _beats(REGRESSOR, CLASSIFIER, lambda record: _last_epoch(record, "val")),
    ),
    Claim(
        "Regression beats classification in the network with attention too: best epochs", NOBODY,
        (ATTENTION, "cnn_attention-classification"),
        _beats(ATTENTION, "cnn_attention-classification"),
    ),
    Claim("Attention beats more convolutions, on validation", "E", (ATTENTION, PLAIN), _beats(ATTENTION, PLAIN)),
    Claim(
        "One attention layer beats several, by settings chosen for one", "E",
        (ATTENTION, "cnn_attention_several-regression"), _beats(ATTENTION, "cnn_attention_several-regression"),
    ),
    Claim(
        "Attention at the end beats attention between convolutions, by settings chosen for the end", "E",
        (ATTENTION, "cnn_attention_between-regression"), _beats(ATTENTION, "cnn_attention_between-regression"),
    ),
    Claim("Pre-training helps, on validation", "B", ("resnet50-classification",), _pretraining),
    Claim(
        "More epochs overfit: lowest and last validation loss", "B, D",
        ("cnn3_dropout-classification", "cnn2_dropout-regression", CLASSIFIER), _overfits,
    ),
    Claim(
        "Rounding to the nearest hurts, although the MSE is low", "D", ("cnn2_dropout-regression", ATTENTION), _rounding
    ),
    Claim("The classifier memorises: training against validation, last epochs", "C", (CLASSIFIER,), _memorises),
    Claim(
        "A split that repeats glyphs flatters: test against unseen, of other writers too", NOBODY,
        FROM_SCRATCH, _repeats,
    ),
)  # fmt: skip
