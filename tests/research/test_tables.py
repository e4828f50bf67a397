"""The published tables agree with the records, and a faulty record is refused with one clear message."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest

import digitsum
import research.__main__
from digitsum.checkpoints import read_metadata
from digitsum.errors import RecordError, TrainingError
from digitsum.experiments import EXPERIMENTS, same_settings
from research.paper import cells, performance, tables
from research.paper.records import load_records, load_studies
from research.studies import STUDIES, variants_of
from research.systems import SYSTEMS

REPOSITORY = Path(__file__).resolve().parents[2]
RECORDS = load_records(REPOSITORY / "results")
STUDIED = load_studies(REPOSITORY / "results")
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
    return [f"{each.get('study', '')}/{each['experiment']}-seed{each['seed']}" for each in records]


# The repository's own records and pages


def test_pages_agree_with_the_records():
    """Run `python -m research tables` after every run, study and benchmark."""
    made = tables.published_tables(REPOSITORY / "results") | performance.published_tables(REPOSITORY / "results")
    texts = {REPOSITORY / page: (REPOSITORY / page).read_text(encoding="utf-8") for page in tables.PAGES}
    assert tables.filled(texts, made) == texts, "run `python -m research tables`"


TRAINED = RECORDS + [each for each in STUDIED if not STUDIES[each["study"]].measure]


@pytest.mark.parametrize("run", TRAINED, ids=names(TRAINED))
def test_published_record_is_of_the_experiment_as_it_stands(run):
    """Settings that the record does not call changed are those of today, and its numbers are whole."""
    variants = {each.name: each.experiment for each in variants_of(run["study"])} if "study" in run else EXPERIMENTS
    usual = run["settings"] | {key: theirs for key, (theirs, _) in run["changed"].items()}
    assert same_settings(usual, asdict(variants[run["experiment"]])), "train it again"
    assert re.fullmatch("[0-9a-f]{12}", run["commit"]), "trained from uncommitted code"
    assert len(run["history"]) == run["settings"]["epochs"] >= run["best_epoch"]
    if run.get("study") == "more_strips":
        run = copy.deepcopy(run)
        run["data"]["strips"]["train"] = 10_000  # of its many training strips, it was measured on the first
    for split, n in run["data"]["strips"].items():
        assert run["metrics"][split]["n"] == min(n, run["settings"]["evaluate_limit"] or n)
    for measured in run["metrics"].values():
        for each in (measured[name] for name in ("accuracy", "floor", "ceiling", "mse", "mae")):
            assert each["low"] <= each["value"] <= each["high"]


WEIGHTS = sorted((REPOSITORY / "models" / "mnist").glob("*-seed*.safetensors"))


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: path.stem)
def test_published_weights_are_of_a_record(path):
    about, run = read_metadata(path), {f"{each['experiment']}-seed{each['seed']}": each for each in RECORDS}[path.stem]
    assert same_settings(about["settings"], run["settings"]) and about["data"] == run["data"]["fingerprint"]
    assert about["validation"]["accuracy"] == run["metrics"]["val"]["accuracy"]


CORE = [each for each in RECORDS if each["experiment"] not in SYSTEMS]


@pytest.mark.parametrize("published", CORE, ids=names(CORE))
def test_command_of_a_record_trains_with_its_settings(published, tiny, tmp_path, monkeypatch):
    from digitsum.__main__ import main

    asked = []

    def run_experiment(experiment, data, **options):
        asked.append((experiment, options["seed"], options["folder"]))
        raise TrainingError("enough")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("digitsum.runs.run_experiment", run_experiment)
    monkeypatch.setattr("digitsum.data.load_data", lambda *_: tiny)
    words = shlex.split(cells.command(published))
    assert words[:3] == ["python", "-m", "digitsum"] and main(words[3:]) == 1
    ((experiment, *where),) = asked
    assert same_settings(asdict(experiment), published["settings"]) and where == [published["seed"], "mnist"]


def test_commands_of_other_records_are_known(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(digitsum, "load_data", lambda *_: tiny)
    commands = {each["experiment"]: cells.command(each) for each in RECORDS if each["experiment"] in SYSTEMS}
    for name, command in commands.items():
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "research"]
        assert research.__main__.main([*words[3:], "--dry-run"]) == 0
        assert f"{name}, seed" in capsys.readouterr().out


# What the tables say


def test_rows_show_seeds_departures_and_rank(tmp_path):
    changed = record("resnet50-classification", accuracy=0.7531, weights=None, epochs=4, train_limit=12_000)
    short = record("vit-regression", accuracy=0.2, evaluate_limit=200)
    frozen = record("cnn2_linear-regression", accuracy=0.3) | {"weights": "IMAGENET1K_V1"}
    oracle = record("oracle-digit_labels", accuracy=0.99) | {"strings": {"unseen": entry(0.98)}}
    seeds = [record(accuracy=0.9), record(seed=10, accuracy=0.1)]
    made = tables.published_tables(keep(tmp_path, *seeds, changed, short, frozen, oracle))
    core, results = rows_of(made["core"]), rows_of(made["results"])
    changed = "<br>random start instead of IMAGENET1K_V1; 4 of 25 epochs; the first 12,000 training strips"
    assert [row[0] for row in core] == [f"`resnet50-classification`{changed}", f"`{FIRST}`", "`oracle-digit_labels`"]
    assert core[0][2:] == ["7.25 (7.24–7.26)", "2.50 (2.49–2.51)", *["75.3 % (74.3–76.3)"] * 2, "1", "3,459,713"]
    assert core[1][4:7] == ["50.0 ± 56.6 %", "50.0 ± 56.6 %", "2, collapsed: 10"]
    assert results[1][5] == "50.0 ± 56.6 %, worst 10.0 %" and "12.463" in results[1][1]
    assert "from IMAGENET1K_V1" in made["results"] and "digit labels and positions of 24,000" in results[-1][2]
    assert "vit-regression" not in made["results"] and "200 strips of each split" in made["shortened"]
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
    made = tables.published_tables(keep(tmp_path, record("reader_small"), variant, cut, counts))
    assert [row[0] for row in rows_of(made["study-ablations"])] == ["`reader_small`", "`no_start`"]
    assert rows_of(made["study-ablations"])[1][4] == "40.0 % (39.0–41.0)"
    ours, *theirs = rows_of(made["study-cut_digits"])
    assert ours[-2:] == ["94.0 % (93.0–95.0)", "–"] and theirs[0][-2:] == ["–", "96.7 %"]
    assert rows_of(made["study-counts"]) == [["16", "672", "2,000", *["80.0 % (79.0–81.0)"] * 4]]
    words = shlex.split(made["study-tta"].split("`")[1])
    assert made["study-tta"].startswith(tables.EMPTY) and words[-2:] == ["study", "tta"]


# Pages


def page(*names: str) -> str:
    return "# Title\n" + "".join(f"<!-- table:{name} -->\nold\n<!-- /table:{name} -->\n" for name in names) + "end"


def test_renewing_changes_only_what_is_between_markers(tmp_path):
    first, second = tmp_path / "first.md", tmp_path / "second.md"
    first.write_text(page("a") + "\n`<!-- table:b -->` within a line\n", encoding="utf-8")
    second.write_text(page("b"), encoding="utf-8")
    made = {"a": "| Å |", "b": "old", "c": f"{tables.EMPTY} none"}
    assert tables.renew(made, [first, second]) == [first, second] and tables.renew(made, [first, second]) == []
    start, rest = page("a").split("\nold\n")
    assert first.read_text(encoding="utf-8") == f"{start}\n\n| Å |\n\n{rest}\n`<!-- table:b -->` within a line\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (page("a", "b", "a"), "several places for a"),
        (page("a"), "no place for b"),
        (page("a", "b", "c"), "no table for c"),
        (page("a", "b").replace("<!-- /table:a -->", ""), "without a partner for a"),
        (page("a", "b") + "\n<!-- table:b -->", "without a partner for b"),
        (page("a").replace("old", page("b")), "without a partner for b"),
        (None, "second.md is missing"),
    ],
)
def test_wrong_markers_leave_all_pages_alone(text, fault, tmp_path):
    first, second = tmp_path / "first.md", tmp_path / "second.md"
    first.write_text(page("d"))
    if text is not None:
        second.write_text(text)
    with pytest.raises(RecordError, match=fault):
        tables.renew({"a": "new", "b": "new", "d": "new"}, [first, second])
    assert first.read_text() == page("d") and (text is None or second.read_text() == text)


# Faulty records


def damaged(key: str, value: object = ...) -> str:
    """Return a record as JSON in which one dotted key has another value, or is gone."""
    whole = record()
    *path, last = key.split(".")
    inner = whole
    for step in path:
        inner = inner[step]
    inner[last] = value
    if value is ...:
        del inner[last]
    return json.dumps(whole)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        pytest.param(None, "is no file", marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")),
        ("", "holds no record"),
        (json.dumps(record())[:-100], "holds no record"),
        (damaged("seconds.train", float("nan")), "NaN is not finite"),
        (damaged("best_epoch", 12).replace("12,", "1e999,", 1), "1e999 is not finite"),
        (" " * 5_000_000, "bytes"),
        ("[1, 2]", "lacks everything"),
        (damaged("metrics.test"), "lacks metrics.test,"),
        (damaged("metrics.unseen.mae.low", "0.1"), "lacks metrics.unseen.mae.low"),
        (damaged("seed", True), "lacks seed"),
        (damaged("history", [{"epoch": 1}]), "lacks history.0.train_loss"),
        (damaged("experiment", "dreamt"), "no place there"),
        (damaged("source", "digits"), "no place there"),
        (damaged("seed", 3), "no place there"),
    ],
)
def test_a_faulty_record_is_named_with_its_fault_and_a_remedy(content, fault, tmp_path):
    path = keep(tmp_path, record()) / "mnist" / f"{FIRST}-seed0.json"
    if content is None:
        path.unlink()
        os.mkfifo(path)
    else:
        path.write_text(content)
    with pytest.raises(RecordError, match=re.escape(fault)) as caught:
        load_records(tmp_path)
    assert str(path) in str(caught.value) and re.search("; (restore|take)", str(caught.value))


def test_records_are_of_the_same_data_and_old_ones_may_hold_more(tmp_path):
    old = record() | {"preset": "full", "confusion": {}, "prediction": {"images": 1}}
    assert load_records(keep(tmp_path, old, record(seed=2))) == [old, record(seed=2)]
    other = record(seed=1)
    other["data"]["fingerprint"] = "d" * 16
    with pytest.raises(RecordError, match="different data"):
        load_records(keep(tmp_path, other))
    with pytest.raises(RecordError, match="no records"):
        tables.published_tables(tmp_path / "nowhere")


def test_the_first_result_in_the_readme_is_the_records():
    """Mean and standard deviation of the reader's seeds, and the minutes of the shortest and the longest training."""
    readers = [each for each in RECORDS if each["experiment"] == "reader"]
    result = cells.mean_share([each["metrics"]["unseen"]["accuracy"] for each in readers])
    minutes = sorted(round(each["seconds"]["train"] / 60) for each in readers)
    page = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert f"**{result}** of {readers[0]['metrics']['unseen']['n']:,} unseen strips" in page and len(readers) == 5
    assert f"took {minutes[0]} to {minutes[-1]} minutes on one thread of an AMD EPYC" in page
    assert {(each["hardware"]["cpu"], each["hardware"]["threads"]) for each in readers} == {("AMD EPYC", 1)}
