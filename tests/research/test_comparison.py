"""Paired comparisons: the tests against their definitions, and the record on a handful of strips."""

from __future__ import annotations

import json
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tables import keep, record, rows_of

from digitsum.errors import RecordError
from digitsum.evaluation import Predictions, pack
from research.paper.comparison import compare, design_effect, pair
from research.paper.published import load_comparison, load_records, published_tables

NAMES = ("reader", "oracle-digit_labels", "most_common")  # the first is the best


def predicted(sums) -> Predictions:
    return Predictions(np.asarray(sums, float), np.asarray(sums))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
@settings(deadline=None, max_examples=50)
def test_mcnemar_is_the_two_sided_binomial_test_of_the_strips_that_only_one_reads(pairs):
    truth = np.full(len(pairs), 18)
    first, second = (predicted([18 if right else 20 for right in side]) for side in zip(*pairs, strict=True))
    found = pair(first, second, truth)
    b, c = pairs.count((True, False)), pairs.count((False, True))
    assert (found["only_better"], found["only_next"]) == (b, c)
    tail = sum(comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert found["p"] == pytest.approx(min(1.0, 2 * tail))
    assert found["mae"]["value"] == pytest.approx(2 * (c - b) / len(pairs))


def test_design_effect_is_that_of_clusters_of_strips():
    """Without a shared glyph it is 1. If groups of 5 share all glyphs and are right together, it is 5."""
    right = np.arange(40) % 2 == 0
    assert design_effect(right, np.arange(160).reshape(40, 4)) == pytest.approx(1)
    assert design_effect(right.repeat(5), np.arange(160).reshape(40, 4).repeat(5, axis=0)) == pytest.approx(5)
    assert design_effect(np.ones(40), np.zeros((40, 4), int)) == 1, "all right"


def answered(tiny, name: str, seed: int, wrong: int, validation: float = 0.5, **changes) -> dict:
    """Make the record of a run that errs by 1 on the first `wrong` unseen strips."""
    sums = tiny.unseen.sums + (np.arange(len(tiny.unseen)) < wrong) * np.where(tiny.unseen.sums, -1, 1)
    made = record(name, seed, accuracy=1 - wrong / len(sums), **changes) | {"answers": pack(predicted(sums))}
    made["metrics"]["val"]["accuracy"]["value"] = validation
    made["data"] = {"fingerprint": tiny.fingerprint, "seed": 0, "strips": {k: len(s) for k, s in tiny.splits.items()}}
    return made


@pytest.fixture
def results(tiny, tmp_path):
    """Write records of three systems, one of them with a better and a worse seed, and two that are not compared."""
    runs = [answered(tiny, name, 0, 2 * k) for k, name in enumerate(NAMES)]
    runs += [
        answered(tiny, NAMES[0], 1, 9, validation=0.4),
        answered(tiny, "resnet50_imagenet-classification", 0, 1, epochs=1),
    ]
    runs += [answered(tiny, "ocr", 0, 1)]
    del runs[-1]["answers"]
    return keep(tmp_path, *runs)


def test_neighbours_in_the_ranking_are_compared(results, tiny):
    assert load_comparison(results, load_records(results)) is None
    found = compare(tiny, results=results)
    assert [(each["experiment"], each["seed"]) for each in found["systems"]] == [(name, 0) for name in NAMES]
    counted = [(each["better"], each["next"], each["only_better"], each["only_next"]) for each in found["pairs"]]
    assert counted == [(NAMES[0], NAMES[1], 2, 0), (NAMES[1], NAMES[2], 2, 0)]
    assert found["pairs"][0]["mae"]["value"] == pytest.approx(-2 / len(tiny.unseen))
    assert found["design_effect"].keys() == set(NAMES)
    loaded = load_comparison(results, load_records(results))
    assert loaded == json.loads(json.dumps(found))
    row = rows_of(published_tables(results)["comparison"])[0]
    assert row[0] == "`reader`" and row[3:6] == ["`oracle-digit_labels`", "2", "0"]


def test_without_records_on_these_strips_there_is_nothing_to_compare(results, tiny):
    for strips, folder in ((tiny.head(8), results), (tiny, results / "nowhere")):
        with pytest.raises(RecordError, match="no records to compare"):
            compare(strips, results=folder)


@pytest.mark.parametrize(("more", "change"), [
    (("reader", 2, 0, 0.9), {}),  # a better seed
    (("reader_small", 0, 3), {}),
    (None, {"pairs": []}),
    (None, {"systems": None}),
    (None, {"design_effect": {}}),
])  # fmt: skip
def test_a_comparison_of_other_runs_than_those_on_record_is_refused(more, change, results, tiny):
    path, records = results / "mnist" / "comparison.json", load_records(results)
    path.write_text(json.dumps(compare(tiny, results=results) | change))
    if more:
        records.append(answered(tiny, *more))
    with pytest.raises(RecordError, match="comparison.json .* research compare"):
        load_comparison(results, records)
