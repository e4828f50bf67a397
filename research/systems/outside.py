"""Report E's outside readers: the program tesseract without any training, and YOLO.

YOLO is trained with a box and a label for every digit. Its outputs are (N, A, 4 * BINS + 10): for each of the A cells
of three maps, the finest first, scores of the distances from its centre to a box's four sides, and one logit per digit.

LICENCE: ultralytics is under the AGPL-3.0. Who passes on or serves a program built on it must give that program's
source. This project is under the MIT licence and holds no part of it.
"""

import functools
import math
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.ops import nms

from digitsum.compose import GLYPH, HEIGHT, MAX_SUM, Strips
from digitsum.errors import DataError, DigitsumError
from digitsum.likelihood import SYMBOLS, Reading
from digitsum.models.layers import StripModel
from digitsum.objectives import Answer, Objective

PACKAGES = {"tesseract": "pytesseract", "yolo": "ultralytics"}  # by model; imported only where one is built
STRIDES = (8, 16, 32)  # pixels from cell to cell
BINS = 16  # a distance is the mean of a distribution over 0..15 cells
ROWS = -(-HEIGHT // STRIDES[-1]) * STRIDES[-1]  # of a padded strip
CELLS = sum((ROWS // stride) * (STRIDES[-1] // stride) for stride in STRIDES)  # per 32 columns
OVERLAP = 0.5  # intersection over union; digits' boxes share at most 16 of 28 columns, 0.4
COUNT = 4  # digits of a strip


class ExtraError(DigitsumError):
    """An optional package or program is not installed."""


def require(model: str) -> None:
    """Raise ExtraError if a model lacks something, and say how to install it."""
    if model in PACKAGES and not find_spec(PACKAGES[model]):
        file = "requirements-ocr.txt" if model == "tesseract" else "requirements-yolo.txt"
        raise ExtraError(f"The model {model} needs {PACKAGES[model]}: pip install -r {file}")
    if model == "tesseract" and not shutil.which("tesseract"):
        raise ExtraError("The model tesseract needs the program of that name: sudo apt-get install tesseract-ocr")


class Tesseract(StripModel):
    """Read a strip with tesseract as one line of digits.

    `mode` is tesseract's page segmentation mode. A page is a strip with a `border` in its pixels, then `scale` times
    as large. Shapes: images (N, 1, 40, W) -> (N, T, outputs), one-hot: the blank or the digit at each place of a text.
    """

    def __init__(self, outputs: int, mode: int, scale: float, border: int) -> None:
        super().__init__()
        require("tesseract")
        self.outputs, self.mode, self.scale, self.border = outputs, mode, scale, border
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # holds no number, only the device

    def forward(self, images: Tensor) -> Tensor:
        texts = self._read((255 * images[:, 0]).round().byte().cpu().numpy())
        symbols = [torch.tensor([1 + int(digit) for digit in text], dtype=torch.long) for text in texts]
        padded = nn.utils.rnn.pad_sequence(symbols, batch_first=True)  # (N, T), with the blank, symbol 0
        return F.one_hot(padded.to(images.device), self.outputs).float()  # (N, T, outputs)

    def _read(self, strips: np.ndarray) -> list[str]:
        """Read strips (N, 40, W) uint8 as dark ink on white, by one start of tesseract: each takes long."""
        import pytesseract

        # On images so small, tesseract's threads cost more than they gain.
        with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, OMP_THREAD_LIMIT="1"):
            paths = [Path(folder, f"{number}.pgm") for number in range(len(strips))]
            for path, strip in zip(paths, strips, strict=True):
                page = ImageOps.expand(Image.fromarray(strip), self.border)
                ImageOps.invert(ImageOps.scale(page, self.scale, Image.Resampling.BICUBIC)).save(path)
            listed = Path(folder, "pages.txt")
            listed.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
            options = f"--psm {self.mode} --oem 1 -c tessedit_char_whitelist=0123456789"
            texts = pytesseract.image_to_string(str(listed), config=options).split("\f")
        if len(texts) != len(strips):  # a form feed separates two pages, also empty ones
            raise RuntimeError(f"tesseract gave {len(texts)} texts for {len(strips)} pages")
        return ["".join(filter(str.isdigit, text)) for text in texts]


@dataclass(frozen=True)
class Text(Objective):
    """Digits that are read already: outputs (N, T, 11), one-hot. There is no loss. The sum of an empty text is 0."""

    outputs: int = SYMBOLS

    def values(self, outputs: Tensor) -> Tensor:
        return (outputs.argmax(dim=2) - 1).clamp(min=0).sum(dim=1).to(outputs.dtype)

    def whole(self, values: Tensor) -> Tensor:
        return values.clamp(max=MAX_SUM).long()  # a text may have more digits than its strip

    def answer(self, outputs: Tensor) -> Answer:
        texts = outputs.argmax(dim=2).tolist()
        return Answer(self.values(outputs), [Reading([s - 1 for s in text if s], [], math.nan) for text in texts])


class Yolo(StripModel):
    """YOLOv8's smallest network, yolov8n, with one channel and ten categories, from a random start.

    Shapes: images (N, 1, 40, W) -> (N, A, outputs). Black padding, right and below, fills the coarsest map's cells.
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
    """A box around each digit, trained with YOLO's loss on targets (N, K, 3), as `boxed` makes them."""

    outputs: int = 4 * BINS + 10

    def loss(self, outputs: Tensor, targets: Tensor, step: int | None = None) -> Tensor:
        """Return the mean of YOLOv8's own loss, with its own weights of box, digit and distances."""
        n, k, _ = targets.shape
        columns = outputs.shape[1] // CELLS * STRIDES[-1]
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
        return targets[:, :, 0].sum(1)

    def values(self, outputs: Tensor) -> Tensor:
        return self.answer(outputs).values

    def answer(self, outputs: Tensor) -> Answer:
        """Return the COUNT most confident digits of each strip, fewer if there are no more boxes, and their sums.

        Of boxes that overlap by more than OVERLAP only the most confident stays, also if their digits differ. A
        reading's columns are the boxes' centres in pixels, its probability the product of the confidences.
        """
        confidence, digits = outputs[:, :, 4 * BINS :].sigmoid().max(dim=2)  # (N, A)
        bins = torch.arange(BINS, dtype=outputs.dtype, device=outputs.device)
        centres, stride = _cells(outputs)
        sides = stride * (outputs[:, :, : 4 * BINS].unflatten(2, (4, BINS)).softmax(3) @ bins)  # (N, A, 4)
        boxes = torch.cat([centres - sides[:, :, :2], centres + sides[:, :, 2:]], dim=2)
        readings = []
        for strip in range(len(outputs)):
            kept = nms(boxes[strip], confidence[strip], OVERLAP)[:COUNT]  # the most confident first
            columns = boxes[strip, kept, 0::2].mean(dim=1) - 0.5  # column 0 is half a pixel from the edge
            columns, order = columns.sort()
            kept = kept[order]
            probability = confidence[strip, kept].prod().item()
            readings.append(Reading(digits[strip, kept].tolist(), columns.round().int().tolist(), probability))
        return Answer(outputs.new_tensor([sum(reading.digits) for reading in readings]), readings)


def boxed(strips: Strips) -> Strips:
    """Label strips with digit, top and left of each glyph, (N, K, 3). Raises DataError if they are unknown."""
    if strips.digits is None or strips.corners is None:
        raise DataError("The places of these digits are unknown, so there are no boxes. Use source mnist or digits.")
    return Strips(strips.images, np.concatenate([strips.digits[:, :, None], strips.corners], axis=2), strips.digits)


def _cells(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cells' centres (A, 2), x and y, and their strides (A, 1), in pixels."""
    columns, parts = outputs.shape[1] // CELLS * STRIDES[-1], []
    for stride in STRIDES:
        y, x = torch.arange(stride / 2, ROWS, stride), torch.arange(stride / 2, columns, stride)
        parts.append(F.pad(torch.cartesian_prod(y, x), (0, 1), value=stride))
    cells = torch.cat(parts).to(outputs.device)
    return cells[:, [1, 0]], cells[:, 2:]


def import_ultralytics() -> None:
    """Import ultralytics without downloads, installs, reports or settings, and restore what the import changes."""
    require("yolo")
    os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
    save = torch.save
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, YOLO_CONFIG_DIR=folder), np.printoptions():
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
