"""Report E's YOLO, trained here with a box and a label for every digit: network, loss, and the digits it finds.

A detector's outputs are (N, A, 4 * BINS + 10). Its A cells are those of three maps, the finest first. Each cell has
scores of the distances from its centre to a box's four sides, and one logit per digit.
"""

from __future__ import annotations

import functools
import os
import tempfile
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms

from digitsum.compose import GLYPH, HEIGHT, Strips
from digitsum.errors import DataError
from digitsum.likelihood import Reading
from digitsum.models.layers import StripModel
from digitsum.objectives import Answer, Objective

from .extras import environment, require

STRIDES = (8, 16, 32)  # pixels from cell to cell
BINS = 16  # a distance is the mean of a distribution over 0..15 cells
ROWS = -(-HEIGHT // STRIDES[-1]) * STRIDES[-1]  # of a padded strip
CELLS = sum((ROWS // stride) * (STRIDES[-1] // stride) for stride in STRIDES)  # per 32 columns
OVERLAP = 0.5  # intersection over union; digits' boxes share at most 16 of 28 columns, 0.4


class Yolo(StripModel):
    """YOLOv8's smallest network, yolov8n, with one channel and ten categories, from a random start.

    Shapes: images (N, 1, 40, W) -> (N, A, outputs). Black padding, right and below, fills whole cells of the coarsest
    map. Raises ExtraError if ultralytics is not installed.
    Source: Jocher et al., Ultralytics YOLOv8 (2023), its own yolov8n.yaml.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        import_ultralytics()
        from ultralytics.nn.tasks import DetectionModel

        with torch.device("cpu"):  # it computes its strides, which is impossible on the meta device
            self.net = DetectionModel("yolov8n.yaml", ch=1, nc=outputs - 4 * BINS, verbose=False)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        x = self.net(F.pad(images, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1])))
        raw = x if self.training else x[1]  # otherwise decoded boxes come first
        return torch.cat([raw["boxes"], raw["scores"]], dim=1).transpose(1, 2)  # (N, A, outputs)


@dataclass(frozen=True)
class Boxes(Objective):
    """A box around each digit, trained with YOLO's loss. The `count` most confident digits make the sum.

    Targets are (N, K, 3), as `boxed` makes them.
    """

    outputs: int = 4 * BINS + 10
    count: int = 4

    def loss(self, outputs: Tensor, targets: Tensor, step: int | None = None) -> Tensor:
        """Return the mean of YOLOv8's own loss, with its own weights of box, digit and distances."""
        n, k, _ = targets.shape
        columns = _columns(outputs)
        centres = (targets[:, :, [2, 1]] + GLYPH / 2).flatten(0, 1)  # (N K, 2), x and y
        size = torch.tensor([columns, ROWS], device=outputs.device)
        batch = {
            "batch_idx": torch.arange(n, device=outputs.device).repeat_interleave(k),
            "cls": targets[:, :, 0].flatten(),
            "bboxes": torch.cat([centres / size, (GLYPH / size).expand_as(centres)], dim=1),
        }
        boxes, scores = outputs.transpose(1, 2).split([4 * BINS, outputs.shape[2] - 4 * BINS], dim=1)
        maps = [outputs.new_empty(n, 0, ROWS // stride, columns // stride) for stride in STRIDES]  # only shapes count
        criterion = _criterion(outputs.device, scores.shape[1])
        return criterion({"boxes": boxes, "scores": scores, "feats": maps}, batch)[0].sum() / n

    def truth(self, targets: Any) -> Any:
        """Return the true sums (N,)."""
        return targets[:, :, 0].sum(1)

    def values(self, outputs: Tensor) -> Tensor:
        """Return the sum (N,) of the digits found, as a float."""
        return self.answer(outputs).values

    def answer(self, outputs: Tensor) -> Answer:
        """Return the digits found and their sums."""
        readings = find(outputs, self.count)
        return Answer(outputs.new_tensor([sum(reading.digits) for reading in readings]), readings)


def boxed(strips: Strips) -> Strips:
    """Label strips with digit, top and left of each glyph, (N, K, 3), in place of sums.

    Raises DataError if digits and places are unknown, as in the course's files.
    """
    if strips.digits is None or strips.corners is None:
        raise DataError("The places of these digits are unknown, so there are no boxes. Use source mnist or digits.")
    return Strips(strips.images, np.concatenate([strips.digits[:, :, None], strips.corners], axis=2), strips.digits)


def find(outputs: Tensor, count: int) -> list[Reading]:
    """Return the `count` most confident digits of each strip from left to right; fewer if there are no more boxes.

    Of boxes that overlap by more than OVERLAP only the most confident stays, also if their digits differ: two digits
    never stand in the same place. A reading's columns are the boxes' centres in pixels, its probability the product of
    the confidences.
    """
    confidence, digits = outputs[:, :, 4 * BINS :].sigmoid().max(dim=2)  # (N, A)
    bins = torch.arange(BINS, dtype=outputs.dtype, device=outputs.device)
    left, top, right, bottom = (outputs[:, :, : 4 * BINS].unflatten(2, (4, BINS)).softmax(3) @ bins).unbind(2)
    x, y, stride = _cells(outputs)
    boxes = torch.stack([x - left * stride, y - top * stride, x + right * stride, y + bottom * stride], dim=2)
    readings = []
    for strip in range(len(outputs)):
        kept = nms(boxes[strip], confidence[strip], OVERLAP)[:count]  # the most confident first
        centres = boxes[strip, kept, 0::2].mean(dim=1) - 0.5  # column 0 is half a pixel from the edge
        order = centres.argsort()
        columns, kept = centres[order].round().int().tolist(), kept[order]
        readings.append(Reading(digits[strip, kept].tolist(), columns, confidence[strip, kept].prod().item()))
    return readings


def _columns(outputs: Tensor) -> int:
    """Return the columns of the padded strips."""
    return outputs.shape[1] // CELLS * STRIDES[-1]


def _cells(outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cells' centres x and y and their strides, each (A,), in pixels."""
    cells = []
    for stride in STRIDES:
        y, x = torch.meshgrid(torch.arange(ROWS // stride), torch.arange(_columns(outputs) // stride), indexing="ij")
        cells.append(torch.stack([(x + 0.5) * stride, (y + 0.5) * stride, torch.full(x.shape, stride)]).flatten(1))
    x, y, strides = torch.cat(cells, dim=1).to(outputs.device)
    return x, y, strides


def import_ultralytics() -> None:
    """Import ultralytics without downloads, installs, reports or settings in the user's folder.

    Restores what the import changes for the whole process: torch.save, how arrays are printed, and the threads of
    programs started later. Raises ExtraError if it is not installed.
    """
    require("yolo")
    os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
    save = torch.save
    with tempfile.TemporaryDirectory() as folder, environment(YOLO_CONFIG_DIR=folder), np.printoptions():
        import ultralytics.nn.tasks
        import ultralytics.utils.loss  # noqa: F401
    torch.save = save
    torch.set_printoptions(profile="default")


@functools.cache
def _criterion(device: torch.device, classes: int) -> Any:
    """Build ultralytics' loss from the few facts that it asks a model for."""
    import_ultralytics()
    from ultralytics.utils import DEFAULT_CFG
    from ultralytics.utils.loss import v8DetectionLoss

    head = SimpleNamespace(stride=torch.tensor(STRIDES, device=device), nc=classes, reg_max=BINS)
    parameter = torch.empty(0, device=device)
    facts: Any = SimpleNamespace(model=[head], args=DEFAULT_CFG, parameters=lambda: iter([parameter]))
    return v8DetectionLoss(facts)
