"""The convolutional network with an attention layer of report E."""

from __future__ import annotations

from torch import Tensor, nn

from .layers import Float32Linear, StripModel, conv_block


class CNNAttention(StripModel):
    """Five convolutions, one self-attention layer over the cells of the feature map, and two linear layers.

    Shapes: images (N, 1, 40, W) -> (N, outputs).

    Report E gives the order of the layers and no sizes. Chosen here: widths 32, 64, 128, 128, 128 with batch
    normalisation, and 2x2 pooling after the first three, so that a cell of the 5 x 21 map sees a little more than one
    digit; multi-head self-attention with a residual, so that a cell can ask its neighbours which part of a digit is
    already counted; and the mean over cells, batch-normalised, before the linear layers, because a sum does not depend
    on where its digits stand.
    """

    def __init__(self, outputs: int, heads: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_block(1, 32, pool=True),
            conv_block(32, 64, pool=True),
            conv_block(64, 128, pool=True),
            conv_block(128, 128),
            conv_block(128, 128),
        )  # fmt: skip
        self.norm = nn.LayerNorm(128)
        self.attention = nn.MultiheadAttention(128, heads, batch_first=True)
        self.hidden = nn.Sequential(nn.BatchNorm1d(128), nn.Linear(128, 256), nn.ReLU())
        self.head = Float32Linear(256, outputs)

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images)  # (N, 128, 5, W/8)
        x = x.flatten(2).transpose(1, 2)  # (N, cells, 128)
        y = self.norm(x)
        x = x + self.attention(y, y, y)[0]  # returning the weights is also the faster way on a CPU
        x = self.hidden(x.mean(dim=1))  # (N, 256)
        return self.head(x)  # (N, outputs)
