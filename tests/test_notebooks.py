"""Both notebooks run from top to bottom, shrunk, and write only where their parameters say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from digitsum import load_checkpoint
from digitsum.experiments import CORE

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOKS = ("training.ipynb", "inference.ipynb")
STRIPS = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """Where the notebooks run and write; removed at the end, as ResNet-50's weights are large."""
    folder = tmp_path_factory.mktemp("notebooks")
    (folder / "cwd").mkdir()
    yield folder
    shutil.rmtree(folder)


def execute(name: str, folder: Path, **parameters) -> NotebookNode:
    """Run a notebook in `folder`/cwd with the given values in place of those in its parameters cell."""
    notebook = read(name)
    given = {
        "SOURCE": "digits", "PRESET": "smoke", "STRIPS": STRIPS, "ROOT": str(folder / "data"), "DEVICE": "cpu",
        "MODELS_DIR": str(folder / "models"), "RESULTS_DIR": str(folder / "results"),
    } | parameters  # fmt: skip
    (cell,) = parameter_cells(notebook)
    assert set(given) <= {line.split(" = ")[0] for line in cell.source.splitlines()}
    cell.source += "".join(f"\n{key} = {value!r}" for key, value in given.items())
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder / "cwd")}}
    ).execute()
    assert not list((folder / "cwd").iterdir())  # a relative path would have ended here, and in a checkout otherwise
    return notebook


@pytest.fixture(scope="module")
def training(folder: Path) -> NotebookNode:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return execute("training.ipynb", folder)


def test_training_trains_the_core_experiments(training, folder):
    records = {path.stem: json.loads(path.read_text()) for path in (folder / "results" / "digits-smoke").glob("*")}
    assert set(records) == {f"{name}-seed0" for name in CORE}
    for name in CORE:
        assert records[f"{name}-seed0"]["data"]["strips"]["train"] == STRIPS
        load_checkpoint(folder / "models" / "digits-smoke" / f"{name}.safetensors")
    assert {path.name for path in folder.iterdir()} <= {"cwd", "data", "models", "results"}
    assert all(text(training).count(name) >= 4 for name in CORE)  # settings, changes, progress, results
    assert figures(training) == 3


def test_training_leaves_out_what_is_on_record_where_asked_to(training, folder):
    """Dates and all, the records are those of the first run."""
    before = {path: path.read_bytes() for path in (folder / "results").rglob("*.json")}
    (folder / "results" / "digits-smoke" / f"{CORE[0]}-seed0.json").unlink()
    notebook = execute("training.ipynb", folder, MISSING_ONLY=True)
    after = {path: path.read_bytes() for path in before}
    assert [path.stem for path in before if after[path] != before[path]] == [f"{CORE[0]}-seed0"]
    assert all(text(notebook).count(name) >= 4 for name in CORE)


def test_inference_shows_every_experiment_that_was_trained(training, folder):
    notebook = execute("inference.ipynb", folder)
    assert "no weights" not in text(notebook) and "is not there" not in text(notebook)
    assert "other strips" not in text(notebook)
    for name in CORE:
        assert text(notebook).count(name) >= 8  # weights, own metrics, five splits, own image
    assert "entire" in text(notebook) and "unseen" in text(notebook)
    assert figures(notebook) == 13  # six of them of the reader alone


def test_inference_names_missing_weights_and_goes_on(training, folder, tmp_path):
    there, *missing = CORE
    (tmp_path / "cwd").mkdir()
    models = tmp_path / "models" / "digits-smoke"
    models.mkdir(parents=True)
    shutil.copy(folder / "models" / "digits-smoke" / f"{there}.safetensors", models)
    notebook = execute("inference.ipynb", tmp_path, SPLIT="test", STRIPS=STRIPS // 2)
    for name in missing:
        assert f"python -m digitsum train {name} --source digits" in text(notebook)
    assert "other strips" in text(notebook)  # it was trained on more of them
    assert f"{there}-seed0.json is not there" in text(notebook)
    assert figures(notebook) == 7


def test_inference_without_any_weights_says_what_to_run(tmp_path):
    (tmp_path / "cwd").mkdir()
    with pytest.raises(CellExecutionError, match="run training.ipynb first"):
        execute("inference.ipynb", tmp_path)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_have_parameters_and_no_commands_or_places_of_a_machine(name):
    notebook = read(name)
    assert len(parameter_cells(notebook)) == 1
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not any(line.lstrip().startswith(("!", "%")) for line in cell.source.splitlines())
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert not any(place in text(notebook) for place in (str(REPOSITORY), "/home/", "/root/", "/tmp/", "/Users/"))


def read(name: str) -> NotebookNode:
    return nbformat.read(REPOSITORY / name, as_version=4)


def parameter_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]


def outputs(notebook: NotebookNode, *kinds: str):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return (output for cell in cells for output in cell.outputs if output.output_type in kinds)


def text(notebook: NotebookNode) -> str:
    """All that its cells print and tabulate, without standard error."""
    printed = [output.text for output in outputs(notebook, "stream") if output.name == "stdout"]
    tables = [output.data.get("text/markdown", "") for output in outputs(notebook, "execute_result", "display_data")]
    return "\n".join(printed + tables)


def figures(notebook: NotebookNode) -> int:
    return sum("image/png" in output.data for output in outputs(notebook, "execute_result", "display_data"))
