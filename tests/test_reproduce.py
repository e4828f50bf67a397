"""The plan of the whole table, and a small one carried out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from digitsum import __main__, runs
from digitsum.__main__ import main
from digitsum.checkpoints import CheckpointError
from digitsum.experiments import EXPERIMENTS
from digitsum.reproduce import Planned, plan, seeds_of
from digitsum.runs import run_experiment

NAME = "cnn2_linear-regression"
PRETRAINED = "vgg16_frozen-regression"


@pytest.fixture
def smoke(tiny, tmp_path):
    """A function that makes a record, and one that plans beside what is on record."""

    def run(name: str = NAME, data=tiny, **options) -> Path:
        folders = {"models": tmp_path / "models", "results": tmp_path}
        run_experiment(name, data, device="cpu", preset_name="smoke", progress=False, **folders, **options)
        return tmp_path / "digits-smoke" / f"{name}-seed{options.get('seed', 0)}.json"

    return run


@pytest.fixture
def planned(tiny, tmp_path):
    def look(data=tiny, names=(NAME,), seeds=(0,), **options) -> list[Planned]:
        return plan(data, names, seeds=seeds, preset_name="smoke", results=tmp_path, **options)

    return look


def rewrite(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_every_experiment_is_planned_with_its_seeds(tiny, tmp_path):
    rows = plan(tiny, results=tmp_path)
    assert {row.experiment for row in rows} == set(EXPERIMENTS)
    assert all((row.why, row.minutes) == ("no record", None) for row in rows)
    for name in ("baseline_cnn-regression", "baseline_cnn-classification"):
        assert [row.seed for row in rows if row.experiment == name] == [0, 10, 42]
    assert seeds_of("reader") == (0, 1, 2, 3, 4) and seeds_of("reader", [5, 6]) == [5, 6]
    assert seeds_of(PRETRAINED) == (0,) and seeds_of(PRETRAINED, [5, 6]) == [5, 6]
    assert list(seeds_of("most_common", [5, 6])) == [5]


def test_what_is_named_twice_is_planned_once(planned):
    assert [row.seed for row in planned(names=(NAME, NAME), seeds=(3, 0, 3))] == [3, 0]


def test_what_is_on_record_is_not_run_again(smoke, planned, tiny):
    path = smoke()
    assert [(row.seed, row.why) for row in planned(seeds=(0, 1))] == [(0, ""), (1, "no record")]
    assert planned(tiny.head(40))[0].why == "its record is on other data"
    record = json.loads(path.read_text())
    rewrite(path, settings=record["settings"] | {"left_open": "Put in other words.", "report": "Z"})
    assert planned()[0].why == "", "words do not matter"
    rewrite(path, settings={key: value for key, value in record["settings"].items() if key != "augment"})
    assert planned()[0].why == "", "a setting from before it existed is its default"
    rewrite(path, settings=record["settings"] | {"lr": 0.5})
    assert planned()[0].why == planned(keep_changed=True)[0].why == "its record has other settings"
    for junk in ("no record", "{}", "[]"):
        path.write_text(junk)
        assert planned()[0].why == "no record"


def test_a_record_of_other_settings_is_kept_where_it_says_so_and_that_is_wanted(smoke, planned):
    smoke(changes={"lr": 0.002})
    assert planned()[0].why == "its record has other settings"
    assert planned(keep_changed=True)[0].why == ""


def test_a_random_start_counts_only_where_it_is_allowed(tmp_path, tiny, smoke, planned, monkeypatch):
    experiment = replace(EXPERIMENTS[NAME], weights="IMAGENET1K_V1")
    path = smoke()
    monkeypatch.setitem(EXPERIMENTS, NAME, experiment)
    monkeypatch.setattr(
        "digitsum.reproduce.preset", lambda each, name: replace(each, epochs=1, train_limit=64, batch_size=32)
    )
    assert json.loads(path.read_text())["settings"]["weights"] is None
    assert planned()[0].why == "its record has other settings"
    assert planned(from_scratch=True)[0].why == ""


def test_minutes_are_those_of_the_records_brought_to_length(smoke, planned, tiny):
    """Two records of one epoch on 48 strips that took 60 and 120 seconds."""
    for seed, seconds in ((0, 60.0), (1, 120.0)):
        rewrite(smoke(seed=seed), seconds={"train": seconds, "total": seconds})
    assert [row.minutes for row in planned(seeds=(0, 7))] == pytest.approx([1.5, 1.5])
    assert planned(tiny.head(24), seeds=(0,))[0].minutes == pytest.approx(0.75)


def test_the_command_trains_what_is_missing_and_then_nothing(workplace, monkeypatch, capsys):
    command = ["reproduce", NAME, "most_common", "--source", "digits", "--preset", "smoke", "--seeds", "0", "3"]
    assert main([*command, "--dry-run"]) == 0
    assert "3 of 3 runs to train" in capsys.readouterr().out and not list(workplace.iterdir())
    assert main(command) == 0
    assert f"{NAME} seed 3: validation" in capsys.readouterr().out
    records = {path.name: path.stat().st_mtime_ns for path in Path("results/digits-smoke").iterdir()}
    assert set(records) == {f"{NAME}-seed0.json", f"{NAME}-seed3.json", "most_common-seed0.json"}
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "0 of 3 runs to train" in said and said.count("on record") == 3
    assert {path.name: path.stat().st_mtime_ns for path in Path("results/digits-smoke").iterdir()} == records

    Path(f"results/digits-smoke/{NAME}-seed0.json").unlink()
    Path("results/digits-smoke/most_common-seed0.json").unlink()
    train = runs.train

    def damaged(experiment, *arguments, **options):
        if experiment.model == EXPERIMENTS[NAME].model:
            raise CheckpointError("resume.pt is damaged")
        return train(experiment, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "train", damaged)
        assert main(command) == 1
    captured = capsys.readouterr()
    assert f"{NAME} seed 0: resume.pt is damaged" in captured.err and "most_common seed 0: val" in captured.out

    Path(f"results/digits-smoke/{NAME}-seed0.json").unlink(missing_ok=True)
    planned = __main__.plan

    def overtaken(*arguments, **options):
        rows = planned(*arguments, **options)
        path = Path(f"results/digits-smoke/{NAME}-seed0.json")
        path.write_text(path.with_name(f"{NAME}-seed3.json").read_text())
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(__main__, "plan", overtaken)
        patch.setattr(runs, "train", None)
        assert main(command) == 0, "what another process has trained meanwhile is not trained again"

    monkeypatch.setattr("digitsum.runs.preset", lambda each, name: replace(each, epochs=1, train_limit=32))
    assert (
        main(["reproduce", PRETRAINED, "most_common", "--source", "digits", "--preset", "smoke", "--seeds", "9"]) == 1
    )
    captured = capsys.readouterr()
    assert f"{PRETRAINED} seed 9: VGG16_Weights.IMAGENET1K_V1 asked for" in captured.err
    assert "most_common seed 9: validation" in captured.out, "the others go on"


def test_an_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["reproduce", "dreamt", "--dry-run"])
    assert "dreamt is no experiment" in capsys.readouterr().err
