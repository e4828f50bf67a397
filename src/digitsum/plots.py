"""Figures from strips, histories and predictions: every function takes arrays or dicts and returns a Figure.

Colour and marker tell models apart, the same in every figure; a classifier's marker is hollow.
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
ORANGE, SKY, BLACK, WINE = "#E69F00", "#56B4E9", "#000000", "#882255"
LOOKS = {  # the colour and the marker of what a name begins with, up to its first "-"
    "baseline_cnn": (BLUE, "o"), "cnn_attention": (VERMILION, "o"), "resnet50": (GREEN, "o"), "reader": (PURPLE, "D"),
    "reader_small": (WINE, "o"),
    "cnn3_dropout": (BLUE, "s"), "cnn2_dropout": (BLUE, "v"), "cnn2_linear": (BLUE, "^"),
    "cnn_no_attention": (ORANGE, "^"), "cnn_attention_several": (BLACK, "s"), "cnn_attention_between": (SKY, "v"),
    "vgg16_frozen": (GREEN, "^"), "vit": (GREEN, "s"), "ocr": (ORANGE, "s"), "yolo": (ORANGE, "D"),
    "oracle": (BLACK, "D"), "most_common": (BLACK, "o"),
}  # fmt: skip
LOSSES = {
    "regression": "mean squared error",
    "classification": "cross-entropy (nats)",
    "sum_likelihood": "negative log-likelihood (nats)",
}
RARE = 10  # accuracies by sum are not drawn over fewer strips


@mpl.rc_context(STYLE)
def samples(strips: Strips, n: int = 12) -> Figure:
    """The first `n` strips with their sums."""
    images = strips.images[:n]
    return _strips(images, [f"sum {total}" for total in strips.sums[:n]], [None] * len(images))


@mpl.rc_context(STYLE)
def sum_distribution(sums: Mapping[str, np.ndarray]) -> Figure:
    """How often each sum occurs in each split, beside what four independent, equally likely digits would give."""
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
    return _done(figure)


@mpl.rc_context(STYLE)
def curves(
    histories: Mapping[str, Sequence[Mapping[str, float]]], objectives: Mapping[str, str] | None = None
) -> Figure:
    """Loss and accuracy by epoch, one row of panels per objective, as the losses of two objectives have no common unit.

    `histories` maps experiments to the rows of their runs; `objectives` maps them to their objectives, by default the
    last part of their names.
    """
    objectives = objectives or {name: _objective(name) for name in histories}
    rows = list(dict.fromkeys(objectives[name] for name in histories))
    figure, grid = plt.subplots(max(len(rows), 1), 2, figsize=(WIDTH, 3.6 * max(len(rows), 1)), squeeze=False)
    for objective, (left, right) in zip(rows, grid, strict=False):
        chosen = {name: history for name, history in histories.items() if objectives[name] == objective}
        for name, history in chosen.items():
            epochs = [row["epoch"] for row in history]
            for part, style, size in (("train", "--", 2.5), ("val", "-", 4)):  # a single epoch has no line
                look: Any = look_of(name) | {"linestyle": style, "markevery": -(-len(history) // 8), "markersize": size}
                label = f"{_model(name)}, {'validation' if part == 'val' else 'training'}"
                left.plot(epochs, [row[f"{part}_loss"] for row in history], label=label, **look)
                right.plot(epochs, [row[f"{part}_accuracy"] for row in history], **look)
        if all(row[f"{part}_loss"] > 0 for h in chosen.values() for row in h for part in ("train", "val")):
            left.set_yscale("log")
            left.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
            left.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            left.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
        left.set(title=f"{objective.replace('_', ' ')}: loss", ylabel=LOSSES.get(objective, "loss"))
        right.set(title=f"{objective.replace('_', ' ')}: accuracy", ylabel="right sums", ylim=(0, None))
        # Left to itself, the number of ticks is another with another matplotlib, and so is the text of report.pdf.
        right.yaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 5, 10]))
        right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0 if right.get_ylim()[1] > 0.1 else 1))
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.grid(True)
        right.legend(*left.get_legend_handles_labels(), loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _done(figure)


@mpl.rc_context(STYLE)
def accuracies(entries: Mapping[str, Mapping[str, float]]) -> Figure:
    """Each experiment's accuracy with its 95 % interval, from entries {"value", "low", "high"}."""
    figure, axes = plt.subplots(figsize=(WIDTH, 0.8 + 0.42 * max(len(entries), 1)))
    for row, (name, entry) in enumerate(entries.items()):
        axes.plot([entry["low"], entry["high"]], [row, row], color=colour_of(name), linewidth=3)
        axes.plot(entry["value"], row, **look_of(name), markersize=8)
        axes.annotate(f"{entry['value']:.1%}", (entry["high"], row), (10, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(entries)), list(entries))
    axes.set(xlabel="right sums, with 95 % intervals", xlim=(0, 1.1), ylim=(len(entries) - 0.4, -0.6))
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(True, axis="x")
    return _done(figure)


