"""Pictures as people take them: rows of unseen digits under 24 disturbances, each of which stands for a kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image
from scipy import ndimage

PAPER, PEN = 235, 45  # brightness
ENLARGED = 5  # times a glyph's 28 pixels
MARGIN = 60  # around a row

Page = np.ndarray  # brightness (H, W)


def write(glyphs: np.ndarray, gap: int = 25, scales: tuple[float, ...] = (), thicker: int = 0) -> Page:
    """Write glyphs (K, 28, 28) on paper with a pen, side by side."""
    parts = []
    for k, glyph in enumerate(glyphs):
        side = ENLARGED * len(glyph)
        ink = np.asarray(Image.fromarray(glyph).resize((side, side), Image.Resampling.BICUBIC), float) / 255
        ink = ((ink - 0.3) / 0.4).clip(0, 1)
        if thicker:
            ink = ndimage.grey_dilation(np.pad(ink, thicker), (thicker + 7, thicker + 7))
        columns = np.flatnonzero(ink.max(axis=0) > 0.1)
        ink = ink[:, columns[0] : columns[-1] + 1]
        parts.append(ndimage.zoom(ink, scales[k], order=1).clip(0, 1) if scales else ink)
    height = max(len(part) for part in parts) + 2 * MARGIN
    page = np.zeros((height, sum(part.shape[1] for part in parts) + gap * (len(parts) - 1) + 2 * MARGIN))
    left = MARGIN
    for part in parts:
        top = (height - len(part)) // 2
        window = page[top : top + len(part), left : left + part.shape[1]]
        np.maximum(window, part, out=window)
        left += part.shape[1] + gap
    return PAPER + (PEN - PAPER) * page


def ruled(page: Page, step: int, shade: int, width: int, squared: bool = False) -> Page:
    y, x = np.mgrid[: page.shape[0], : page.shape[1]]
    lines = ((y - step // 2) % step < width) | (squared & ((x - step // 2) % step < width))
    return np.where(lines, np.minimum(page, shade), page)


def shadowed(page: Page) -> Page:
    y, x = np.mgrid[: page.shape[0], : page.shape[1]]
    return page * (1 - 0.65 * ndimage.gaussian_filter((x + 0.3 * y > 0.65 * page.shape[1]).astype(float), 3))


def framed(page: Page, top: int, left: int, bottom: int, right: int, shade: int = 40) -> Page:
    """Draw the edges of a box, three pixels wide."""
    inside = page[top + 3 : bottom - 3, left + 3 : right - 3].copy()
    page[top:bottom, left:right] = shade
    page[top + 3 : bottom - 3, left + 3 : right - 3] = inside
    return page


def in_boxes(glyphs: np.ndarray) -> Page:
    page = write(glyphs, gap=60)
    ink = page < 180
    rows = np.flatnonzero(ink.any(axis=1))
    for (columns,) in ndimage.find_objects(ndimage.label(ink.any(axis=0))[0]):
        page = framed(page, rows[0] - 22, columns.start - 22, rows[-1] + 25, columns.stop + 25, 60)
    return page


def underlined(page: Page) -> Page:
    below = np.flatnonzero((page < 120).any(axis=1))[-1] + 12
    page[below : below + 4, MARGIN:-MARGIN] = 60
    return page


def tight(glyphs: np.ndarray, height: int) -> Page:
    """Write black on white without a margin above and below, as high as a strip."""
    page = 255 - np.concatenate(list(glyphs), axis=1)
    page = page[page.min(axis=1) < 195]
    return np.asarray(Image.fromarray(page).resize((round(page.shape[1] * height / len(page)), height)))


KINDS: dict[str, Callable[[np.ndarray], Page]] = {
    "plain": write,
    "ruled_dark": lambda glyphs: ruled(write(glyphs), 70, 130, 3),
    "grid_pale": lambda glyphs: ruled(write(glyphs), 45, 195, 2, squared=True),
    "grid_dark": lambda glyphs: ruled(write(glyphs), 45, 140, 2, squared=True),
    "shadow_edge": lambda glyphs: shadowed(write(glyphs)),
    "scan_border": lambda glyphs: np.pad(write(glyphs), 25, constant_values=20),
    "frame": lambda glyphs: framed(write(glyphs), 8, 8, -8, -8),
    "form_boxes": in_boxes,
    "desk_beside": lambda glyphs: np.pad(write(glyphs), ((0, 0), (0, 120)), constant_values=50),
    "underline": lambda glyphs: underlined(write(glyphs)),
    "thick_marker": lambda glyphs: write(glyphs, thicker=12),
    "one_twice_as_big": lambda glyphs: write(glyphs, scales=(1, 1, 2, 1)),
    "sizes_half": lambda glyphs: write(glyphs, scales=(1, 0.5, 1, 0.5)),
    "tight_39": lambda glyphs: tight(glyphs, 39),
    "tight_40": lambda glyphs: tight(glyphs, 40),
    "tight_41": lambda glyphs: tight(glyphs, 41),
    "overlap_12": lambda glyphs: write(glyphs, gap=-12),
    "overlap_25": lambda glyphs: write(glyphs, gap=-25),
} | {f"digits_{n}": write for n in (1, 2, 3, 5, 6, 8)}


def pictures(glyphs: np.ndarray, labels: np.ndarray, numbers: range) -> Iterator[tuple[str, np.ndarray, str]]:
    """Yield kind, picture (H, W) uint8 and digits of each numbered picture of each kind, the same every time."""
    for kind, draw in KINDS.items():
        count = int(kind.removeprefix("digits_")) if kind.startswith("digits_") else 4
        for number in numbers:
            chosen = np.random.default_rng([number, 28]).choice(len(glyphs), 8, replace=False)[:count]
            picture = np.rint(draw(glyphs[chosen])).clip(0, 255).astype(np.uint8)
            yield kind, picture, "".join(map(str, labels[chosen]))
