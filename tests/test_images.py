"""Images from outside: a row of digits is found whatever it was written on, and a bad file says what is wrong."""

import importlib.util
import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy import ndimage

from digitsum.data import Data, digit_glyphs
from digitsum.errors import DataError
from digitsum.images import read_strips
from research.studies.pictures import KINDS as DISTURBED
from research.studies.pictures import ruled, write

GLYPHS, _ = digit_glyphs()


def glyphs(row: int, count: int = 4) -> np.ndarray:
    """Return glyphs (count, 28, 28) of digits that are in one piece each."""
    some = GLYPHS[40 * row : 40 * row + 40]
    return np.array([g for g in some if ndimage.label(g > 80, np.ones((3, 3)))[1] == 1][:count])


def photograph(page: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : page.shape[0] * 1j, -1 : 1 : page.shape[1] * 1j]
    page = page * (0.75 + 0.2 * x - 0.1 * y) + np.random.default_rng(0).normal(0, 4, page.shape)
    page[20:24, 30:34] = 40  # a speck of dirt
    return page


KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    **{kind: draw for kind, draw in DISTURBED.items() if not kind.startswith(("overlap", "digits"))},
    "white on black": lambda row: 255 - write(row),
    "ruled, turned": lambda row: ndimage.rotate(ruled(write(row), 70, 130, 3), 1.7, reshape=False, mode="nearest"),
    "photograph": lambda row: photograph(write(row)),
}


def saved(page: np.ndarray) -> bytes:
    Image.fromarray(page.clip(0, 255).astype(np.uint8)).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def pieces(strip: np.ndarray) -> list[np.ndarray]:
    labels, _ = ndimage.label(strip > 100, np.ones((3, 3)))
    cuts = sorted(ndimage.find_objects(labels), key=lambda cut: cut[1].start + cut[1].stop)
    return [strip[cut] for cut in cuts if cut[0].stop - cut[0].start > 5]


def likeness(piece: np.ndarray, glyph: np.ndarray) -> float:
    """Return the correlation of two pictures of a digit, each cropped to its ink and brought to one size."""
    ink = glyph > 80
    cropped = glyph[np.ix_(ink.any(axis=1), ink.any(axis=0))]
    same = [Image.fromarray(each).resize((60, 100), Image.Resampling.BICUBIC) for each in (piece, cropped)]
    return np.corrcoef([ndimage.gaussian_filter(np.asarray(each, float), 6).ravel() for each in same])[0, 1]


