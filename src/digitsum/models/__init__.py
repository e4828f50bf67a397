"""The models, by name: each maps images (N, 1, 40, W) in 0..1 to the outputs that its objective asks for."""

from __future__ import annotations

from collections.abc import Callable

from .baseline_cnn import BaselineCNN
from .cnn_attention import CNNAttention
from .cut_digits import CutDigits
from .digit_cnn import DigitCNN
from .layers import StripModel
from .most_common import MostCommon
from .pooled_reader import PooledReader
from .pretrained import WeightsError
from .reader import Reader
from .resnet50 import ResNet50
from .tesseract import Tesseract
from .vgg16_frozen import VGG16Frozen
from .vit import ViT
from .yolo import Yolo

MODELS: dict[str, Callable[..., StripModel]] = {
    "baseline_cnn": BaselineCNN,
    "cnn_attention": CNNAttention,
    "resnet50": ResNet50,
    "reader": Reader,
    "vgg16_frozen": VGG16Frozen,
    "vit": ViT,
    "most_common": MostCommon,
    "digit_cnn": DigitCNN,
    "pooled_reader": PooledReader,
    "cut_digits": CutDigits,
    "tesseract": Tesseract,
    "yolo": Yolo,
}

__all__ = ["MODELS", "StripModel", "WeightsError"]
