"""report.pdf says what the records say, whatever they say and whichever there are."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pypdf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_tables import keep, record

from digitsum import look, plots
from digitsum.checkpoints import read_metadata, save_checkpoint
from digitsum.compose import Strips
from digitsum.data import source_glyphs
from digitsum.evaluation import Predictions, predict
from digitsum.experiments import CORE, EXPERIMENTS
from digitsum.facts import (
    _commands,
    _layers,
    _minutes_alike,
    _networks,
    _order,
    _stacks,
    _start_helps,
    _widening,
    _words,
    compared,
)
from digitsum.likelihood import Reading
from digitsum.look import errors
from digitsum.records import in_rows, load_records
from digitsum.report import LOOK, ReportError, _look, compile_paper, draw_charts, make_report
from digitsum.reported import REPORTED
from digitsum.tables import ranked
from digitsum.training import build

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = REPOSITORY / "report"
NOWHERE = REPOSITORY / "tests" / "no-mnist-here"


def make(folder: Path, results: Path = REPOSITORY / "results") -> str:
    """The text of the paper built in `folder`, without any MNIST and without spaces, hyphens and word joiners."""
    output = folder / "report.pdf"
    assert make_report(results, REPOSITORY / "models", NOWHERE, SOURCE, folder / "build", output)
    return text_of(output)


def text_of(path: Path) -> str:
    return re.sub(r"[\s\u00ad\u2060-]+", "", "".join(page.extract_text() for page in pypdf.PdfReader(path).pages))


def squeezed(text: str) -> str:
    return re.sub(r"[\s-]+", "", text)


def written(name: str = "reader", seed: int = 0, accuracy: float = 0.9, **changes) -> dict:
    """A made-up record, whole enough for every part of the paper."""
    made = record(name, seed, accuracy, **changes)
    row = {"epoch": 1, "lr": 0.001} | {
        f"{part}_{what}": 0.5 for part in ("train", "val") for what in ("loss", "accuracy")
    }
    versions = {"python": "3.11", "torch": "2.10"}
    strings = {"strings": copy.deepcopy({s: m["accuracy"] for s, m in made["metrics"].items()})}
    return json.loads(json.dumps(made)) | {
        "history": [row], "versions": versions, "trained_parameters": made["parameters"],
    } | (strings if name == "reader" else {})  # fmt: skip


def write(results: Path, study: dict) -> None:
    path = results / "studies" / "mnist" / study["study"] / f"{study['experiment']}-seed{study['seed']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(study))


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a paper that was built from the repository's own records."""
    folder = tmp_path_factory.mktemp("rebuilt")
    make(folder)
    return folder


def test_the_paper_agrees_with_the_records(rebuilt: Path):
    found, expected = text_of(REPOSITORY / "report.pdf"), text_of(rebuilt / "report.pdf")
    assert found == expected, "report.pdf and results/ disagree: run `make report`"


def test_the_same_records_give_the_same_bytes(rebuilt: Path):
    again = [REPOSITORY / "results", REPOSITORY / "models", NOWHERE, SOURCE, rebuilt / "again", rebuilt / "report.pdf"]
    before = (rebuilt / "report.pdf").read_bytes()
    assert not make_report(*again)
    assert (rebuilt / "report.pdf").read_bytes() == before


def test_the_paper_has_the_length_of_a_paper(rebuilt: Path):
    assert 8 <= len(pypdf.PdfReader(rebuilt / "report.pdf").pages) <= 12


def test_pictures_and_numbers_are_of_the_published_weights():
    seen = json.loads((REPOSITORY / "results" / LOOK).read_text())
    assert seen["weights"] == read_metadata(REPOSITORY / "models/mnist/reader.safetensors")["digest"]
    mnist = [each for each in load_records(REPOSITORY / "results") if each["source"] == "mnist"]
    assert seen["data"]["fingerprint"] == mnist[0]["data"]["fingerprint"]
    assert re.fullmatch("[0-9a-f]{12}", seen["commit"]), "looked with uncommitted code"

    errors = seen["errors"]
    (published,) = (each for each in mnist if (each["experiment"], each["seed"]) == ("reader", seen["seed"]))
    figures = published["metrics"]["unseen"]
    assert errors["n"] == round(figures["n"] * (1 - figures["accuracy"]["value"]))


