"""Pictures of strips and of what the best reader sees in them, and the kinds of its errors."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from digitsum import plots
from digitsum.checkpoints import load_checkpoint
from digitsum.compose import WIDTH, Strips
from digitsum.data import Data, load_data, source_glyphs
from digitsum.evaluation import Predictions, predictions, sight
from digitsum.provenance import provenance

from ..studies.measurements import label_digits
from . import charts

EDGES = (5, 25, 50, 75, 95)  # percentiles
SURE = 0.9  # count wrong answers of a higher probability
SEEN, WRONG = 6, 12  # how many readings and errors are drawn
LABELLED = 1_000  # training strips, some of whose digits are drawn


def look(root: str | Path, checkpoint: Path, figures: Path) -> dict[str, Any]:
    """Read all `unseen` strips of MNIST in `root`; return a record, and draw strips, readings and errors.

    The record counts the reader's errors by kind and holds the statistics of the generator.
    """
    data, model = load_data("mnist", root), load_checkpoint(checkpoint)
    strips, first = data.unseen, data.train[:LABELLED]
    assert strips is not None and strips.digits is not None and model.stride is not None
    read = predictions(model, strips.images)
    probability, readings = np.exp(read.log_p), read.readings
    counts, surest = errors(read, strips)
    seen = [f"{' + '.join(map(str, r.digits))} = {sum(r.digits)}, {r.probability:.1%}" for r in readings[:SEEN]]
    wrong = [
        f"{''.join(map(str, strips.digits[k]))} read as {''.join(map(str, readings[k].digits))}"
        f" ({probability[k].max():.0%})"
        for k in surest[:WRONG]
    ]
    sureness = [reading.probability for reading in readings]
    extremes = np.array([np.argmax(sureness), np.argmin(sureness)])
    glyphs, labels, _ = label_digits(first, predictions(model, first.images).readings, model.stride)
    charts.save(plots.samples(strips), figures / "strips.pdf", 9, 3.8)
    sights = plots.reading(strips.images[:SEEN], sight(model, strips.images[:SEEN]), seen)
    charts.save(sights, figures / "reading.pdf", 9, 5.6)
    charts.save(charts.sum_probabilities(probability[extremes], strips.sums[extremes]), figures / "sums.pdf", 8, 2)
    charts.save(charts.labelled_digits(glyphs, labels), figures / "digits.pdf", 9, 3.75)
    charts.save(plots.captioned(strips.images[surest[:WRONG]], wrong), figures / "errors.pdf", 9, 3.8)
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
    pairs: Counter[tuple[int, int]] = Counter()
    for k in wrong:
        differ = [(int(t), d) for t, d in zip(strips.digits[k], read.readings[k].digits, strict=True) if t != d]
        pairs.update(differ if len(differ) == 1 else [])
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
