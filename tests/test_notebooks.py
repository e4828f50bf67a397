"""Both notebooks run from top to bottom on a few strips, and tell a story in calls."""

from __future__ import annotations

import ast
import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from digitsum import EXPERIMENTS, load_checkpoint
from digitsum.runs import read_record

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOKS = ("training.ipynb", "inference.ipynb")
FOLDER = "digits-smoke"
IMAGE = str(REPOSITORY / "docs" / "example.png")
FEW_STRIPS = "import digitsum.data\ndigitsum.data.STRIPS, digitsum.data.UNSEEN = 100, 20"


def read(name: str) -> NotebookNode:
    return nbformat.read(REPOSITORY / name, as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters_cell(notebook: NotebookNode) -> NotebookNode:
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    return cell


def execute(name: str, folder: Path, **parameters) -> NotebookNode:
    """Run a notebook in `folder` with these values after those of its parameters cell."""
    notebook = read(name)
    given = {"SOURCE": "digits", "DEVICE": "cpu"} | parameters
    cell = parameters_cell(notebook)
    assert set(given) <= {line.split(" = ")[0] for line in cell.source.splitlines()}
    cell.source += "".join(f"\n{key} = {value!r}" for key, value in given.items()) + f"\n{FEW_STRIPS}"
    resources = {"metadata": {"path": str(folder)}}
    with pytest.MonkeyPatch.context() as patch:  # the kernel inherits the environment, not sys.path
        paths = [str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        patch.setenv("OMP_NUM_THREADS", "1")
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    return notebook


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """An empty folder where the notebooks run; removed at the end, as ResNet-50's weights are large."""
    folder = tmp_path_factory.mktemp("notebooks")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def training(workplace: Path) -> NotebookNode:
    return execute("training.ipynb", workplace, PRESET="smoke")


def test_training_leaves_weights_and_a_record_of_every_core_experiment(training, workplace):
    assert {path.name for path in workplace.iterdir()} == {"models", "results"}
    results, models = workplace / "results" / FOLDER, workplace / "models" / FOLDER
    runs = {f"{name}-seed0" for name in EXPERIMENTS}
    assert {path.stem for path in results.glob("[!.]*")} == {path.stem for path in models.glob("[!.]*")} == runs
    for name in EXPERIMENTS:
        record = read_record(results / f"{name}-seed0.json")
        assert record["experiment"] == name and len(record["history"]) == 1
        assert load_checkpoint(models / f"{name}-seed0.safetensors").metadata["data"] == record["data"]["fingerprint"]
        assert all(name in table for table in tables(training))
    assert len(tables(training)) == 2  # settings and results
    assert figures(training) == 3


def test_training_shows_a_run_on_record_without_training_it_again(training, workplace):
    name = "cnn_attention-regression"
    record = workplace / "results" / FOLDER / f"{name}-seed0.json"
    before = record.read_bytes()
    notebook = execute("training.ipynb", workplace, PRESET="smoke", EXPERIMENTS_TO_RUN=[name])
    assert record.read_bytes() == before
    assert name in tables(notebook)[-1]


def test_inference_shows_every_experiment_that_was_trained(training, workplace):
    notebook = execute("inference.ipynb", workplace, FOLDER=FOLDER, IMAGE=IMAGE)
    (table,) = tables(notebook)
    assert all(name in table for name in [*EXPERIMENTS, "always the most common sum"])
    assert "python -m digitsum train" not in printed(notebook)
    assert "trained on other strips than these: none" in printed(notebook)
    assert figures(notebook) == 6 + 1  # and the own image


def test_inference_names_missing_weights_and_goes_on(training, workplace, tmp_path):
    there, *missing = EXPERIMENTS
    (tmp_path / "models" / "digits-quick").mkdir(parents=True)
    shutil.copy(workplace / "models" / FOLDER / f"{there}-seed0.safetensors", tmp_path / "models" / "digits-quick")
    notebook = execute("inference.ipynb", tmp_path, SPLIT="test", STRIPS=10, IMAGE=IMAGE)
    assert f"python -m digitsum train {' '.join(missing)} --source digits --preset quick" in printed(notebook)
    (table,) = tables(notebook)
    assert there in table and not any(name in table for name in missing)
    assert figures(notebook) == 5 + 1  # there is no reader


def test_inference_without_any_weights_says_what_to_run(tmp_path):
    with pytest.raises(CellExecutionError, match="Run training.ipynb first"):
        execute("inference.ipynb", tmp_path)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_cells_are_calls(name):
    parameters = parameters_cell(read(name)).source.splitlines()
    assert len(parameters) <= 8 and all(re.fullmatch(r"[A-Z_]+ = \S+ +# .+", line) for line in parameters)
    for cell in code_cells(read(name)):
        assert len(cell.source.splitlines()) <= 12
        nodes = list(ast.walk(ast.parse(cell.source)))  # which refuses shell commands and magics
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in nodes)
        imported = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        assert not any(module.startswith("research") for module in imported)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_notebooks_are_of_one_clean_run_and_of_no_machine(name):
    notebook = read(name)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert set(notebook.metadata) <= {"kernelspec", "language_info"} and notebook.metadata.kernelspec.name == "python3"
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    assert not any(place in text for place in (str(REPOSITORY), "/home/", "/root/", "/tmp/", "/Users/", "C:\\\\"))


def tables(notebook: NotebookNode) -> list[str]:
    return [data["text/html"] for data in shown(notebook) if "<table" in data.get("text/html", "")]


def figures(notebook: NotebookNode) -> int:
    return sum("image/png" in data for data in shown(notebook))


def shown(notebook: NotebookNode) -> list[NotebookNode]:
    return [output.data for cell in code_cells(notebook) for output in cell.outputs if "data" in output]


def printed(notebook: NotebookNode) -> str:
    streams = [output for cell in code_cells(notebook) for output in cell.outputs if output.output_type == "stream"]
    return "".join(output.text for output in streams if output.name == "stdout")
