"""The published tables agree with the records, and a faulty record is refused with one clear message."""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import REPOSITORY

import digitsum.__main__
import digitsum.data
import research.__main__
from digitsum.checkpoints import read_metadata
from digitsum.errors import RecordError, TrainingError
from digitsum.experiments import EXPERIMENTS, same_settings
from research.paper import cells, performance, published
from research.paper.published import load_records, load_studies, published_tables, renew
from research.studies import STUDIES, variants_of
from research.systems import SYSTEMS

RECORDS = load_records(REPOSITORY / "results")
FIRST = "baseline_cnn-regression"


def entry(value: float, spread: float = 0.01) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread}


def record(name: str = FIRST, seed: int = 0, accuracy: float = 0.5, **changes) -> dict:
    """Make a whole record whose accuracies are all `accuracy`; `changes` are of its settings."""
    strips = {"train": 24_000, "val": 3_000, "test": 3_000, "unseen": 6_000}
    shares = {"accuracy": entry(accuracy), "floor": entry(accuracy - 0.1), "ceiling": entry(accuracy - 0.2)}
    measured = shares | {"mse": entry(7.25), "mae": entry(2.5)}
    settings = asdict(EXPERIMENTS[name])
    row = {"epoch": 1, "train_loss": 2.0, "train_accuracy": 0.5, "val_loss": 2.0, "val_accuracy": 0.5}
    return {
        "experiment": name, "source": "mnist", "seed": seed, "weights": "none", "settings": settings | changes,
        "changed": {key: [settings[key], value] for key, value in changes.items()}, "parameters": 3_459_713,
        "trained_parameters": 3_459_713, "history": [row], "best_epoch": 1, "strings": {}, "commit": "0" * 12,
        "data": {"fingerprint": "c1c1cc245eeb511f", "seed": 0, "strips": strips}, "versions": {"torch": "2.10"},
        "hardware": {"device": "cpu", "cpu": "Some CPU", "threads": 2, "bfloat16": True},
        "metrics": {split: {"n": n} | copy.deepcopy(measured) for split, n in (strips | {"entire": 30_000}).items()},
        "seconds": {"train": 90.0, "total": 100.0},
    }  # fmt: skip


def keep(folder: Path, *records: dict) -> Path:
    for each in records:
        where = folder / "studies" / "mnist" / each["study"] if "study" in each else folder / "mnist"
        where.mkdir(parents=True, exist_ok=True)
        (where / f"{each['experiment']}-seed{each['seed']}.json").write_text(json.dumps(each))
    return folder


def rows_of(table: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")][2:]


def names(records: list[dict]) -> list[str]:
    return [f"{each['experiment']}-seed{each['seed']}" for each in records]


# The repository's own records and pages


def test_pages_agree_with_the_records(tmp_path, monkeypatch):
    """Run `python -m research tables` after every run, study and benchmark."""
    made = published_tables(REPOSITORY / "results") | performance.published_tables(REPOSITORY / "results")
    for page in published.PAGES:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / page, tmp_path / page)
    monkeypatch.chdir(tmp_path)
    assert renew(made) == [], "run `python -m research tables`"


def test_the_first_result_in_the_readme_is_the_records():
    readers = [each for each in RECORDS if each["experiment"] == "reader"]
    result = cells.of_runs(readers, "unseen")
    minutes = sorted(round(each["seconds"]["train"] / 60) for each in readers)
    page = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert f"**{result}** of {readers[0]['metrics']['unseen']['n']:,} unseen strips" in page and len(readers) == 5
    assert f"took {minutes[0]} to {minutes[-1]} minutes on one thread of an AMD EPYC" in page
    assert {(each["hardware"]["cpu"], each["hardware"]["threads"]) for each in readers} == {("AMD EPYC", 1)}


EXPECTED = {name: variant for study in STUDIES for name, (_, variant) in variants_of(study).items()} | EXPERIMENTS
STUDIED = load_studies(REPOSITORY / "results", RECORDS)
TRAINED = RECORDS + [
    run for study in STUDIES for name in variants_of(study) if name not in EXPERIMENTS
    for run in STUDIED[study].get(name, [])
]  # fmt: skip