@pytest.mark.parametrize("row", [3, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_digits_are_found_and_nothing_else(kind: str, row: int, tmp_path: Path) -> None:
    parts = glyphs(row)
    (tmp_path / "row.png").write_bytes(saved(KINDS[kind](parts)))
    (strip,) = read_strips(tmp_path / "row.png")
    assert strip.dtype == np.uint8 and strip.shape == (40, 168) and np.median(strip) == 0 and strip.max() > 220
    found = pieces(strip)
    assert len(found) == 4
    assert all(18 <= len(piece) <= 25 for piece in found)  # each digit is brought to one height
    assert min(likeness(*pair) for pair in zip(found, parts, strict=True)) > 0.6


SORTS: dict[str, tuple[str, Callable[[Image.Image], Image.Image]]] = {
    "JPEG": ("jpg", lambda page: page),
    "CMYK": ("jpg", lambda page: page.convert("RGB").convert("CMYK")),
    "palette": ("gif", lambda page: page.convert("P")),
    "two shades": ("bmp", lambda page: page.convert("1", dither=Image.Dither.NONE)),
    "16 bits": ("png", lambda page: Image.fromarray(np.asarray(page).astype(np.uint16) * 257)),
    "WebP": ("webp", lambda page: page),
    "white on nothing": ("png", lambda page: Image.merge("LA", [page.point(lambda _: 255), ImageOps.invert(page)])),
}


@pytest.mark.parametrize("sort", SORTS)
def test_a_row_survives_its_file(sort: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("digitsum.images.WORKING_PIXELS", 100_000)
    parts = glyphs(3)
    suffix, convert = SORTS[sort]
    convert(Image.fromarray(write(parts).astype(np.uint8))).save(tmp_path / f"row.{suffix}")
    found = pieces(read_strips(tmp_path / f"row.{suffix}")[0])
    assert min(likeness(*pair) for pair in zip(found, parts, strict=True)) > 0.6


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_a_strip_passes_untouched(mode: str, digits: Data, tmp_path: Path) -> None:
    for original in digits.test.images[:4]:
        for shown in (original, 255 - original):
            Image.fromarray(shown).convert(mode).save(tmp_path / "strip.png")
            np.testing.assert_array_equal(read_strips(tmp_path / "strip.png"), original[None])


@pytest.mark.parametrize("size", [(168, 40), (840, 200)])
def test_orientation_tag_is_followed(size: tuple[int, int], digits: Data, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("digitsum.images.WORKING_PIXELS", 100_000)
    page, exif = Image.fromarray(255 - digits.test.images[0]).resize(size), Image.Exif()
    page.save(tmp_path / "level.png")
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    page.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_allclose(*(read_strips(tmp_path / f"{name}.png") for name in ("level", "turned")), atol=20)


def test_every_page_is_a_strip(tmp_path: Path) -> None:
    pages = [Image.fromarray(write(glyphs(3, count)).astype(np.uint8)) for count in (2, 3, 8)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    assert [len(pieces(strip)) for strip in read_strips(tmp_path / "pages.tif")] == [2, 3, 8]


def test_a_blank_strip_stops_no_other(digits: Data, tmp_path: Path) -> None:
    strips = digits.test.images[:3].copy()
    strips[1] = 0
    np.save(tmp_path / "strips.npy", strips[:, :, :150])
    np.testing.assert_array_equal(read_strips(tmp_path / "strips.npy")[:, :, :150], strips[:, :, :150])


def small_png(width: int, height: int, colour: int = 0) -> bytes:
    """Return a PNG of a few KB that claims to hold many pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(10**7))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


paper = np.full((200, 600), 255)
speck, blot, lines = paper.copy(), paper.copy(), paper.copy()
lines[20::50] = lines[21::50] = 60
speck[90:93, 90:93] = 0
blot[50:150, 200:400] = 0
several = np.concatenate([write(glyphs(3))[40:-40]] * 2)

FAULTS = {  # name of the file: its content, and what the message says of it
    "empty.png": (b"", "is empty"),
    "a.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n", "not a readable image"),
    "half.png": (saved(write(glyphs(3)))[:3000], "not a readable image"),
    "tiny.png": (saved(paper[:6, :22]), "22x6 pixels"),
    "huge.png": (small_png(13_000, 13_000), "13000x13000 pixels"),
    "alpha.png": (small_png(9_000, 9_000, 6), "9000x9000 pixels"),
    "long.png": (small_png(8, 10_000_000), "8x10000000 pixels"),
    "white.png": (saved(paper), "no ink"),
    "shade.png": (saved(np.linspace(80, 220, 600) + 0 * paper), "no ink"),
    "black strip.png": (saved(np.zeros((40, 168))), "no ink"),
    "speck.png": (saved(speck), "only 5 pixels high"),
    "blot.png": (saved(blot), "patches"),
    "lines.png": (saved(lines), "only lines"),
    "several.png": (saved(several), "several rows"),
    "pipe.png": (None, "not a file"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_file_is_named_with_its_fault(name: str, tmp_path: Path) -> None:
    content, fault = FAULTS[name]
    os.mkfifo(tmp_path / name) if content is None else (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=fault) as error:
        read_strips(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is not None, reason="pillow-heif is installed")
def test_heic_names_the_package_it_needs(tmp_path: Path) -> None:
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(DataError, match="pip install pillow-heif"):
        read_strips(tmp_path / "phone.heic")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the most memory that was used")
@pytest.mark.parametrize(("name", "side"), [("large.png", 5_000), ("large.jpg", 10_900)])
def test_the_largest_pictures_take_under_500_mb(name: str, side: int, tmp_path: Path) -> None:
    page = Image.new("RGB", (side, side), "white")
    page.paste("black", (side // 2, side // 4, side // 2 + side // 8, 3 * side // 4))
    page.save(tmp_path / name, compress_level=1)
    code = "import sys; from digitsum.images import read_strips; read_strips(sys.argv[1]);"
    code += "print(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / name], capture_output=True, text=True, check=True)
    assert int(done.stdout.split("VmHWM:")[1].split()[0]) < 500_000
