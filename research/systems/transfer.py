"""Networks with published ImageNet weights: VGG-16 as report C transfers it, and report E's Vision Transformer."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VGG16_Weights, ViT_B_16_Weights, vgg16, vit_b_16

from digitsum.models.layers import Float32Linear, Normalise, StripModel
from digitsum.models.pretrained import IMAGENET_MEAN, IMAGENET_STD, published_state


class VGG16Frozen(StripModel):
    """A learned 3x3 convolution from one channel to three, VGG-16's frozen convolutions and pooling, and a new head.

    `weights` names a member of `VGG16_Weights` such as "IMAGENET1K_V1"; None freezes random convolutions.
    The first convolution learns the scale of the published weights' inputs too, so there is no normalisation.
    Shapes: images (N, 1, 40, W) -> (N, outputs). Raises WeightsError if the weights are not available.
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

    Stretching makes the strip 1.3 times as wide and 5.6 times as high. Its digits fill the 14 x 14 patches, and no
    patch is lost to a border. `weights` names a member of `ViT_B_16_Weights` such as "IMAGENET1K_V1"; None: random.
    Shapes: images (N, 1, 40, W) -> (N, outputs). Raises WeightsError if the weights are not available.
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