@pytest.mark.parametrize("run", TRAINED, ids=names(TRAINED))
def test_published_record_is_of_the_experiment_as_it_stands(run):
    """Settings that the record does not call changed are those of today, and its numbers are whole."""
    usual = run["settings"] | {key: theirs for key, (theirs, _) in run["changed"].items()}
    assert same_settings(usual, asdict(EXPECTED[run["experiment"]])), "train it again"
    assert re.fullmatch("[0-9a-f]{12}", run["commit"]), "trained from uncommitted code"
    assert len(run["history"]) == run["settings"]["epochs"] >= run["best_epoch"]
    most = 10_000 if run["experiment"] == "300000" else run["settings"]["evaluate_limit"]
    for split, n in run["data"]["strips"].items():
        assert run["metrics"][split]["n"] == min(n, most or n)
    for measured in run["metrics"].values():
        for name in ("accuracy", "floor", "ceiling", "mse", "mae"):
            assert measured[name]["low"] <= measured[name]["value"] <= measured[name]["high"]


@pytest.mark.parametrize("path", sorted((REPOSITORY / "models" / "mnist").glob("*-seed*.safetensors")), ids=str)
def test_published_weights_are_of_a_record(path):
    about, run = read_metadata(path), {f"{each['experiment']}-seed{each['seed']}": each for each in RECORDS}[path.stem]
    assert same_settings(about["settings"], run["settings"]) and about["data"] == run["data"]["fingerprint"]
    assert about["validation"]["accuracy"] == run["metrics"]["val"]["accuracy"]


def test_commands_of_the_records_train_with_their_settings(tiny, tmp_path, monkeypatch, capsys):
    asked = []

    def run_experiment(experiment, data, **options):
        asked.append((asdict(experiment), options["seed"], options["folder"]))
        raise TrainingError("enough")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("digitsum.runs.run_experiment", run_experiment)
    for module in (digitsum, digitsum.data):
        monkeypatch.setattr(module, "load_data", lambda *_: tiny)
    for each in RECORDS:
        _, _, package, *words = shlex.split(cells.command(each))
        if each["experiment"] in SYSTEMS:
            assert package == "research" and research.__main__.main([*words, "--dry-run"]) == 0
            assert f"{each['experiment']}, seed {each['seed']}: " in capsys.readouterr().out
        else:
            assert package == "digitsum" and digitsum.__main__.main(words) == 1
            settings, *where = asked.pop()
            assert same_settings(settings, each["settings"]) and where == [each["seed"], "mnist"]


# What the tables say


def test_rows_show_seeds_departures_and_rank(tmp_path):
    changed = record("resnet50-classification", accuracy=0.7531, epochs=4, train_limit=12_000)
    short = record("vit-regression", accuracy=0.2, weights=None, evaluate_limit=200)
    frozen = record("cnn2_linear-regression", accuracy=0.3) | {"weights": "IMAGENET1K_V1"}
    oracle = record("oracle-digit_labels", accuracy=0.99) | {"strings": {"unseen": entry(0.98)}}
    seeds = [record(accuracy=0.9), record(seed=10, accuracy=0.1)]
    made = published_tables(keep(tmp_path, *seeds, changed, short, frozen, oracle))
    core, results = rows_of(made["core"]), rows_of(made["results"])
    changed = "<br>4 of 8 epochs; the first 12,000 training strips"
    assert [row[0] for row in core] == [f"`resnet50-classification`{changed}", f"`{FIRST}`", "`oracle-digit_labels`"]
    assert core[0][2:] == ["7.25 (7.24–7.26)", "2.50 (2.49–2.51)", *["75.3 % (74.3–76.3)"] * 2, "1", "3,459,713"]
    assert core[1][4:7] == ["50.0 ± 56.6 %", "50.0 ± 56.6 %", "2"]
    assert results[1][5] == "50.0 ± 56.6 %, worst 10.0 %" and "12.463" in results[1][1]
    assert "from IMAGENET1K_V1" in made["results"] and "digit labels and positions of 24,000" in results[-1][2]
    assert "vit-regression" not in made["results"] and "200 strips of each split" in made["shortened"]
    assert "random start instead of IMAGENET1K_V1" in made["shortened"]
    assert rows_of(made["strings"]) == [["`oracle-digit_labels`", "98.0 % (97.0–99.0)"]]
    peers = {row[0]: row[2:] for row in rows_of(made["peers"])}
    assert peers["`resnet50-classification`, this repository"][2] == "75.3 % (74.3–76.3)", "not the oracle"
    assert peers["CTSketch"][:3].count("–") == 2, "other data stand in a column of their own"