def test_a_damaged_look_is_named_or_made_again(tmp_path, monkeypatch):
    """Which takes MNIST."""
    path, weights = tmp_path / "mnist.json", tmp_path / "reader.safetensors"
    path.write_text('{"weights": ')
    with pytest.raises(ReportError, match=r"mnist\.json is not valid JSON .*; restore it"):
        _look(path, weights, tmp_path, tmp_path, redraw=False)
    weights.touch()
    monkeypatch.setattr("digitsum.report.mnist_is_there", lambda _: True)
    monkeypatch.setattr("digitsum.report.look", lambda *_: {"weights": "anew"})
    assert _look(path, weights, tmp_path, tmp_path, redraw=False) == {"weights": "anew"} == json.loads(path.read_text())


def test_looking_draws_every_picture_and_counts_what_is_in_them(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(look, "load_data", lambda *_: tiny)
    monkeypatch.setattr(look, "mnist_glyphs", lambda *_, **__: source_glyphs("digits")[0])
    experiment = EXPERIMENTS["reader"]
    model = build(experiment).eval()
    save_checkpoint(
        model, tmp_path / "reader.safetensors", model=experiment.model, model_args=experiment.model_args,
        objective=experiment.objective, experiment="reader", seed=0,
    )  # fmt: skip
    found = look.look(tmp_path, tmp_path / "reader.safetensors", tmp_path)
    pictures = {path.stem: pypdf.PdfReader(path).pages for path in tmp_path.glob("*.pdf")}
    assert set(pictures) == {"strips", "reading", "sums", "digits", "errors"}
    assert all(len(pages) == 1 for pages in pictures.values())
    assert f"sum {tiny.unseen.sums[0]}" in pictures["strips"][0].extract_text()
    wrong = (predict(model, tiny.unseen.images) != tiny.unseen.sums).sum()
    assert found["errors"]["n"] == wrong > 0 and "read as" in pictures["errors"][0].extract_text()
    generator, parts = found["generator"], (tiny.train, tiny.val, tiny.test)
    images, sums = np.concatenate([part.images for part in parts]), np.concatenate([part.sums for part in parts])
    assert generator["n"] == len(sums) and generator["mean of the sums"] == sums.mean()
    assert generator["pixel mean"] == images.mean()
    assert generator["pixel standard deviation"] == pytest.approx(images.std())
    ink = [np.flatnonzero(image.any(axis=0)) for image in images]
    assert generator["left edge"][2] == round(np.median([columns[0] for columns in ink]))
    assert generator["right edge"][2] == round(np.median([columns[-1] for columns in ink]))
    assert 0 < generator["ink lost to overlap"] < 0.1


def test_no_result_is_typed_into_the_source():
    """Numbers that could be a result: with decimals, thousands or a percent sign. Sizes on the page are not meant."""
    source = (SOURCE / "report.typ").read_text()
    prose = re.sub(r'width: \d+%|\d+(\.\d+)?(pt|em|cm|fr)|100 \*|rgb\("[^"]*"\)', "", source)
    thresholds = {"0.02", "0.002"}  # from which on a sentence is chosen
    assert set(re.findall(r"\d\s*%|\d+\.\d+|\b\d{3,}\b|\d,\d{3}", prose)) == thresholds


def test_other_records_give_other_sentences(tmp_path: Path):
    """Two seeds, a better rival, one short run, studies, and nothing that was seen: every sentence follows."""
    readers = [written("reader", seed, accuracy) for seed, accuracy in ((0, 0.7311), (1, 0.7511))]
    rival = written("cnn_attention-classification", 0, 0.8642)
    short = written("resnet50-regression", 0, 0.99, epochs=1, weights=None)
    results = keep(tmp_path / "results", *readers, rival, short, written("reader_small", 0, 0.7))
    for study, variant in (("ablations", "no_start"), ("sums", "500"), ("cut_digits", "lenet-5000")):
        for seed in (0, 1):
            made = written("reader", seed, 0.6123 + 0.01 * seed, train_limit=500)
            write(results, made | {"study": study, "experiment": variant, "changed": {}})
    for study, measured in (("calibration", CALIBRATION), ("counts", COUNTS), ("ensemble", CALIBRATION)):
        write(results, written() | {"study": study, "weights": "0" * 64, "seeds": [0, 1, 4], "measured": measured})
    text = make(tmp_path, results)
    for sentence in (
        "it reads 74.1 % of the sums right (mean of 2 seeds, from 73.1 to 75.1 %)",
        "cnn_attention-classification, is ahead of it, with 86.4 %",
        "74.1 ± 1.4 %, worst 73.1 %",
        "1 of 25 epochs",
        "no_start: Without the start-up",
        "61.7 ± 0.7 %, worst 61.2 %",
        "it is on average 90.0 % sure of its answers, and 80.0 % of them are right: it is somewhat too sure",
        "is not to be taken at its word",
        "lies 2.5 pixels",
        "the readers of 3 seeds have 80.0 % (79.0–81.0) of the sums right",
        "The start-up described in Section 4 helps: without it, the reader has 61.7 ± 0.7 %",
        "There is no record of what the reader sees yet",
        "One seed only of resnet50-regression, cnn_attention-classification",
    ):
        assert squeezed(sentence) in text, sentence
    assert squeezed("There is no record of calibration yet") not in text


def test_minutes_are_held_against_those_of_the_same_kind_of_processor():
    def trained(cpu: str, *minutes: int) -> list[dict]:
        hardware = written()["hardware"] | {"cpu": cpu}
        return [written() | {"hardware": hardware, "seconds": {"train": 60.0 * each}} for each in minutes]

    fast, slow = trained("fast", 20, 31), trained("slow", 40, 52)
    assert _minutes_alike(fast + slow[:1], slow) == ["40", "40–52"]
    assert _minutes_alike(fast, fast) == ["20–31", "20–31"]
    assert _minutes_alike(fast, slow) is None


def test_how_much_wider_intervals_are_for_others_leaves_the_reader_out():
    factors = {"reader": 1.6, "cnn3_dropout-classification": 10.24, "oracle-digit_labels": 9.96}
    assert _widening({"widening": factors}) == {"reader": "1.6", "others": "10.0–10.2"}
    assert _widening({"widening": {"reader": 1.6}}) == {"reader": "1.6", "others": ""}
    assert _widening({"widening": {"most_common": 1.04, "ocr": 1.01}}) == {"reader": "", "others": "1.0"}
    assert _widening(None) == {"reader": "", "others": ""}


@pytest.mark.parametrize(("without", "helps"), [([0.6, 0.61], True), ([0.6, 0.81], False), ([0.9], False), ([], None)])
def test_the_start_helps_where_every_seed_with_it_is_ahead(without: list[float], helps: bool | None):
    base = [written("reader_small", seed, accuracy) for seed, accuracy in ((0, 0.8), (1, 0.82))]
    runs = [written("reader_small", seed, accuracy) for seed, accuracy in enumerate(without)]
    assert _start_helps({"ablations": {"no_start": runs}}, base) is helps
    assert _start_helps({}, base) is _start_helps({"ablations": {"no_start": runs}}, []) is None


def test_charts_of_one_reader_are_of_the_published_one(tmp_path: Path, monkeypatch):
    readers = [written("reader", seed, accuracy) for seed, accuracy in ((0, 0.7), (1, 0.8), (2, 0.8))]
    measured = [CALIBRATION | {"coverage": [[0.5, 0.9], [1.0, 0.1 * (1 + seed)]]} for seed in range(3)]
    studies = {"calibration": {"reader": [{"seed": k, "measured": each} for k, each in enumerate(measured)]}}
    drawn, coverage = [], plots.coverage
    monkeypatch.setattr(plots, "coverage", lambda curves: drawn.append(curves["reader"][1][-1]) or coverage(curves))
    draw_charts(readers, studies, tmp_path)
    assert drawn == [pytest.approx(0.2)]


def test_the_reader_alone_makes_a_paper(tmp_path: Path):
    text = make(tmp_path, keep(tmp_path / "results", written("reader", 3, 0.4321)))
    assert squeezed("it reads 43.2 % of the sums right (one run; 95 % interval") in text
    assert squeezed("There is no record of ablations yet; python -m digitsum study ablations --source mnist") in text


def test_without_the_reader_there_is_none(tmp_path: Path):
    output = tmp_path / "report.pdf"
    output.write_text("mine")
    with pytest.raises(ReportError, match="no record of the reader on mnist"):
        make_report(tmp_path, REPOSITORY / "models", NOWHERE, SOURCE, tmp_path / "build", output)
    assert output.read_text() == "mine"


@pytest.mark.parametrize("source", ["#nonsense", '#set text(font: "No Such Font")\nText'])
def test_errors_and_warnings_stop_it(tmp_path: Path, source: str):
    (tmp_path / "report.typ").write_text(source)
    with pytest.raises(ReportError, match="report.typ"):
        compile_paper(tmp_path / "report.typ")


def test_a_missing_source_is_named(tmp_path: Path):
    with pytest.raises(ReportError, match="run this in the repository's root"):
        make_report(source=tmp_path)


@pytest.mark.parametrize("name", CORE)
def test_a_table_of_layers_counts_every_parameter(name: str):
    rows = _layers(name)
    model = build(replace(EXPERIMENTS[name], weights=None))
    counted = sum(int(parameters.replace(",", "")) for *_, parameters in rows)
    assert counted == sum(p.numel() for p in model.parameters())


def test_layers_of_the_oracle_are_shown_for_a_cut():
    assert [row[1] for row in _layers("oracle-digit_labels")][:2] == ["32 × 40 × 28", "32 × 20 × 14"]


def test_rows_are_in_the_order_of_readme_and_a_shortened_run_takes_no_full_ones_place():
    short, full = record("resnet50-regression", accuracy=0.9, epochs=1), record("resnet50-regression", 1, 0.3)
    seeds = [record("reader", seed, 0.6) for seed in (0, 1)]
    rows = compared([record("most_common", accuracy=0.95), short, full, *seeds])
    assert rows == [seeds, [full], [record("most_common", accuracy=0.95)]]
    assert [row[0]["experiment"] for row in rows] == [row[0]["experiment"] for row in in_rows(ranked(sum(rows, [])))]


def test_one_command_makes_all_runs_that_differ_in_the_name_alone():
    runs = [record(name, seed) for name in ("reader", "ocr") for seed in (0, 2)]
    together, alone = _commands([*runs, record("vit-regression", epochs=1)])
    assert together == "python -m digitsum train reader ocr --source mnist --preset full --seed 0 2"
    assert alone == "python -m digitsum train vit-regression --source mnist --preset full --seed 0 --epochs 1"


def test_variants_say_what_is_different_from_the_network_shown():
    names = ("cnn_no_attention-regression", "cnn_attention-regression", "cnn2_linear-regression", "ocr")
    networks, variants = _networks(dict.fromkeys(names))
    assert [network["name"] for network in networks] == ["baseline_cnn-regression", "cnn_attention-regression"]
    assert variants == [
        ("cnn2_linear-regression", "baseline_cnn-regression", "no hidden layer"),
        ("cnn_no_attention-regression", "cnn_attention-regression", "7 convolutions, no attention"),
    ]


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("attention_after", (3,), "attention after convolution 3"),
        ("attention_after", (3, 4, 5), "attention after convolutions 3, 4 and 5"),
        ("channels", (32, 64, 128), "32, 64 and 128 channels"),
        ("dropout", 0.5, "dropout of 0.5"),
        ("hidden", 256, "a hidden layer of 256"),
        ("normalise", (0.5, 0.5), "inputs less 0.5 and over 0.5"),
        ("head_size", 7, "head size 7"),
        ("kind", "gated", "kind gated"),
    ],
)
def test_settings_of_models_in_words(setting, value, words):
    assert _words(setting, value) == words


