"""Every figure is a Figure, is drawn without a warning and can be saved, at the edges too."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import CORE, ENVIRONMENT
from matplotlib.figure import Figure

from digitsum import plots
from digitsum.compose import Strips
from digitsum.data import Data
from digitsum.experiments import EXPERIMENTS

NAMES = [*CORE, "unheard_of-regression"]
OBJECTIVES = {name: EXPERIMENTS[name].objective for name in CORE} | {"unheard_of-regression": "regression"}
rng = np.random.default_rng(0)


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
    check(plots.captioned(strips.images[:2], ["one", "two"]))


def test_sum_distribution(strips):
    check(plots.sum_distribution({"train": strips.sums, "val": strips.sums[:1], "test": strips.sums[:0]}))


@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_curves(epochs):
    """Squared errors and cross-entropies never share an axis; training is dashed, in the colour of validation."""
    figure = plots.curves({name: history(epochs + k) for k, name in enumerate(NAMES)}, OBJECTIVES)
    check(figure)
    assert len(figure.axes) == 2 * len(set(OBJECTIVES.values()))
    assert all(axes.get_ylabel() for axes in figure.axes)
    train, val = figure.axes[0].get_lines()[:2]
    assert (train.get_linestyle(), val.get_linestyle()) == ("--", "-") and train.get_color() == val.get_color()
    check(plots.curves({}, {}))


@pytest.mark.parametrize("panels", [0, 1, 4])
def test_predictions_against_true_sums(strips, panels):
    names = NAMES[:panels]
    check(plots.accuracies({name: {"value": 1.0, "low": 0.4, "high": 1.0} for name in names}))
    values = plots.predicted_against_true({name: strips.sums * 1.3 - 5 for name in names}, strips.sums)  # some outside
    confused = plots.confusion(dict.fromkeys(names, np.minimum(strips.sums + 1, 36)), strips.sums)
    for figure in (values, confused):
        check(figure)
        assert len(titles(figure)) == panels and all(map(str.startswith, titles(figure), names))
    check(plots.confusion(dict.fromkeys(names, strips.sums[:0]), strips.sums[:0]) if not panels else confused)


def test_strips_with_predictions_tell_right_from_wrong_without_colour(strips):
    truth = strips.sums[:4]
    figure = plots.strips_with_predictions(strips.images[:4], truth, truth + [0, 1, 0, 0])
    check(figure)
    assert str(truth[0]) in titles(figure)[0] and f"{truth[1] + 1}" in titles(figure)[1]
    assert titles(figure)[0].split()[0] != titles(figure)[1].split()[0], "a sign of its own"
    check(plots.strips_with_predictions(strips.images[:0], truth[:0], truth[:0]))


def test_worst_errors_come_first(strips):
    predicted = strips.sums.copy()
    predicted[[3, 5, 9]] += [1, -9, 4]
    figure = plots.worst_errors(strips.images, strips.sums, predicted, n=2)
    check(figure)
    assert ["-9" in titles(figure)[0], "+4" in titles(figure)[1]] == [True, True]
    check(plots.worst_errors(strips.images, strips.sums, strips.sums))


@pytest.mark.parametrize("n", [0, 1, 3])
def test_reading(strips, n):
    symbols = rng.dirichlet(np.ones(11), size=(n, 42))
    check(plots.reading(strips.images[:n], symbols, [f"strip {k}" for k in range(n)]))


def test_no_two_experiments_look_the_same_and_each_does_so_every_time():
    looks = [plots.look_of(name) for name in CORE]
    assert all(looks.count(look) == 1 for look in looks)
    models = {EXPERIMENTS[name].model: look["color"] for name, look in zip(CORE, looks, strict=True)}
    assert len(set(models.values())) == len(models), "a colour for each model"
    assert plots.look_of("unheard_of-regression") == plots.look_of("unheard_of-regression")


def test_plots_know_no_torch():
    check = "import sys, digitsum.plots; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], env=ENVIRONMENT, check=True)
