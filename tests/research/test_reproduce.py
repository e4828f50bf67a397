"""The plan of all runs of the tables, and small ones carried out."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest

from digitsum.errors import RecordError, TrainingError
from research.reproduce import plan, reproduce, seeds_of
from research.systems import EXPERIMENTS

NAMES = ("cnn2_linear-regression", "most_common")
PRETRAINED = "resnet50_imagenet-regression"


@pytest.fixture(autouse=True)
def short(monkeypatch) -> None:
    for name in (NAMES[0], PRETRAINED):
        monkeypatch.setitem(EXPERIMENTS, name, replace(EXPERIMENTS[name], epochs=1))


@pytest.fixture
def carry_out(tmp_path):
    """A function that does what is planned, and returns how many runs failed."""
    return partial(reproduce, device="cpu", progress=False, models=tmp_path / "models", results=tmp_path)


def reasons(data, names=NAMES, **options) -> list[str]:
    return [row.why for row in plan(data, names, **options)]


def test_every_experiment_is_planned_with_its_seeds(tiny, tmp_path):
    planned = plan(tiny, results=tmp_path)
    assert {row.experiment.name for row in planned} == set(EXPERIMENTS)
    assert all((row.why, row.minutes) == ("no record", None) for row in planned)
    assert seeds_of("baseline_cnn-regression") == seeds_of("baseline_cnn-classification") == (0, 10, 42)
    assert [row.seed for row in planned if row.experiment.name == "reader"] == [0, 1, 2, 3, 4]
    assert seeds_of(PRETRAINED) == seeds_of("ocr") == seeds_of("most_common") == (0,)
    assert seeds_of("reader_small") == seeds_of("oracle-digit_labels") == (0, 1, 2)
    with pytest.raises(TrainingError, match="dreamt.*reader_small"):
        plan(tiny, ["reader", "dreamt"])


def test_what_is_missing_is_trained_once(tiny, tmp_path, carry_out, monkeypatch):
    name, path = NAMES[0], tmp_path / "digits" / f"{NAMES[0]}-seed0.json"
    assert reasons(tiny, results=tmp_path) == ["no record"] * 4
    assert carry_out(tiny, plan(tiny, NAMES, results=tmp_path)) == 0
    assert len(list(path.parent.glob("*-seed*.json"))) == 4
    assert reasons(tiny, results=tmp_path) == [""] * 4
    assert reasons(tiny.head(40), results=tmp_path) == ["its record is of other data"] * 4
    monkeypatch.setitem(EXPERIMENTS, name, replace(EXPERIMENTS[name], lr=0.5))
    assert reasons(tiny, [name], results=tmp_path)[0] == "its record has other settings"


def test_minutes_are_those_of_the_records_brought_to_length(tiny, tmp_path, carry_out, monkeypatch):
    name, path = NAMES[0], tmp_path / "digits" / f"{NAMES[0]}-seed0.json"
    carry_out(tiny, plan(tiny, [name], results=tmp_path)[:1])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": {"train": 120.0}}))  # for 48 strips once
    monkeypatch.setitem(EXPERIMENTS, name, replace(EXPERIMENTS[name], epochs=3))
    assert plan(tiny.head(24), [name], results=tmp_path)[0].minutes == pytest.approx(3)
    path.write_text("{}")
    with pytest.raises(RecordError, match=path.name):
        plan(tiny, [name], results=tmp_path)


def test_a_run_stops_without_published_weights_unless_told_not_to(tiny, tmp_path, carry_out, monkeypatch, capsys):
    few = tiny.head(8, 4)
    monkeypatch.setattr("socket.getaddrinfo", None)  # no internet
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    assert carry_out(few, plan(few, [PRETRAINED, "most_common"], results=tmp_path)) == 1
    said = capsys.readouterr().err
    assert f"{PRETRAINED}, seed 0" in said and "IMAGENET1K_V1" in said
    assert (tmp_path / "digits" / "most_common-seed0.json").is_file(), "the others go on"
    assert carry_out(few, plan(few, [PRETRAINED], weights="none", results=tmp_path)) == 0
    assert reasons(few, [PRETRAINED], weights="none", results=tmp_path) == [""]
