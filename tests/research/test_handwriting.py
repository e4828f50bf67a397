"""The written rows, their objectives, and the measurements on pictures and cheques, on small stand-ins."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from PIL import Image

from digitsum.data import Data, digit_glyphs
from digitsum.errors import DataError
from digitsum.evaluation import TEMPERATURE
from digitsum.likelihood import sum_log_likelihood
from digitsum.objectives import SumLikelihood
from digitsum.runs import load_json
from digitsum.training import build
from research.studies import cheques
from research.studies.pictures import KINDS, pictures, write
from research.systems import SYSTEMS, handwriting


@pytest.fixture(scope="module")
def reader():
    return build(SYSTEMS["reader_small"])


@pytest.fixture
def amounts(tmp_path: Path) -> Path:
    """A folder with 20 pictures of amounts in place of the cheques, which cannot be passed on."""
    glyphs, labels = digit_glyphs()
    (tmp_path / "cheques" / "images").mkdir(parents=True)
    rows = [("file", "digits")]
    for k in range(20):
        chosen = np.arange(k, k + 1 + k % 4)
        Image.fromarray(write(glyphs[chosen]).astype(np.uint8)).save(tmp_path / f"cheques/images/{k}.jpg")
        rows.append((f"{k}.jpg", "".join(map(str, labels[chosen]))))
    with (tmp_path / "cheques" / "amounts.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path


def test_written_rows_say_their_sum_and_count():
    glyphs, labels = digit_glyphs()
    rows = handwriting.write_rows(glyphs, labels, 60, seed=1)
    sums, counts = rows.sums.T
    assert rows.images.shape == (60, 40, handwriting.WIDE) and rows.images.dtype == np.uint8
    assert set(counts) == set(range(1, handwriting.MOST + 1))
    assert np.all((sums >= 0) & (sums <= 9 * counts))
    assert np.all(rows.images.max(axis=(1, 2)) > 200) and np.all(np.median(rows.images, axis=(1, 2)) == 0)
    np.testing.assert_array_equal(rows.images, handwriting.write_rows(glyphs, labels, 60, seed=1).images)
    width = [np.ptp(np.flatnonzero(image.any(axis=0))) for image in rows.images]
    assert np.corrcoef(width, counts)[0, 1] > 0.7


def test_objectives_count_each_strip_as_it_is_told():
    logits = torch.randn(3, 12, 11)
    told = torch.tensor([[3, 1], [11, 2], [30, 5]])
    each = [sum_log_likelihood(logits[k : k + 1], told[k : k + 1, 0], int(told[k, 1])) for k in range(3)]
    assert handwriting.CountedLikelihood().loss(logits, told).item() == pytest.approx(-torch.cat(each).mean().item())


def test_told_strings_have_the_probability_of_their_placements():
    logits, digits = torch.randn(2, 4, 11), torch.tensor([[3, -1], [5, 6]])
    p = logits.softmax(dim=2)
    first = sum(p[0, t, 4] * p[0, [u for u in range(4) if u != t], 0].prod() for t in range(4))
    second = sum(
        p[1, t, 6] * p[1, u, 7] * p[1, [v for v in range(4) if v not in (t, u)], 0].prod()
        for t, u in itertools.combinations(range(4), 2)
    )
    assert cheques.StringsTold().loss(logits, digits).item() == pytest.approx(-(first * second).log().item() / 2)
    assert cheques.StringsTold().truth(digits).tolist() == [3, 11]


def test_training_data_holds_strips_and_rows(digits: Data, monkeypatch):
    monkeypatch.setattr(handwriting, "ROWS", 30)
    monkeypatch.setattr(handwriting, "VALIDATION", 20)
    data = handwriting.training_data(digits.head(40, 40), "none")
    assert data.train.images.shape == (70, 40, handwriting.WIDE) and len(data.val) == 40
    assert {4} < set(data.train.sums[:, 1].tolist())


def test_every_kind_of_picture_is_drawn_the_same_again():
    glyphs, labels = digit_glyphs()
    first, again = (list(pictures(glyphs, labels, range(1))) for _ in range(2))
    assert [kind for kind, _, _ in first] == list(KINDS)
    assert all(a[2] == b[2] and np.array_equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    assert {len(digits) for _, _, digits in first} == {1, 2, 3, 4, 5, 6, 8}


def test_pictures_and_cheques_are_measured(reader, digits: Data, amounts: Path, monkeypatch):
    monkeypatch.setattr(cheques, "OF_EACH", 1)
    monkeypatch.setattr("research.studies.pictures.KINDS", {kind: KINDS[kind] for kind in ("plain", "digits_2")})
    measured = cheques.measure([reader], digits.head(10, 10), amounts)
    assert measured["cheques"]["n"] == 10 and set(measured["kinds"]) == {"plain", "digits_2"}
    assert 0.05 <= measured["temperature"] <= 20 and measured["sure"]["0.0"]["n"] == 12


def test_confidence_is_fitted_until_sure_answers_are_right():
    """All answers have a probability above one half. Those of the less probable half are wrong."""
    p = torch.cat([torch.linspace(0.6, 0.8, 50), torch.linspace(0.9, 0.99, 50)])
    log_p = torch.stack([p, *[(1 - p) / 3] * 3], dim=1).log().numpy()
    answers = cheques.Answers(log_p, *[np.arange(100) >= 50] * 2)
    fitted = answers.confidence(cheques.fit_confidence([answers])) >= 0.5
    assert not fitted[:48].any() and fitted[50:].any()


def test_amounts_are_read_by_readers_that_were_taught_others(reader, digits: Data, amounts: Path, monkeypatch):
    monkeypatch.setattr(cheques, "EPOCHS", 1)
    monkeypatch.setattr(cheques, "ALL", 20)
    rows = cheques.read_cheques(amounts)
    for objective in (handwriting.CountedLikelihood(), SumLikelihood(count=(1, 8)), cheques.StringsTold()):
        taught = cheques.taught(reader, objective, rows, 0)
        assert not torch.equal(taught.symbols.weight, reader.symbols.weight)
        assert isinstance(reader.objective, SumLikelihood) and taught.objective == objective
    told = []
    monkeypatch.setattr(cheques, "taught", lambda start, objective, rows, seed: told.append(len(rows)) or start)
    assert cheques.teach([reader], digits, amounts, only=["sums-50"])["n"] == 20 and told == [16] * cheques.FOLDS
    with pytest.raises(DataError, match=r"amounts\.csv is missing"):
        cheques.read_cheques(amounts / "elsewhere")


def test_answers_are_as_sure_as_was_measured():
    record = load_json(REPOSITORY / "results/studies/mnist/handwriting/reader_handwriting-seed0.json")
    assert pytest.approx(record["measured"]["temperature"], abs=0.01) == TEMPERATURE
