"""Digits in boxes: what a detector is trained with, its loss, and the digits that it finds.

A detector's outputs are (N, A, 4 * BINS + 10): for each of the A cells of three maps, the finest first, the scores of a
box's distances from the cell's centre and the digits' logits.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from .compose import GLYPH, HEIGHT, Strips
from .data import DataError
from .extras import import_ultralytics

STRIDES = (8, 16, 32)  # pixels from cell to cell
BINS = 16  # a distance is the mean of a distribution over 0..15 cells
ROWS = -(-HEIGHT // STRIDES[-1]) * STRIDES[-1]  # of a padded strip
CELLS = sum((ROWS // stride) * (STRIDES[-1] // stride) for stride in STRIDES)  # to 32 columns of it
OVERLAP = 0.5  # intersection over union; digits' boxes share at most 12 of 28 columns, 0.27


class Found(NamedTuple):
    """The digits found in a strip, the columns of their boxes' centres, and how sure the detector is; each (M,)."""

    digits: Tensor
    columns: Tensor
    confidence: Tensor


def boxed(strips: Strips) -> Strips:
    """The strips labelled with what is where: in place of their sums, digit, top and left of each glyph, (N, K, 3).

    Raises DataError where digits and places are not known, as in the course's files.
    """
    if strips.digits is None or strips.corners is None:
        raise DataError(
            "the digits of these strips and their places are not known, so there are no boxes to train with; use the "
            "source mnist or digits"
        )
    return Strips(strips.images, np.concatenate([strips.digits[:, :, None], strips.corners], axis=2))


def detection_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """YOLOv8's own loss, with its own weights of box, digit and distances; targets (N, K, 3) as `boxed` gives them."""
    n, k, _ = targets.shape
    columns = _columns(outputs)
    centres = (targets[:, :, [2, 1]] + GLYPH / 2).flatten(0, 1)  # (N * K, 2), x and y
    size = torch.tensor([columns, ROWS], device=outputs.device)
    batch = {
        "batch_idx": torch.arange(n, device=outputs.device).repeat_interleave(k),
        "cls": targets[:, :, 0].flatten(),
        "bboxes": torch.cat([centres / size, (GLYPH / size).expand_as(centres)], dim=1),
    }
    boxes, scores = outputs.transpose(1, 2).split([4 * BINS, outputs.shape[2] - 4 * BINS], dim=1)
    maps = [outputs.new_empty(n, 0, ROWS // stride, columns // stride) for stride in STRIDES]  # only their shapes count
    criterion = _criterion(outputs.device, scores.shape[1])
    return criterion({"boxes": boxes, "scores": scores, "feats": maps}, batch)[0].sum() / n


def find(outputs: Tensor, count: int) -> list[Found]:
    """The `count` most confident digits of each of N strips, from left to right; fewer where there are no more boxes.

    Of boxes that overlap by more than OVERLAP only the most confident stays, whatever digits they hold: two digits of
    a strip never stand in the same place.
    """
    confidence, digits = outputs[:, :, 4 * BINS :].sigmoid().max(dim=2)  # (N, A)
    bins = torch.arange(BINS, dtype=outputs.dtype, device=outputs.device)
    left, top, right, bottom = (outputs[:, :, : 4 * BINS].unflatten(2, (4, BINS)).softmax(3) @ bins).unbind(2)
    x, y, stride = _cells(outputs)
    boxes = torch.stack([x - left * stride, y - top * stride, x + right * stride, y + bottom * stride], dim=2)
    found = []
    for strip in range(len(outputs)):
        kept = nms(boxes[strip], confidence[strip], OVERLAP)[:count]  # the most confident first
        columns = boxes[strip, kept, 0::2].mean(dim=1) - 0.5  # column 0 is half a pixel from the edge
        order = columns.argsort()
        kept = kept[order]
        found.append(Found(digits[strip, kept], columns[order], confidence[strip, kept]))
    return found


def _columns(outputs: Tensor) -> int:
    """The columns of the padded strips."""
    return outputs.shape[1] // CELLS * STRIDES[-1]


def _cells(outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The cells' centres x and y and their strides, each (A,), in pixels."""
    cells = []
    for stride in STRIDES:
        y, x = torch.meshgrid(torch.arange(ROWS // stride), torch.arange(_columns(outputs) // stride), indexing="ij")
        cells.append(torch.stack([(x + 0.5) * stride, (y + 0.5) * stride, torch.full(x.shape, stride)]).flatten(1))
    x, y, strides = torch.cat(cells, dim=1).to(outputs.device)
    return x, y, strides


@functools.cache
def _criterion(device: torch.device, classes: int) -> Any:
    """ultralytics' loss, built from the few facts that it asks a model for, without a model."""
    import_ultralytics()
    from ultralytics.utils import DEFAULT_CFG
    from ultralytics.utils.loss import v8DetectionLoss

    head = SimpleNamespace(stride=torch.tensor(STRIDES, device=device), nc=classes, reg_max=BINS)
    parameter = torch.empty(0, device=device)
    facts: Any = SimpleNamespace(model=[head], args=DEFAULT_CFG, parameters=lambda: iter([parameter]))
    return v8DetectionLoss(facts)
