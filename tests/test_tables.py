"""The published tables agree with the records, and the records say all that a published number needs."""

from __future__ import annotations

import copy
import json
import re
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum import performance
from digitsum.__main__ import _parser
from digitsum.checkpoints import load_checkpoint, read_metadata
from digitsum.experiments import EXPERIMENTS
from digitsum.records import MEASURES, PUBLISHED, TableError, by_experiment, load_records, load_studies
from digitsum.reported import REPORTED
from digitsum.runs import same_settings
from digitsum.studies import READER, STUDIES, variants_of
from digitsum.tables import (
    EMPTY,
    FIGURES,
    NOTHING,
    PAGES,
    command,
    figures,
    filled,
    markdown_table,
    number,
    percent,
    published_tables,
    render,
    render_studies,
    renew,
    study_command,
)

REPOSITORY = Path(__file__).resolve().parents[1]
NAMES = tuple(EXPERIMENTS)
HISTORY = {"epoch": 1, "train_loss": 2.0, "train_accuracy": 0.5, "val_loss": 2.0, "val_accuracy": 0.5}


def entry(value: float, spread: float = 0.01) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread}


def record(name: str = NAMES[0], seed: int = 0, accuracy: float = 0.5, source: str = "mnist", **changes) -> dict:
    """A whole record in which every accuracy is `accuracy` and the floor is 0.1 less; `changes` are of its settings."""
    strips = {"train": 24_000, "val": 3_000, "test": 3_000} | ({} if source == "course" else {"unseen": 6_000})
    measured = {measure: entry(accuracy) for measure in MEASURES} | {"floor": entry(accuracy - 0.1), "mse": entry(7.25)}
    settings = asdict(EXPERIMENTS[name])
    return {
        "experiment": name, "source": source, "seed": seed, "preset": "full", "weights": "none",
        "settings": settings | changes, "changed": {key: [settings[key], value] for key, value in changes.items()},
        "parameters": 3_459_713, "trained_parameters": 3_459_713, "history": [HISTORY],
        "data": {"fingerprint": "c1c1cc245eeb511f", "seed": 0, "strips": strips},
        "best_epoch": 1, "seconds": {"train": 90.0, "total": 100.0}, "versions": {"torch": "2.10"}, "commit": "0" * 12,
        "hardware": {"device": "cpu", "cpu": "Some CPU", "cores": 2, "threads": 2, "bfloat16": True},
        "metrics": {split: {"n": n} | copy.deepcopy(measured) for split, n in (strips | {"entire": 30_000}).items()},
    }  # fmt: skip


def keep(folder: Path, *records: dict) -> Path:
    for each in records:
        path = folder / each["source"] / f"{each['experiment']}-seed{each['seed']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(each))
    return folder


def page(*names: str, newline: str = "\n") -> str:
    names = names or tuple(render([]))
    return "# Title" + newline + newline.join(f"<!-- table:{name} -->{newline}<!-- /table:{name} -->" for name in names)


# The repository's own records and pages

RECORDS = load_records(REPOSITORY / "results")
STUDIED = load_studies(REPOSITORY / "results")


def test_pages_agree_with_the_records_and_have_a_place_for_every_table():
    """`make tables` after every run, study and benchmark."""
    tables = published_tables(REPOSITORY / "results") | performance.published_tables(REPOSITORY / "results")
    texts = {REPOSITORY / page: (REPOSITORY / page).read_bytes().decode("utf-8") for page in PAGES}
    assert filled(texts, tables) == texts, "tables and results/ disagree: run `make tables`"
    assert set(re.findall(r"<!-- table:(\S+) -->", "\n".join(texts.values()))) == set(tables)


