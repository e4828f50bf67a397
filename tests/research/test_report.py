"""report.pdf says what the records say, and other records that contradict a sentence stop it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pypdf
import pytest
from test_tables import entry, record

from digitsum.checkpoints import save_checkpoint
from digitsum.compose import Strips
from digitsum.data import source_glyphs
from digitsum.errors import RecordError
from digitsum.evaluation import Predictions, predict
from digitsum.experiments import EXPERIMENTS
from digitsum.likelihood import Reading
from digitsum.training import build
from research.paper import look
from research.paper.facts import facts, of_seeds, one_row_each
from research.paper.records import best_seed, load_records
from research.paper.report import compile_paper, make_report
from research.paper.reported import REPORTED
from research.studies import READER, SMALL, variants_of

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "results"


def text_of(path: Path) -> str:
    """Return a paper's text without spaces, hyphens and word joiners, which depend on where lines end."""
    return re.sub(r"[\s\u00ad\u2060-]+", "", "".join(page.extract_text() for page in pypdf.PdfReader(path).pages))


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paper that the repository's records give; building it fails on any warning."""
    path = tmp_path_factory.mktemp("paper") / "report.pdf"
    assert make_report(RESULTS, output=path)
    return path


def test_the_paper_in_the_repository_is_the_one_that_the_records_give(rebuilt: Path):
    """Its bytes are the same too where matplotlib is; the text is the same everywhere."""
    assert text_of(REPOSITORY / "report.pdf") == text_of(rebuilt), "run `make report`"
    assert 8 <= len(pypdf.PdfReader(rebuilt).pages) <= 12


def test_the_same_records_give_the_same_bytes(rebuilt: Path):
    before = rebuilt.read_bytes()
    assert not make_report(RESULTS, output=rebuilt)
    assert rebuilt.read_bytes() == before


def test_the_paper_quotes_the_records(rebuilt: Path):
    readers = [each for each in load_records(RESULTS) if each["experiment"] == READER]
    accuracies = [each["metrics"]["unseen"]["accuracy"]["value"] for each in readers]
    low, mean, high = (f"{100 * f(accuracies):.1f}" for f in (min, np.mean, max))
    text = text_of(rebuilt)
    assert f"{mean}%ofthesumsright(meanof{len(readers)}seeds,{low}to{high}%)" in text
    for work in ("UltraMNIST", "countbasedweaklysupervisedlearning", "Afastconvolutedstory"):
        assert work.lower() in text.lower()


def test_pictures_and_numbers_are_of_the_best_reader():
    seen, records = json.loads((RESULTS / "report" / "mnist.json").read_text()), load_records(RESULTS)
    best = best_seed([each for each in records if each["experiment"] == READER])
    assert (seen["seed"], seen["data"]["fingerprint"]) == (best["seed"], best["data"]["fingerprint"])
    unseen = best["metrics"]["unseen"]
    assert seen["errors"]["n"] == round(unseen["n"] * (1 - unseen["accuracy"]["value"]))


def test_records_that_contradict_a_sentence_or_are_missing_stop_the_paper(tmp_path: Path):
    results = shutil.copytree(RESULTS, tmp_path / "results")
    output = tmp_path / "report.pdf"
    output.write_text("old")
    folder = results / "studies" / "mnist" / "pseudo_labels"
    (path,) = folder.glob("*.json")
    changed = json.loads(path.read_text())
    changed["measured"]["right"]["value"] = 0.9
    path.write_text(json.dumps(changed))
    with pytest.raises(RecordError, match="contradict this sentence: no pseudo-label is wrong"):
        make_report(results, output=output)
    shutil.rmtree(folder)
    with pytest.raises(RecordError, match="the study pseudo_labels"):
        make_report(results, output=output)
    assert output.read_text() == "old"


