"""The repository as a reader finds it: one door, short files, links that lead somewhere, notebooks that ran."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY as ROOT

SRC, RESEARCH, TESTS = (ROOT / name for name in ("src/digitsum", "research", "tests"))
NOTEBOOKS = [ROOT / "training.ipynb", ROOT / "inference.ipynb"]
MACHINE_PATH = re.compile(rb"(?<![\w./~-])/(?:work|root|home/\w+|Users/\w+)(?=[/\s\"'\\:,)]|$)")


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """All files that are committed, or will be by `git add .`."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [ROOT / name for name in sorted(set(names.split("\0"))) if name and (ROOT / name).is_file()]


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def code_of(notebook: Path) -> ast.Module:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ast.parse("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"))


def modules(folder: Path) -> dict[str, ast.Module]:
    return {str(p.relative_to(ROOT)): ast.parse(p.read_text(encoding="utf-8")) for p in sorted(folder.rglob("*.py"))}


def imports(tree: ast.Module) -> Iterator[str]:
    """Yield the absolute names that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module


def test_neither_the_package_nor_the_notebooks_import_research() -> None:
    trees = modules(SRC) | {notebook.name: code_of(notebook) for notebook in NOTEBOOKS}
    found = {name: used for name, tree in trees.items() for used in imports(tree) if used.split(".")[0] == "research"}
    assert found == {}


@pytest.mark.parametrize(("folder", "most"), [(SRC, 3_060), (RESEARCH, 3_250), (TESTS, 4_450)], ids=lambda x: str(x))
def test_wings_keep_within_their_lines(folder: Path, most: int) -> None:
    assert sum(map(lines, folder.rglob("*.py"))) <= most


def test_files_and_functions_are_short() -> None:
    long_files = {str(p): lines(p) for wing in (SRC, RESEARCH) for p in wing.rglob("*.py") if lines(p) > 320}
    sizes = {
        (name, node.name): node.end_lineno - node.lineno + 1
        for name, tree in (modules(SRC) | modules(RESEARCH)).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    assert long_files == {} and {where: size for where, size in sizes.items() if size > 60} == {}
    assert sizes["src/digitsum/training.py", "train"] <= 60
    assert sizes["src/digitsum/training.py", "train_epoch"] <= 35
    assert lines(ROOT / "README.md") <= 130


def test_no_path_of_one_machine(files: list[Path]) -> None:
    searched = [path for path in files if TESTS not in path.parents]  # a test may name the paths that it forbids
    assert {str(p): match.group() for p in searched if (match := MACHINE_PATH.search(p.read_bytes()))} == {}


def packages(entries: list[str]) -> set[str]:
    """Return the names alone, without versions, reasons and comments."""
    return {match[0] for entry in entries if (match := re.match(r"[\w-]+", entry))}


def test_the_package_depends_on_what_it_imports() -> None:
    """pyproject.toml names what src/ imports, and requirements.txt has each of these."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    used = {name.split(".")[0] for tree in modules(SRC).values() for name in imports(tree)}
    outside = used - sys.stdlib_module_names - {"digitsum", "pillow_heif", "anywidget"}
    package_of = {"PIL": "pillow", "sklearn": "scikit-learn", "skimage": "scikit-image"}
    used = {package_of.get(name, name) for name in outside}
    declared = packages(project["dependencies"])
    assert used <= declared <= packages((ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines())
    assert declared - used <= {"tabulate"}, "which pandas needs for tables in Markdown"


def headings(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_somewhere(files: list[Path]) -> None:
    broken = []
    for page in (path for path in files if path.suffix == ".md"):
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!\w+:)([^)\s]+)", text) + re.findall(r'src="(?!\w+:)([^"]+)"', text):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            if not target.exists() or (anchor and anchor not in headings(target)):
                broken.append((str(page.relative_to(ROOT)), link))
    assert broken == []
