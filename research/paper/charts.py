"""Figures of the paper that the notebooks do not need, and what the best reader sees in strips and reads wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from digitsum import plots
from digitsum.checkpoints import load_checkpoint, replacing
from digitsum.compose import WIDTH, Strips
from digitsum.data import Data, load_data, source_glyphs
from digitsum.evaluation import Predictions, predictions, sight
from digitsum.provenance import provenance

from ..studies.measurements import label_digits

EDGES = (5, 25, 50, 75, 95)  # percentiles
SURE = 0.9  # count wrong answers of a higher probability
SEEN, WRONG = 6, 12  # how many readings and errors are drawn
LABELLED = 1_000  # training strips, some of whose digits are drawn

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
    """Draw how often sums are right over a reader's confidence, one panel per title; larger points are more strips."""
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


def look(root: str | Path, checkpoint: Path, figures: Path) -> dict[str, Any]:
    """Read all `unseen` strips; draw strips, readings and errors, and return a record of errors and the generator."""
    data, model = load_data("mnist", root), load_checkpoint(checkpoint)
    strips, first = data.unseen, data.train[:LABELLED]
    assert strips is not None and strips.digits is not None and model.stride is not None
    read = predictions(model, strips.images)
    probability, readings = np.exp(read.log_p), read.readings
    counts, surest = errors(read, strips)
    wrong = [
        f"{''.join(map(str, strips.digits[k]))} read as {''.join(map(str, readings[k].digits))}"
        f" ({probability[k].max():.0%})"
        for k in surest[:WRONG]
    ]
    sureness = [reading.probability for reading in readings]
    extremes = np.array([np.argmax(sureness), np.argmin(sureness)])
    glyphs, labels, _ = label_digits(first, predictions(model, first.images).readings, model.stride)
    save(plots.samples(strips), figures / "strips.pdf", 9, 3.8)
    sights = plots.reading(strips.images[:SEEN], sight(model, strips.images[:SEEN]), list(map(str, readings[:SEEN])))
    save(sights, figures / "reading.pdf", 9, 5.6)
    save(sum_probabilities(probability[extremes], strips.sums[extremes]), figures / "sums.pdf", 8, 2)
    save(labelled_digits(glyphs, labels), figures / "digits.pdf", 9, 3.75)
    save(plots.captioned(strips.images[surest[:WRONG]], wrong), figures / "errors.pdf", 9, 3.8)
    return {
        "experiment": model.metadata["experiment"], "source": data.source, "seed": model.metadata["seed"],
        "weights": model.metadata["digest"], "generator": generator(root, data), "errors": counts,
        "data": {"fingerprint": data.fingerprint, "seed": data.seed},
    } | provenance(torch.device("cpu"))  # fmt: skip


def errors(read: Predictions, strips: Strips) -> tuple[dict[str, Any], np.ndarray]:
    """Count the errors, those that misread one digit, and those by pair; return also their rows, the surest first."""
    assert strips.digits is not None
    wrong = np.flatnonzero(read.sums != strips.sums)
    certainty = np.exp(read.log_p[wrong].max(axis=1))
    true = strips.digits[wrong]
    seen = np.array([read.readings[k].digits for k in wrong]).reshape(true.shape)
    single = (true != seen) & ((true != seen).sum(axis=1) == 1)[:, None]
    pairs = Counter(zip(true[single].tolist(), seen[single].tolist(), strict=True))
    counts = {
        "n": len(wrong), "one_digit": pairs.total(), "sure": int((certainty > SURE).sum()), "sure_above": SURE,
        "pairs": [[*pair, n] for pair, n in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))],
    }  # fmt: skip
    return counts, wrong[np.argsort(-certainty, kind="stable")]


def generator(root: str | Path, data: Data) -> dict[str, Any]:
    """Return, of all strips of training digits, the statistics that are known of the course's images."""
    (glyphs, _), _ = source_glyphs(data.source, root, data.seed)
    parts = [data.train, data.val, data.test]
    images, sums = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "sums"))
    columns, rows = (np.asarray((images > 0).any(axis=axis)) for axis in (1, 2))
    ink, mean = glyphs.sum(axis=(1, 2), dtype=np.int64), float(images.mean())
    edges = {
        "left edge": columns.argmax(axis=1), "right edge": WIDTH - 1 - columns[:, ::-1].argmax(axis=1),
        "top edge": rows.argmax(axis=1),
    }  # fmt: skip
    return {
        "n": len(sums), "pixel mean": mean,
        "pixel standard deviation": float((np.square(images, dtype=np.uint16).mean() - mean**2) ** 0.5),
        "ink lost to overlap": 1 - int(images.sum(dtype=np.int64)) / sum(int(ink[part.glyphs].sum()) for part in parts),
        "mean of the sums": float(sums.mean()), "variance of the sums": float(sums.var()),
    } | {name: [round(float(p)) for p in np.percentile(edge, EDGES)] for name, edge in edges.items()}  # fmt: skip
