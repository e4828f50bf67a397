"""report.pdf says what the records say, and other records that contradict a sentence stop it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pypdf
import pytest
from conftest import REPOSITORY
from test_tables import entry

from digitsum.checkpoints import save_checkpoint
from digitsum.compose import Strips
from digitsum.errors import RecordError
from digitsum.evaluation import Predictions, predict
from digitsum.experiments import EXPERIMENTS
from digitsum.likelihood import Reading
from digitsum.training import build
from research.paper import charts
from research.paper.cells import column
from research.paper.published import load_all
from research.paper.records import best_seed, one_row_each
from research.paper.report import compile_paper, make_report
from research.studies import READER

RESULTS = REPOSITORY / "results"
RECORDS, STUDIES, COMPARISON = load_all(RESULTS)
SEEN = json.loads((RESULTS / "report" / "mnist.json").read_text())


def text_of(path: Path) -> str:
    """Return a paper's text without spaces, hyphens and word joiners, which depend on where lines end."""
    return re.sub(r"[\s\u00ad\u2060-]+", "", "".join(page.extract_text() for page in pypdf.PdfReader(path).pages))


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paper that the repository's records give; building it fails on any warning."""
    path = tmp_path_factory.mktemp("paper") / "report.pdf"
    make_report(RESULTS, output=path)
    return path


def test_the_paper_in_the_repository_is_the_one_that_the_records_give(rebuilt: Path):
    """Its bytes are the same too where matplotlib is; the text is the same everywhere."""
    assert text_of(REPOSITORY / "report.pdf") == text_of(rebuilt), "run `make report`"
    assert 8 <= len(pypdf.PdfReader(rebuilt).pages) <= 12


def test_the_paper_quotes_the_records(rebuilt: Path):
    """What Typst computes is computed here again."""
    text, readers = text_of(rebuilt), one_row_each(RECORDS)[READER]
    accuracies = column(readers, "metrics", "unseen", "accuracy", "value")
    low, mean, high = (f"{100 * f(accuracies):.1f}" for f in (min, np.mean, max))
    assert f"{mean}%ofthesumsright(meanof{len(readers)}seeds,{low}to{high}%)" in text
    measured = column(STUDIES["calibration"][READER], "measured")
    certain = np.mean([sum(p * n for p, _, n in m["plain"]["reliability"]) / m["n"] for m in measured])
    kept = [m["abstaining"]["n"] * (1 - m["abstaining"]["value"]) for m in measured]
    refused = 1 - np.mean([k / (m["n"] * (1 - m["accuracy"]["value"])) for k, m in zip(kept, measured, strict=True)])
    calibration = np.mean(column(measured, "plain", "expected_calibration_error"))
    assert f"itsmeanis{certain:.1%};" in text and re.search(rf"calibrationerror\[\d+\]is{calibration:.1%}", text)
    assert f"{refused:.0%}ofallerrorsareamongtherefused" in text
    assert f"{COMPARISON['design_effect'][READER] ** 0.5:.1f}timesforthepublishedreader" in text
    assert f"pixelmean15.51{SEEN['generator']['pixel mean']:.2f}" in text
    best = best_seed(readers)
    unseen = best["metrics"]["unseen"]
    assert (SEEN["seed"], SEEN["data"]["fingerprint"]) == (best["seed"], best["data"]["fingerprint"])
    assert SEEN["errors"]["n"] == round(unseen["n"] * (1 - unseen["accuracy"]["value"]))
    for work in ("UltraMNIST", "countbasedweaklysupervisedlearning", "Afastconvolutedstory"):
        assert work.lower() in text.lower()


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


# What is drawn and counted of the reader


def test_kinds_of_errors():
    digits = np.array([[1, 2, 3, 4], [1, 2, 3, 4], [9, 9, 9, 9], [0, 0, 0, 0]])
    strings = [[1, 2, 3, 4], [7, 2, 3, 4], [4, 4, 9, 9], [0, 0, 0, 6]]
    sums = np.array([sum(string) for string in strings])
    log_p = np.log([[0.9], [0.95], [0.5], [0.99]])
    read = Predictions(sums.astype(float), sums, [Reading(s, [0, 1, 2, 3], 1.0) for s in strings], log_p)
    counts, surest = charts.errors(read, Strips(np.zeros((4, 40, 168), np.uint8), digits.sum(axis=1), digits))
    assert (counts["n"], counts["one_digit"], counts["sure"]) == (3, 2, 2) and surest.tolist() == [3, 1, 2]
    assert counts["pairs"] == [[0, 6, 1], [1, 7, 1]]


def test_looking_draws_every_picture_and_measures_the_generator(tiny, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(charts, "load_data", lambda *_: tiny)
    experiment = EXPERIMENTS[READER]
    model = build(experiment).eval()
    save_checkpoint(
        model, tmp_path / "reader.safetensors", experiment=READER, seed=0, data=tiny.fingerprint, settings={},
        validation={"accuracy": entry(0.5)}, model=experiment.model, model_args=experiment.model_args,
        objective=experiment.objective, objective_args={},
    )  # fmt: skip
    found = charts.look(tmp_path, tmp_path / "reader.safetensors", tmp_path)
    pictures = {path.stem: pypdf.PdfReader(path).pages[0].extract_text() for path in tmp_path.glob("*.pdf")}
    assert set(pictures) == {"strips", "reading", "sums", "digits", "errors"} and "read as" in pictures["errors"]
    assert found["errors"]["n"] == (predict(model, tiny.unseen.images, digits=4) != tiny.unseen.sums).sum() > 0
    images = np.concatenate([part.images for part in (tiny.train, tiny.val, tiny.test)])
    generator, ink = found["generator"], [np.flatnonzero(image.any(axis=0)) for image in images]
    assert generator["pixel standard deviation"] == pytest.approx(images.std())
    assert generator["right edge"][2] == round(np.median([columns[-1] for columns in ink]))
