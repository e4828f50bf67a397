"""Paired comparisons: the tests against their definitions, the record on a handful of strips, its table."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from itertools import pairwise
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digitsum.__main__ import main
from digitsum.comparison import compare, pair
from digitsum.compose import Strips
from digitsum.evaluation import Predictions, widening
from digitsum.records import COMPARISON, TableError, load_comparison
from digitsum.runs import run_experiment
from digitsum.tables import render

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


@given(st.lists(st.tuples(st.floats(-5, 40, width=32), st.integers(0, 36)), max_size=20))
@settings(deadline=None, max_examples=50)
def test_answers_come_out_of_a_record_as_they_went_in(answers):
    values, sums = (np.array(column) for column in zip(*answers, strict=True)) if answers else (np.empty(0),) * 2
    found = Predictions.unpacked(json.loads(json.dumps(Predictions(values, sums).packed())))
    assert np.array_equal(found.values, values) and np.array_equal(found.sums, sums)
    assert found.values.dtype == np.float64 and found.sums.dtype == np.int64


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """The records of three experiments, each trained for an epoch, one of them with two seeds."""
    folder = tmp_path_factory.mktemp("comparison")
    for name, seed in [*((name, 4) for name in NAMES), (NAMES[0], 5)]:
        run_experiment(
            name, tiny, seed=seed, device="cpu", preset_name="full", changes={"epochs": 1}, progress=False,
            models=folder / "models", results=folder / "results",
        )  # fmt: skip
    for path in folder.glob("results/digits/*.json"):
        change(path, lambda record: record.update(changed={}))  # as if an epoch were all that its settings say
    return folder / "results"


@pytest.fixture
def results(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "results"))


@pytest.fixture
def comparison(results, tiny):
    return compare(tiny, results=results)


def change(path: Path, edit) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def record_of(results: Path, system: dict) -> Path:
    return results / "digits" / f"{system['experiment']}-seed{system['seed']}.json"


def test_neighbours_in_the_ranking_are_compared(comparison, results, tiny):
    assert json.loads((results / "digits" / COMPARISON).read_text()) == json.loads(json.dumps(comparison))
    assert (comparison["split"], comparison["n"], comparison["source"]) == ("unseen", 16, "digits")
    assert {system["experiment"] for system in comparison["systems"]} == set(NAMES)
    accuracies = [system["accuracy"] for system in comparison["systems"]]
    assert accuracies == sorted(accuracies, reverse=True) and comparison["left_out"] == {}
    ranking = [system["experiment"] for system in comparison["systems"]]
    assert [(each["better"], each["next"]) for each in comparison["pairs"]] == list(pairwise(ranking))
    for each, (better, other) in zip(comparison["pairs"], pairwise(comparison["systems"]), strict=True):
        assert each["only_better"] - each["only_next"] == pytest.approx(16 * (better["accuracy"] - other["accuracy"]))
        mae = [
            json.loads(record_of(results, system).read_text())["metrics"]["unseen"]["mae"]["value"]
            for system in (better, other)
        ]
        assert each["mae"]["value"] == pytest.approx(mae[0] - mae[1], abs=1e-5)
    assert set(comparison["widening"]) == set(NAMES)
    for system in comparison["systems"]:
        answers = Predictions.unpacked(json.loads(record_of(results, system).read_text())["answers"])
        factor = widening(answers.sums == tiny.unseen.sums, tiny.unseen.glyphs)
        assert comparison["widening"][system["experiment"]] == pytest.approx(factor)
    assert {"hardware", "versions", "commit", "date"} <= set(comparison)


@pytest.mark.parametrize(("gain", "seed"), [(0.0, 4), (1.0, 5), (-1.0, 4)])
def test_the_seed_that_is_best_on_validation_is_compared(gain, seed, results, tiny):
    folder, value = results / "digits", 2.0
    for each, its in ((4, value), (5, value + gain)):
        change(
            folder / f"{NAMES[0]}-seed{each}.json", lambda r, to=its: r["metrics"]["val"]["accuracy"].update(value=to)
        )
    assert {s["experiment"]: s["seed"] for s in compare(tiny, results=results)["systems"]}[NAMES[0]] == seed


def test_where_nothing_is_unseen_test_strips_are_compared(results, tiny):
    """Strips of the course's files, of which nobody knows the glyphs."""
    data = replace(tiny, test=Strips(tiny.unseen.images, tiny.unseen.sums), unseen=None)
    data.__dict__["fingerprint"] = tiny.fingerprint  # as if the runs had been on this
    found = compare(data, results=results)
    assert found["split"] == "test" and found["widening"] == {}


def test_runs_on_other_data_and_runs_without_answers_are_left_out(results, tiny):
    for path in results.glob("digits/*.json"):
        change(path, lambda record: record["data"].update(fingerprint="0" * 16))
    with pytest.raises(TableError, match="python -m digitsum train"):
        compare(tiny, results=results)
    for path in results.glob(f"digits/{NAMES[0]}*.json"):
        change(path, lambda record: record.pop("answers"))
    for path in results.glob("digits/*.json"):
        change(path, lambda record: record["data"].update(fingerprint=tiny.fingerprint))
    found = compare(tiny, results=results)
    assert found["left_out"] == {NAMES[0]: "its record holds no answers"} and len(found["pairs"]) == 1