@pytest.mark.parametrize("published", RECORDS, ids=lambda r: f"{r['source']}/{r['experiment']}-seed{r['seed']}")
def test_published_record_says_all_that_its_numbers_need(published: dict):
    assert re.fullmatch("[0-9a-f]{12}", published["commit"] or ""), "trained from uncommitted code"
    assert re.fullmatch("[0-9a-f]{16}", published["data"]["fingerprint"])
    assert published["source"] in PUBLISHED
    assert published["seed"] >= 0
    assert published["seconds"]["total"] >= published["seconds"]["train"] >= 0
    assert bool(published["seconds"]["train"]) == bool(published["history"])
    assert published["hardware"]["cpu"] and published["hardware"]["threads"] > 0
    assert {"python", "torch", "torchvision", "numpy"} <= set(published["versions"])
    assert len(published["history"]) == published["settings"]["epochs"] >= published["best_epoch"]
    assert bool(published["best_epoch"]) == bool(published["history"]), "no epoch only where nothing is trained"
    strips = published["data"]["strips"]
    measured_on = {split: len(range(n)[: published["settings"]["evaluate_limit"]]) for split, n in strips.items()}
    counts = measured_on | {"entire": sum(n for split, n in measured_on.items() if split != "unseen")}
    assert {split: published["metrics"][split]["n"] for split in counts} == counts
    assert set(published["metrics"]) - set(counts) == (set() if published["history"] else {"first_10000"})
    for split, measured in published["metrics"].items():
        for measure in MEASURES:
            assert measured[measure]["low"] <= measured[measure]["value"] <= measured[measure]["high"], (split, measure)


@pytest.mark.parametrize("published", RECORDS, ids=lambda r: f"{r['source']}/{r['experiment']}-seed{r['seed']}")
def test_published_record_is_of_the_experiment_as_it_stands(published: dict):
    """Its command trains the same thing again: settings that the record does not call changed are those of today."""
    then = published["settings"] | {key: usual for key, (usual, _) in published["changed"].items()}
    today = asdict(EXPERIMENTS[published["experiment"]])
    assert same_settings(then, today), "its settings have changed in experiments.py since: train it again"


@pytest.mark.parametrize("studied", STUDIED, ids=lambda r: f"{r['study']}/{r['experiment']}-seed{r['seed']}")
def test_studied_record_is_of_the_study_as_it_stands(studied: dict):
    """And of committed code; a measured one, of the published weights, or of those of another seed on record."""
    assert re.fullmatch("[0-9a-f]{12}", studied["commit"] or ""), "made by uncommitted code"
    if STUDIES[studied["study"]].measure:
        published = read_metadata(REPOSITORY / "models" / "mnist" / f"{READER}.safetensors")
        readers = {each["seed"]: each for each in RECORDS if (each["experiment"], each["source"]) == (READER, "mnist")}
        seeds, measured = studied.get("seeds", [studied["seed"]]), studied["measured"]
        for seed, digest in zip(seeds, studied["weights"].split(), strict=True):
            assert same_settings(readers[seed]["settings"], studied["settings"])
            assert (digest == published["digest"]) == (seed == published["seed"])
        if len(seeds) == 1:  # so its figures are those of the record, where it has the same
            unseen = readers[studied["seed"]]["metrics"]["unseen"]["accuracy"]
            assert measured.get("accuracy", unseen) == unseen
            assert measured.get("splits", {"unseen": {"several": unseen}})["unseen"]["several"] == unseen
        return
    variants = {variant.name: variant.experiment for variant in variants_of(studied["study"])}
    then = studied["settings"] | {key: usual for key, (usual, _) in studied["changed"].items()}
    today = asdict(variants[studied["experiment"]])
    assert same_settings(then, today), "its settings have changed since: run the study again"


# What the tables say


def test_a_record_without_unseen_strips_is_whole(tmp_path):
    course = record("baseline_cnn-regression") | {"source": "course"}
    course["data"] = course["data"] | {"strips": {"train": 800, "val": 100, "test": 100}}
    course["metrics"] = {split: measured for split, measured in course["metrics"].items() if split != "unseen"}
    (tmp_path / "course").mkdir()
    (tmp_path / "course" / "baseline_cnn-regression-seed0.json").write_text(json.dumps(course))
    assert [each["source"] for each in load_records(tmp_path)] == ["course"]


