"""Both notebooks run from top to bottom on a few strips, and their cells are calls."""

import ast
import os
import re
import shutil
from pathlib import Path
from unittest.mock import patch

import nbformat
import pytest
from conftest import CORE, ENVIRONMENT, REPOSITORY, SMALL
from nbclient import NotebookClient
from nbformat import NotebookNode

import digitsum.data
from digitsum import EXPERIMENTS, load_checkpoint, load_data, notebooks, run_experiment, shorten
from digitsum.runs import read_record

FOLDER = "digits-smoke"
IMAGE = str(REPOSITORY / "docs" / "example.png")
FEW = {"STRIPS": 100, "UNSEEN": 20}  # of digitsum.data, here and in the kernels
LARGE = [name for name in CORE if name not in SMALL]  # not trained here: they take most of the time
ON_RECORD = "cnn_attention-regression"
TABLE, FIGURE = "<table", "image/png"


def execute(name: str, folder: Path, **parameters) -> NotebookNode:
    """Run a notebook in `folder` with few strips. These values follow those of its parameters cell."""
    notebook = nbformat.read(REPOSITORY / name, as_version=4)
    given = {"SOURCE": "digits", "DEVICE": "cpu"} | parameters
    cell = parameters_cell(notebook)
    cell.source += "".join(f"\n{key} = {value!r}" for key, value in given.items())
    cell.source += f"\nimport digitsum.data\nvars(digitsum.data).update({FEW})"
    with patch.dict(os.environ, ENVIRONMENT | {"OMP_NUM_THREADS": "1"}):
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder where the notebooks run, with one run on record, and the same one as if it were published."""
    folder = tmp_path_factory.mktemp("notebooks")
    with patch.multiple(digitsum.data, **FEW):
        data = load_data("digits")
    where = {"folder": FOLDER, "models": folder / "models", "results": folder / "results"}
    run_experiment(shorten(EXPERIMENTS[ON_RECORD], "smoke"), data, device="cpu", **where)
    shutil.copytree(folder / "results" / FOLDER, folder / "results" / "digits")
    return folder


@pytest.fixture(scope="module")
def training(workplace: Path) -> NotebookNode:
    record = workplace / "results" / FOLDER / f"{ON_RECORD}-seed0.json"
    before = record.read_bytes()
    notebook = execute("training.ipynb", workplace, PRESET="smoke", EXPERIMENTS_TO_RUN=SMALL)
    assert record.read_bytes() == before  # it was not trained again
    return notebook


def test_training_leaves_weights_and_records_and_shows_them(training, workplace):
    results, models = workplace / "results" / FOLDER, workplace / "models" / FOLDER
    runs = {f"{name}-seed0" for name in SMALL}
    assert {path.stem for path in results.glob("[!.]*")} == {path.stem for path in models.glob("[!.]*")} == runs
    for name in SMALL:
        record = read_record(results / f"{name}-seed0.json")
        assert record["experiment"] == name and len(record["history"]) == 1
        assert load_checkpoint(models / f"{name}-seed0.safetensors").metadata["data"] == record["data"]["fingerprint"]
        assert all(name in table for table in outputs(training, TABLE)[1:])
    assert len(outputs(training, TABLE)) == 3 and len(outputs(training, FIGURE)) == 4
    # Of what is published it shows the one run that is there, with the settings in which it departs.
    assert [name in outputs(training, TABLE)[0] for name in EXPERIMENTS] == [name == ON_RECORD for name in EXPERIMENTS]
    assert f"{ON_RECORD}: epochs is 1, not {EXPERIMENTS[ON_RECORD].epochs}" in str(outputs(training, "stdout"))


def test_inference_shows_what_was_trained_and_names_what_was_not(training, workplace):
    notebook = execute("inference.ipynb", workplace, FOLDER=FOLDER, IMAGE=IMAGE)
    (table,) = outputs(notebook, TABLE)
    assert all(name in table for name in [*SMALL, "always the most common sum"])
    assert f"weights: models/{FOLDER}; not in it: {', '.join(LARGE)}" in str(outputs(notebook, "stdout"))
    assert "trained on other strips than these: none" in str(outputs(notebook, "stdout"))
    assert len(outputs(notebook, FIGURE)) == 5 + 1  # and the own image


def test_inference_goes_on_without_a_reader(training, workplace, tmp_path):
    there, models = f"{SMALL[0]}-seed0.safetensors", tmp_path / "models" / "digits-quick"
    models.mkdir(parents=True)
    shutil.copy(workplace / "models" / FOLDER / there, models)
    notebook = execute("inference.ipynb", tmp_path, SPLIT="test", STRIPS=5, IMAGE=IMAGE)
    assert "reader" not in outputs(notebook, TABLE)[0] and len(outputs(notebook, FIGURE)) == 4 + 1


def test_a_notebook_that_fails_is_kept_with_one_line_on_its_fault(tmp_path, monkeypatch, capsys):
    cells = [nbformat.v4.new_code_cell(source) for source in ("print('live')", "raise ValueError('broken')")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "in.ipynb")
    monkeypatch.setattr("sys.argv", ["", str(tmp_path / "in.ipynb"), str(tmp_path / "build" / "out.ipynb")])
    assert notebooks.main() == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "live" and said[-1].endswith(f"ValueError: broken. {tmp_path}/build/out.ipynb shows where.")
    done = nbformat.read(tmp_path / "build" / "out.ipynb", as_version=4)
    assert [cell.outputs[0].output_type for cell in done.cells] == ["stream", "error"]


@pytest.mark.parametrize("name", ["training.ipynb", "inference.ipynb"])
def test_committed_notebooks_are_calls_of_one_clean_run(name):
    notebook = nbformat.read(REPOSITORY / name, as_version=4)
    parameters = parameters_cell(notebook).source.splitlines()
    assert len(parameters) <= 8 and all(re.fullmatch(r"[A-Z_]+ = \S+ +# .+", line) for line in parameters)
    for count, cell in enumerate(code_cells(notebook), start=1):
        nodes = ast.walk(ast.parse(cell.source))  # which refuses shell commands and magics
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in nodes)
        assert len(cell.source.splitlines()) <= 12 and cell.execution_count == count
        assert all(output.output_type != "error" for output in cell.outputs)
        assert "image/png" not in str(cell.outputs) or cell.metadata.get("alt"), "a figure without an alternative text"
    assert set(notebook.metadata) <= {"kernelspec", "language_info"} and notebook.metadata.kernelspec.name == "python3"
    assert all(set(cell.metadata) <= {"tags", "alt"} for cell in notebook.cells)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters_cell(notebook: NotebookNode) -> NotebookNode:
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    return cell


def outputs(notebook: NotebookNode, mark: str) -> list[str]:
    """Return the outputs that hold `mark`, as text."""
    return [str(each) for cell in code_cells(notebook) for each in cell.outputs if mark in str(each)]
