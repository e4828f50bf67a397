"""The repository as a reader finds it: nothing private, nothing large, notebooks that ran, lists that agree."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 12 * 2**20  # bytes
MACHINE_PATH = re.compile(rb"(?<![\w./~-])/(?:work|root|home/\w+|Users/\w+)(?=[/\s\"'\\:,)]|$)")
MADE_BY_MACHINES = {".pt", ".pth", ".npy", ".npz", ".pyc", ".ckpt"}
CARD = {"torch", "torchvision", "numpy", "matplotlib", "jupyter", "scikit-learn", "tqdm"}


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """All files that are committed, or will be by `git add .`."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [ROOT / name for name in sorted(set(names.split("\0"))) if name and (ROOT / name).is_file()]


def code_cells(notebook: Path) -> list[dict]:
    cells = json.loads(notebook.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]


def python_of(cell: dict) -> ast.Module:
    lines = "".join(cell["source"]).splitlines()
    return ast.parse("\n".join("pass" if line.startswith(("%", "!")) else line for line in lines))


def required(file: str = "requirements.txt") -> dict[str, str]:
    """The packages that a file asks for, each with its reason."""
    entries = {}
    for line in (ROOT / file).read_text().splitlines():
        if line and not line.startswith("#"):
            requirement, _, reason = line.partition("#")
            entries[requirement.strip()] = reason.strip()
    return entries


def test_no_large_file(files: list[Path]) -> None:
    assert {str(path.relative_to(ROOT)): path.stat().st_size for path in files if path.stat().st_size > LARGEST} == {}


def test_nothing_that_a_machine_makes(files: list[Path]) -> None:
    names = [path.relative_to(ROOT) for path in files]
    assert [name for name in names if name.suffix in MADE_BY_MACHINES] == []
    assert [name for name in names if name.parts[0] in ("build", ".venv") or "__pycache__" in name.parts] == []
    assert [name for name in names if name.parts[0] == "data"] in ([], [Path("data/README.md")])


def test_no_path_of_one_machine(files: list[Path]) -> None:
    searched = [path for path in files if path.parent.name != "tests"]  # a test may name the paths that it forbids
    found = {str(path): match.group() for path in searched if (match := MACHINE_PATH.search(path.read_bytes()))}
    assert found == {}


def test_only_the_command_line_prints() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        called = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        prints = [call.lineno for call in called if isinstance(call, ast.Name) and call.id == "print"]
        assert path.name == "__main__.py" or not prints, f"{path.name} prints on lines {prints}"


def test_notebooks_are_one_clean_run(files: list[Path]) -> None:
    for notebook in (path for path in files if path.suffix == ".ipynb"):
        cells = code_cells(notebook)
        assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), notebook.name
        assert all(output["output_type"] != "error" for cell in cells for output in cell["outputs"]), notebook.name
        assert all(cell["metadata"].keys() <= {"tags"} for cell in cells), f"{notebook.name}: run `make notebooks`"


def test_notebooks_tell_and_the_package_does(files: list[Path]) -> None:
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for notebook in (path for path in files if path.suffix == ".ipynb"):
        for cell in code_cells(notebook):
            found = [node.name for node in ast.walk(python_of(cell)) if isinstance(node, definitions)]
            assert not found, f"{notebook.name} defines {found}: move it into the package"


def test_every_requirement_has_its_reason() -> None:
    entries = required()
    assert list(entries)[-1] == "-e ."
    assert {re.split(r"[<>=~!]", entry)[0] for entry in entries} >= CARD
    assert [entry for entry, reason in entries.items() if len(reason) < 10] == []


def test_the_package_depends_on_what_it_imports() -> None:
    """pyproject.toml names the packages that src/ imports, and requirements.txt holds each with its versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared, optional = set(project["dependencies"]), project["optional-dependencies"]
    imported = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                imported.add(node.module.split(".")[0])
    package_of = {"PIL": "pillow", "sklearn": "scikit-learn", "ultralytics": "ultralytics-opencv-headless"}
    standard = sys.stdlib_module_names
    packages = {package_of.get(name, name) for name in imported - standard - {"digitsum"}}
    assert packages == declared.union(*optional.values())
    assert declared <= {re.split(r"[<>=~!]", entry)[0] for entry in required()}
    for extra, packages in optional.items():
        entries = required(f"requirements-{extra}.txt")
        assert [re.split(r"[<>=~!]", entry)[0] for entry in entries] == packages
        assert all(len(reason) >= 10 for reason in entries.values())


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    lines = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", lines, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_somewhere(files: list[Path]) -> None:
    broken = []
    for page in (path for path in files if path.suffix == ".md"):
        text = page.read_text()
        for link in re.findall(r"\]\((?!\w+://)([^)\s]+)", text) + re.findall(r'src="(?!\w+://)([^"]+)"', text):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            if not target.exists() or (anchor and anchor not in headings(target)):
                broken.append((str(page.relative_to(ROOT)), link))
    assert broken == []


def test_readme_keeps_its_promises() -> None:
    text = (ROOT / "README.md").read_text()
    assert "make run" in text and "make test" in text
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b(?=[`\s]*$)", text, re.MULTILINE)) <= targets
