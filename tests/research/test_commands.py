"""The command line of the published work: help, faults in one line, and what commands hand on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

import research.paper.report
from research import bench, reproduce, studies
from research.__main__ import main

COMMANDS = ("reproduce", "study", "bench", "compare", "tables", "report")


def test_help_needs_no_torch():
    code = f"""import sys; sys.path[:0] = {[str(REPOSITORY), str(REPOSITORY / "src")]}
from research.__main__ import main
try: main(["--help"])
finally: assert "torch" not in sys.modules"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.returncode == 0 and said.stderr == "" and all(command in said.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_by_an_example(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0 and f"Example: python -m research {command}" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("reproduce dreamt --source digits", ["dreamt", "reader_small"]),
        ("study dreamt", ["dreamt", "ablations"]),
        ("study sums --only 7", ["sums", "7", "500"]),
        ("study counts --source digits --models nowhere", ["nowhere"]),
        ("tables --results nowhere", ["nowhere"]),
        ("compare --source digits --results nowhere", ["nowhere"]),
        ("report --results nowhere", ["nowhere"]),
        ("bench --source digits --device toaster", ["toaster"]),
        ("bench --source digits --only likelihood --results file", ["file"]),
    ],
)
def test_a_fault_is_one_line(command, words, workplace, monkeypatch, capsys):
    monkeypatch.setattr(bench, "SECONDS", 0.001)
    Path("file").write_text("no folder")
    assert main(command.split()) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("research: ") and all(word in lines[0] for word in words)


def test_reproduce_plans_trains_and_then_has_nothing_to_do(workplace, capsys):
    command = ["reproduce", "most_common", "--source", "digits", "--device", "cpu"]
    assert main([*command, "--dry-run"]) == 0 and not list(workplace.iterdir())
    assert main(command) == 0 and Path("results/digits/most_common-seed0.json").is_file()
    assert capsys.readouterr().out.count("most_common, seed 0: no record") == 2
    assert main(command) == 0
    assert "most_common, seed 0: on record\n0 of 1 runs to train" in capsys.readouterr().out


def test_bench_prints_a_table_and_leaves_a_record(workplace, monkeypatch, capsys):
    monkeypatch.setattr(bench, "SECONDS", 0.001)
    assert main(["bench", "--only", "likelihood", "--source", "digits", "--device", "cpu", "--results", "r"]) == 0
    assert "| hardware | by | ms a batch | slope |" in capsys.readouterr().out
    assert len(list(Path("r/bench").glob("*-threads*.json"))) == 1


def test_commands_hand_on_what_they_are_given(workplace, monkeypatch, capsys):
    given = {}

    def note(name, answer):
        return lambda *arguments, **options: given.update({name: (arguments, options)}) or answer

    record = {"metrics": {"val": {"accuracy": {"value": 0.5}}}}
    monkeypatch.setattr(studies, "run_study", note("study", [(Path("sums-seed1.json"), record)]))
    monkeypatch.setattr(research.paper.report, "make_report", note("report", True))
    monkeypatch.setattr(reproduce, "reproduce", note("reproduce", 2))
    folders = ["--results", "r", "--models", "m", "--root", "d"]
    runs = ["--source", "digits", "--device", "cpu", *folders]
    assert main(["study", "sums", "--seeds", "1", "5", "--only", "500", *runs]) == 0
    assert main(["report", "--output", "o.pdf", "--redraw", *folders]) == 0
    assert main(["reproduce", "reader", *runs]) == 1, "some runs failed"
    said = capsys.readouterr().out
    assert "sums-seed1.json val 50.0%" in said and "o.pdf is new" in said
    of_runs = {"device": "cpu", "results": Path("r"), "models": Path("m")}
    assert given["study"][1] == {"seeds": (1, 5), "only": ("500",), "root": Path("d")} | of_runs
    assert given["reproduce"][1] == of_runs
    assert given["report"][0] == (Path("r"), Path("m"), Path("d"), Path("o.pdf"), True)