def test_a_row_has_the_reports_number_and_ours_and_where_it_departs():
    name = "resnet50-classification"
    tables = render([record(name, accuracy=0.7531, epochs=4, weights=None)])
    row = next(line for line in tables["results-mnist"].splitlines() if line.startswith(f"| `{name}`"))
    assert REPORTED[name].short in row
    assert "4 of 25 epochs; random start instead of IMAGENET1K_V1" in row
    assert row.count("75.3 % (74.3–76.3)") == 3
    assert "7.25 (7.24–7.26)" in row
    assert "24,000 train, 3,000 validation, 3,000 test, 6,000 unseen" in tables["results-mnist"]
    expected = f"{name} --source mnist --preset full --seed 0 --weights none --epochs 4".split()
    assert sorted(command(record(name, epochs=4, weights=None)).split()[4:]) == sorted(expected)
    assert tables["runs-mnist"].count(command(record(name, epochs=4, weights=None))) == 1


def test_the_best_on_unseen_strips_stands_first_and_the_references_last():
    """Whatever they reach on validation; on the course's files, of which none is unseen, the best on test."""
    scores = {"baseline_cnn-regression": 0.3, "reader": 0.2, "cnn_attention-regression": 0.7}
    scores |= {"most_common": 0.1, "oracle-digit_labels": 0.9}
    expected = ["cnn_attention-regression", "baseline_cnn-regression", "reader", "oracle-digit_labels", "most_common"]
    for source, split in (("mnist", "unseen"), ("course", "test")):
        records = [record(name, source=source) for name in scores]
        for each in records:
            each["metrics"][split]["accuracy"] = entry(scores[each["experiment"]])
        tables = render(records)
        for table in ("results", "details", "runs"):
            rows = [line.split("`")[1] for line in tables[f"{table}-{source}"].splitlines() if line.startswith("| `")]
            assert list(dict.fromkeys(rows)) == expected


def test_a_run_says_how_many_images_it_reads_in_a_second_where_that_was_measured():
    timed = record(seed=1) | {"prediction": {"images": 1_000, "seconds": 0.4}}
    older, newer = render([record(), timed])["runs-mnist"].splitlines()[2:4]
    assert "| 1.5 | – | Some CPU" in older and "| 1.5 | 2,500 | Some CPU" in newer


def test_a_run_that_was_measured_again_says_with_which_code():
    made = record()
    again = made | {"measured": {"commit": "abcdef012345", "hardware": made["hardware"]}}
    assert "; measured again at `abcdef012345` |" in render([again])["runs-mnist"].splitlines()[2]
    again["measured"]["hardware"] = made["hardware"] | {"cpu": "Other CPU"}
    assert (
        "; measured again at `abcdef012345` on Other CPU, 2 threads, " in render([again])["runs-mnist"].splitlines()[2]
    )


def test_what_a_report_left_open_is_said_once_for_all_experiments_that_share_it():
    shared = [record(name, seed) for name in NAMES[:2] for seed in (0, 1)]
    assert EXPERIMENTS[NAMES[0]].left_open == EXPERIMENTS[NAMES[1]].left_open
    lines = render([*shared, record("reader", accuracy=0.4)])["choices-mnist"].splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == [f"| `{NAMES[0]}`, `{NAMES[1]}`", "| `reader`"]
    assert EXPERIMENTS[NAMES[0]].left_open in lines[0] and EXPERIMENTS["reader"].left_open in lines[1]


def test_what_a_row_was_trained_with_and_what_was_frozen_is_said():
    frozen = record("vgg16_frozen-regression", weights=None) | {"trained_parameters": 128}
    oracle = record("oracle-digit_labels", accuracy=0.99)
    tables = render([frozen, oracle, record(accuracy=0.2)])
    assert "<br>frozen as drawn at random instead of IMAGENET1K_V1 |" in tables["results-mnist"]
    assert "`oracle-digit_labels` | – | digit labels and positions of" in tables["results-mnist"]
    assert "oracle" not in tables["peers"], "ours is what learned from sums"


def test_every_table_stays_narrow_enough_to_read():
    tables = render([record(name, seed, source=source) for source in PUBLISHED for name in NAMES for seed in (0, 1)])
    for table in tables.values():
        widths = {line.count(" | ") + 1 for line in table.splitlines() if line.startswith("|")}
        assert len(widths) <= 1 and max(widths, default=0) <= 8


