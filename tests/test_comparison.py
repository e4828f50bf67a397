"""Paired comparisons: the tests against their definitions, the record on a handful of strips, its table."""

from __future__ import annotations

import json
from dataclasses import replace
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digitsum.__main__ import main
from digitsum.checkpoints import CheckpointError, save_checkpoint
from digitsum.comparison import FILE, compare, pair
from digitsum.evaluation import Predictions, metrics, read
from digitsum.experiments import EXPERIMENTS
from digitsum.records import TableError, load_comparison
from digitsum.tables import render
from digitsum.training import build

NAMES = ("baseline_cnn-classification", "cnn_attention-regression", "oracle-digit_labels")


def predicted(sums) -> Predictions:
    return Predictions(np.asarray(sums, float), np.asarray(sums))


hits = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60)


@given(hits)
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
    assert (
        found["mae"]["low"] <= found["mae"]["value"] + 1e-12 and found["mae"]["value"] <= found["mae"]["high"] + 1e-12
    )
    swapped = pair(second, first, truth)
    assert swapped["p"] == pytest.approx(found["p"]) and swapped["mae"]["value"] == -found["mae"]["value"]


def test_errors_are_compared_strip_by_strip():
    """Errors that differ much from strip to strip and always by 0.1 between two systems: the difference is certain."""
    truth, errors = np.zeros(200, int), np.linspace(1, 9, 200)
    first, second = Predictions(errors, truth), Predictions(errors + 0.1, truth)
    assert pair(first, second, truth)["mae"] == pytest.approx({"value": -0.1, "low": -0.1, "high": -0.1})


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """Untrained weights of three experiments as if they were published, one of them of other data, with records."""
    folder = tmp_path_factory.mktemp("comparison")
    for name in (*NAMES, "reader"):
        experiment = EXPERIMENTS[name]
        model, objective = build(experiment).eval(), experiment.objective
        validation = metrics(read(model, tiny.val), tiny.val.sums)
        save_checkpoint(
            model, folder / "models" / "digits" / f"{name}.safetensors", model=experiment.model,
            model_args=experiment.model_args, objective=objective, seed=4, weights="none", validation=validation,
            data=tiny.fingerprint if name in NAMES else "0" * 16,
        )  # fmt: skip
    (folder / "results" / "digits").mkdir(parents=True)
    (folder / "results" / "digits" / "ocr-seed0.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def comparison(folder, tiny):
    return compare(tiny, device="cpu", models=folder / "models", results=folder / "results")


def test_neighbours_in_the_ranking_are_compared(comparison, folder, tiny):
    assert json.loads((folder / "results" / "digits" / FILE).read_text()) == comparison
    assert (comparison["split"], comparison["n"], comparison["source"]) == ("unseen", 16, "digits")
    assert {system["experiment"] for system in comparison["systems"]} == set(NAMES)
    accuracies = [system["accuracy"] for system in comparison["systems"]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert comparison["left_out"] == {"reader": "trained on other data", "ocr": "its weights are not here"}
    ranking = [system["experiment"] for system in comparison["systems"]]
    assert [(each["better"], each["next"]) for each in comparison["pairs"]] == list(
        zip(ranking, ranking[1:], strict=False)
    )
    for each, better, other in zip(comparison["pairs"], accuracies, accuracies[1:], strict=False):
        assert each["only_better"] - each["only_next"] == pytest.approx(16 * (better - other))
    assert {"hardware", "versions", "commit", "date"} <= set(comparison)


def test_where_nothing_is_unseen_test_strips_are_read(folder, tiny, tmp_path):
    strips = tiny.splits["unseen"]
    data = replace(tiny, test=strips, unseen=None)
    data.__dict__["fingerprint"] = tiny.fingerprint  # as if the weights had been trained on this
    assert compare(data, device="cpu", models=folder / "models", results=tmp_path)["split"] == "test"


def test_without_weights_it_says_how_to_make_some(tiny, tmp_path):
    with pytest.raises(CheckpointError, match="python -m digitsum train"):
        compare(tiny, device="cpu", models=tmp_path, results=tmp_path / "results")
    assert not list(tmp_path.iterdir())


# The table


def records_of(comparison: dict) -> list[dict]:
    return [
        {
            "experiment": system["experiment"], "seed": system["seed"], "source": "mnist",
            "data": comparison["data"], "metrics": {"val": {"accuracy": {"value": system["validation"]}}},
        }
        for system in comparison["systems"]
    ]  # fmt: skip


@pytest.fixture
def published(comparison, tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / FILE).write_text(json.dumps(comparison))
    return tmp_path


def test_the_table_shows_every_pair(published, comparison):
    loaded = load_comparison(published, records_of(comparison))
    table, below = render([], loaded)["comparison"].split("\n\n")
    assert below == "Not compared: `reader`: trained on other data; `ocr`: its weights are not here."
    lines = table.splitlines()[2:]
    assert len(lines) == len(comparison["pairs"])
    for line, each in zip(lines, comparison["pairs"], strict=True):
        assert line.startswith(f"| `{each['better']}` | `{each['next']}` |")
        assert f"| {each['only_better']} | {each['only_next']} | {each['p']:.2g} |" in line
    assert "compare --source mnist" in render([], load_comparison(published / "nowhere", []))["comparison"]


@pytest.mark.parametrize("fault", ["other seed", "other weights", "other data", "cut", "a pair of none", "junk"])
def test_a_comparison_of_other_weights_than_the_records_is_refused(fault, published, comparison):
    records, path = records_of(comparison), published / "mnist" / FILE
    if fault == "other seed":
        records[0]["seed"] = 5
    elif fault == "other weights":
        records[0]["metrics"]["val"]["accuracy"]["value"] += 0.01
    elif fault == "other data":
        records[0]["data"] = {"fingerprint": "d" * 16}
    elif fault == "cut":
        path.write_text(json.dumps({key: value for key, value in comparison.items() if key != "pairs"}))
    elif fault == "a pair of none":
        path.write_text(json.dumps(comparison | {"pairs": [comparison["pairs"][0] | {"next": "dreamt"}]}))
    else:
        path.write_text("no JSON")
    with pytest.raises(TableError, match="compare --source mnist") as caught:
        load_comparison(published, records)
    assert str(path) in str(caught.value)


def test_the_command(folder, tiny, monkeypatch, capsys):
    monkeypatch.setattr("digitsum.__main__.load_data", lambda *_: tiny)
    options = ["--models", str(folder / "models"), "--results", str(folder / "other"), "--device", "cpu"]
    assert main(["compare", "--source", "digits", *options]) == 0
    said = capsys.readouterr().out
    assert all(f"{name} seed 4: " in said for name in NAMES) and "reader is left out: trained on other data" in said
    assert (folder / "other" / "digits" / FILE).exists()
