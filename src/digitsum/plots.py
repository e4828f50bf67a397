"""Figures. Each function takes arrays or records and returns a Figure.

Colour and marker tell models apart, the same in every figure. A classifier's marker is hollow.
"""

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
    "figure.constrained_layout.use": True, "font.size": 11, "axes.titlesize": 11, "axes.spines.top": False,
    "axes.spines.right": False, "grid.color": "0.9", "legend.frameon": False, "image.cmap": "viridis_r",
    "lines.linewidth": 1.8,
}  # fmt: skip
WIDTH = 10.5  # inches: a notebook's column
# Okabe and Ito's palette without its yellow, which readers with any colour vision can tell apart
COLOURS = BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"
)  # fmt: skip
LOOKS = {  # the colour and the marker of the models; another name gets a triangle
    "baseline_cnn": (BLUE, "o"), "cnn_attention": (VERMILION, "o"), "resnet50": (GREEN, "o"), "reader": (PURPLE, "D"),
}  # fmt: skip
LOSSES = {
    "regression": "mean squared error",
    "classification": "cross-entropy (nats)",
    "sum_likelihood": "negative log-likelihood (nats)",
}


def samples(strips: Strips, n: int = 12) -> Figure:
    """Draw the first `n` strips with their sums."""
    return captioned(strips.images[:n], [f"sum {total}" for total in strips.sums[:n]])


@mpl.rc_context(STYLE)
def sum_distribution(sums: Mapping[str, np.ndarray]) -> Figure:
    """Draw how often each sum occurs in each split, and how often with four equally likely digits."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2))
    expected = np.polynomial.polynomial.polypow(np.full(10, 0.1), 4)
    axes.bar(np.arange(37), expected, color="0.85", width=0.9, label="four equally likely digits")
    axes.set_prop_cycle(color=COLOURS[:4], linestyle=["-", "--", "-.", ":"])
    for name, values in sums.items():
        axes.plot(np.bincount(values, minlength=37) / max(len(values), 1), label=f"{name} ({len(values):,} strips)")
    axes.set(xlabel="sum", ylabel="share of the strips", xlim=(-0.7, 36.7))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend()
    return done(figure)


@mpl.rc_context(STYLE)
def curves(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw loss and accuracy by epoch, one row of panels per objective, since their losses have no common unit."""
    objectives = list(dict.fromkeys(record["settings"]["objective"] for record in records))
    rows = max(len(objectives), 1)
    figure, grid = plt.subplots(rows, 2, figsize=(WIDTH, 3.6 * rows), squeeze=False)
    for record in records:
        name, history = record["experiment"], record["history"]
        pair = grid[objectives.index(record["settings"]["objective"])]
        for part, words, style, size in (("train", "training", "--", 2.5), ("val", "validation", "-", 4)):
            look: Any = look_of(name) | {"linestyle": style, "markevery": -(-len(history) // 8), "markersize": size}
            for axes, what in zip(pair, ("loss", "accuracy"), strict=True):
                values = [row[f"{part}_{what}"] for row in history]
                axes.plot([row["epoch"] for row in history], values, label=f"{name}, {words}", **look)
    for objective, (left, right) in zip(objectives, grid, strict=False):
        left.set(title=f"{objective.replace('_', ' ')}: loss", ylabel=LOSSES.get(objective, "loss"), yscale="log")
        left.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        left.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        left.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
        right.set(title=f"{objective.replace('_', ' ')}: accuracy", ylabel="right sums", ylim=(0, None))
        right.yaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 5, 10]))  # matplotlib's versions differ in theirs
        right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0 if right.get_ylim()[1] > 0.1 else 1))
        right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axes in grid.flat:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(True)
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
def confusion(values: Mapping[str, np.ndarray], truth: np.ndarray) -> Figure:
    """Draw how often each prediction (N,) occurs for each true sum (N,), a panel per experiment, and the means."""
    figure, grid = panels(len(values))
    edges, present = np.arange(38) - 0.5, np.unique(truth)
    norm = LogNorm(1, max(2, np.bincount(truth, minlength=37).max()))  # no cell holds more than its column
    for axes, (name, each) in zip(grid, values.items(), strict=False):
        axes.hist2d(truth, each.clip(-0.5, 36.5), bins=(edges, edges), norm=norm, cmin=1)
        axes.plot([0, 36], [0, 36], color="0.4", linewidth=1, linestyle="--", label="prediction = truth")
        axes.plot(present, [each[truth == s].mean() for s in present], "k", linewidth=1.2, label="mean prediction")
        axes.set(title=name, xlabel="true sum", ylabel="prediction", aspect="equal")
        axes.set(xticks=range(0, 37, 9), yticks=range(0, 37, 9), xlim=edges[[0, -1]], ylim=edges[[0, -1]])
    figure.colorbar(mpl.cm.ScalarMappable(norm), ax=list(grid), label="strips", shrink=0.7, format="%d")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return done(figure)


