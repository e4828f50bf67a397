"""Report E's OCR: the program tesseract without any training."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn

from digitsum.compose import MAX_SUM
from digitsum.likelihood import SYMBOLS, Reading
from digitsum.models.layers import StripModel
from digitsum.objectives import Answer, Objective

from .extras import environment, require


class Tesseract(StripModel):
    """Read a strip with tesseract as one line of digits.

    Shapes: images (N, 1, 40, W) -> (N, T, outputs), one-hot: the blank or the digit at each place of a text. T is the
    length of the longest text. `mode` is tesseract's page segmentation mode; `scale` and `border` are those of `page`.
    Raises ExtraError if tesseract is not installed. Settings: see docs/choices.md.
    """

    def __init__(self, outputs: int, mode: int, scale: float, border: int) -> None:
        super().__init__()
        require("tesseract")
        self.outputs, self.mode, self.scale, self.border = outputs, mode, scale, border
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # holds no number, only the device

    def forward(self, images: Tensor) -> Tensor:
        strips = (255 * images[:, 0]).round().byte().cpu().numpy()  # (N, 40, W)
        texts = texts_of([page(strip, self.scale, self.border) for strip in strips], self.mode)
        longest = max([1, *map(len, texts)])
        symbols = [[1 + int(digit) for digit in text] + [0] * (longest - len(text)) for text in texts]  # 0 is the blank
        return F.one_hot(torch.tensor(symbols, device=images.device), self.outputs).float()  # (N, T, outputs)


@dataclass(frozen=True)
class Text(Objective):
    """Digits that are read already: outputs (N, T, 11), one-hot. There is no loss. The sum of an empty text is 0."""

    outputs: int = SYMBOLS

    def values(self, outputs: Tensor) -> Tensor:
        """Return the sum (N,) of the digits as a float."""
        return (outputs.argmax(dim=2) - 1).clamp(min=0).sum(dim=1).to(outputs.dtype)

    def whole(self, values: Tensor) -> Tensor:
        """Return the sums (N,), at most 36: a text may have more digits than its strip."""
        return values.clamp(max=MAX_SUM).long()

    def answer(self, outputs: Tensor) -> Answer:
        """Return sums and digits. Their columns and probabilities are unknown."""
        texts = outputs.argmax(dim=2).tolist()
        return Answer(self.values(outputs), [Reading([s - 1 for s in text if s], [], math.nan) for text in texts])


def page(strip: np.ndarray, scale: float, border: int) -> Image.Image:
    """Draw a strip (40, W) uint8 as dark ink on white, with a `border` in its pixels, then `scale` times as large."""
    image = ImageOps.expand(Image.fromarray(strip), border)
    size = round(scale * image.width), round(scale * image.height)
    return ImageOps.invert(image.resize(size, Image.Resampling.BICUBIC))


def texts_of(pages: list[Image.Image], mode: int) -> list[str]:
    """Return the digits that tesseract reads on each page, "" if none.

    One start of tesseract reads all pages from a list: a start takes longer than reading a strip.
    """
    import pytesseract

    # on images so small, tesseract's threads cost more than they gain
    with tempfile.TemporaryDirectory() as folder, environment(OMP_THREAD_LIMIT="1"):
        paths = [Path(folder, f"{number}.pgm") for number in range(len(pages))]
        for path, image in zip(paths, pages, strict=True):
            image.save(path)
        listed = Path(folder, "pages.txt")
        listed.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
        options = f"--psm {mode} --oem 1 -c tessedit_char_whitelist=0123456789"
        texts = pytesseract.image_to_string(str(listed), config=options).split("\f")
    if len(texts) != len(pages):  # a form feed separates two pages, also empty ones
        raise RuntimeError(f"tesseract gave {len(texts)} texts for {len(pages)} pages")
    return ["".join(filter(str.isdigit, text)) for text in texts]