def test_studies_show_their_records(tmp_path):
    variant = record("reader_small", accuracy=0.4) | {"experiment": "no_start", "study": "ablations"}
    cut = record("reader_small", accuracy=0.94) | {"experiment": "lenet-5000", "study": "cut_digits"}
    del cut["metrics"]["unseen"]
    read = {what: entry(0.8) for what in ("strings", "sums", "count")}
    measured = {"16": {"n": 2_000, "columns": 672, "unknown": read, "known": read}}
    counts = record("reader") | {"study": "counts", "measured": measured}
    made = published_tables(keep(tmp_path, record("reader_small"), variant, cut, counts))
    assert [row[0] for row in rows_of(made["study-ablations"])] == ["`reader_small`", "`no_start`"]
    assert rows_of(made["study-ablations"])[1][4] == "40.0 % (39.0–41.0)"
    ours, *theirs = rows_of(made["study-cut_digits"])
    assert ours[-2:] == ["94.0 % (93.0–95.0)", "–"] and theirs[0][-2:] == ["–", "96.7 %"]
    assert rows_of(made["study-counts"]) == [["16", "672", "2,000", *["80.0 % (79.0–81.0)"] * 4]]
    assert made["study-tta"] == ""


# Pages


def page(*names: str) -> str:
    return "# Title\n" + "".join(f"<!-- table:{name} -->\nold\n<!-- /table:{name} -->\n" for name in names) + "end"


def test_renewing_changes_only_what_is_between_markers(tmp_path):
    first, second = tmp_path / "first.md", tmp_path / "second.md"
    first.write_text(page("a") + "\n`<!-- table:b -->` within a line\n", encoding="utf-8")
    second.write_text(page("b"), encoding="utf-8")
    made = {"a": "| Å |", "b": "old"}
    assert renew(made, [first, second]) == [first, second] and renew(made, [first, second]) == []
    start, rest = page("a").split("\nold\n")
    assert first.read_text(encoding="utf-8") == f"{start}\n\n| Å |\n\n{rest}\n`<!-- table:b -->` within a line\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (page("a", "b", "a"), "one place.* of a$"),
        (page("a", "b", "c"), "one place.* of c$"),
        (page("a", "b").replace("<!-- /table:a -->", ""), "one place.* of a$"),
        (page("a").replace("old", page("b")), "one place.* of b$"),
        (None, "second.md is missing"),
    ],
)
def test_wrong_markers_leave_all_pages_alone(text, fault, tmp_path):
    first, second = tmp_path / "first.md", tmp_path / "second.md"
    first.write_text(page("d"))
    if text is not None:
        second.write_text(text)
    with pytest.raises(RecordError, match=fault):
        renew({"a": "new", "b": "new", "d": "new"}, [first, second])
    assert first.read_text() == page("d") and (text is None or second.read_text() == text)


# Faulty records


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda run: json.dumps(run)[:-100], "JSON"),
        (lambda run: "[1, 2]", "TypeError"),
        (lambda run: run["seconds"].update(train=float("nan")), "float values are not JSON"),
        (lambda run: run["metrics"].pop("unseen") and None, "'unseen'"),
        (lambda run: run["metrics"]["test"]["mae"].update(low="0.1"), "ValueError"),
        (lambda run: run.update(settings=None), "TypeError"),
        (lambda run: run.update(experiment="dreamt"), "another source, experiment or seed"),
        (lambda run: run.update(seed=3), "another source, experiment or seed"),
    ],
)
def test_a_faulty_record_is_named_with_its_fault_and_a_remedy(damage, fault, tmp_path):
    path, whole = keep(tmp_path, record()) / "mnist" / f"{FIRST}-seed0.json", record()
    text = damage(whole)
    path.write_text(json.dumps(whole) if text is None else text)
    with pytest.raises(RecordError, match=re.escape(fault)) as caught:
        load_records(tmp_path)
    assert str(path) in str(caught.value) and "Restore it" in str(caught.value)


def test_records_are_of_the_same_data_and_old_ones_may_hold_more(tmp_path):
    old = record() | {"preset": "full", "confusion": {}, "prediction": {"images": 1}}
    assert load_records(keep(tmp_path, old, record(seed=2))) == [old, record(seed=2)]
    other = record(seed=1)
    other["data"]["fingerprint"] = "d" * 16
    with pytest.raises(RecordError, match="different data"):
        load_records(keep(tmp_path, other))