def test_sources_never_share_a_table():
    tables = render(
        [record(accuracy=0.11, source="digits"), record(accuracy=0.22), record(accuracy=0.33, source="course")]
    )
    for source, ours in (("digits", "11.0 %"), ("mnist", "22.0 %"), ("course", "33.0 %")):
        shown = [name for name, table in tables.items() if ours in table and name not in ("peers", "claims")]
        assert shown == [f"results-{source}", f"details-{source}"]
    assert "22.0 %" in tables["peers"] and "11.0 %" not in tables["peers"] and "33.0 %" not in tables["peers"]


def test_peers_show_the_experiment_that_validation_chooses():
    first, second = record(NAMES[0], accuracy=0.6), record(NAMES[1], accuracy=0.5)
    second["metrics"]["unseen"]["accuracy"] = entry(0.9)
    line = render([first, second])["peers"].splitlines()[2]
    assert NAMES[0] in line and "60.0 %" in line


def test_experiments_stand_in_their_own_order_with_their_seeds(tmp_path: Path):
    keep(tmp_path, *(record(name, seed) for name in reversed(NAMES) for seed in (10, 2)))
    assert [(r["experiment"], r["seed"]) for r in load_records(tmp_path)] == [(n, s) for n in NAMES for s in (2, 10)]


def test_several_seeds_show_mean_spread_worst_and_which_collapsed():
    tables = render([record(seed=seed, accuracy=accuracy) for seed, accuracy in enumerate((0.9, 0.92, 0.1))])
    row = tables["results-mnist"].splitlines()[2]
    assert "| sums of 24,000 strips; seeds: 3, collapsed: 2 |" in row
    assert "| 64.0 ± 46.8 % | 64.0 ± 46.8 % | 64.0 ± 46.8 %, worst 10.0 % |" in row  # validation, test, unseen
    assert tables["runs-mnist"].count("--seed") == 3
    assert "standard deviation" in tables["results-mnist"]


def test_seeds_with_other_settings_have_a_row_of_their_own():
    rows = render([record(seed=0), record(seed=1, epochs=3)])["results-mnist"].splitlines()
    assert len([row for row in rows if row.startswith(f"| `{NAMES[0]}`")]) == 2


def test_seeds_in_float32_beside_others_in_bfloat16_are_counted():
    slow, fast = record(seed=1), record(seed=0)
    slow["hardware"]["bfloat16"] = False
    assert "1 of 2 runs were" in render([fast, slow])["results-mnist"]
    assert not any("float32" in render([each])["results-mnist"] for each in (fast, slow))


def test_whole_predictions_have_no_ways_of_rounding():
    whole = record(accuracy=0.4)
    for measured in whole["metrics"].values():
        measured["floor"] = measured["ceiling"]
    assert "40.0 % (39.0–41.0) | – | – | – | – |" in render([whole])["details-mnist"]


def test_strings_read_digit_by_digit_have_a_table_where_there_are_any():
    assert render([record()])["strings-mnist"] == ""
    one, two = (record(seed=seed) | {"strings": {"unseen": entry(share)}} for seed, share in ((0, 0.97), (1, 0.99)))
    rows = [render(seeds)["strings-mnist"].splitlines()[-1] for seeds in ([one], [one, two])]
    assert rows == [f"| `{NAMES[0]}` | {shares} |" for shares in ("97.0 % (96.0–98.0)", "98.0 ± 1.4 %")]


@pytest.mark.parametrize("stated", [row for row in REPORTED.values() if row.numbers], ids=lambda row: row.experiment)
def test_where_ours_differs_from_a_report_there_is_a_sentence(stated):
    """And where that speaks of training strips, ours reads fewer of them."""
    seeds = [r for r in RECORDS if (r["source"], r["experiment"], r["changed"]) == ("mnist", stated.experiment, {})]
    split, measure = stated.measures[0]
    entries = [seed["metrics"][split][measure] for seed in seeds]
    theirs = float(re.match(r"[\d.]+", stated.numbers[0])[0]) / (100 if "%" in stated.numbers[0] else 1)
    if entries and not min(e["low"] for e in entries) <= theirs <= max(e["high"] for e in entries):
        assert stated.differs
    if "fewer of its training strips" in stated.differs:
        assert split == "train" and max(entry["high"] for entry in entries) < theirs


