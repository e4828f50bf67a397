"""The plan of all runs of the tables, and small ones carried out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from digitsum.errors import TrainingError
from research.reproduce import plan, reproduce, seeds_of
from research.systems import EXPERIMENTS

NAMES = ("cnn2_linear-regression", "most_common")
PRETRAINED = "resnet50_imagenet-classification"


@pytest.fixture(autouse=True)
def short(monkeypatch) -> None:
    for name in (NAMES[0], PRETRAINED):
        monkeypatch.setitem(EXPERIMENTS, name, replace(EXPERIMENTS[name], epochs=1))


@pytest.fixture
def carry_out(tmp_path):
    """A function that does what is planned, and returns how many runs failed."""
    return partial(reproduce, device="cpu", progress=False, models=tmp_path / "models", results=tmp_path)


def done(data, names=NAMES, **options) -> list[bool]:
    return [row.done for row in plan(data, names, **options)]


def test_every_experiment_is_planned_with_its_seeds(tiny, tmp_path):
    planned = plan(tiny, results=tmp_path)
    assert {row.experiment.name for row in planned} == set(EXPERIMENTS) and not any(row.done for row in planned)
    assert [row.seed for row in planned if row.experiment.name == "reader"] == [0, 1, 2, 3, 4]
    assert seeds_of("baseline_cnn-regression") == (0, 10, 42) and seeds_of("reader_small") == (0, 1, 2)
    assert seeds_of(PRETRAINED) == seeds_of("ocr") == seeds_of("most_common") == (0,)
    with pytest.raises(TrainingError, match="dreamt.*reader_small"):
        plan(tiny, ["reader", "dreamt"])


def test_what_is_missing_is_trained_once(tiny, tmp_path, carry_out, monkeypatch):
    name, path = NAMES[0], tmp_path / "digits" / f"{NAMES[0]}-seed0.json"
    assert done(tiny, results=tmp_path) == [False] * 4
    assert carry_out(tiny, plan(tiny, NAMES, results=tmp_path)) == 0
    assert len(list(path.parent.glob("*-seed*.json"))) == 4
    assert done(tiny, results=tmp_path) == [True] * 4
    assert done(tiny.head(40), results=tmp_path) == [False] * 4, "its records are of other data"
    monkeypatch.setitem(EXPERIMENTS, name, replace(EXPERIMENTS[name], lr=0.5))
    assert done(tiny, [name], results=tmp_path)[0] is False, "its record has other settings"


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
    assert done(few, [PRETRAINED], weights="none", results=tmp_path) == [True]
