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
from digitsum.experiments import EXPERIMENTS

NAMES = [*CORE[:3], "unheard_of-regression"]
OBJECTIVES = {name: EXPERIMENTS[name].objective for name in CORE} | {"unheard_of-regression": "regression"}


def history(epochs: int) -> list[dict[str, float]]:
    keys = ("epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy")
    return [dict(zip(keys, (k, 50 / k, 60 / k, 1 - 1 / k, 0.9 - 0.9 / k), strict=True)) for k in range(1, epochs + 1)]


FIGURES = {  # each of strips (their number is drawn) and names of experiments
    "samples": lambda strips, names: plots.samples(strips, 5),
    "captioned": lambda strips, names: plots.captioned(
        strips.images[:7], [f"strip {k}" for k in range(7)][: len(strips)]
    ),
    "sum_distribution": lambda strips, names: plots.sum_distribution({"train": strips.sums, "val": strips.sums[:1]}),
    "curves": lambda strips, names: plots.curves(
        {name: history(len(strips) or 1) for name in names}, {name: OBJECTIVES[name] for name in names}
    ),
    "accuracies": lambda strips, names: plots.accuracies(
        {name: {"value": 1.0, "low": 0.4, "high": 1.0} for name in names}
    ),
    "predicted_against_true": lambda strips, names: plots.predicted_against_true(
        {name: strips.sums * 1.3 - 5 for name in names}, strips.sums
    ),
    "confusion": lambda strips, names: plots.confusion(dict.fromkeys(names, strips.sums), strips.sums),
    "strips_with_predictions": lambda strips, names: plots.strips_with_predictions(
        strips.images[:4], strips.sums[:4], strips.sums[:4] + np.array([0, 1, 0, 0])[: len(strips)]
    ),
    "worst_errors": lambda strips, names: plots.worst_errors(strips.images, strips.sums, strips.sums[::-1], 2),
    "reading": lambda strips, names: plots.reading(
        strips.images[:3], np.full((min(3, len(strips)), 42, 11), 1 / 11), ["a", "b", "c"][: len(strips)]
    ),
}


@pytest.mark.parametrize(("n", "panels"), [(0, 0), (1, 1), (30, 4)])
@pytest.mark.parametrize("figure", FIGURES)
def test_figures_are_drawn_without_a_warning(figure, n, panels, digits):
    """And pyplot no longer holds them: a notebook would show them twice."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn, png = FIGURES[figure](digits.test[:n], NAMES[:panels]), io.BytesIO()
        drawn.savefig(png, format="png")
    assert isinstance(drawn, Figure) and drawn.axes and not plt.get_fignums()
    assert png.getvalue().startswith(b"\x89PNG")


def test_right_and_wrong_differ_in_more_than_colour_and_the_worst_comes_first(digits):
    strips = digits.test[:4]
    figure = plots.strips_with_predictions(strips.images, strips.sums, strips.sums + [0, 1, 0, 0])
    right, wrong = (axes.get_title() for axes in figure.axes[:2])
    assert right[0] != wrong[0] and str(strips.sums[0]) in right and str(strips.sums[1] + 1) in wrong
    figure = plots.worst_errors(strips.images, strips.sums, strips.sums + [1, 0, -9, 4], n=2)
    assert ["-9" in figure.axes[0].get_title(), "+4" in figure.axes[1].get_title()] == [True, True]


def test_no_two_experiments_look_the_same_and_each_does_so_every_time():
    looks = [plots.look_of(name) for name in CORE]
    assert all(looks.count(look) == 1 for look in looks)
    assert plots.look_of("unheard_of-regression") == plots.look_of("unheard_of-regression")


def test_plots_know_no_torch():
    check = "import sys, digitsum.plots; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], env=ENVIRONMENT, check=True)