def test_course_has_no_unseen_strips():
    table = render([record(source="course")])["details-course"]
    assert "| entire |" in table and "unseen" not in table


@pytest.mark.parametrize(
    "changes", [{}, {"epochs": 3}, {"weights": None}, {"train_limit": 5, "lr": 0.01, "batch_size": 8}]
)
def test_every_command_is_one_that_the_command_line_knows(changes: dict):
    words = shlex.split(command(record("resnet50-regression", seed=7, **changes)))
    assert words[:3] == ["python", "-m", "digitsum"]
    options = _parser().parse_args(words[3:])
    assert (options.experiments, options.seed, options.preset) == (["resnet50-regression"], [7], "full")
    assert all(getattr(options, key) == ("none" if value is None else value) for key, value in changes.items())


@pytest.mark.parametrize("published", RECORDS, ids=lambda r: f"{r['source']}/{r['experiment']}-seed{r['seed']}")
def test_published_command_is_one_that_the_command_line_knows(published: dict):
    assert _parser().parse_args(shlex.split(command(published))[3:]).experiments == [published["experiment"]]


# Studies


def studied(study: str, variant: str, seed: int = 0, accuracy: float = 0.5) -> dict:
    """A whole record of a variant that was trained in a study."""
    settings = {v.name: asdict(v.experiment) for v in variants_of(study)}[variant]
    strings = {"unseen": entry(accuracy - 0.02)}
    about = {"study": study, "experiment": variant, "settings": settings, "strings": strings, "changed": {}}
    return record(READER, seed, accuracy) | about


def measured(study: str, **values) -> dict:
    """A whole record of a reader that was measured in a study."""
    return {
        "study": study, "experiment": READER, "source": "mnist", "seed": 0, "preset": "full", "settings": {},
        "changed": {}, "weights": "0" * 64, "data": {"fingerprint": "c1c1cc245eeb511f"}, "commit": "0" * 12,
        "measured": values,
    }  # fmt: skip


CALIBRATION = measured(
    "calibration", split="unseen", n=6_000, temperature=0.97, accuracy=entry(0.97),
    plain={"expected_calibration_error": 0.0078}, tempered={"expected_calibration_error": 0.0087},
    abstaining={"share": 0.05, "n": 5_700} | entry(0.987), offset=4.5, centre_error=entry(2.77),
    overlap=[{"from": -14, "to": 0, "n": 700} | entry(0.99), {"from": 14, "to": 16, "n": 900} | entry(0.93)],
)  # fmt: skip
ENSEMBLE = CALIBRATION | {"study": "ensemble", "seeds": [0, 3]}
COUNTED = {
    way: {what: entry(share) for what in ("strings", "sums", "count")}
    for way, share in (("unknown", 0.8), ("known", 0.9))
}
COUNTS = measured("counts", **{"16": {"n": 2_000, "columns": 672} | COUNTED})


def keep_studies(folder: Path, *records: dict) -> Path:
    for each in records:
        path = folder / "studies" / each["source"] / each["study"] / f"{each['experiment']}-seed{each['seed']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(each))
    return folder


def test_a_study_without_records_says_how_to_make_them():
    tables = render_studies([], [record(READER)])
    assert set(tables) == {f"study-{name}" for name in STUDIES}
    for name in STUDIES:
        sentence = tables[f"study-{name}"]
        assert sentence.startswith(EMPTY)
        words = shlex.split(sentence.split("`")[1])
        assert _parser().parse_args(words[3:]).study == name


def test_the_command_of_a_measurement_names_the_readers_where_there_are_several():
    seeds = [CALIBRATION, CALIBRATION | {"seed": 1}]
    for records, many in ((seeds[:1], False), (seeds, True)):
        words = shlex.split(study_command("calibration", records))
        assert _parser().parse_args(words[3:]).study == "calibration"
        assert ("models/mnist/runs/reader-seed*/best.safetensors" in words) == many
    assert "--checkpoint" not in study_command("ablations", [studied("ablations", "clean", seed) for seed in (0, 1)])


