"""The Vision Transformer of report E."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import ViT_B_16_Weights, vit_b_16

from . import pretrained
from .layers import Float32Linear, Normalise, StripModel
from .pretrained import IMAGENET_MEAN, IMAGENET_STD


class ViT(StripModel):
    """torchvision's ViT-B/16 on the grey strip, brought to its 224 x 224 pixels, with a linear head.

    The strip is stretched to the square, bilinearly: 1.3 times as wide and 5.6 times as high, so that its digits fill
    the 14 x 14 patches and none of these is spent on a border. Then it is repeated to three channels.
    `weights` names a member of `ViT_B_16_Weights` for that size such as "IMAGENET1K_V1", or is None for a random start.
    Shapes: images (N, 1, 40, W) -> (N, outputs). Raises `WeightsError` where the weights cannot be had.
    Source: Dosovitskiy et al., "An image is worth 16x16 words"; report E fine-tunes all of it.
    """

    def __init__(self, outputs: int, weights: str | None = None) -> None:
        super().__init__()
        self.normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD)
        self.backbone = vit_b_16()
        if weights is not None:
            self.backbone.load_state_dict(pretrained.published_state(ViT_B_16_Weights, weights))
        self.backbone.heads = nn.Identity()
        self.head = Float32Linear(768, outputs)

    def forward(self, images: Tensor) -> Tensor:
        x = F.interpolate(images, (224, 224), mode="bilinear", align_corners=False)  # (N, 1, 224, 224)
        x = self.normalise(x)  # (N, 3, 224, 224)
        x = self.backbone(x)  # (N, 768)
        return self.head(x)  # (N, outputs)