@mpl.rc_context(STYLE)
def predicted_against_true(values: Mapping[str, np.ndarray], truth: np.ndarray) -> Figure:
    """One panel per experiment: a histogram of real-valued predictions (N,) over true sums (N,), and their means."""
    figure, grid = _panels(len(values))
    edges = np.arange(38) - 0.5
    counts = [np.histogram2d(truth, np.clip(v, -0.5, 36.5), bins=(edges, edges))[0] for v in values.values()]
    norm = LogNorm(1, max(2, *(c.max() for c in counts))) if counts else None
    for axes, name, count in zip(grid, values, counts, strict=False):
        mesh = axes.pcolormesh(edges, edges, np.ma.masked_equal(count.T, 0), norm=norm)
        axes.plot([0, 36], [0, 36], color="0.4", linewidth=1, linestyle="--", label="prediction = truth")
        n = np.bincount(truth, minlength=37)
        means = np.bincount(truth, values[name], minlength=37) / np.maximum(n, 1)
        axes.plot(np.where(n >= RARE, means, np.nan), color="black", linewidth=1.2, label="mean prediction")
        axes.set(title=name, xlabel="true sum", ylabel="prediction", aspect="equal")
        axes.set(xticks=range(0, 37, 9), yticks=range(0, 37, 9), xlim=(-0.5, 36.5), ylim=(-0.5, 36.5))
    if counts:
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
        figure.colorbar(mesh, ax=list(grid), label="strips", shrink=0.7, format="%d")
    return _done(figure)


@mpl.rc_context(STYLE)
def confusion(matrices: Mapping[str, np.ndarray]) -> Figure:
    """One panel per experiment: counts (37, 37) of true sums (down) and predicted sums (across), in log colours."""
    figure, grid = _panels(len(matrices))
    norm = LogNorm(1, max(2, *(m.max() for m in matrices.values()))) if matrices else None
    for axes, (name, matrix) in zip(grid, matrices.items(), strict=False):
        drawn = axes.imshow(np.ma.masked_equal(matrix, 0), norm=norm, interpolation="nearest")
        right = np.trace(matrix) / max(matrix.sum(), 1)
        axes.set(title=f"{name}\n{right:.1%} on the diagonal", xlabel="predicted sum", ylabel="true sum")
        axes.set(xticks=range(0, 37, 9), yticks=range(0, 37, 9))
    if matrices:
        figure.colorbar(drawn, ax=list(grid), label="strips", shrink=0.7, format="%d")
    return _done(figure)


@mpl.rc_context(STYLE)
def accuracy_by_sum(accuracy: Mapping[str, np.ndarray], counts: np.ndarray) -> Figure:
    """Accuracy (37,) of each experiment over the true sum, above how often each sum occurs (37,).

    Accuracies over fewer than RARE strips are left out, as they say little.
    """
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(WIDTH, 5.2), sharex=True, height_ratios=(3, 1))
    for name, shares in accuracy.items():
        shown = np.where(counts >= RARE, shares, np.nan)
        top.plot(shown, **look_of(name), linestyle="--" if _is_hollow(name) else "-", markersize=5, label=name)
    top.set(ylabel="right sums", ylim=(-0.02, 1.02), title=f"sums that occur at least {RARE} times")
    top.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    top.grid(True)
    if accuracy:
        top.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    bottom.bar(np.arange(len(counts)), counts, color="0.6")
    bottom.set(xlabel="true sum", ylabel="strips", xlim=(-0.7, 36.7), xticks=range(0, 37, 4))
    return _done(figure)


@mpl.rc_context(STYLE)
def strips_with_predictions(images: np.ndarray, truth: np.ndarray | None, predicted: np.ndarray) -> Figure:
    """Strips (N, 40, W) with predicted and, where known, true sums (N,); a wrong one has words and a frame."""
    if truth is None:
        return _strips(images, [f"read as {p}" for p in predicted], [None] * len(images))
    right = [bool(t == p) for t, p in zip(truth, predicted, strict=True)]
    titles = [
        f"\N{CHECK MARK} {t}" if ok else f"\N{BALLOT X} read {p}, is {t}"
        for t, p, ok in zip(truth, predicted, right, strict=True)
    ]
    return _strips(images, titles, right)


