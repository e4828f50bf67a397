"""Report E's convolutional network with attention."""

from collections.abc import Sequence

from torch import Tensor, nn

from .layers import Float32Linear, StripModel, conv_block


class SelfAttention(nn.Module):
    """Multi-head self-attention over the cells of a feature map (N, C, H, W), with a residual connection."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x.flatten(2).transpose(1, 2))  # (N, H * W, C)
        y = self.attention(y, y, y)[0]  # returning the weights is also the faster way on a CPU
        return x + y.transpose(1, 2).unflatten(2, x.shape[2:])


class CNNAttention(StripModel):
    """Convolutions, self-attention over the cells of the feature map, and two linear layers.

    Self-attention follows each of the convolutions `attention_after`, counted from one; the first that can have it is
    the third. Shapes: images (N, 1, 40, W) -> (N, outputs).
    Source: report E gives the order of the layers and no sizes. docs/choices.md lists what was chosen here. The mean
    over all cells comes before the linear layers, because a sum does not depend on where its digits stand.
    """

    def __init__(
        self, outputs: int, heads: int = 4, convolutions: int = 5, attention_after: Sequence[int] = (5,)
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_block(1, 32, pool=True),
            conv_block(32, 64, pool=True),
            conv_block(64, 128, pool=True),
            *(conv_block(128, 128) for _ in range(convolutions - 3)),
        )
        self.attention = nn.ModuleDict({str(place): SelfAttention(128, heads) for place in attention_after})
        self.hidden = nn.Sequential(nn.BatchNorm1d(128), nn.Linear(128, 256), nn.ReLU())
        self.head = Float32Linear(256, outputs)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for place, convolution in enumerate(self.features, start=1):
            x = convolution(x)  # at last (N, 128, 5, W/8)
            if str(place) in self.attention:
                x = self.attention[str(place)](x)
        x = self.hidden(x.mean(dim=(2, 3)))  # (N, 256)
        return self.head(x)  # (N, outputs)
