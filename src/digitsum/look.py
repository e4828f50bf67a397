"""Pictures of strips and of what the published reader sees in them, and the kinds of its errors."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from . import plots
from .checkpoints import load_checkpoint, read_metadata, replacing
from .compose import WIDTH, Strips
from .data import Data, load_data, mnist_glyphs
from .evaluation import Predictions, predictions, sight
from .pseudo_labels import label_digits
from .runs import circumstances, commit

SURE = 0.9  # wrong answers of a higher probability are counted
EDGES = (5, 25, 50, 75, 95)  # percentiles
SEEN, WRONG = 6, 12  # how many readings and errors are drawn
LABELLED = 1_000  # training strips of whose digits some are drawn


def look(root: Path, checkpoint: Path, figures: Path) -> dict[str, Any]:
    """Read all `unseen` strips of MNIST in `root` with the reader's weights; returns the record and draws pictures.

    Writes strips.pdf, reading.pdf, sums.pdf, digits.pdf and errors.pdf into the folder `figures`. The record holds the
    statistics of generated strips, and how many errors there are of what kind.
    """
    started = time.perf_counter()
    commit()
    data = load_data("mnist", root)
    model = load_checkpoint(checkpoint)
    strips = data.unseen
    assert strips is not None and strips.digits is not None and model.stride is not None
    read = predictions(model, strips.images)
    wrong = np.flatnonzero(np.not_equal(read.sums, strips.sums))
    certainty = sight(model, strips.images[wrong]).sums.max(axis=1)  # of the wrong answers
    sureness = np.array([reading.probability for reading in read.readings])

    sees = sight(model, strips.images[:SEEN])
    titles = [f"{' + '.join(map(str, r.digits))} = {sum(r.digits)}, {r.probability:.1%}" for r in read.readings[:SEEN]]
    extremes = np.array([sureness.argmax(), sureness.argmin()])
    save(plots.samples(strips), figures / "strips.pdf", 9, 3.8)
    save(plots.reading(strips.images[:SEEN], sees.symbols, titles), figures / "reading.pdf", 9, 5.6)
    save(plots.sum_probabilities(sight(model, strips.images[extremes]).sums, strips.sums[extremes]),
         figures / "sums.pdf", 8, 2)  # fmt: skip
    own = data.train[:LABELLED]
    found = label_digits(own, predictions(model, own.images).readings, model.stride)
    save(plots.labelled_digits(found.glyphs, found.labels), figures / "digits.pdf", 9)
    surest = np.argsort(-certainty, kind="stable")[:WRONG]
    titles = [
        f"{_string(strips.digits[wrong[k]])} read as {_string(read.readings[wrong[k]].digits)} ({certainty[k]:.0%})"
        for k in surest
    ]
    save(plots.captioned(strips.images[wrong[surest]], titles), figures / "errors.pdf", 9, 3.8)
    return {
        "experiment": model.metadata["experiment"],
        "source": data.source,
        "seed": model.metadata["seed"],
        "weights": read_metadata(checkpoint)["digest"],
        "generator": _generator(root, data),
        "errors": errors(read, strips, certainty),
        "seconds": round(time.perf_counter() - started, 1),
    } | circumstances(data, torch.device("cpu"))  # fmt: skip


def save(figure: Figure, path: Path, width: float, height: float | None = None) -> None:
    """Write a figure as PDF, the same bytes for the same figure, at a size in inches; by default its proportions stay.

    The paper scales it to its column, so that a smaller width means larger letters. Letters stay letters (fonttype
    42): the paper can be searched.
    """
    old_width, old_height = figure.get_size_inches()
    figure.set_size_inches(width, height or old_height * width / old_width)
    figure.draw_without_rendering()  # the layout needs a second round after a change of size
    with replacing(path) as temporary, plots.mpl.rc_context({"pdf.fonttype": 42}):
        figure.savefig(temporary, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})


def errors(read: Predictions, strips: Strips, certainty: np.ndarray) -> dict[str, Any]:
    """Of what kind the errors are: how many there are, how many misread a single digit, and which digit as which.

    `certainty` is the probability of each wrong answer, in their order.
    """
    assert strips.digits is not None
    wrong = np.flatnonzero(read.sums != strips.sums)
    pairs: dict[tuple[int, int], int] = {}
    for k in wrong:
        differ = [(int(t), d) for t, d in zip(strips.digits[k], read.readings[k].digits, strict=True) if t != d]
        if len(differ) == 1:
            pairs[differ[0]] = pairs.get(differ[0], 0) + 1
    frequent = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    return {
        "n": len(wrong),
        "one_digit": sum(pairs.values()),
        "pairs": [[true, digit, count] for (true, digit), count in frequent],
        "sure": int((certainty > SURE).sum()),
        "sure_above": SURE,
    }


def _generator(root: Path, data: Data) -> dict[str, Any]:
    """The statistics by which the course's images are known, of all strips of MNIST's training digits."""
    drawn, _ = mnist_glyphs(root, download=False)
    parts = [data.train, data.val, data.test]
    images, sums = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "sums"))
    ink = images > 0
    columns, rows = np.asarray(ink.any(axis=1)), np.asarray(ink.any(axis=2))
    inks = drawn.sum(axis=(1, 2), dtype=np.int64)
    whole = sum(int(inks[part.glyphs].sum()) for part in parts)
    mean = float(images.mean())
    edges = {
        "left edge": columns.argmax(axis=1),
        "right edge": WIDTH - 1 - columns[:, ::-1].argmax(axis=1),
        "top edge": rows.argmax(axis=1),
    }
    return {
        "n": len(sums),
        "pixel mean": mean,
        "pixel standard deviation": math.sqrt(np.square(images, dtype=np.uint16).mean() - mean**2),
        "ink lost to overlap": 1 - int(images.sum(dtype=np.int64)) / whole,
        "mean of the sums": float(sums.mean()),
        "variance of the sums": float(sums.var()),
    } | {name: [round(float(p)) for p in np.percentile(edge, EDGES)] for name, edge in edges.items()}


def _string(digits: Any) -> str:
    return "".join(str(int(digit)) for digit in digits)