@mpl.rc_context(STYLE)
def worst_errors(images: np.ndarray, truth: np.ndarray, predicted: np.ndarray, n: int = 12) -> Figure:
    """The `n` strips (N, 40, W) whose predicted sums (N,) are furthest from the true ones (N,), the furthest first."""
    distance = np.abs(predicted - truth)
    worst = np.argsort(-distance, kind="stable")[:n]
    worst = worst[distance[worst] > 0]
    if not len(worst):
        figure, axes = plt.subplots(figsize=(WIDTH, 1))
        axes.text(0.5, 0.5, f"no errors among {len(truth):,} strips", ha="center", va="center", size=13)
        axes.axis("off")
        return _done(figure)
    titles = [f"read {p}, is {t} ({p - t:+d})" for t, p in zip(truth[worst], predicted[worst], strict=True)]
    return _strips(images[worst], titles, [None] * len(worst))


@mpl.rc_context(STYLE)
def captioned(images: np.ndarray, titles: Sequence[str]) -> Figure:
    """Strips (N, 40, W), each under its title."""
    return _strips(images, titles, [None] * len(images))


@mpl.rc_context(STYLE)
def reading(images: np.ndarray, symbols: np.ndarray, titles: Sequence[str]) -> Figure:
    """What a reader sees: strips (N, 40, W), and above each the probability of every digit in every column.

    `symbols` (N, T, 11) are the probabilities of nothing and of the digits 0..9 in the T columns.
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
    return _done(figure)


@mpl.rc_context(STYLE)
def labelled_digits(glyphs: np.ndarray, labels: np.ndarray, n: int = 24) -> Figure:
    """The first `n` of the glyphs (G, 28, 28) with each label, a row for each of the ten digits."""
    side = glyphs.shape[1]
    sheet = np.zeros((10, side, n, side), np.uint8)
    for digit in range(10):
        first = glyphs[labels == digit][:n]
        sheet[digit, :, : len(first)] = first.transpose(1, 0, 2)
    figure, axes = plt.subplots(figsize=(WIDTH, WIDTH * 10 / n))
    axes.imshow(sheet.reshape(10 * side, n * side), cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks(side * (np.arange(10) + 0.5), labels=[str(digit) for digit in range(10)])
    axes.set_ylabel("labelled")
    axes.tick_params(length=0)
    return _done(figure)


@mpl.rc_context(STYLE)
def sum_probabilities(probabilities: np.ndarray, truth: np.ndarray) -> Figure:
    """One panel per strip: the probability of each sum (N, S); the true sum (N,) is hatched."""
    figure, grid = plt.subplots(1, max(len(truth), 1), figsize=(WIDTH, 2.8), squeeze=False, sharey=True)
    for axes, bars, total in zip(grid[0], probabilities, truth, strict=False):
        axes.bar(np.arange(len(bars)), bars, color=PURPLE)
        axes.bar(total, bars[total], color=PURPLE, hatch="///", edgecolor="black", label=f"truth: {total}")
        axes.set(xlabel="sum", xlim=(-0.7, len(bars) - 0.3), ylim=(0, 1.05))
        axes.legend(loc="upper left")
    grid[0, 0].set_ylabel("probability")
    return _done(figure)


@mpl.rc_context(STYLE)
def reliability(diagrams: Mapping[str, Any]) -> Figure:
    """How often sums are right over how sure the reader is of them, one panel per `calibration.Reliability`.

    A point's size tells how many strips its bin holds; on the dashed line confidence is what it says.
    """
    figure, grid = _panels(len(diagrams))
    for axes, (name, bins) in zip(grid, diagrams.items(), strict=False):
        axes.plot([0, 1], [0, 1], color="0.4", linewidth=1, linestyle="--")
        axes.plot(bins.confidence, bins.accuracy, color=PURPLE, linewidth=1)
        sizes = 8 + 150 * bins.strips / max(bins.strips.sum(), 1)
        axes.scatter(bins.confidence, bins.accuracy, sizes, color=PURPLE, zorder=3)
        axes.set(title=f"{name}\nexpected calibration error {bins.error:.2%}", aspect="equal")
        axes.set(xlabel="probability of the sum", ylabel="right sums", xlim=(0, 1.03), ylim=(0, 1.03))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(True)
    return _done(figure)


def _fine_percent(share: float, _: float) -> str:
    """A tick's label with only as many decimals as it needs."""
    return f"{100 * share:.4g}%"