def strips_with_predictions(images: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> Figure:
    """Draw strips (N, 40, W) with predicted and true sums (N,). A wrong one has words and a frame."""
    pairs = zip(truth, predicted, strict=True)
    titles = [f"\N{CHECK MARK} {t}" if t == p else f"\N{BALLOT X} read {p}, is {t}" for t, p in pairs]
    return captioned(images, titles, (truth == predicted).tolist())


def worst_errors(images: np.ndarray, truth: np.ndarray, predicted: np.ndarray, n: int = 12) -> Figure:
    """Draw the `n` strips (N, 40, W) whose predicted sums (N,) are furthest from the true ones, furthest first."""
    worst = np.argsort(-np.abs(predicted - truth), kind="stable")[:n]
    return strips_with_predictions(images[worst], truth[worst], predicted[worst])


@mpl.rc_context(STYLE)
def captioned(images: Sequence[np.ndarray] | np.ndarray, titles: Sequence[str], right: Sequence[bool] = ()) -> Figure:
    """Draw strips (40, W) under their titles. Where `right` is false, the frame is thick and the title bold."""
    figure, grid = panels(len(images), height=1.25)
    for axes, image, title, ok in zip(grid, images, titles, right or [True] * len(images), strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontweight="normal" if ok else "bold", pad=4)
        axes.spines[:].set(visible=not ok, color=VERMILION, linewidth=3)
    return done(figure)


@mpl.rc_context(STYLE)
def reading(images: np.ndarray, symbols: np.ndarray, titles: Sequence[str]) -> Figure:
    """Draw strips (N, 40, W), and above each a reader's probabilities (N, T, 11) of every symbol in every column."""
    rows = max(-(-len(images) // 2), 1)
    figure, grid = plt.subplots(2 * rows, 2, figsize=(WIDTH, 2.5 * rows), height_ratios=[1.3, 1] * rows)
    for axes in grid.flat:
        axes.axis("off")
    pairs = grid.reshape(rows, 2, 2).swapaxes(1, 2).reshape(-1, 2)  # the upper and the lower panel of each strip
    for (top, bottom), image, seen, title in zip(pairs, images, symbols, titles, strict=False):
        top.imshow(seen[:, 1:].T, "Blues", vmin=0, vmax=1, aspect="auto", origin="lower", extent=(0, 1, -0.5, 9.5))
        top.axis("on")
        top.set(xticks=[], yticks=range(0, 10, 3), ylabel="digit", title=title)
        bottom.imshow(image, "gray", vmin=0, vmax=255, aspect="auto")
    figure.colorbar(mpl.cm.ScalarMappable(cmap="Blues"), ax=grid, label="probability in a column", shrink=0.4)
    return done(figure)


def panels(n: int, height: float = 3.3) -> tuple[Figure, np.ndarray]:
    """Make a figure of `n` panels in rows of three, each `height` inches high."""
    columns = min(max(n, 1), 3)
    rows = max(-(-n // columns), 1)
    figure, grid = plt.subplots(rows, columns, figsize=(WIDTH * (columns + 0.75) / 3.75, height * rows), squeeze=False)
    for axes in grid.flat[n:]:
        axes.axis("off")
    return figure, grid.ravel()


def look_of(experiment: str) -> dict[str, Any]:
    """Return colour and marker of an experiment, the same in every figure."""
    model, _, objective = experiment.partition("-")
    colour, marker = LOOKS.get(model, (COLOURS[zlib.crc32(model.encode()) % len(COLOURS)], "^"))
    face = "white" if objective.startswith("classification") else colour
    return {"color": colour, "marker": marker, "markerfacecolor": face}


def done(figure: Figure) -> Figure:
    """Take the figure out of pyplot's hands: a notebook then shows it once, as the value of its cell."""
    plt.close(figure)
    return figure
