"""VGG-16 as report C transfers it: its convolutions stay as they were published."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import VGG16_Weights, vgg16

from . import pretrained
from .layers import Float32Linear, StripModel


class VGG16Frozen(StripModel):
    """A learned 3x3 convolution from one channel to three, VGG-16's frozen convolutions and pooling, and a new head.

    `weights` names a member of `VGG16_Weights` such as "IMAGENET1K_V1"; None freezes convolutions drawn at random.
    Shapes: images (N, 1, 40, W) -> (N, outputs). Raises `WeightsError` where the weights cannot be had.
    Source: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition"; report C
    freezes the convolutions and the average pool and trains a convolution before them and a head after them. It gives
    no sizes: the head is the linear layer of 128 of the other reports. The first convolution learns the scale of the
    published weights' inputs too, so there is no normalisation.
    """

    def __init__(self, outputs: int, weights: str | None = None) -> None:
        super().__init__()
        self.channels = nn.Conv2d(1, 3, 3, padding=1)
        backbone = vgg16()
        if weights is not None:
            backbone.load_state_dict(pretrained.published_state(VGG16_Weights, weights))
        self.frozen = nn.Sequential(backbone.features, backbone.avgpool).requires_grad_(False)
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(512 * 7 * 7, 128), nn.ReLU())
        self.head = Float32Linear(128, outputs)

    def forward(self, images: Tensor) -> Tensor:
        x = self.channels(images)  # (N, 3, 40, W)
        x = self.frozen(x)  # (N, 512, 7, 7)
        x = self.hidden(x)  # (N, 128)
        return self.head(x)  # (N, outputs)
