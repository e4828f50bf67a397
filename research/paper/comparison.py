"""Paired comparisons of the published runs, from the answers on record: neighbours in the ranking, strip by strip."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse, stats

from digitsum.checkpoints import write_json
from digitsum.data import Data
from digitsum.errors import RecordError
from digitsum.evaluation import Predictions, mean_ci, unpack
from digitsum.provenance import provenance

from .published import load_records
from .records import SOURCE, best_seed, one_row_each, ranking


def compare(data: Data, *, results: str | Path = "results") -> dict[str, Any]:
    """Compare the best seed of each experiment with the next best on the last split; write and return the record."""
    split, strips = list(data.splits.items())[-1]
    records = load_records(results)
    systems, rows = ranking(records), one_row_each(records)
    if not systems or strips.glyphs is None or records[0]["data"]["fingerprint"] != data.fingerprint:
        raise RecordError(f"{results}/{SOURCE} holds no records to compare on these strips. Train some.")
    names = [system["experiment"] for system in systems]
    answers = {name: unpack(best_seed(rows[name])["answers"]) for name in names}
    record = {
        "split": split, "data": {"fingerprint": data.fingerprint}, "systems": systems,
        "pairs": [{"better": a, "next": b} | pair(answers[a], answers[b], strips.sums) for a, b in pairwise(names)],
        "design_effect": {n: design_effect(read.sums == strips.sums, strips.glyphs) for n, read in answers.items()},
    } | provenance(torch.device("cpu"))  # fmt: skip
    write_json(record, Path(results, SOURCE, "comparison.json"))
    return record


def pair(first: Predictions, second: Predictions, truth: np.ndarray) -> dict[str, Any]:
    """Compare two systems on the same strips: the sums that only one reads right, and the difference of their MAE.

    `p` is McNemar's exact test. Source: Dietterich, "Approximate statistical tests for comparing supervised
    classification learning algorithms".
    """
    only_first = int(((first.sums == truth) & (second.sums != truth)).sum())
    only_second = int(((second.sums == truth) & (first.sums != truth)).sum())
    apart = only_first + only_second
    return {
        "only_better": only_first, "only_next": only_second,
        "p": float(stats.binomtest(only_first, apart).pvalue) if apart else 1.0,
        "mae": mean_ci(np.abs(first.values - truth) - np.abs(second.values - truth)),
    }  # fmt: skip


def design_effect(values: np.ndarray, glyphs: np.ndarray) -> float:
    """Return how many times larger the variance of a mean over strips is than if no two shared a glyph.

    Its square root is how much wider an interval is for other handwriting. Shapes: values (N,), glyphs (N, K).
    Source: Aronow, Samii and Assenova, "Cluster-robust variance estimation for dyadic data".
    """
    n, k = glyphs.shape
    holds = sparse.csr_array((np.ones(n * k), (np.repeat(np.arange(n), k), glyphs.ravel())))
    together = (holds @ holds.T > 0).astype(float)  # each strip with itself too
    deviations = values - values.mean()
    alone = float(deviations @ deviations)
    return max(0.0, float(deviations @ (together @ deviations))) / alone if alone else 1.0