@mpl.rc_context(STYLE)
def coverage(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Accuracy over the share of strips that get an answer, the most trusted first: (shares, accuracies) by name."""
    figure, axes = plt.subplots(figsize=(WIDTH * 0.6, 3.2))
    for name, (shares, accuracy) in curves.items():
        axes.plot(shares, accuracy, color=colour_of(name), label=f"{name}: {accuracy[-1]:.1%} of all")
    axes.set(xlabel="strips with an answer, the most trusted first", ylabel="right sums", xlim=(0, 1.01))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_fine_percent)
    axes.grid(True)
    if curves:
        axes.legend()
    return _done(figure)


@mpl.rc_context(STYLE)
def data_curve(accuracy: Mapping[int, Sequence[float]]) -> Figure:
    """Accuracy over the number of sums to learn from: a point per seed, a line through their means."""
    figure, axes = plt.subplots(figsize=(WIDTH * 0.6, 3.2))
    sizes = sorted(accuracy)
    for size in sizes:
        axes.scatter([size] * len(accuracy[size]), accuracy[size], 18, color=PURPLE, zorder=3)
    axes.plot(sizes, [np.mean(accuracy[size]) for size in sizes], color=PURPLE)
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
    axes.set_xticks([], minor=True)
    axes.set(xlabel="sums to learn from", ylabel="right sums")
    axes.yaxis.set_major_formatter(_fine_percent)
    axes.grid(True)
    return _done(figure)


@mpl.rc_context(STYLE)
def step_phases(machines: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Where a training step goes: a panel per machine, a bar per phase, stacked by group of operations, in seconds."""
    figure, grid = plt.subplots(1, max(len(machines), 1), figsize=(WIDTH, 3.6), squeeze=False)
    for axes, (machine, phases) in zip(grid[0], machines.items(), strict=False):
        below = np.zeros(len(phases))
        groups = next(iter(phases.values()))
        colours = plt.get_cmap("tab10").colors  # type: ignore[attr-defined]
        for group, colour in zip(groups, colours, strict=False):
            heights = np.array([1000 * phase[group] for phase in phases.values()])
            axes.bar(list(phases), heights, bottom=below, label=group, color=colour)
            below += heights
        axes.set(title=machine, ylabel="milliseconds a step")
        axes.grid(True, axis="y")
        axes.set_axisbelow(True)
    if machines:
        grid[0, -1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _done(figure)


def _strips(images: np.ndarray, titles: Sequence[str], right: Sequence[bool | None], columns: int = 3) -> Figure:
    """A grid of strips under their titles; a wrong one has a thick frame and a bold title."""
    rows = max(-(-len(images) // columns), 1)
    figure, grid = plt.subplots(rows, columns, figsize=(WIDTH, 1.25 * rows), squeeze=False)
    for axes in grid.flat[len(images) :]:
        axes.axis("off")
    for axes, image, title, ok in zip(grid.flat, images, titles, right, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontweight="bold" if ok is False else "normal", pad=4)
        axes.spines[:].set(visible=ok is False, color="#D55E00", linewidth=3)
    return _done(figure)


def _panels(n: int) -> tuple[Figure, np.ndarray]:
    columns = min(max(n, 1), 3)
    rows = max(-(-n // columns), 1)
    figure, grid = plt.subplots(
        rows, columns, figsize=(WIDTH * (0.2 + 0.8 * columns / 3), 3.2 * rows + 0.3), squeeze=False
    )
    for axes in grid.flat[n:]:
        axes.axis("off")
    return figure, grid.ravel()


def _model(experiment: str) -> str:
    return experiment.partition("-")[0]


def _objective(experiment: str) -> str:
    return experiment.partition(" ")[0].rpartition("-")[2]  # a word in brackets may follow the name


def colour_of(experiment: str) -> str:
    """The colour of the experiment's model, wherever and with whatever it is drawn."""
    return _look(experiment)[0]


def look_of(experiment: str) -> dict[str, Any]:
    """What an experiment's line or point is drawn with; no two of EXPERIMENTS look the same."""
    colour, marker = _look(experiment)
    face = "white" if _is_hollow(experiment) else colour
    return {"color": colour, "marker": marker, "markerfacecolor": face}


def _look(experiment: str) -> tuple[str, str]:
    model = _model(experiment)
    colours = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
    free = [look for look in itertools.product(colours, "o^vsD") if look not in LOOKS.values()]
    return LOOKS.get(model) or free[zlib.crc32(model.encode()) % len(free)]


def _is_hollow(experiment: str) -> bool:
    return _objective(experiment) == "classification"


def _done(figure: Figure) -> Figure:
    """The figure, taken out of pyplot's hands: a notebook then shows it once, as the value of its cell."""
    plt.close(figure)
    return figure
