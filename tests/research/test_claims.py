"""The reports' claims: each is judged by records, whichever way they come out, and says what it lacks."""

from __future__ import annotations

import pytest
from test_tables import record

from digitsum.evaluation import proportion_ci
from research.paper.claims import ATTENTION, CLASSIFIER, DROPOUT, REGRESSOR, RESNET, above, judged

N = 3_000
PLAIN = "cnn_no_attention-regression"


def run(name: str, accuracy: float = 0.5, seed: int = 0, last: float = 0.5, **changes) -> dict:
    """Make a record with this accuracy everywhere, and `last` after the last epoch."""
    made = record(name, seed, **changes)
    for measured in made["metrics"].values():
        measured |= {way: proportion_ci(round(accuracy * N), N) for way in ("accuracy", "floor", "ceiling")}
    made["history"] = [made["history"][0] | {"train_accuracy": last, "val_accuracy": last}]
    return made


def judge(start: str, *records: dict) -> tuple[str, str]:
    """Return what was measured, and the verdict."""
    (row,) = (row for row in judged(records) if row["claim"].startswith(start))
    return row["measured"], row["verdict"]


def test_the_interval_of_a_difference_is_newcombes():
    """Newcombe (1998), example (a): 56 of 70 against 48 of 80, difference 0.2, interval 0.0524 to 0.3339."""
    assert above(proportion_ci(56, 70), proportion_ci(48, 80)) == ("80.0 against 60.0 %", True)
    assert above(proportion_ci(48, 80), proportion_ci(56, 70))[1] is False
    assert above(proportion_ci(54, 80), proportion_ci(48, 80))[1] is None


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([(0.2, 0.1)], "holds (one seed)"),
        ([(0.1, 0.2)], "does not hold (one seed)"),
        ([(0.2, 0.201)], "undecided (one seed)"),
        ([(0.2, 0.1), (0.3, 0.1), (0.1, 0.2)], "holds (2 of 3 seeds), does not hold (1 of 3 seeds)"),
    ],
)
def test_two_experiments_are_compared_seed_by_seed(accuracies, expected):
    records = [run(PLAIN, 0.9, seed=99), run(ATTENTION, 0.9, seed=0, epochs=1)]  # no partner; shortened
    for seed, (one, other) in enumerate(accuracies):
        records += [run(ATTENTION, one, seed), run(PLAIN, other, seed)]
    assert judge("Attention beats more", *records)[1] == expected


def test_claims_of_last_epochs_and_of_pretrained_weights():
    assert judge("Pre-training") == ("no runs to compare", "not measured yet")
    records = [run(REGRESSOR, 0.1, last=0.3), run(CLASSIFIER, 0.2, last=0.15)]  # the best epochs say the opposite
    assert judge("Regression beats classification on", *records) == ("seed 0: 30.0 against 15.0 %", "holds (one seed)")
    pretrained = run(RESNET, 0.8) | {"weights": "IMAGENET1K_V1"}
    assert judge("Pre-training", pretrained, run(RESNET, 0.1, 1, weights=None, epochs=1))[1] == "not measured yet"
    assert judge("Pre-training", pretrained, run(RESNET, 0.1, 1, weights=None))[1] == "holds (one seed)"


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([(3.0, 2.0), (2.0, 1.0), (1.0, 1.5)], "holds (one system)"),
        ([(3.0, 2.0), (2.0, 1.0), (1.0, 1.05)], "does not hold (one system)"),  # within noise
        ([(3.0, 2.0), (2.0, 1.0), (2.5, 1.5)], "does not hold (one system)"),  # diverged, not overfitted
        ([(3.0, 2.0), (2.0, 1.5), (1.0, 1.0)], "undecided (one system)"),  # still falling at the end
    ],
)
def test_overfitting_is_a_validation_loss_that_rises_while_the_training_loss_falls(losses, expected):
    made = run(CLASSIFIER)
    row = made["history"][0]
    made["history"] = [row | {"epoch": k, "train_loss": t, "val_loss": v} for k, (t, v) in enumerate(losses, start=1)]
    assert judge("More epochs", made)[1] == expected


@pytest.mark.parametrize(("way", "expected"), [("floor", "holds"), ("ceiling", "holds"), ("accuracy", "does not hold")])
def test_rounding_is_held_against_the_better_of_floor_and_ceiling(way, expected):
    made, other = run(DROPOUT, 0.1), run(DROPOUT, 0.1, seed=1)
    made["metrics"]["val"][way] = proportion_ci(900, N)
    assert judge("Rounding", made)[1] == f"{expected} (one system)"
    assert judge("Rounding", made, other)[1] == "undecided (one system)", "its seeds disagree"


def test_memorising_and_repeated_glyphs():
    memorised = run(CLASSIFIER)
    memorised["history"][0]["train_accuracy"] = 0.98
    verdict = judge("The classifier memorises", memorised, run(CLASSIFIER, seed=1))[1]
    assert verdict == "holds (1 of 2 seeds), undecided (1 of 2 seeds)"
    flattered = run(REGRESSOR)
    flattered["metrics"]["unseen"]["accuracy"] = proportion_ci(1_000, N)
    verdict = judge("A split that repeats", flattered, run(ATTENTION))[1]
    assert verdict == "holds (1 of 2 systems), undecided (1 of 2 systems)"
