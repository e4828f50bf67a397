"""YOLOv8's smallest network, by ultralytics (AGPL-3.0, see extras.py), from a random start."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..boxes import BINS, STRIDES
from ..extras import import_ultralytics
from .layers import StripModel


class Yolo(StripModel):
    """The detector yolov8n with one channel and ten categories, the digits.

    Shapes: images (N, 1, 40, W) -> (N, A, outputs), for each of A cells the scores of the distances to the four sides
    of a box, BINS each, and one logit per digit. Strips are padded with black, to the right and below, to whole cells
    of the coarsest map, and not enlarged: a digit of 28 pixels is large enough for cells of 8. Report E's network was
    trained on 80 categories of things, none of them a digit. Raises `ExtraError` where ultralytics is not installed.

    Source: Jocher et al., Ultralytics YOLOv8 (2023), its own yolov8n.yaml.
    """

    reads_boxes = True
    stride = 1  # its boxes are in pixels

    def __init__(self, outputs: int) -> None:
        super().__init__()
        import_ultralytics()
        from ultralytics.nn.tasks import DetectionModel

        self.net = DetectionModel("yolov8n.yaml", ch=1, nc=outputs - 4 * BINS, verbose=False)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        x = self.net(F.pad(images, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1])))
        raw = x if self.training else x[1]  # else decoded boxes come first
        return torch.cat([raw["boxes"], raw["scores"]], dim=1).transpose(1, 2)  # (N, A, outputs)
