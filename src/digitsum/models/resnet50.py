"""ResNet-50 with report B's head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, resnet50

from .layers import Float32Linear, StripModel
from .pretrained import pretrained_state

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the published weights' own transforms


class ResNet50(StripModel):
    """torchvision's ResNet-50 on the grey strip repeated to three channels, with a head of linear 128, ReLU, dropout.

    `weights` names a member of `ResNet50_Weights` such as "IMAGENET1K_V1", or is None for a random start.
    Shapes: images (N, 1, 40, W) -> (N, outputs). Raises `WeightsError` where the weights cannot be had.
    Source: He et al., "Deep residual learning for image recognition"; the head, its dropout of 0.3 and the ImageNet
    weights are report B's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, outputs: int, weights: str | None = None, dropout: float = 0.3) -> None:
        super().__init__()
        self.backbone = resnet50()
        if weights is not None:
            self.backbone.load_state_dict(pretrained_state(ResNet50_Weights[weights]))
        self.backbone.fc = nn.Identity()
        self.hidden = nn.Sequential(nn.Linear(2048, 128), nn.ReLU(), nn.Dropout(dropout))
        self.head = Float32Linear(128, outputs)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        x = (images - self.mean) / self.std  # (N, 3, 40, W)
        x = self.backbone(x)  # (N, 2048)
        x = self.hidden(x)  # (N, 128)
        return self.head(x)  # (N, outputs)