def test_a_study_has_a_row_for_each_variant_and_its_published_base(tmp_path: Path):
    made = [studied("ablations", "no_start", seed, 0.9 + seed / 10) for seed in (1, 0)]
    made += [studied("sums", "500", accuracy=0.4), COUNTS, CALIBRATION, ENSEMBLE]
    found = load_studies(keep_studies(tmp_path, *made))
    assert [r["study"] for r in found] == sorted((r["study"] for r in made), key=list(STUDIES).index)
    base = STUDIES["ablations"].base
    tables = render_studies(found, [record(base, accuracy=0.97), record(base, seed=1, accuracy=0.1, epochs=2)])
    rows = [row for row in tables["study-ablations"].splitlines() if row.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [base, "no_start"]
    assert "97.0 % (96.0–98.0)" in rows[0] and "10.0 %" not in rows[0]
    assert "| 2 | 95.0 ± 7.1 %, worst 90.0 % |" in rows[1] and "93.0 ± 7.1 %, worst 88.0 %" in rows[1]
    assert "40.0 %" in tables["study-sums"] and "40.0 %" not in tables["study-ablations"]
    assert "| 16 | 672 | 2,000 | 80.0 % (79.0–81.0) |" in tables["study-counts"]
    for shown in ("0.78 %", "0.87 %", "98.7 %", "2.77 (2.76–2.78)", "14–16 columns (n = 900) | 93.0 %"):
        assert shown in tables["study-calibration"] and shown in tables["study-ensemble"]
    assert "of the seeds 0, 3." in tables["study-ensemble"]


def test_cut_digits_stand_beside_the_published_numbers_in_a_column_of_their_own():
    one = studied("cut_digits", "lenet-5000", accuracy=0.94)
    del one["metrics"]["unseen"]
    table = render_studies([one])["study-cut_digits"]
    ours, theirs = (next(row for row in table.splitlines() if name in row) for name in ("`lenet-5000`", "CTSketch"))
    assert ours.endswith("| 94.0 % (93.0–95.0) | – |") and theirs.endswith("| – | 96.7 % |")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({key: other}, "has no place") for key, other in [
            ("study", "sums"), ("source", "digits"), ("preset", "quick"), ("seed", 4), ("experiment", "dreamt"),
        ]),
        ({"metrics": {}}, "lacks metrics"),
    ],
)  # fmt: skip
def test_a_bad_record_of_a_study_is_named(change: dict, message: str, tmp_path: Path):
    path = tmp_path / "studies" / "mnist" / "ablations" / "no_start-seed0.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(studied("ablations", "no_start") | change))
    with pytest.raises(TableError, match=message) as caught:
        load_studies(tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("whole", [COUNTS, CALIBRATION, ENSEMBLE], ids=["counts", "calibration", "ensemble"])
def test_a_measurement_without_its_figures_is_named(whole: dict, tmp_path: Path):
    broken = copy.deepcopy(whole)
    figures = broken["measured"].get("16", broken["measured"])
    del figures["known" if whole is COUNTS else "temperature"]
    with pytest.raises(TableError, match="lacks measured"):
        load_studies(keep_studies(tmp_path, broken))


# Renewing


def test_without_records_a_sentence_says_how_to_make_some(tmp_path: Path):
    readme = tmp_path / "README.md"
    readme.write_text(page("results-mnist", "details-mnist", "peers"))
    (tmp_path / "results").mkdir()
    assert renew(published_tables(tmp_path / "results"), [readme]) == [readme]
    ours, theirs = readme.read_text().split("<!-- table:peers -->")
    assert "No records yet: `python -m digitsum train" in ours and "|" not in ours
    assert "this repository" not in theirs


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_renewing_changes_only_what_stands_between_the_markers_and_only_once(tmp_path: Path, newline: str):
    results = keep(tmp_path / "results", record())
    readme = tmp_path / "README.md"
    before = newline.join(["Å strip,  two spaces  ", "`<!-- table:results-mnist -->` in a line is no marker", ""])
    after = newline.join(["", "", "the end, without a last line break"])
    readme.write_bytes((before + page(newline=newline) + after).encode())
    assert renew(published_tables(results), [readme]) == [readme]
    text = readme.read_bytes().decode()
    assert text.startswith(before) and text.endswith(after)
    assert text.count(newline) == text.count("\n") > 20
    assert renew(published_tables(results), [readme]) == []
    assert readme.read_bytes().decode() == text
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["README.md"]

    keep(results, record(seed=1))
    assert renew(published_tables(results), [readme]), "a new record must show"
    (results / "mnist" / f"{NAMES[0]}-seed1.json").unlink()
    assert renew(published_tables(results), [readme]) and readme.read_bytes().decode() == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table:nonsense -->\n<!-- /table:nonsense -->\n", "'nonsense', which is no table"),
        ("no markers", "no place for results-mnist in "),
        (page("results-mnist", "strings-mnist", "details-mnist", "choices-mnist", "runs-mnist"), "no place for peers"),
        (page() + "\n<!-- table:peers -->\n", "one <!-- table:peers -->"),
        (page().replace("<!-- /table:peers -->", ""), "one <!-- /table:peers -->"),
        (page().replace("<!-- table:peers -->", ""), "one <!-- table:peers -->"),
        (page() + "\n" + page("peers"), "one <!-- table:peers -->"),
        (
            "<!-- table:peers -->\n<!-- table:results-mnist -->\n<!-- /table:peers -->\n<!-- /table:results-mnist -->",
            "within another's",
        ),
    ],
)
def test_wrong_markers_are_named_and_leave_all_pages_alone(tmp_path: Path, text: str, message: str):
    readme, other = tmp_path / "README.md", tmp_path / "other.md"
    readme.write_bytes(text.encode())
    other.write_text(page("claims") if "table:claims" not in text else "")
    kept = [readme.read_bytes(), other.read_bytes()]
    with pytest.raises(TableError, match=re.escape(message)):
        renew(published_tables(keep(tmp_path / "results", record())), [other, readme])
    assert [readme.read_bytes(), other.read_bytes()] == kept


