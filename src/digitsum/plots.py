"""Figures. Each function takes arrays or dicts and returns a Figure.

Colour and marker tell models apart, the same in every figure. A classifier's marker is hollow.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter, StrMethodFormatter

from .compose import Strips

STYLE: Any = {
    "figure.dpi": 100, "figure.constrained_layout.use": True, "font.size": 11, "axes.titlesize": 11,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False, "grid.color": "0.9",
    "legend.frameon": False, "image.cmap": "viridis_r", "lines.linewidth": 1.8,
}  # fmt: skip
WIDTH = 10.5  # inches: a notebook's column
# Okabe and Ito's palette without its yellow, which readers with any colour vision can tell apart
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK = "#E69F00", "#56B4E9", "#000000"
LOOKS = {  # the colour and the marker of the models; another name gets those that its hash picks
    "baseline_cnn": (BLUE, "o"), "cnn_attention": (VERMILION, "o"), "resnet50": (GREEN, "o"), "reader": (PURPLE, "D"),
}  # fmt: skip
LOSSES = {
    "regression": "mean squared error",
    "classification": "cross-entropy (nats)",
    "sum_likelihood": "negative log-likelihood (nats)",
}
RARE = 10  # means are not drawn over fewer strips


@mpl.rc_context(STYLE)
def samples(strips: Strips, n: int = 12) -> Figure:
    """Draw the first `n` strips with their sums."""
    images = strips.images[:n]
    return _strips(images, [f"sum {total}" for total in strips.sums[:n]])


@mpl.rc_context(STYLE)
def sum_distribution(sums: Mapping[str, np.ndarray]) -> Figure:
    """Draw how often each sum occurs in each split, and how often with four equally likely digits."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2))
    expected = np.ones(1)
    for _ in range(4):
        expected = np.convolve(expected, np.full(10, 0.1))
    axes.bar(np.arange(37), expected, color="0.85", width=0.9, label="four equally likely digits")
    looks = zip((BLUE, VERMILION, GREEN, PURPLE), ("-", "--", "-.", ":"), strict=True)
    for (name, values), (colour, style) in zip(sums.items(), looks, strict=False):
        share = np.bincount(values, minlength=37) / max(len(values), 1)
        axes.plot(share, style, color=colour, label=f"{name} ({len(values):,} strips)")
    axes.set(xlabel="sum", ylabel="share of the strips", xlim=(-0.7, 36.7))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend()
    return done(figure)


@mpl.rc_context(STYLE)
def curves(histories: Mapping[str, Sequence[Mapping[str, float]]], objectives: Mapping[str, str]) -> Figure:
    """Draw loss and accuracy by epoch, one row of panels per objective, since their losses have no common unit.

    `histories` maps experiments to the rows of their runs, `objectives` maps them to their objectives.
    """
    rows = list(dict.fromkeys(objectives[name] for name in histories))
    figure, grid = plt.subplots(max(len(rows), 1), 2, figsize=(WIDTH, 3.6 * max(len(rows), 1)), squeeze=False)
    for objective, (left, right) in zip(rows, grid, strict=False):
        for name in (name for name in histories if objectives[name] == objective):
            history = histories[name]
            for part, words, style, size in (("train", "training", "--", 2.5), ("val", "validation", "-", 4)):
                look: Any = look_of(name) | {"linestyle": style, "markevery": -(-len(history) // 8), "markersize": size}
                for axes, what in ((left, "loss"), (right, "accuracy")):
                    values = [row[f"{part}_{what}"] for row in history]
                    axes.plot([row["epoch"] for row in history], values, label=f"{name}, {words}", **look)
        left.set_yscale("log")
        left.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        left.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        left.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
        left.set(title=f"{objective.replace('_', ' ')}: loss", ylabel=LOSSES.get(objective, "loss"))
        right.set(title=f"{objective.replace('_', ' ')}: accuracy", ylabel="right sums", ylim=(0, None))
        # Fixed, as each version of matplotlib would choose its own ticks.
        right.yaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 5, 10]))
        right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0 if right.get_ylim()[1] > 0.1 else 1))
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.grid(True)
        right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return done(figure)


