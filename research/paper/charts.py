"""Figures of the paper that the notebooks do not need, and the looks of the systems beyond the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from digitsum import plots
from digitsum.checkpoints import replacing

plots.LOOKS |= {
    "reader_small": ("#882255", "o"), "cnn3_dropout": (plots.BLUE, "s"), "cnn2_dropout": (plots.BLUE, "v"),
    "cnn2_linear": (plots.BLUE, "^"), "cnn_no_attention": (plots.ORANGE, "^"),
    "cnn_attention_several": (plots.BLACK, "s"), "cnn_attention_between": (plots.SKY, "v"),
    "vgg16_frozen": (plots.GREEN, "^"), "vit": (plots.GREEN, "s"), "ocr": (plots.ORANGE, "s"),
    "yolo": (plots.ORANGE, "D"), "oracle": (plots.BLACK, "D"), "most_common": (plots.BLACK, "o"),
}  # fmt: skip


@mpl.rc_context(plots.STYLE)
def labelled_digits(glyphs: np.ndarray, labels: np.ndarray, n: int = 24) -> Figure:
    """Draw the first `n` glyphs (G, 28, 28) of each label, a row for each of the ten digits."""
    side = glyphs.shape[1]
    sheet = np.zeros((10, side, n, side), np.uint8)
    for digit in range(10):
        first = glyphs[labels == digit][:n]
        sheet[digit, :, : len(first)] = first.transpose(1, 0, 2)
    figure, axes = plt.subplots(figsize=(plots.WIDTH, plots.WIDTH * 10 / n))
    axes.imshow(sheet.reshape(10 * side, n * side), cmap="gray", vmin=0, vmax=255)
    axes.set(xticks=[], yticks=side * (np.arange(10) + 0.5), yticklabels=range(10), ylabel="labelled")
    axes.tick_params(length=0)
    return plots.done(figure)


@mpl.rc_context(plots.STYLE)
def sum_probabilities(probabilities: np.ndarray, truth: np.ndarray) -> Figure:
    """Draw the probability of each sum (N, S), one panel per strip. The true sum (N,) is hatched."""
    figure, grid = plt.subplots(1, len(truth), figsize=(plots.WIDTH, 2.8), sharey=True)
    for axes, bars, total in zip(grid, probabilities, truth, strict=True):
        axes.bar(np.arange(len(bars)), bars, color=plots.PURPLE)
        axes.bar(total, bars[total], color=plots.PURPLE, hatch="///", edgecolor="black", label=f"truth: {total}")
        axes.set(xlabel="sum", xlim=(-0.7, len(bars) - 0.3), ylim=(0, 1.05))
        axes.legend(loc="upper left")
    grid[0].set_ylabel("probability")
    return plots.done(figure)


@mpl.rc_context(plots.STYLE)
def reliability(diagrams: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Draw how often sums are right over a reader's confidence, one panel per title, from rows of `reliability`.

    A point's size tells how many strips its bin holds. On the dashed line, confidence equals accuracy.
    """
    figure, grid = plots.panels(len(diagrams))
    for axes, (title, rows) in zip(grid, diagrams.items(), strict=True):
        confidence, accuracy, strips = np.transpose(rows)
        axes.plot([0, 1], [0, 1], color="0.4", linewidth=1, linestyle="--")
        axes.plot(confidence, accuracy, color=plots.PURPLE, linewidth=1)
        axes.scatter(confidence, accuracy, 8 + 150 * strips / strips.sum(), color=plots.PURPLE, zorder=3)
        axes.set(title=title, aspect="equal")
        axes.set(xlabel="probability of the sum", ylabel="right sums", xlim=(0, 1.03), ylim=(0, 1.03))
        _percent(axes)
    return plots.done(figure)


@mpl.rc_context(plots.STYLE)
def coverage(curve: Sequence[Sequence[float]]) -> Figure:
    """Draw accuracy over the proportion of strips with an answer, from pairs of the two."""
    figure, axes = plt.subplots(figsize=(plots.WIDTH * 0.6, 3.2))
    axes.plot(*np.transpose(curve), color=plots.PURPLE)
    axes.set(xlabel="strips with an answer, the most trusted first", ylabel="right sums", xlim=(0, 1.01))
    _percent(axes)
    return plots.done(figure)


def _percent(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda share, _: f"{100 * share:.4g}%")
    axes.grid(True)


def save(figure: Figure, path: Path, width: float, height: float) -> None:
    """Write a figure as PDF at a size in inches: the same bytes for the same figure."""
    figure.set_size_inches(width, height)
    figure.draw_without_rendering()  # the layout needs a second round after a change of size
    with replacing(path) as temporary, mpl.rc_context({"pdf.fonttype": 42}):  # searchable text
        figure.savefig(temporary, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
