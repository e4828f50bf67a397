"""The models, by name. Each maps images (N, 1, 40, W) in 0..1 to the outputs that its objective asks for."""

from collections.abc import Callable

from .baseline_cnn import BaselineCNN
from .cnn_attention import CNNAttention
from .layers import StripModel
from .reader import Reader
from .resnet50 import ResNet50

MODELS: dict[str, Callable[..., StripModel]] = {
    "baseline_cnn": BaselineCNN,
    "cnn_attention": CNNAttention,
    "resnet50": ResNet50,
    "reader": Reader,
}
