"""The models, by name: each maps images (N, 1, 40, W) in 0..1 to the outputs that its objective asks for."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .baseline_cnn import BaselineCNN
from .cnn_attention import CNNAttention
from .pretrained import WeightsError
from .resnet50 import ResNet50

MODELS: dict[str, Callable[..., nn.Module]] = {
    "baseline_cnn": BaselineCNN,
    "cnn_attention": CNNAttention,
    "resnet50": ResNet50,
}

__all__ = ["MODELS", "WeightsError"]
