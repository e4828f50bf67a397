"""Every figure is a Figure, is drawn without a warning and can be saved, at the edges too."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from digitsum import calibration, plots
from digitsum.compose import Strips
from digitsum.data import Data
from digitsum.evaluation import accuracy_by_sum, confusion
from digitsum.experiments import CORE, EXPERIMENTS

NAMES = [*EXPERIMENTS, "another-sum_likelihood", "unheard_of-objective"]


@pytest.fixture(scope="module")
def strips(digits: Data) -> Strips:
    return digits.test[:200]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def check(figure: Figure) -> None:
    """It is drawn, it is not empty, and pyplot no longer holds it: a notebook would show it twice."""
    assert isinstance(figure, Figure)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    assert png.getvalue().startswith(b"\x89PNG")
    assert figure.axes and not plt.get_fignums()


rng = np.random.default_rng(0)


@pytest.mark.parametrize("n", [1, 500])
def test_reliability_and_coverage(n):
    confidence = rng.random(n)
    right = rng.random(n) < confidence
    bins = calibration.reliability(confidence, right)
    figure = plots.reliability({"as it is": bins, "at a temperature of 1.2": bins})
    check(figure)
    assert [f"{bins.error:.2%}" in title for title in titles(figure)] == [True, True]
    check(plots.coverage({"reader": calibration.coverage(confidence, right)}))
    check(plots.coverage({}))


@pytest.mark.parametrize("n", [0, 3, 300])
def test_labelled_digits_stand_in_the_rows_of_their_labels(n):
    labels = rng.integers(10, size=n)
    glyphs = np.repeat(20 * labels + 20, 28 * 28).reshape(n, 28, 28).astype(np.uint8)
    figure = plots.labelled_digits(glyphs, labels)
    sheet = figure.axes[0].images[0].get_array()
    for digit in range(10):
        held = np.bincount(labels, minlength=10)[digit]
        shades = np.unique(sheet[28 * digit : 28 * (digit + 1)])
        assert set(shades.tolist()) == ({20 * digit + 20} if held >= 24 else {0, 20 * digit + 20} if held else {0})
    check(figure)


@pytest.mark.parametrize("accuracy", [{500: [0.4, 0.5], 24_000: [0.97]}, {1_000: [0.5]}])
def test_data_curve(accuracy):
    figure = plots.data_curve(accuracy)
    check(figure)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [f"{n:,}" for n in sorted(accuracy)]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def history(epochs: int, loss: float = 50.0) -> list[dict[str, float]]:
    return [
        {
            "epoch": k, "train_loss": loss / k, "val_loss": loss / k**0.5,
            "train_accuracy": 1 - 1 / k, "val_accuracy": 1 - 1 / k**0.5,
        }
        for k in range(1, epochs + 1)
    ]  # fmt: skip


def test_samples_show_the_sums(strips):
    figure = plots.samples(strips, 5)
    check(figure)
    assert titles(figure) == [f"sum {total}" for total in strips.sums[:5]]


def test_sum_distribution(strips):
    check(plots.sum_distribution({"train": strips.sums, "val": strips.sums[:1], "test": strips.sums[:0]}))


@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_curves(epochs):
    figure = plots.curves({name: history(epochs + k) for k, name in enumerate(NAMES)})
    check(figure)
    objectives = {name.rpartition("-")[2] for name in NAMES}
    assert len(figure.axes) == 2 * len(objectives)  # squared errors and cross-entropies never share an axis
    assert all(axes.get_ylabel() for axes in figure.axes)


def test_curves_of_an_experiment_whose_name_does_not_tell_its_objective():
    figure = plots.curves({"reader": history(3)}, {"reader": "sum_likelihood"})
    check(figure)
    assert figure.axes[0].get_ylabel() == plots.LOSSES["sum_likelihood"]


def test_training_is_dashed_and_validation_solid():
    left = plots.curves({"baseline_cnn-regression": history(10)}).axes[0]
    train, val = left.get_lines()
    assert (train.get_linestyle(), val.get_linestyle()) == ("--", "-")
    assert train.get_color() == val.get_color()
    assert left.get_yscale() == "log"


def test_curves_of_a_loss_that_reaches_zero_are_linear():
    figure = plots.curves({"baseline_cnn-classification": history(3, loss=0.0)})
    check(figure)
    assert figure.axes[0].get_yscale() == "linear"


@pytest.mark.parametrize("empty", [plots.curves, plots.accuracies, plots.confusion])
def test_nothing_to_draw(empty):
    check(empty({}))


def test_accuracies():
    check(plots.accuracies({name: {"value": 1.0, "low": 0.4, "high": 1.0} for name in NAMES}))


@pytest.mark.parametrize("panels", [0, 1, 2, len(NAMES)])
def test_predicted_against_true(strips, panels):
    values = {name: strips.sums * 1.3 - 5 for name in NAMES[:panels]}  # some outside 0..36
    figure = plots.predicted_against_true(values, strips.sums)
    check(figure)
    assert titles(figure) == NAMES[:panels]


@pytest.mark.parametrize("error", [0, 1])
def test_confusion(strips, error):
    matrix = confusion(np.minimum(strips.sums + error, 36), strips.sums)
    figure = plots.confusion(dict.fromkeys(NAMES, matrix))
    check(figure)
    assert len(titles(figure)) == len(NAMES)
    assert ("100.0%" in titles(figure)[0]) == (error == 0)


def test_confusion_of_no_strips():
    check(plots.confusion({"baseline_cnn-regression": np.zeros((37, 37), int)}))


@pytest.mark.parametrize("n", [0, 1, 200])
def test_accuracy_by_sum(strips, n):
    truth = strips.sums[:n]
    shares, counts = accuracy_by_sum(truth, truth)
    check(plots.accuracy_by_sum(dict.fromkeys(NAMES, shares), counts))


def test_strips_with_predictions_tell_right_from_wrong_without_colour(strips):
    truth = strips.sums[:4]
    figure = plots.strips_with_predictions(strips.images[:4], truth, truth + [0, 1, 0, 0])
    check(figure)
    assert titles(figure)[0] == f"\N{CHECK MARK} {truth[0]}"
    assert titles(figure)[1] == f"\N{BALLOT X} read {truth[1] + 1}, is {truth[1]}"
    assert [axes.title.get_fontweight() for axes in figure.axes[:3]] == ["normal", "bold", "normal"]


@pytest.mark.parametrize("n", [0, 1, 7])
def test_strips_without_known_sums(strips, n):
    check(plots.strips_with_predictions(strips.images[:n], None, strips.sums[:n]))


def test_worst_errors_come_first(strips):
    predicted = strips.sums.copy()
    predicted[[3, 5, 9]] += [1, -9, 4]
    figure = plots.worst_errors(strips.images, strips.sums, predicted, n=2)
    check(figure)
    assert [title[-4:] for title in titles(figure)] == ["(-9)", "(+4)"]


def test_no_errors_at_all(strips):
    check(plots.worst_errors(strips.images, strips.sums, strips.sums))


def test_a_model_has_one_colour_and_every_model_of_the_notebooks_its_own():
    colours = {plots.colour_of(name) for name in CORE}
    assert len(colours) == len({EXPERIMENTS[name].model for name in CORE})
    assert plots.colour_of("unheard_of-regression") == plots.colour_of("unheard_of-classification")


def test_no_two_experiments_look_the_same():
    """Nor do a model's two objectives; a new one looks like none that is there, and every time the same."""
    looks = [plots.look_of(name) for name in EXPERIMENTS]
    assert all(looks.count(look) == 1 for look in looks)
    assert all(plots.look_of(f"{letter}-regression") not in looks for letter in "abcdefghij")
    assert plots.look_of("cnn-classification (quick)") == plots.look_of("cnn-classification")
    assert plots.look_of("unheard_of-regression") == plots.look_of("unheard_of-regression")


def test_experiments_that_are_drawn_over_one_another_differ_in_more_than_the_face_of_a_marker():
    same_objective = {(look["color"], look["marker"]) for look in map(plots.look_of, EXPERIMENTS)}
    assert len(same_objective) == len({name.partition("-")[0] for name in EXPERIMENTS})


def test_plots_know_no_torch():
    lines = [
        "import sys, types",
        "sys.modules['digitsum'] = package = types.ModuleType('digitsum')",
        "package.__path__ = sys.argv[1:]",  # without its __init__, which imports everything
        "import digitsum.plots",
        "assert 'torch' not in sys.modules",
    ]
    package = str(plots.__file__).rpartition("plots")[0]
    subprocess.run([sys.executable, "-c", "\n".join(lines), package], check=True)
