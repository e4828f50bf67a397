"""Images from outside: a photograph, scan or drawing of a row of digits, made into a strip as the models know them."""

import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage
from skimage import filters, measure, transform

from .compose import HEIGHT, WIDTH
from .data import open_strips
from .errors import DataError

FORMATS = ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"]  # no other decoder is ever started
MAX_JPEG, MAX_PIXELS = 120_000_000, 25_000_000  # JPEGs are reduced while decoded; others take up to 12 bytes a pixel
MAX_ASPECT, MAX_PAGES = 60, 100
WORKING_PIXELS = 1_000_000  # larger pictures are reduced to so many first
LIGHT = 0.8  # of the shorter side: what is dark over such a square is not ink but a desk, a border or a shadow
WEAK, STRONG = 0.9, 1.3  # times Otsu's threshold: ink is what is WEAK and joined to something STRONG
LEVEL = np.pi / 2 + np.deg2rad(np.arange(-4, 4.1, 0.25))  # directions of ruled lines
DIGIT = 22  # rows of a digit on the strip; MNIST's have 20, but the reader separates larger ones better
STROKE = 0.13, 0.22  # the thinnest and the thickest stroke, as a share of the digit's height
SMALL = 0.4  # of the usual digit's height: what is lower is a dot, a dash or a speck
MARGIN = 8  # black columns left and right of the digits, the median of the course data
GAPS = -6, 10  # columns: the least and the widest gap between the boxes of two digits


def read_strips(path: str | Path) -> np.ndarray:
    """Read the strips of a `.npy` file (see `open_strips`), or one strip for each page of an image file.

    A page may have any size, depth and polarity. One that is a strip already passes as it is. In any other, what is not
    ink is removed, and each digit is brought to 22 rows, with strokes about as thick as MNIST's.
    Returns (N, 40, W) uint8, ink up to 255 on black, W at least 168 and a multiple of 4. Raises `DataError`.
    """
    path = Path(path)
    if not path.is_file() or not path.stat().st_size:  # a pipe or a device is no file
        raise DataError(f"{path} is {'empty' if path.is_file() else 'not a file'}: check the path, or save it again")
    strips = open_strips(path) if path.suffix.lower() == ".npy" else [_strip(*page) for page in _pages(path)]
    width = -(-max(WIDTH, *(strip.shape[1] for strip in strips)) // 4) * 4
    return np.stack([np.pad(strip, ((0, 0), (0, width - strip.shape[1]))) for strip in strips])


def _pages(path: Path) -> Iterator[tuple[np.ndarray, str]]:
    """Yield the brightness (H, W) 0..255 of each page of an image file, and the page's name for messages."""
    heif = path.suffix.lower() in (".heic", ".heif")
    try:
        if heif:
            importlib.import_module("pillow_heif").register_heif_opener()
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=["HEIF"] if heif else FORMATS) as image:
            pages = getattr(image, "n_frames", 1) if image.format in FORMATS else 1  # a phone's MPO or HEIF is one
            if pages > MAX_PAGES:
                raise DataError(f"{path} has {pages} pages: split it into files of at most {MAX_PAGES}")
            for page in range(pages):
                image.seek(page)
                short, long = sorted(image.size)
                whole = image.format not in ("JPEG", "MPO") or "progressive" in image.info  # is held in memory
                if not 8 <= short <= long <= MAX_ASPECT * short or short * long > (MAX_PIXELS if whole else MAX_JPEG):
                    size = f"{image.width}x{image.height}"
                    raise DataError(f"{path} has {size} pixels: give one row, 20 to 2,000 pixels high")
                yield _grey(image), f"{path}, page {page + 1}" if pages > 1 else str(path)
    except DataError:
        raise
    except Exception as error:  # whatever the decoder of some format makes of a damaged or huge file
        first = "pip install pillow-heif, or " if isinstance(error, ImportError) else ""
        raise DataError(f"{path} is not a readable image: {first}save it again as PNG or JPEG ({error})") from error


def _grey(image: Image.Image) -> np.ndarray:
    """Decode a picture as brightness (H, W) 0..255 of at most 1,000,000 pixels; what is transparent becomes paper."""
    scale = (WORKING_PIXELS / (image.width * image.height)) ** 0.5
    if scale < 1:
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image.draft("L", size)
        clear, deep = "transparency" in image.info, image.mode.startswith("I;16")
        if clear or deep or image.mode in ("1", "P"):
            image = image.convert("RGBA" if clear else "I" if deep else "L")
        image = image.resize(size, Image.Resampling.BOX)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # 16 bits and more
        grey = np.nan_to_num(np.asarray(image, np.float32)).clip(0)
        grey *= 255 / min((full for full in (1, 255, 65535) if grey.max() <= full), default=grey.max())
    elif "A" not in image.mode and "transparency" not in image.info:
        grey = np.asarray(image.convert("L"), np.float32)
    else:
        grey, alpha = np.moveaxis(np.asarray(image.convert("RGBA").convert("LA"), np.float32), 2, 0)
        shade = np.median(grey[alpha >= min(128, alpha.max())])
        paper = shade if (alpha > 127).mean() > 0.5 else 255.0 * (shade < 128)  # if only ink is drawn, its opposite
        grey = paper + (grey - paper) * alpha / 255
    return grey


