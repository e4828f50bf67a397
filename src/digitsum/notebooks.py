"""Execute a notebook in the terminal, with what its cells print: python -m digitsum.notebooks in.ipynb out.ipynb."""

import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError


class LiveClient(NotebookClient):
    """A client that copies the kernel's text output, progress bars included, to standard error as it comes."""

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] == "stream":
            print(msg["content"]["text"], end="", file=sys.stderr, flush=True)
        return super().process_message(msg, cell, cell_index)


def main() -> int:
    """Execute a notebook in its folder and write it without progress bars, also if it stops; return the exit status."""
    source, target = map(Path, sys.argv[1:])
    notebook, fault = nbformat.read(source, as_version=4), ""
    options: Any = {"timeout": None, "record_timing": False, "store_widget_state": False}
    resources = {"metadata": {"path": str(source.parent)}}
    try:
        LiveClient(notebook, resources=resources, extra_arguments=["--log-level=40"], **options).execute()
    except KeyboardInterrupt:
        fault = "stopped. Whole epochs are kept in models/; the same command goes on from there."
    except CellExecutionError as error:
        fault = f"{error.ename}: {error.evalue}. {target} shows where."
    except DeadKernelError as error:
        fault = f"{error}. It may have run out of memory."
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)
    if fault:
        print(f"\n{source}: {fault}", file=sys.stderr)
    return int(bool(fault))


if __name__ == "__main__":
    sys.exit(main())
