"""Read the sum of handwritten digits that touch, learning from sums alone.

Names are imported at their first use, so that `import digitsum` and `--help` start at once.
"""

import os
from importlib import import_module
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch starts; others may then use the processor

_NAMES = {
    "checkpoints": ["best_checkpoint", "load_checkpoint"],
    "data": ["load_data"],
    "evaluation": ["metrics", "predict", "predictions"],
    "experiments": ["EXPERIMENTS", "shorten"],
    "models": ["MODELS"],
    "runs": ["run_experiment"],
    "training": ["train"],
}


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