@mpl.rc_context(STYLE)
def accuracies(entries: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw each experiment's accuracy with its 95 % interval, from entries {"value", "low", "high"}."""
    figure, axes = plt.subplots(figsize=(WIDTH, 0.8 + 0.42 * max(len(entries), 1)))
    for row, (name, entry) in enumerate(entries.items()):
        axes.plot([entry["low"], entry["high"]], [row, row], color=look_of(name)["color"], linewidth=3)
        axes.plot(entry["value"], row, **look_of(name), markersize=8)
        axes.annotate(f"{entry['value']:.1%}", (entry["high"], row), (10, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(entries)), list(entries))
    axes.set(xlabel="right sums, with 95 % intervals", xlim=(0, 1.1), ylim=(len(entries) - 0.4, -0.6))
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(True, axis="x")
    return done(figure)


@mpl.rc_context(STYLE)
def predicted_against_true(values: Mapping[str, np.ndarray], truth: np.ndarray) -> Figure:
    """Draw a histogram of real-valued predictions (N,) over true sums (N,) per experiment, and their means."""
    figure, grid = _heatmaps(values, truth, ylabel="prediction", transpose=True)
    n = np.bincount(truth, minlength=37)
    for axes, each in zip(grid, values.values(), strict=False):
        axes.plot([0, 36], [0, 36], color="0.4", linewidth=1, linestyle="--", label="prediction = truth")
        means = np.bincount(truth, each, minlength=37) / np.maximum(n, 1)
        axes.plot(np.where(n >= RARE, means, np.nan), color="black", linewidth=1.2, label="mean prediction")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return done(figure)


@mpl.rc_context(STYLE)
def confusion(sums: Mapping[str, np.ndarray], truth: np.ndarray) -> Figure:
    """Draw how often each true sum (down) is read as each sum (across) per experiment, in log colours."""
    figure, grid = _heatmaps(sums, truth, ylabel="true sum", transpose=False)
    for axes, (name, each) in zip(grid, sums.items(), strict=False):
        axes.set(title=f"{name}\n{np.mean(each == truth):.1%} on the diagonal", xlabel="predicted sum")
        axes.invert_yaxis()
    return done(figure)


def _heatmaps(
    predicted: Mapping[str, np.ndarray], truth: np.ndarray, ylabel: str, transpose: bool
) -> tuple[Figure, np.ndarray]:
    """Count pairs of true and predicted sums, one panel per experiment; transposed, true sums run across."""
    figure, grid = panels(len(predicted))
    edges = np.arange(38) - 0.5
    counts = [np.histogram2d(truth, np.clip(p, -0.5, 36.5), bins=(edges, edges))[0] for p in predicted.values()]
    norm = LogNorm(1, max([2, *(count.max() for count in counts)]))
    for axes, name, count in zip(grid, predicted, counts, strict=False):
        mesh = axes.pcolormesh(edges, edges, np.ma.masked_equal(count.T if transpose else count, 0), norm=norm)
        axes.set(title=name, xlabel="true sum", ylabel=ylabel, aspect="equal")
        axes.set(xticks=range(0, 37, 9), yticks=range(0, 37, 9))
    if counts:
        figure.colorbar(mesh, ax=list(grid), label="strips", shrink=0.7, format="%d")
    return figure, grid


@mpl.rc_context(STYLE)
def strips_with_predictions(images: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> Figure:
    """Draw strips (N, 40, W) with predicted and true sums (N,). A wrong one has words and a frame."""
    right = (truth == predicted).tolist()
    titles = [
        f"\N{CHECK MARK} {t}" if ok else f"\N{BALLOT X} read {p}, is {t}"
        for t, p, ok in zip(truth, predicted, right, strict=True)
    ]
    return _strips(images, titles, right)


@mpl.rc_context(STYLE)
def worst_errors(images: np.ndarray, truth: np.ndarray, predicted: np.ndarray, n: int = 12) -> Figure:
    """Draw the `n` strips (N, 40, W) whose predicted sums (N,) are furthest from the true ones, furthest first."""
    distance = np.abs(predicted - truth)
    worst = np.argsort(-distance, kind="stable")[: min(n, np.count_nonzero(distance))]
    titles = [f"read {p}, is {t} ({p - t:+d})" for t, p in zip(truth[worst], predicted[worst], strict=True)]
    return _strips(images[worst], titles) if len(worst) else _strips(images[:0], ["no errors"])


@mpl.rc_context(STYLE)
def captioned(images: np.ndarray, titles: Sequence[str]) -> Figure:
    """Draw strips (N, 40, W), each under its title."""
    return _strips(images, titles)


@mpl.rc_context(STYLE)
def reading(images: np.ndarray, symbols: np.ndarray, titles: Sequence[str]) -> Figure:
    """Draw what a reader sees: strips (N, 40, W), and above each the probability of every digit in every column.

    `symbols` (N, T, 11) are the probabilities of blank and of the digits 0..9 in the T columns.
    """
    columns = 2
    rows = max(-(-len(images) // columns), 1)
    figure, grid = plt.subplots(
        2 * rows, columns, figsize=(WIDTH, 2.5 * rows), squeeze=False, height_ratios=[1.3, 1] * rows
    )
    for axes in grid.flat:
        axes.axis("off")
    for k, (image, seen, title) in enumerate(zip(images, symbols, titles, strict=True)):
        top, bottom = grid[2 * (k // columns) : 2 * (k // columns) + 2, k % columns]
        extent = (0, image.shape[1], -0.5, 9.5)
        drawn = top.imshow(seen[:, 1:].T, vmin=0, vmax=1, aspect="auto", origin="lower", extent=extent, cmap="Blues")
        top.axis("on")
        top.set(xticks=[], yticks=range(0, 10, 3), ylabel="digit", title=title)
        bottom.imshow(image, cmap="gray", vmin=0, vmax=255, aspect="auto")
    if len(images):
        figure.colorbar(drawn, ax=grid, label="probability in a column", shrink=0.4, aspect=30)
    return done(figure)


def _strips(images: np.ndarray, titles: Sequence[str], right: Sequence[bool] | None = None) -> Figure:
    """Draw a grid of strips under their titles. A wrong one has a thick frame and a bold title."""
    right = right or [True] * len(titles)
    rows = max(-(-len(titles) // 3), 1)
    figure, grid = plt.subplots(rows, 3, figsize=(WIDTH, 1.25 * rows), squeeze=False)
    for axes in grid.flat[len(images) :]:
        axes.axis("off")
    for axes, title, ok in zip(grid.flat, titles, right, strict=False):
        axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontweight="normal" if ok else "bold", pad=4)
        axes.spines[:].set(visible=not ok, color=VERMILION, linewidth=3)
    for axes, image in zip(grid.flat, images, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    return done(figure)


def panels(n: int) -> tuple[Figure, np.ndarray]:
    """Make a figure of `n` panels in rows of three."""
    columns = min(max(n, 1), 3)
    rows = max(-(-n // columns), 1)
    figure, grid = plt.subplots(
        rows, columns, figsize=(WIDTH * (0.2 + 0.8 * columns / 3), 3.2 * rows + 0.3), squeeze=False
    )
    for axes in grid.flat[n:]:
        axes.axis("off")
    return figure, grid.ravel()


def look_of(experiment: str) -> dict[str, Any]:
    """Return colour and marker of an experiment, the same in every figure."""
    model, _, objective = experiment.partition("-")
    others = list(itertools.product((BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK), "^vs"))
    colour, marker = LOOKS.get(model) or others[zlib.crc32(model.encode()) % len(others)]
    face = "white" if objective.startswith("classification") else colour
    return {"color": colour, "marker": marker, "markerfacecolor": face}


def done(figure: Figure) -> Figure:
    """Take the figure out of pyplot's hands: a notebook then shows it once, as the value of its cell."""
    plt.close(figure)
    return figure