@pytest.mark.parametrize("source", ["#nonsense", '#set text(font: "No Such Font")\nText'])
def test_errors_and_warnings_of_typst_stop_the_paper(tmp_path: Path, source: str):
    (tmp_path / "report.typ").write_text(source)
    with pytest.raises(RecordError, match="report.typ"):
        compile_paper(tmp_path / "report.typ")


# Hand-made records

CALIBRATION = {
    "n": 1000, "temperature": 1.5, "accuracy": entry(0.8), "abstaining": {"share": 0.05, "n": 950} | entry(0.84),
    "plain": {"expected_calibration_error": 0.1, "reliability": [[0.9, 0.8, 750], [0.5, 0.8, 250]]},
    "tempered": {"expected_calibration_error": 0.05}, "offset": -4.4, "centre_error": entry(2.5),
    "overlap": [{"from": -14, "to": 0, "n": 500} | entry(0.9), {"from": 1, "to": 5, "n": 500} | entry(0.7)],
}  # fmt: skip
READ = {way: {what: entry(0.77) for what in ("strings", "sums", "count")} for way in ("unknown", "known")}
MEASURED = {
    "counts": {"5": {"n": 2000, "columns": 210} | READ},
    "tta": {"splits": {"unseen": {key: entry(0.5) for key in ("again", "once", "several")}}},
    "calibration": CALIBRATION, "ensemble": CALIBRATION,
    "pseudo_labels": {"strips": 10, "digits": 30, "glyphs": 20, "right": entry(1.0)},
}  # fmt: skip
COMPARISON = {
    "pairs": [{"better": READER, "next": "ocr", "p": p} for p in (0.001, 0.25)],
    "design_effect": {READER: 2.56, "ocr": 1.0, "most_common": 4.0},
}  # fmt: skip


def handmade() -> tuple[list[dict], dict]:
    """Return runs of all that the paper needs, two seeds of the reader among them, and studies."""
    runs = [record(name, accuracy=0.5, weights=None, epochs=1) for name in REPORTED]
    for run in runs:
        run["metrics"]["first_10000"] = run["metrics"]["train"]  # as OCR's record has it
    runs += [record(READER, 0, 0.7), record(READER, 1, 0.8), record(SMALL, 0, 0.6), record("most_common", 0, 0.9)]
    studies = {
        study: {v.name: [record(SMALL, 0, 0.3 + k / 100)] for k, v in enumerate(variants_of(study)) if v.name != SMALL}
        for study in ("ablations", "sums", "cut_digits")
    }
    return runs, studies | {name: {READER: [{"seeds": [0], "measured": each}]} for name, each in MEASURED.items()}


def test_facts_of_hand_made_records():
    runs, studies = handmade()
    seen = {"generator": {"pixel mean": 15.514, "ink lost to overlap": 0.0025, "left edge": [4, 6]}}
    found = facts(runs, seen, studies, COMPARISON)
    assert list(found["systems"])[:2] == [READER, SMALL] and list(found["systems"])[-1] == "most_common"
    reader, ocr = (found["systems"][name] for name in (READER, "ocr"))
    assert reader["unseen"]["text"] == "75.0 ± 7.1 %, worst 70.0 %" and reader["unseen"]["range"] == "70.0 to 80.0 %"
    assert (reader["seeds"], reader["departs"], ocr["departs"]) == (2, False, True)
    assert ocr["note"] and reader["mse"] == "7.25 ± 0.00" and reader["settings"].endswith("40 epochs, augmented")
    stated = next(row for row in found["theirs"] if row["theirs"] == "test MSE 12.463")
    assert stated["ours"] == "test MSE 7.25 (7.24–7.26)" and stated["departs"]
    assert found["comparison"] == {
        "n": 2, "near": [[READER, "ocr", "0.25"]], "wider": "1.6", "others_wider": "1.0–2.0",
    }  # fmt: skip
    rows = list(found["ablations"].values())
    assert list(found["ablations"])[0] == SMALL and rows[0]["val"]["mean"] == "60.0 %"
    assert [row["val"]["value"] for row in rows[1:]] == sorted((row["val"]["value"] for row in rows[1:]), reverse=True)
    trust = found["calibration"]
    assert (trust["certainty"], trust["ece"], trust["tempered"]) == ("80.0 %", "10.0 %", "5.0 %")
    assert trust["refused"] == "24 %" and trust["offsets"] == "−4" and trust["overlap"][0]["columns"] == "none"
    assert found["counts"] == [["5", "210", *["77.0 % (76.0–78.0)"] * 3]]
    assert found["generator"] == {"pixel mean": "15.51", "ink lost to overlap": "0.25 %", "left edge": "4, 6"}
    with pytest.raises(RecordError, match="lacks records of ocr"):
        facts([run for run in runs if run["experiment"] != "ocr"], seen, studies, COMPARISON)


