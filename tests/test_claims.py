"""The reports' claims: each is judged by records, whichever way they come out, and says what it lacks."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.claims import ATTENTION, CLAIMS, CLASSIFIER, PLAIN, REGRESSOR, _above, judged
from digitsum.evaluation import share
from digitsum.experiments import EXPERIMENTS

N = 3000


def record(name: str, accuracy: float = 0.5, seed: int = 0, last: float | None = None, **changes) -> dict:
    """What the claims need of a record: `accuracy` everywhere, `last` after the last epoch."""
    history = [
        {"epoch": epoch, "train_loss": 3.0 - epoch, "val_loss": 2.0, "train_accuracy": each, "val_accuracy": each}
        for epoch, each in ((1, accuracy), (2, accuracy if last is None else last))
    ]
    measures = ("accuracy", "floor", "ceiling", "rounded", "mse")
    entry = {measure: share(round(accuracy * N), N) for measure in measures}
    return {
        "experiment": name, "seed": seed, "changed": {}, "history": history, "weights": "none",
        "settings": {"epochs": 2, "train_limit": None, "weights": None},
        "data": {"strips": {"train": N, "val": N}},
        "metrics": {split: copy.deepcopy(entry) for split in ("train", "val", "test", "unseen")},
    } | changes  # fmt: skip


def verdict(start: str, *records: dict) -> str:
    return row(start, *records)[3]


def row(start: str, *records: dict) -> tuple[str, str, str, str]:
    (found,) = (each for each in judged(records) if each[0].startswith(start))
    return found


def test_claims_speak_of_experiments_that_exist():
    assert {name for claim in CLAIMS for name in claim.needs} <= set(EXPERIMENTS)


def test_without_records_each_says_what_it_needs():
    for claim, (text, _, measured, found) in zip(CLAIMS, judged([]), strict=True):
        assert text == claim.text and found == "not measured yet"
        assert all(f"`{name}`" in measured for name in claim.needs)


@given(st.integers(0, 500), st.integers(1, 500), st.integers(0, 500), st.integers(1, 500))
def test_one_share_is_above_another_or_below_or_neither(hits, n, other_hits, other_n):
    one, other = share(min(hits, n), n), share(min(other_hits, other_n), other_n)
    flipped = {True: False, False: True, None: None}
    assert _above(one, other) == flipped[_above(other, one)]
    assert _above(one, one) is None
    if one["low"] > other["high"]:
        assert _above(one, other)
    if _above(one, other):
        assert one["value"] > other["value"]


def test_the_interval_of_a_difference_is_newcombes():
    """Newcombe (1998), example (a): 56 of 70 against 48 of 80, difference 0.2, interval 0.0524 to 0.3339."""
    assert _above(share(56, 70), share(48, 80)) is True
    assert _above(share(54, 80), share(48, 80)) is None


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([(0.2, 0.1)], "holds (one seed)"),
        ([(0.1, 0.2)], "does not hold (one seed)"),
        ([(0.2, 0.201)], "undecided (one seed)"),
        ([(0.2, 0.1), (0.3, 0.1), (0.1, 0.2)], "holds (2 of 3 seeds), does not hold (1 of 3 seeds)"),
    ],
)
def test_comparisons_go_seed_by_seed(accuracies, expected):
    records = [record(PLAIN, 0.9, seed=99)]
    for seed, (one, other) in enumerate(accuracies):
        records += [record(ATTENTION, one, seed), record(PLAIN, other, seed)]
    assert verdict("Attention beats more", *records) == expected


def test_report_c_is_judged_by_last_epochs():
    """Not by the epochs that were chosen, which say the opposite here."""
    records = [record(REGRESSOR, 0.1, last=0.3), record(CLASSIFIER, 0.2, last=0.15)]
    _, _, measured, found = row("Regression beats classification on", *records)
    assert found == "holds (one seed)" and measured == "seed 0: 30.0 against 15.0 %"


def test_shortened_runs_judge_nothing():
    records = [record(ATTENTION, 0.9, changed={"epochs": [16, 1]}), record(PLAIN, 0.1)]
    assert row("Attention beats more", *records)[2:] == (f"records missing: `{ATTENTION}`", "not measured yet")


def test_pretraining_is_judged_by_runs_that_were_shortened_alike():
    name = "resnet50-classification"

    def run(weights: str | None, accuracy: float, epochs: int, seed: int) -> dict:
        settings = {"epochs": epochs, "weights": weights} | ({"train_limit": None} if weights else {})  # its default
        return record(name, accuracy, seed, settings=settings, weights=weights or "none", changed={"weights": [1, 2]})

    pretrained = run("IMAGENET1K_V1", 0.8, 4, seed=0)
    assert verdict("Pre-training", pretrained, run(None, 0.1, 1, seed=1)) == "not measured yet"
    assert row("Pre-training", pretrained, run(None, 0.1, 4, seed=1))[2:] == (
        f"`{name}`, 4 epochs: 80.0 against 10.0 %",
        "holds (one system)",
    )
    assert verdict("Pre-training", pretrained, run(None, 0.9, 4, seed=1)) == "does not hold (one system)"


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([(3.0, 2.0), (2.0, 1.0), (1.0, 1.5)], "holds (one system)"),
        ([(3.0, 2.0), (2.0, 1.0), (1.0, 1.05)], "does not hold (one system)"),  # within noise
        ([(3.0, 2.0), (2.0, 1.0), (2.5, 1.5)], "does not hold (one system)"),  # diverged, not overfitted
        ([(3.0, 2.0), (2.0, 1.5), (1.0, 1.0)], "undecided (one system)"),  # it was still falling at the end
    ],
)
def test_overfitting_is_a_validation_loss_that_rises_while_the_training_loss_falls(losses, expected):
    (whole, *_) = record(CLASSIFIER)["history"]
    history = [whole | {"epoch": k, "train_loss": t, "val_loss": v} for k, (t, v) in enumerate(losses, start=1)]
    assert verdict("More epochs", record(CLASSIFIER, history=history)) == expected


@pytest.mark.parametrize("way", ["floor", "ceiling"])
def test_rounding_is_held_against_the_better_of_floor_and_ceiling(way):
    name, better = "cnn2_dropout-regression", record("cnn2_dropout-regression", 0.1)
    better["metrics"]["val"][way] = share(400, N)
    assert (
        verdict("Rounding", better) == "holds (one system)"
        and verdict("Rounding", record(name, 0.1)) == "undecided (one system)"
    )
    better["metrics"]["val"]["rounded"] = share(900, N)
    assert verdict("Rounding", better) == "does not hold (one system)"


def test_memorising_and_repeated_glyphs():
    memorised = record(CLASSIFIER, 0.1)
    memorised["history"][-1]["train_accuracy"] = 0.98
    assert verdict("The classifier memorises", memorised) == "holds (one seed)"
    assert verdict("The classifier memorises", record(CLASSIFIER, 0.1)) == "undecided (one seed)"
    flattered = record(REGRESSOR, 0.5)
    flattered["metrics"]["unseen"]["accuracy"] = share(1000, N)
    assert verdict("A split that repeats", flattered) == "holds (one system)"


def test_repeated_glyphs_are_judged_by_the_mean_over_seeds():
    records = [record(REGRESSOR, 0.5, seed) for seed in (0, 10)]
    for each, hits in zip(records, (1300, 1500), strict=True):  # one seed falls, the other does not
        each["metrics"]["unseen"]["accuracy"] = share(hits, N)
    _, _, measured, found = row("A split that repeats", *records)
    assert measured.startswith(f"`{REGRESSOR}`, 50.0 against 46.7 %") and found == "holds (one system)"


def test_an_experiment_is_named_once_for_all_its_seeds_and_judged_once():
    """Where its seeds disagree, it is undecided."""
    names = "cnn2_dropout-regression", ATTENTION
    records = [record(name, 0.5, seed) for name in names for seed in (0, 42)]
    records[0]["metrics"]["val"]["rounded"] = share(1000, N)
    records[1]["metrics"]["val"]["rounded"] = share(2000, N)
    for each in records[2:]:
        each["metrics"]["val"]["rounded"] = share(2000, N)
    ways = "floor 50.0 %, ceiling 50.0 %, rounded"
    assert row("Rounding", *records)[2:] == (
        f"`{names[0]}`, seed 0: MSE 0.50, {ways} 33.3 %; seed 42: MSE 0.50, {ways} 66.7 %; "
        f"`{names[1]}`, seed 0: MSE 0.50, {ways} 66.7 %; seed 42: MSE 0.50, {ways} 66.7 %",
        "undecided (1 of 2 systems), does not hold (1 of 2 systems)",
    )