def _strip(grey: np.ndarray, name: str) -> np.ndarray:
    """Turn a picture's brightness (H, W) 0..255 into a strip (40, W) uint8, which may be narrow."""
    small = grey[:: 1 + max(grey.shape) // 120, :: 1 + max(grey.shape) // 120]
    around = ndimage.median_filter(small, max(3, round(0.6 * min(small.shape))))
    dark = grey if ((small - around) ** 3).sum() < 0 else 255 - grey
    ink = dark[:, (dark < 155).any(axis=0)] < 155
    rows = HEIGHT - ink.argmax(axis=0) - ink[::-1].argmax(axis=0) if len(ink) == HEIGHT else np.empty(0)
    if len(rows) and np.percentile(rows, 75) <= 24 and np.median(dark) >= 247 and not ink[[0, -1]].any():
        return np.rint(255 - dark).astype(np.uint8)  # it is a strip already
    return _typeset(*_digits(*_ink(dark, name), name))


def _ink(grey: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return ink (H, W) from 0 to 1 without paper, frames and lines, and its mask (H, W)."""
    grey, size = ndimage.gaussian_filter(grey, 1), max(9, round(LIGHT * min(grey.shape)))
    light = ndimage.grey_closing(np.pad(grey, size, mode="edge"), (size, size))[size:-size, size:-size]
    contrast = ((light - grey) / light.clip(16)).clip(0)
    if ndimage.uniform_filter(contrast, 3).max() < 0.12:  # black on white has 1
        raise DataError(f"{name}: no ink found: the digits must stand out from their background")
    threshold = filters.threshold_otsu(contrast)
    mask = filters.apply_hysteresis_threshold(contrast, WEAK * threshold, STRONG * threshold)
    labels = measure.label(mask)
    regions = measure.regionprops(labels)
    tall = np.array([0] + [region.image.shape[0] for region in regions])
    for region in regions:  # frames and boxes: thin pieces that have another piece, about as high, in a hole
        if region.extent < 0.25 and tall[region.label] > 0.2 * tall.max():
            holes = ndimage.binary_fill_holes(region.image) & ~region.image
            if tall[labels[region.slice][holes]].max(initial=0) > 0.3 * tall[region.label]:
                mask[region.slice] &= ~region.image
    thickness, (height, width) = max(4, round(0.8 * _stroke(mask))), mask.shape
    lines = _lines(mask, max(0.5 * width, 0.6 * height), thickness)
    lines |= _lines(mask.T, 0.95 * height, max(2, thickness // 2)).T
    if lines.any():
        shade, ink = np.percentile(contrast[lines], 80), np.median(contrast[contrast > threshold])
        if shade < 0.75 * ink:  # on paler lines, strokes can be told by their shade
            lines &= contrast < (shade + ink) / 2
        mask = ndimage.binary_opening(mask & ~lines, np.ones((2, 2)))
        contrast = np.where(ndimage.binary_dilation(lines, np.ones((3, 3))) & ~mask, 0, contrast)
    if not mask.any():
        raise DataError(f"{name}: only lines found, no digits: crop the lines off")
    low, high = WEAK * threshold / 2, np.percentile(contrast[mask], 60)
    return ((contrast - low) / (high - low)).clip(0, 1), mask


def _lines(mask: np.ndarray, length: float, thickness: int) -> np.ndarray:
    """Find the long, thin, almost level lines (H, W) of a mask, by Hough's transform, without strokes that cross."""
    thin = mask & ~ndimage.binary_opening(mask, np.ones((thickness + 1, 1)))
    level = ndimage.binary_opening(thin, np.ones((1, max(3, round(length / 40)))))
    lines, (y, x) = np.zeros_like(mask), np.mgrid[: mask.shape[0], : mask.shape[1]]
    votes, angles, distances = transform.hough_line(level, LEVEL)
    peaks = transform.hough_line_peaks(votes, angles, distances, thickness, len(LEVEL), length / 2, 50)
    for _, angle, distance in zip(*peaks, strict=True):
        band = np.abs(x * np.cos(angle) + y * np.sin(angle) - distance) <= thickness / 2 + 1
        columns = np.flatnonzero((level & band).any(axis=0))
        if len(columns) > length / 2 and np.ptp(columns) >= length:
            whole = (mask & band).any(axis=0)[columns[0] : columns[-1]].mean() > 0.95  # the feet of 2 2 2 2 have gaps
            lines |= thin & band & whole
    return lines


def _stroke(mask: np.ndarray) -> float:
    """Return the strokes' width: in a bar w pixels wide, depths 1, 2, .., 2, 1 have the mean (w + 2) / 4."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))
    return 4 * float(depth[depth > 0].mean()) - 2 if mask.any() else 0.0


def _digits(ink: np.ndarray, mask: np.ndarray, name: str) -> tuple[list[tuple[np.ndarray, np.ndarray]], float]:
    """Return each digit's ink (h, w) 0..1 and box (top, left, bottom, right), left to right, and their usual height."""
    labels = measure.label(mask)
    boxes = np.array([region.bbox for region in measure.regionprops(labels)])
    heights, widths = (boxes[:, 2:] - boxes[:, :2]).T
    large = heights > SMALL * heights.max()
    alone = large & (widths < 1.25 * heights)  # a wider piece is a few digits, whose height says less
    digit = float(np.median(heights[alone if alone.any() else large]))
    flat = (widths > 1.2 * heights) & (heights < SMALL * digit)
    used = (np.maximum(heights, widths) > 0.12 * heights.max()) & ~(flat & (widths > 1.2 * digit))
    groups: list[tuple[np.ndarray, list[int]]] = []  # boxes and pieces of digits; pieces above each other are joined
    for k in sorted(np.flatnonzero(used), key=lambda k: -heights[k])[:500]:
        for box, pieces in groups:
            rows, columns = np.minimum(box[2:], boxes[k, 2:]) - np.maximum(box[:2], boxes[k, :2])
            near = rows > -0.2 * digit and columns > 0.5 * min(box[3] - box[1], widths[k])
            if near and not (flat[k] and flat[pieces[0] - 1]):
                box[:2], box[2:] = np.minimum(box[:2], boxes[k, :2]), np.maximum(box[2:], boxes[k, 2:])
                pieces.append(int(k) + 1)
                break
        else:
            groups.append((boxes[k].copy(), [int(k) + 1]))
    groups = [(box, pieces) for box, pieces in groups if box[2] - box[0] > SMALL * digit]  # without dots and dashes
    labels = np.where(np.isin(labels, [label for _, pieces in groups for label in pieces]), labels, 0)
    top, left, bottom, right = np.array([box for box, _ in groups]).reshape(-1, 4).T
    shared = np.minimum.outer(right, right) - np.maximum.outer(left, left)
    above = (shared > 0.3 * (right - left)) & (bottom[:, None] < top)
    for fault, found in {
        "only lines found, no digits: crop the lines off": not groups or (widths > 8 * heights)[large].all(),
        f"the digits are only {digit:.0f} pixels high: give them at least 8, better 20": digit < 8,
        "the background has a pattern or a text: crop the image to one row on plain paper": len(groups) > 60,
        "several rows found: crop the image to one row of digits": 2 * (above | above.T).any(axis=1).sum()
        > len(groups),
        "the ink is patches, not strokes: crop the image to the digits and the paper": _stroke(labels > 0) > digit / 2,
    }.items():
        if found:
            raise DataError(f"{name}: {fault}")
    labels = np.where(labels, labels, ndimage.grey_dilation(labels, (3, 3)))  # with the strokes' soft edges
    parts = []
    for box, pieces in sorted(groups, key=lambda group: group[0][1] + group[0][3]):
        cut = np.s_[max(box[0] - 1, 0) : box[2] + 1, max(box[1] - 1, 0) : box[3] + 1]
        parts.append((ink[cut] * np.isin(labels[cut], pieces), box))
    return parts, digit


def _typeset(parts: list[tuple[np.ndarray, np.ndarray]], digit: float) -> np.ndarray:
    """Lay digits out as the models know them: their size, the weight of the strokes, their place on the strip."""
    strip, end, last = np.zeros((HEIGHT, 0), np.float32), MARGIN, parts[0][1][1]
    for ink, (top, left, bottom, right) in parts:
        height, stroke = bottom - top, _stroke(ink > 0.5)
        thin, thick = (share * height - stroke for share in STROKE)
        thicker = 2 * round(max(thin, 0) / 2) + round(min(thick, 0))
        pen, scale = abs(thicker) + 1, DIGIT / (height + thicker)
        ink = (ndimage.grey_dilation if thicker > 0 else ndimage.grey_erosion)(np.pad(ink, pen), (pen, pen))
        size = [max(1, round(side * scale)) for side in ink.shape[::-1]]
        ink = np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.BICUBIC))
        ink = (ink / np.percentile(ink[ink >= 0.5 * ink.max()], 75).clip(0.1)).clip(0, 1)
        ink = ink[(ink > 0.1).any(axis=1)][:HEIGHT, (ink > 0.1).any(axis=0)]
        start = max(0, end + round(np.clip((left - last) * min(scale, DIGIT / digit), *GAPS)))
        end, last, above = start + ink.shape[1], right, (HEIGHT - len(ink)) // 2
        strip = np.pad(strip, [(0, 0), (0, max(0, end + MARGIN - strip.shape[1]))])
        np.maximum(strip[above : above + len(ink), start:end], ink, out=strip[above : above + len(ink), start:end])
    return np.rint(255 * strip).astype(np.uint8)