def test_what_stands_beside_the_reports_is_in_the_records():
    whole = written("reader")["metrics"]
    whole["first_10000"] = whole["train"]  # OCR's record alone has it
    assert all(measure in whole[split] for row in REPORTED.values() for split, measure in row.measures)


def test_a_brief_statement_has_no_number_of_its_own():
    for row in REPORTED.values():
        assert all(number in row.whole for number in row.numbers), row
        assert set(re.findall(r"\d[\d.,–]*", row.short)) <= set(re.findall(r"\d[\d.,–]*", row.whole)), row


def test_kinds_of_errors():
    digits = np.array([[1, 2, 3, 4], [1, 2, 3, 4], [9, 9, 9, 9], [0, 0, 0, 0]])
    strings = [[1, 2, 3, 4], [7, 2, 3, 4], [4, 4, 9, 9], [0, 0, 0, 6]]
    sums = np.array([sum(string) for string in strings])
    strips = Strips(np.zeros((4, 40, 168), np.uint8), digits.sum(axis=1), digits)
    read = Predictions(sums.astype(float), sums, [Reading(string, [0, 1, 2, 3], 1.0) for string in strings])
    found = errors(read, strips, np.array([0.95, 0.5, 0.91]))
    assert found["n"] == 3 and found["one_digit"] == 2 and found["sure"] == 2
    assert found["pairs"] == [[0, 6, 1], [1, 7, 1]]


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_intervals_are_in_one_order(bounds: list[float]):
    a, b = sorted(bounds[:2]), sorted(bounds[2:])
    assert _order(a, b) == -_order(b, a)
    assert _order(a, a) == 0
    assert (_order(a, b) == 0) == (max(a[0], b[0]) <= min(a[1], b[1]))


