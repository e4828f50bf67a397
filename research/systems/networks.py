"""The networks of the other systems: two with published ImageNet weights, and the references' two.

The references are the most common sum, and an oracle that knows every digit's place and label.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, VGG16_Weights, ViT_B_16_Weights, vgg16, vit_b_16

from digitsum.compose import GLYPH, HEIGHT, Strips
from digitsum.errors import DataError
from digitsum.models.cnn_attention import CNNAttention
from digitsum.models.layers import Float32Linear, Normalise, StripModel
from digitsum.models.resnet50 import IMAGENET_MEAN, IMAGENET_STD, ResNet50

from .pretrained import published_state


class ResNet50ImageNet(ResNet50):
    """The ResNet-50 of `digitsum`, from published weights, as report B has it.

    `weights` names a member of `ResNet50_Weights` such as "IMAGENET1K_V1"; None: a random start.
    Shapes: images (N, 1, 40, W) -> (N, outputs). Raises `WeightsError` if the weights cannot be had.
    """

    def __init__(self, outputs: int, weights: str | None = None) -> None:
        super().__init__(outputs)
        if weights is not None:
            state = published_state(ResNet50_Weights, weights)
            self.backbone.load_state_dict({name: each for name, each in state.items() if not name.startswith("fc.")})


class VGG16Frozen(StripModel):
    """A learned 3x3 convolution from one channel to three, VGG-16's frozen convolutions and pooling, and a new head.

    `weights` is as in `ResNet50ImageNet`; None freezes random convolutions. The first convolution learns the scale of
    their inputs too, so there is no normalisation. Shapes: images (N, 1, 40, W) -> (N, outputs).
    Source: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition"; report C.
    """

    def __init__(self, outputs: int, weights: str | None = None) -> None:
        super().__init__()
        self.channels = nn.Conv2d(1, 3, 3, padding=1)
        backbone = vgg16()
        if weights is not None:
            backbone.load_state_dict(published_state(VGG16_Weights, weights))
        self.frozen = nn.Sequential(backbone.features, backbone.avgpool).requires_grad_(False)
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(512 * 7 * 7, 128), nn.ReLU())
        self.head = Float32Linear(128, outputs)

    def forward(self, images: Tensor) -> Tensor:
        x = self.channels(images)  # (N, 3, 40, W)
        x = self.frozen(x)  # (N, 512, 7, 7)
        x = self.hidden(x)  # (N, 128)
        return self.head(x)  # (N, outputs)


class ViT(StripModel):
    """torchvision's ViT-B/16 on the grey strip, stretched to its 224 x 224 pixels, with a linear head.

    Stretched by 1.3 across and 5.6 down, digits fill the 14 x 14 patches, and no patch is lost to a border.
    `weights` is as in `ResNet50ImageNet`. Shapes: images (N, 1, 40, W) -> (N, outputs).
    Source: Dosovitskiy et al., "An image is worth 16x16 words"; report E fine-tunes all of it.
    """

    def __init__(self, outputs: int, weights: str | None = None) -> None:
        super().__init__()
        self.normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD)
        self.backbone = vit_b_16()
        if weights is not None:
            self.backbone.load_state_dict(published_state(ViT_B_16_Weights, weights))
        self.backbone.heads = nn.Identity()
        self.head = Float32Linear(768, outputs)

    def forward(self, images: Tensor) -> Tensor:
        x = F.interpolate(images, (224, 224), mode="bilinear", align_corners=False)  # (N, 1, 224, 224)
        x = self.normalise(x)  # (N, 3, 224, 224)
        x = self.backbone(x)  # (N, 768)
        return self.head(x)  # (N, outputs)


class MostCommon(StripModel):
    """One score per sum, the same for every image: (N, 1, 40, W) -> (N, outputs)."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(outputs))

    def count(self, sums: np.ndarray) -> None:
        """Set each score to the fraction of `sums` (N,) that are its sum."""
        self.scores.data.copy_(torch.from_numpy(np.bincount(sums, minlength=len(self.scores)) / len(sums)))

    def forward(self, images: Tensor) -> Tensor:
        return self.scores.expand(len(images), -1)  # (N, outputs)


class DigitCNN(CNNAttention):
    """Report E's convolutions without attention, for digits cut out of their strips.

    Shapes: images (N, 1, 40, 28 K) of K cuts side by side -> (N, outputs). One cut gives scores of digits, several give
    a one at the sum of their most likely digits.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__(outputs, attention_after=())

    def forward(self, images: Tensor) -> Tensor:
        cuts = images.unflatten(3, (-1, GLYPH)).permute(0, 3, 1, 2, 4)  # (N, K, 1, 40, 28)
        scores = super().forward(cuts.flatten(0, 1))  # (N K, outputs)
        if cuts.shape[1] == 1:
            return scores
        sums = scores.argmax(dim=1).unflatten(0, (len(images), -1)).sum(dim=1)  # (N,)
        outputs = scores.shape[1]
        return F.one_hot(sums.clamp(max=outputs - 1), outputs).to(scores.dtype)  # (N, outputs)


def side_by_side(strips: Strips) -> Strips:
    """Cut the digits out of N strips at their true places, and set them side by side at the top of a black canvas.

    Images become (N, 40, 28 K) uint8. A cut also holds its neighbours' ink. Raises DataError if places are unknown.
    """
    if strips.digits is None or strips.corners is None:
        raise DataError("The places of these digits are unknown, so none can be cut out. Use source mnist or digits.")
    n, k = strips.digits.shape
    windows = np.lib.stride_tricks.sliding_window_view(strips.images, (GLYPH, GLYPH), axis=(1, 2))
    cuts = windows[np.arange(n)[:, None], strips.corners[:, :, 0], strips.corners[:, :, 1]]  # (N, K, 28, 28)
    images = np.zeros((n, HEIGHT, k * GLYPH), np.uint8)
    images[:, :GLYPH] = cuts.swapaxes(1, 2).reshape(n, GLYPH, k * GLYPH)
    return Strips(images, strips.sums, strips.digits)


def single(strips: Strips) -> Strips:
    """Take strips of `side_by_side` apart: images (N K, 40, 28), each with its digit as its sum."""
    assert strips.digits is not None
    cuts = strips.images.reshape(len(strips), HEIGHT, -1, GLYPH).swapaxes(1, 2)
    return Strips(cuts.reshape(-1, HEIGHT, GLYPH), strips.digits.ravel())
