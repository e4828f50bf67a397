"""Every figure is a Figure, is drawn without a warning and can be saved, at the edges too."""

import io
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import CORE, REPOSITORY

from digitsum import plots
from digitsum.runs import read_record

ENTRY = {"value": 1.0, "low": 0.4, "high": 1.0}
NAMES = [*CORE[:3], "unheard_of-regression"]
RECORDS = {name: read_record(REPOSITORY / "results" / "mnist" / f"{name}-seed0.json") for name in CORE[:3]}


def record(name: str, epochs: int) -> dict:
    known = RECORDS.get(name, RECORDS[CORE[0]])
    return known | {"experiment": name, "history": known["history"][:epochs]}


FIGURES = {  # each of images, sums, and names of experiments
    "captioned": lambda images, sums, names: plots.captioned(images[:7], [f"sum {each}" for each in sums[:7]]),
    "sum_distribution": lambda images, sums, names: plots.sum_distribution({"train": sums, "val": sums[:1]}),
    "curves": lambda images, sums, names: plots.curves([record(name, len(sums) or 1) for name in names]),
    "accuracies": lambda images, sums, names: plots.accuracies(dict.fromkeys(names, ENTRY)),
    "confusion": lambda images, sums, names: plots.confusion({name: sums * 1.3 - 5 for name in names}, sums),
    "worst_errors": lambda images, sums, names: plots.worst_errors(images, sums, sums[::-1], 2),
    "reading": lambda images, sums, names: plots.reading(images, np.full((len(images), 42, 11), 1 / 11), names),
}


@pytest.mark.parametrize(("n", "panels"), [(0, 0), (1, 1), (30, 4)])
@pytest.mark.parametrize("figure", FIGURES)
def test_figures_are_drawn_without_a_warning(figure, n, panels, digits):
    """And pyplot no longer holds them: a notebook would show them twice."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = FIGURES[figure](digits.test.images[:n], digits.test.sums[:n], NAMES[:panels])
        drawn.savefig(png := io.BytesIO(), format="png")
    assert drawn.axes and not plt.get_fignums() and png.getvalue().startswith(b"\x89PNG")


def test_right_and_wrong_differ_in_more_than_colour_and_the_worst_comes_first(digits):
    strips = digits.test[:4]
    figure = plots.strips_with_predictions(strips.images, strips.sums, strips.sums + [0, 1, 0, 0])
    right, wrong = (axes.get_title() for axes in figure.axes[:2])
    assert right[0] != wrong[0] and str(strips.sums[0]) in right and str(strips.sums[1] + 1) in wrong
    worst = plots.worst_errors(strips.images, strips.sums, strips.sums + [1, 0, -9, 4], n=2)
    for k, axes in zip((2, 3), worst.axes, strict=False):
        assert f"is {strips.sums[k]}" in axes.get_title()


def test_no_two_experiments_look_the_same_and_each_does_so_every_time():
    looks = [plots.look_of(name) for name in CORE]
    assert all(looks.count(look) == 1 for look in looks)
    assert plots.look_of("unheard_of-regression") == plots.look_of("unheard_of-regression")
