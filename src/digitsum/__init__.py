"""Read the sum of handwritten digits that touch, learning from sums alone.

Names are imported at their first use, so that `import digitsum` and `--help` start at once.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "checkpoints": ["load_checkpoint", "save_checkpoint"],
    "data": ["Data", "load_data"],
    "errors": ["DigitsumError"],
    "evaluation": ["evaluate", "metrics", "predict", "predictions"],
    "experiments": ["EXPERIMENTS", "Experiment", "shorten"],
    "models": ["MODELS"],
    "objectives": ["OBJECTIVES"],
    "runs": ["run_experiment"],
    "training": ["train"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