def test_tables_may_stand_on_several_pages_but_each_on_one(tmp_path: Path):
    tables = published_tables(keep(tmp_path / "results", record()))
    pages = [tmp_path / "README.md", tmp_path / "other.md"]
    pages[0].write_text(page(*(name for name in tables if name != "claims")))
    pages[1].write_text(page("claims"))
    assert renew(tables, pages) == pages
    (tmp_path / "third.md").write_text(page("claims"))
    with pytest.raises(TableError, match="other.md and .*third.md both have a place for claims; keep one"):
        renew(tables, [*pages, tmp_path / "third.md"])


def test_a_missing_page_is_named(tmp_path: Path):
    (tmp_path / "README.md").write_text(page("peers"))
    with pytest.raises(TableError, match="other.md is not there"):
        renew({"peers": "new"}, [tmp_path / "README.md", tmp_path / "other.md"])
    assert "new" not in (tmp_path / "README.md").read_text()


# Bad records


def _damaged(key: str, value: object = ...) -> str:
    """A record as JSON in which one dotted key has another value, or is gone."""
    whole = record()
    *path, last = key.split(".")
    inner = whole
    for step in path:
        inner = inner[step]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(whole)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        (json.dumps(record())[:-100], "not valid JSON"),
        ("\x00\x01", "not valid JSON"),
        ("[1, 2]", "lacks experiment, source, seed and"),
        (_damaged("commit"), "lacks commit"),
        (_damaged("metrics.unseen"), "lacks metrics.unseen.n"),
        (_damaged("metrics.test.mae.low"), "lacks metrics.test.mae.low"),
        (_damaged("metrics.test.mae.low", "0.1"), "lacks metrics.test.mae.low"),
        (_damaged("metrics.test.mae.low", float("nan")), "NaN is no number"),
        (_damaged("strings", {"unseen": {"value": 0.5}}), "lacks strings.unseen.low"),
        (_damaged("prediction", {"images": 1_000}), "lacks prediction.seconds"),
        (_damaged("changed", {"epochs": 3}), "lacks both values of changed.epochs"),
        (_damaged("experiment", "dreamt"), "'dreamt', which is no experiment"),
        (_damaged("source", "digits"), "source 'digits'"),
        (_damaged("preset", "quick"), "preset 'quick'"),
        (_damaged("seed", 3), f"holds {NAMES[0]}-seed3.json"),
    ],
)
def test_a_bad_record_is_named_with_its_fault(tmp_path: Path, content: str, message: str):
    keep(tmp_path, record())
    path = tmp_path / "mnist" / f"{NAMES[0]}-seed0.json"
    path.write_text(content)
    with pytest.raises(TableError, match=re.escape(message)) as caught:
        load_records(tmp_path)
    assert str(path) in str(caught.value)


