"""The command line of the published work: help, faults in one line, and what commands hand on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from research import bench, reproduce
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
        ("tables --results nowhere", ["nowhere"]),
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


def test_reproduce_plans_trains_and_then_has_nothing_to_do(workplace, monkeypatch, capsys):
    command = ["reproduce", "most_common", "--source", "digits", "--device", "cpu"]
    assert main([*command, "--dry-run"]) == 0 and not list(workplace.iterdir())
    assert main(command) == 0 and Path("results/digits/most_common-seed0.json").is_file()
    assert capsys.readouterr().out.count("most_common, seed 0: to train") == 2
    assert main(command) == 0
    assert "most_common, seed 0: on record\n0 of 1 runs to train" in capsys.readouterr().out
    monkeypatch.setattr(reproduce, "reproduce", lambda data, planned, **options: 2)
    assert main(command) == 1, "a run failed"
