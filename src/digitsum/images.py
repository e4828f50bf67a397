"""Images from outside: a photograph, scan or drawing of a row of digits, made into a strip as the models know them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from .compose import HEIGHT, WIDTH
from .data import open_strips
from .errors import ImageError

DIGIT = 20  # rows: an MNIST digit fills 20 of its glyph's 28
STROKE = 0.13  # MNIST's strokes are this share of the digit's height wide, or wider
MARGIN = 8  # black columns left of the first digit, the median of the course data
MAX_GAP = 24  # columns: wider gaps between digits are shortened where the strip would outgrow the canvas
WORKING_PIXELS = 1_000_000  # larger pictures are reduced to so many first
FLOOR = 0.3  # paler than this share of the ink is paper: shadows, ruled lines, the other side shining through
FAINTEST = 0.12  # the least contrast of ink, where black on white is 1


def read_strips(path: str | Path) -> np.ndarray:
    """Read the strips of a `.npy` file (see `open_strips`), or the one strip of an image file (see `read_image`).

    Returns (N, 40, W) uint8, W at least 168 and a multiple of 4. Raises `ImageError` or `DataError`.
    """
    path = Path(path)
    if path.suffix.lower() != ".npy":
        return read_image(path)[None]
    _check_file(path)
    strips = open_strips(path)
    for k, strip in enumerate(strips):
        _check_ink(strip.max() / 255, f"{path}, strip {k}")
    return _pad(strips)


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file of any size, depth and polarity as one strip: ink up to 255 on black.

    An image 40 pixels high with an even black or white background is taken as a strip already. Any other is levelled,
    cropped to its ink and scaled so that its digits are 20 pixels high, with strokes no thinner than MNIST's.
    Returns (40, W) uint8, W at least 168 and a multiple of 4. Raises ImageError.
    """
    path = Path(path)
    _check_file(path)
    try:
        with Image.open(path) as image:
            grey = _grey(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is too large: reduce it to a few thousand pixels a side") from error
    except Exception as error:  # whatever the decoder of some format makes of a damaged file
        raise ImageError(f"{path} is not a readable image: save it again as PNG or JPEG ({error})") from error
    if min(grey.shape) < 8:
        raise ImageError(f"{path} is only {grey.shape[1]}x{grey.shape[0]} pixels: give an image of at least 20 rows")

    paper = np.median(grey)
    if len(grey) == HEIGHT and not 8 < paper < 247:
        strip = np.rint(grey if paper <= 8 else 255 - grey).astype(np.uint8)
        _check_ink(strip.max() / 255, path)
        return _pad(strip)
    grey = _resize(grey, min(1.0, (WORKING_PIXELS / grey.size) ** 0.5))
    return _pad(_typeset(*_find_digits(_level(grey), path)))


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ImageError(f"{path} is not a file: check the path")
    if not path.stat().st_size:
        raise ImageError(f"{path} is empty: save or copy it again")


def _check_ink(contrast: float, where: str | Path) -> None:
    if contrast < FAINTEST:
        raise ImageError(f"{where}: no ink found: the digits must stand out from their background")


def _grey(image: Image.Image) -> np.ndarray:
    """Brightness (H, W) from 0 to 255; transparent pixels become the paper."""
    if image.mode.startswith(("I", "F")):  # 16 bits and more
        grey = np.nan_to_num(np.asarray(image, np.float64)).clip(0)
        return grey * 255 / min((full for full in (1, 255, 65535) if grey.max() <= full), default=grey.max())
    if "A" not in image.mode and "transparency" not in image.info:
        return np.asarray(image.convert("L"), np.float64)
    grey, alpha = np.moveaxis(np.asarray(image.convert("RGBA").convert("LA"), np.float64), 2, 0)
    visible = alpha > 127
    paper = np.median(grey[visible]) if visible.any() else 0.0
    if visible.mean() < 0.5:  # only the ink is drawn: put its opposite under it
        paper = 0.0 if paper > 127 else 255.0
    return paper + (grey - paper) * alpha / 255


def _level(grey: np.ndarray) -> np.ndarray:
    """Ink (H, W) as contrast, 0 on the paper and up to 1, free of even and of slowly changing light.

    The light is the quadratic surface through the paper; what lies furthest from it, on either side, is the ink.
    """
    small = _resize(grey, min(1.0, 100 / max(grey.shape)))
    values, terms = small.ravel(), _surface_terms(small.shape)
    paper = np.ones(len(values), bool)
    for _ in range(10):
        surface = np.linalg.lstsq(terms[paper], values[paper], rcond=None)[0]
        distance = np.abs(values - terms @ surface)
        paper = distance <= max(2 * np.median(distance), 2.0)
    light = (_surface_terms(grey.shape) @ surface).reshape(grey.shape)
    if ((grey - light) ** 3).sum() > 0:
        return (grey - light).clip(0) / 255
    return (light - grey).clip(0) / light.clip(16)


def _surface_terms(shape: tuple[int, ...]) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j].reshape(2, -1)
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def _find_digits(contrast: np.ndarray, path: Path) -> tuple[np.ndarray, float, float]:
    """Crop to the ink, without specks: the ink (h, w) from 0 to 1, its digits' height and strokes' width in pixels."""
    peak = ndimage.uniform_filter(contrast, 3).max()
    _check_ink(peak, path)
    pieces, _ = ndimage.label(contrast > FLOOR * peak, np.ones((3, 3)))
    sizes = np.array([[cut.stop - cut.start for cut in box] for box in ndimage.find_objects(pieces)])
    large = sizes.max(axis=1) > 0.15 * sizes.max()
    inked = np.isin(pieces, np.flatnonzero(large) + 1)
    ink = (contrast / np.percentile(contrast[inked], 60)).clip(0, 1) * ndimage.binary_dilation(inked, np.ones((3, 3)))

    # Most digits stand alone, and a piece wider than high is a few of them, whose height says less.
    heights, widths = sizes[large & (sizes[:, 0] > 0.5 * sizes[large, 0].max())].T
    alone = widths < 1.25 * heights
    digit = float(np.median(heights[alone] if alone.any() else heights))
    if digit < 8:
        raise ImageError(f"{path}: the digits are only {digit:.0f} pixels high: give them at least 8, better 20")
    rows, cols = (np.flatnonzero(inked.any(axis=axis)) for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    if len(ink) > 3 * digit:
        raise ImageError(f"{path}: the ink is not one row of digits: crop the image to one level row")
    depth = ndimage.distance_transform_edt(ink > FLOOR)
    stroke = 4 * depth[depth > 0].mean() - 2  # in a bar w pixels wide, depths 1, 2, .., 2, 1 have the mean (w + 2) / 4
    if stroke > digit / 2:
        raise ImageError(f"{path}: the ink is patches, not strokes: crop the image to the digits and the paper")
    return ink, digit, stroke


def _typeset(ink: np.ndarray, digit: float, stroke: float) -> np.ndarray:
    """Lay the ink out as the models know it: size, weight of the strokes, place on the strip."""
    thicken = 2 * round((STROKE * digit - stroke) / 2) + 1
    if thicken > 1:
        ink = ndimage.grey_dilation(np.pad(ink, thicken // 2), (thicken, thicken))
        digit += thicken - 1
    ink = _resize(ink, min(DIGIT / digit, (HEIGHT - 4) / len(ink)))
    ink = (ink / np.percentile(ink[ink > 0.5 * ink.max()], 75)).clip(0, 1)
    if ink.shape[1] > WIDTH - 2 * MARGIN:
        columns = np.arange(ink.shape[1])
        since_ink = columns - np.maximum.accumulate(np.where(ink.max(axis=0) > 0.1, columns, 0))
        ink = ink[:, since_ink <= MAX_GAP]
    top = (HEIGHT - len(ink)) // 2
    strip = np.pad(ink, [(top, HEIGHT - len(ink) - top), (MARGIN, MARGIN)])
    return np.rint(255 * strip).astype(np.uint8)


def _resize(pixels: np.ndarray, scale: float) -> np.ndarray:
    height, width = (max(1, round(side * scale)) for side in pixels.shape)
    return np.asarray(Image.fromarray(pixels.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC))


def _pad(strips: np.ndarray) -> np.ndarray:
    """Add black columns on the right, up to the canvas's width and then to a multiple of 4."""
    missing = max(WIDTH - strips.shape[-1], -strips.shape[-1] % 4)
    return np.pad(strips, [(0, 0)] * (strips.ndim - 1) + [(0, missing)])