@given(st.lists(st.integers(1, 30), max_size=12))
def test_stacks_hold_every_table_once(lengths: list[int]):
    tables = [{"name": str(k), "rows": [[""]] * length} for k, length in enumerate(lengths)]
    stacks = _stacks(tables)
    assert sorted(each["name"] for stack in stacks for each in stack) == sorted(each["name"] for each in tables)
    heights = [sum(len(each["rows"]) + 3 for each in stack) for stack in stacks]
    assert max(heights) - min(heights) <= max(lengths, default=0) + 3


def share(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


DIAGRAM = {"expected_calibration_error": 0.1, "negative_log_likelihood": 0.5, "reliability": [[0.9, 0.8, 1000]]}
CALIBRATION = {
    "split": "unseen", "n": 1000, "temperature": 1.5, "plain": DIAGRAM, "tempered": DIAGRAM, "accuracy": share(0.8),
    "coverage": [[0.5, 0.95], [1.0, 0.8]], "abstaining": {"share": 0.05, "n": 950} | share(0.84),
    "offset": 4.5, "centre_error": share(2.5),
    "overlap": [{"from": -14, "to": 0, "n": 500} | share(0.9), {"from": 1, "to": 5, "n": 500} | share(0.7)],
}  # fmt: skip
COUNTS = {
    "5": {"n": 2000, "columns": 210}
    | {way: {what: share(0.77) for what in ("strings", "sums", "count")} for way in ("unknown", "known")}
}
