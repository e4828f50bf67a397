"""Execute a notebook from the terminal, and show what its cells print while they run.

python -m digitsum.notebooks training.ipynb build/training.ipynb
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError


class LiveClient(NotebookClient):
    """A client that copies the kernel's text output, progress bars included, to standard error as it comes."""

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        """Show a message from the kernel, then store it as usual."""
        if msg["msg_type"] == "stream":
            sys.stderr.write(msg["content"]["text"])
            sys.stderr.flush()
        return super().process_message(msg, cell, cell_index)


def execute(source: Path, target: Path) -> None:
    """Execute the notebook `source` in its own folder and write it to `target`, without progress bars or metadata.

    What was executed is written even if a cell fails or the user stops the run.
    """
    notebook = nbformat.read(source, as_version=4)
    client = LiveClient(
        notebook, timeout=None, record_timing=False, resources={"metadata": {"path": str(source.parent)}},
        extra_arguments=["--log-level=40"],
    )  # fmt: skip
    try:
        client.execute()
    finally:
        notebook.metadata.pop("language_info", None)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)


def main() -> int:
    """Execute one notebook; returns the exit status."""
    source, target = map(Path, sys.argv[1:])
    try:
        execute(source, target)
    except (CellExecutionError, DeadKernelError) as error:
        print(f"{source}: {str(error).splitlines()[-1] or error}. {target} shows where.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Whole epochs are kept under models/; the same command goes on from there.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