def test_runs_that_depart_from_their_settings_are_left_out(results, tiny):
    change(results / "digits" / f"{NAMES[1]}-seed4.json", lambda record: record.update(changed={"epochs": [15, 1]}))
    found = compare(tiny, results=results)
    assert found["left_out"] == {NAMES[1]: "departs from its settings"}
    assert len(found["pairs"]) == 1  # of the two that then are neighbours


def test_what_was_compared_before_answers_were_kept_stays_as_it_was(results, tiny, comparison):
    middle = record_of(results, comparison["systems"][1])
    change(results / "digits" / COMPARISON, lambda record: record.update(commit="older"))
    change(middle, lambda record: record.pop("answers"))
    found = compare(tiny, results=results)
    assert found["systems"] == comparison["systems"] and not found["left_out"]
    assert found["pairs"] == [each | {"commit": "older"} for each in comparison["pairs"]]
    assert compare(tiny, results=results)["pairs"] == found["pairs"]
    first = record_of(results, comparison["systems"][0])
    change(first, lambda record: record["metrics"]["val"]["accuracy"].update(value=5.0))  # another run of the first
    found = compare(tiny, results=results)
    assert found["pairs"] == [comparison["pairs"][1] | {"commit": "older"}]
    ranking = [system["experiment"] for system in comparison["systems"]]
    assert set(found["left_out"]) == {f"{ranking[0]}, {ranking[1]}"}


def test_without_records_it_says_how_to_make_some(tiny, tmp_path):
    with pytest.raises(TableError, match="python -m digitsum train"):
        compare(tiny, results=tmp_path / "results")
    assert not list(tmp_path.iterdir())


# The table


def records_of(comparison: dict) -> list[dict]:
    return [
        {
            "experiment": system["experiment"], "seed": system["seed"], "source": "mnist", "changed": {},
            "data": comparison["data"],
            "metrics": {
                split: {"accuracy": {"value": system[key]}}
                for split, key in (("val", "validation"), (comparison["split"], "accuracy"))
            },
        }
        for system in comparison["systems"]
    ]  # fmt: skip


@pytest.fixture
def published(comparison, tmp_path):
    (tmp_path / "mnist").mkdir()
    there = comparison | {"left_out": {"reader": "trained on other data", "ocr": "its record holds no answers"}}
    (tmp_path / "mnist" / COMPARISON).write_text(json.dumps(there))
    return tmp_path


def test_the_table_shows_every_pair(published, comparison):
    loaded = load_comparison(published, records_of(comparison))
    table, below, wider = render([], loaded)["comparison"].split("\n\n")
    assert all(f"{factor:.1f} for `{name}`" in wider for name, factor in comparison["widening"].items())
    assert below == "Not compared: `reader`: trained on other data; `ocr`: its record holds no answers."
    lines = table.splitlines()[2:]
    assert len(lines) == len(comparison["pairs"])
    for line, each in zip(lines, comparison["pairs"], strict=True):
        assert line.startswith(f"| `{each['better']}` | `{each['next']}` |")
        assert f"| {each['only_better']} | {each['only_next']} | {each['p']:.2g} |" in line
    loaded["pairs"][0] |= {"commit": "abcdef", "p": 0.0}  # less than a float can be
    assert "| < 1e-300 |" in render([], loaded)["comparison"]
    last = render([], loaded)["comparison"].split("\n\n")[-1]
    assert last == "1 of 2 pairs were compared from weights, before records held answers, at `abcdef`."
    assert "compare --source mnist" in render([], load_comparison(published / "nowhere", []))["comparison"]


FAULTS = ("other seed", "better seed", "measured anew", "other weights", "other data", "none", "one more")


def test_a_run_beside_those_compared_is_no_fault_where_it_is_worse_or_left_out(published, comparison):
    records = records_of(comparison)
    others = copy.deepcopy(records[0]), copy.deepcopy(records[0]), copy.deepcopy(records[0])
    others[0]["seed"], others[0]["metrics"]["val"]["accuracy"]["value"] = 7, -1.0
    others[1]["seed"], others[1]["metrics"]["val"]["accuracy"]["value"] = 8, 1.0
    others[1]["changed"] = {"epochs": [15, 1]}
    others[2]["experiment"] = "ocr"
    assert load_comparison(published, [*records, *others])["systems"] == comparison["systems"]


@pytest.mark.parametrize("fault", [*FAULTS, "cut", "a pair of none", "junk"])
def test_a_comparison_of_other_weights_than_the_records_is_refused(fault, published, comparison):
    records, path = records_of(comparison), published / "mnist" / COMPARISON
    if fault == "other seed":
        records[0]["seed"] = 7
    elif fault == "better seed":
        records.append(copy.deepcopy(records[0]) | {"seed": 7})
        records[-1]["metrics"]["val"]["accuracy"]["value"] = 1.0
    elif fault == "measured anew":
        records[0]["metrics"]["unseen"]["accuracy"]["value"] += 0.01
    elif fault == "none":
        del records[0]
    elif fault == "one more":
        records.append(copy.deepcopy(records[0]) | {"experiment": "cnn2_linear-regression"})
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


def test_the_command(results, tiny, monkeypatch, capsys):
    monkeypatch.setattr("digitsum.__main__.load_data", lambda *_: tiny)
    for path in results.glob(f"digits/{NAMES[2]}*.json"):
        change(path, lambda record: record.pop("answers"))
    assert main(["compare", "--source", "digits", "--results", str(results)]) == 0
    said = capsys.readouterr().out
    assert f"{NAMES[1]} seed 4: " in said and f"{NAMES[2]} is left out: its record holds no answers" in said
    assert (results / "digits" / COMPARISON).exists()