def test_a_row_with_its_own_settings_replaces_a_shortened_one():
    short, full = record("resnet50-regression", 0, 0.9, epochs=1), record("resnet50-regression", 1, 0.3)
    assert one_row_each([short, full]) == [[full]] and one_row_each([short]) == [[short]]
    assert of_seeds([entry(0.5)])["range"] == "49.0 to 51.0 %"  # of one seed, its interval


# What look.py draws and counts


def test_kinds_of_errors():
    digits = np.array([[1, 2, 3, 4], [1, 2, 3, 4], [9, 9, 9, 9], [0, 0, 0, 0]])
    strings = [[1, 2, 3, 4], [7, 2, 3, 4], [4, 4, 9, 9], [0, 0, 0, 6]]
    sums = np.array([sum(string) for string in strings])
    log_p = np.log([[0.9], [0.95], [0.5], [0.99]])
    read = Predictions(sums.astype(float), sums, [Reading(s, [0, 1, 2, 3], 1.0) for s in strings], log_p)
    counts, surest = look.errors(read, Strips(np.zeros((4, 40, 168), np.uint8), digits.sum(axis=1), digits))
    assert (counts["n"], counts["one_digit"], counts["sure"]) == (3, 2, 2) and surest.tolist() == [3, 1, 2]
    assert counts["pairs"] == [[0, 6, 1], [1, 7, 1]]


def test_looking_draws_every_picture_and_measures_the_generator(tiny, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(look, "load_data", lambda *_: tiny)
    experiment = EXPERIMENTS[READER]
    model = build(experiment).eval()
    save_checkpoint(
        model, tmp_path / "reader.safetensors", experiment=READER, seed=0, data=tiny.fingerprint, settings={},
        validation={"accuracy": entry(0.5)}, model=experiment.model, model_args=experiment.model_args,
        objective=experiment.objective, objective_args={},
    )  # fmt: skip
    found = look.look(tmp_path, tmp_path / "reader.safetensors", tmp_path)
    pictures = {path.stem: pypdf.PdfReader(path).pages[0].extract_text() for path in tmp_path.glob("*.pdf")}
    assert set(pictures) == {"strips", "reading", "sums", "digits", "errors"} and "read as" in pictures["errors"]
    assert found["errors"]["n"] == (predict(model, tiny.unseen.images, digits=4) != tiny.unseen.sums).sum() > 0
    images = np.concatenate([part.images for part in (tiny.train, tiny.val, tiny.test)])
    generator, ink = found["generator"], [np.flatnonzero(image.any(axis=0)) for image in images]
    assert generator["pixel standard deviation"] == pytest.approx(images.std())
    assert generator["right edge"][2] == round(np.median([columns[-1] for columns in ink]))
    whole = source_glyphs("digits")[0][0].sum(axis=(1, 2))
    drawn = sum(whole[part.glyphs].sum() for part in (tiny.train, tiny.val, tiny.test))
    assert generator["ink lost to overlap"] == pytest.approx(1 - images.sum(dtype=np.int64) / drawn)
