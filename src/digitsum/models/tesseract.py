"""Report E's OCR: the program tesseract, as it comes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from ..extras import environment, require
from .layers import StripModel


class Tesseract(StripModel):
    """What tesseract reads in a strip, told that it is one line of digits; nothing is trained.

    Shapes: images (N, 1, 40, W) -> (N, T, outputs), a one for "nothing" or the digit at each place of the text; T are
    the digits of the longest text. Strips are given as a page would look, dark on white, with a `border` in pixels of
    the strip and `scale` times as large; `mode` is tesseract's page segmentation mode, 7 a single line of text. All
    were chosen on the first 800 validation strips, from scales 0.5 to 3, borders 0 to 20, either polarity and modes 6
    (a block), 7, 8 (a word) and 13 (a raw line): strips enlarged are read worse, those of a border or dark on white
    better, words and raw lines worse. Raises `ExtraError` where it is not installed.
    """

    def __init__(self, outputs: int, mode: int, scale: float, border: int) -> None:
        super().__init__()
        require("tesseract")
        self.outputs, self.mode, self.scale, self.border = outputs, mode, scale, border
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # holds no number, only the device

    def forward(self, images: Tensor) -> Tensor:
        strips = (255 * images[:, 0]).round().byte().cpu().numpy()  # (N, 40, W)
        texts = texts_of([page(strip, self.scale, self.border) for strip in strips], self.mode)
        outputs = torch.zeros(len(texts), max([1, *map(len, texts)]), self.outputs)
        outputs[:, :, 0] = 0.5  # nothing, unless there is a digit
        for row, text in zip(outputs, texts, strict=True):
            for place, digit in enumerate(text):
                row[place, 1 + int(digit)] = 1
        return outputs.to(images.device)  # (N, T, outputs)


def page(strip: np.ndarray, scale: float, border: int) -> Image.Image:
    """A strip (40, W) uint8, light on black, as dark ink on a white page with a border."""
    image = ImageOps.expand(Image.fromarray(strip), border)
    size = round(scale * image.width), round(scale * image.height)
    return ImageOps.invert(image.resize(size, Image.Resampling.BICUBIC))


def texts_of(pages: list[Image.Image], mode: int) -> list[str]:
    """The digits that tesseract reads on each page, "" where it reads none.

    It is started once for all pages, by a file that lists theirs: starting it takes longer than reading a strip.
    """
    import pytesseract

    # its threads cost more than they gain on images so small
    with tempfile.TemporaryDirectory() as folder, environment(OMP_THREAD_LIMIT="1"):
        paths = [Path(folder, f"{number}.pgm") for number in range(len(pages))]
        for path, image in zip(paths, pages, strict=True):
            image.save(path)
        listed = Path(folder, "pages.txt")
        listed.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
        options = f"--psm {mode} --oem 1 -c tessedit_char_whitelist=0123456789"
        texts = pytesseract.image_to_string(str(listed), config=options).split("\f")
    if len(texts) != len(pages):  # a form feed stands between two pages, also empty ones
        raise RuntimeError(f"tesseract gave {len(texts)} texts for {len(pages)} pages")
    return ["".join(filter(str.isdigit, text)) for text in texts]