def test_records_on_different_data_are_refused(tmp_path: Path):
    other = record(seed=1)
    other["data"]["fingerprint"] = "d" * 16
    with pytest.raises(TableError, match="different data .*seed0.json.*seed1.json"):
        load_records(keep(tmp_path, record(), other))


def test_shortened_runs_and_other_folders_are_not_published(tmp_path: Path):
    for folder in ("mnist-quick", "digits-smoke", "auto", "ablations"):
        keep(tmp_path, record() | {"source": folder})
    assert load_records(tmp_path) == []
    assert load_records(tmp_path / "not there") == []


# Cells


@given(st.integers(0, 6000), st.integers(1, 6000), st.floats(0, 0.1), st.floats(0, 0.1))
def test_percent_can_be_read_back(hits: int, n: int, below: float, above: float):
    value = min(hits / n, 1.0)
    share = {"value": value, "low": max(value - below, 0.0), "high": min(value + above, 1.0)}
    shown = re.fullmatch(r"(\d{1,3}\.\d) % \((\d{1,3}\.\d)–(\d{1,3}\.\d)\)", percent(share))
    assert shown
    for text, key in zip(shown.groups(), ("value", "low", "high"), strict=True):
        assert abs(float(text) - 100 * share[key]) <= 0.05 + 1e-9
    assert float(shown[2]) <= float(shown[1]) <= float(shown[3])


def test_number_has_as_many_digits_as_asked_for():
    assert number({"value": 12.463, "low": 11.9, "high": 13.019}) == "12.46 (11.90–13.02)"
    assert number({"value": 12.463, "low": 11.9, "high": 13.019}, digits=0) == "12 (12–13)"


def test_cells_cannot_break_their_table():
    assert markdown_table(["a", "b"], [["1 | 2", "x\ny"]]) == "| a | b |\n| --- | --- |\n| 1 \\| 2 | x y |"
    with pytest.raises(ValueError, match="3 cells for 2 columns"):
        markdown_table(["a", "b"], [["1", "2", "3"]])


@pytest.mark.parametrize("path", sorted((REPOSITORY / "models" / "mnist").glob("*.safetensors")), ids=lambda p: p.stem)
def test_published_weights_are_of_the_best_seed_on_record(path):
    record = by_experiment([record for record in RECORDS if record["source"] == "mnist"])[path.stem]
    about = load_checkpoint(path).metadata
    assert (about["seed"], about["commit"], about["validation"]) == (
        record["seed"], record["commit"], record["metrics"]["val"],
    )  # fmt: skip


def test_figures_leave_out_ways_of_rounding_whole_numbers():
    measures = record(accuracy=0.4)["metrics"]["test"]
    assert len(figures(measures)) == len(FIGURES) and NOTHING not in figures(measures)
    by_chance = figures(measures | dict.fromkeys(("floor", "ceiling"), entry(0.1)))
    assert NOTHING not in by_chance
    whole = figures(measures | dict.fromkeys(("rounded", "floor", "ceiling", "within_half"), measures["accuracy"]))
    assert [cell == NOTHING for cell in whole] == [False] + [True] * 4 + [False] * 2
