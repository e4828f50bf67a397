"""Read the sum of four touching handwritten digits, learning from sums alone."""

from .checkpoints import CheckpointError, load_checkpoint
from .data import Data, DataError, load_data
from .evaluation import evaluate, metrics, predict, predictions
from .experiments import EXPERIMENTS, Experiment
from .extras import ExtraError
from .models import MODELS, WeightsError
from .objectives import OBJECTIVES
from .runs import run_experiment
from .training import TrainingError, train

__all__ = [
    "EXPERIMENTS", "MODELS", "OBJECTIVES", "CheckpointError", "Data", "DataError", "Experiment", "ExtraError",
    "TrainingError", "WeightsError", "evaluate", "load_checkpoint", "load_data", "metrics", "predict", "predictions",
    "run_experiment", "train",
]  # fmt: skip
