"""ResNet-50 with report B's head."""

from torch import Tensor, nn
from torchvision.models import resnet50

from .layers import Float32Linear, Normalise, StripModel

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what torchvision's networks expect


class ResNet50(StripModel):
    """torchvision's ResNet-50 on the grey strip repeated to three channels; a head of linear 128, ReLU and dropout.

    Shapes: images (N, 1, 40, W) -> (N, outputs).
    Source: He et al., "Deep residual learning for image recognition". The head and its dropout are report B's.
    """

    def __init__(self, outputs: int, dropout: float = 0.3) -> None:
        super().__init__()
        self.normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD)
        self.backbone = resnet50()
        self.backbone.fc = nn.Identity()
        self.hidden = nn.Sequential(nn.Linear(2048, 128), nn.ReLU(), nn.Dropout(dropout))
        self.head = Float32Linear(128, outputs)

    def forward(self, images: Tensor) -> Tensor:
        x = self.normalise(images)  # (N, 3, 40, W)
        x = self.backbone(x)  # (N, 2048)
        x = self.hidden(x)  # (N, 128)
        return self.head(x)  # (N, outputs)
