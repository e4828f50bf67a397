"""Images from outside: the same row of digits comes back from whatever file it was saved to, and a bad file says so."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from digitsum.data import Data
from digitsum.errors import DataError, ImageError
from digitsum.images import read_image, read_strips

# One folder serves all examples of a property, each of which overwrites its file.
examples = settings(
    max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
rows = st.integers(0, 199)


def enlarged(strip: np.ndarray, factor: float) -> np.ndarray:
    height, width = strip.shape
    return np.asarray(
        Image.fromarray(strip).resize((round(width * factor), round(height * factor)), Image.Resampling.BICUBIC)
    )


def ink_box(strip: np.ndarray) -> np.ndarray:
    ys, xs = np.nonzero(strip > 80)
    return strip[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]


def likeness(strip: np.ndarray, original: np.ndarray) -> float:
    """Return the correlation of the ink of two strips, laid over each other."""
    a, b = ink_box(strip), ink_box(original)
    a = np.asarray(Image.fromarray(a).resize(b.shape[::-1], Image.Resampling.BICUBIC))
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


def photograph(strip: np.ndarray) -> Image.Image:
    """Draw blue ink on paper in uneven light, with noise, a shadow and a speck of dirt."""
    ink = np.pad(enlarged(strip, 5), ((100, 60), (90, 40))) / 255
    ink[20:24, 30:34] = 1
    y, x = np.mgrid[-1 : 1 : ink.shape[0] * 1j, -1 : 1 : ink.shape[1] * 1j]
    light = 175 + 45 * x - 25 * y + 10 * x * y
    light[:, ink.shape[1] // 2 :] *= 0.93
    colours = [light * (1 - share * ink) for share in (0.8, 0.75, 0.4)]
    noise = np.random.default_rng(0).normal(0, 4, ink.shape)
    return Image.fromarray(np.stack([colour + noise for colour in colours], axis=2).clip(0, 255).astype(np.uint8))


def on_nothing(shade: int, strip: np.ndarray) -> Image.Image:
    """Draw ink of one shade on transparent ground."""
    alpha = enlarged(strip, 3)
    return Image.fromarray(np.stack([np.full_like(alpha, shade), alpha], axis=2))


def black_on_white(strip: np.ndarray, factor: float = 3) -> Image.Image:
    return Image.fromarray(255 - enlarged(strip, factor))


KINDS: dict[str, tuple[str, Callable[[np.ndarray], Image.Image]]] = {
    "larger": ("png", lambda strip: Image.fromarray(enlarged(strip, 3))),
    "larger, black on white": ("png", lambda strip: black_on_white(strip, 7.3)),
    "smaller": ("png", lambda strip: Image.fromarray(enlarged(strip, 0.9))),
    "close crop": ("png", lambda strip: Image.fromarray(255 - np.pad(ink_box(enlarged(strip, 4)), 10))),
    "JPEG": ("jpg", black_on_white),
    "photograph": ("jpg", photograph),
    "RGBA": ("png", lambda strip: black_on_white(strip).convert("RGBA")),
    "black on nothing": ("png", lambda strip: on_nothing(0, strip)),
    "white on nothing": ("png", lambda strip: on_nothing(255, strip)),
    "16 bits": ("png", lambda strip: Image.fromarray(65535 - enlarged(strip, 3).astype(np.uint16) * 257)),
    "palette": ("png", lambda strip: black_on_white(strip).convert("P")),
    "CMYK": ("jpg", lambda strip: black_on_white(strip).convert("RGB").convert("CMYK")),
    "two shades": ("png", lambda strip: black_on_white(strip).convert("1", dither=Image.Dither.NONE)),
}


@pytest.mark.parametrize("kind", KINDS)
@given(row=rows)
@examples
def test_a_row_of_digits_survives_its_file(kind: str, row: int, digits: Data, tmp_path: Path) -> None:
    original = digits.test.images[row]
    suffix, render = KINDS[kind]
    path = tmp_path / f"strip.{suffix}"
    render(original).save(path)
    strip = read_image(path)
    assert strip.dtype == np.uint8 and strip.shape[0] == 40 and strip.shape[1] >= 168 and strip.shape[1] % 4 == 0
    assert likeness(strip, original) > (0.6 if kind == "two shades" else 0.8)
    assert 0.7 < len(ink_box(strip)) / len(ink_box(original)) < 1.4
    assert strip.max() > 220 and np.median(strip) == 0


@given(row=rows, inverted=st.booleans(), mode=st.sampled_from(["L", "RGB", "RGBA", "LA", "16 bits"]))
@examples
def test_a_strip_passes_untouched(row: int, inverted: bool, mode: str, digits: Data, tmp_path: Path) -> None:
    original = digits.test.images[row]
    shown = 255 - original if inverted else original
    image = (
        Image.fromarray(shown.astype(np.uint16) * 257) if mode == "16 bits" else Image.fromarray(shown).convert(mode)
    )
    image.save(tmp_path / "strip.png")
    np.testing.assert_array_equal(read_image(tmp_path / "strip.png"), original)
    np.testing.assert_array_equal(read_strips(tmp_path / "strip.png"), original[None])


def test_orientation_tag_is_followed(digits: Data, tmp_path: Path) -> None:
    original = digits.test.images[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    turned = Image.fromarray(original).transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "strip.png", exif=exif)
    assert ImageOps.exif_transpose(turned).size != original.shape[::-1]
    np.testing.assert_array_equal(read_image(tmp_path / "strip.png"), original)


def test_wide_gaps_are_shortened_to_fit_the_canvas(digits: Data, tmp_path: Path) -> None:
    glyph = ink_box(digits.test.images[0][:, : digits.test.corners[0, 1, 1]])
    spread = np.zeros((40, 4 * 90), np.uint8)
    for k in range(4):
        spread[10 : 10 + len(glyph), 90 * k : 90 * k + glyph.shape[1]] = glyph
    Image.fromarray(enlarged(spread, 2)).save(tmp_path / "strip.png")
    assert read_image(tmp_path / "strip.png").shape == (40, 168)


def test_thin_strokes_are_thickened(tmp_path: Path) -> None:
    page = np.full((300, 900), 255, np.uint8)
    for k in range(4):  # four sevens, 200 pixels high, drawn with a line of 4
        page[50:54, 100 + 200 * k : 220 + 200 * k] = 0
        page[50:250, 216 + 200 * k : 220 + 200 * k] = 0
    Image.fromarray(page).save(tmp_path / "strip.png")
    box = ink_box(read_image(tmp_path / "strip.png"))
    assert box[len(box) // 2, -1] > 200  # the foot of the last seven is still fully inked at a tenth of the size


@pytest.mark.parametrize("scale", [np.uint8(1), np.int64(1), np.float32(1), np.float64(1 / 255)])
def test_arrays_of_strips(scale: np.generic, digits: Data, tmp_path: Path) -> None:
    original = digits.test.images[:3]
    np.save(tmp_path / "strips.npy", original * scale)
    np.testing.assert_array_equal(read_strips(tmp_path / "strips.npy"), original)
    np.save(tmp_path / "strip.npy", original[0, :, :150] * scale)
    strips = read_strips(tmp_path / "strip.npy")
    assert strips.shape == (1, 40, 168) and strips.dtype == np.uint8
    np.testing.assert_array_equal(strips[0, :, :150], original[0, :, :150])


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


strip = np.zeros((40, 168), np.uint8)
strip[10:30, 20:24] = 255
paper = np.full((200, 600), 255)
speck, blot = paper.copy(), paper.copy()
speck[90:93, 90:93] = 0
blot[50:150, 200:400] = 0

FAULTS = {  # name of the file: its content, and what the message says of it
    "empty.png": (b"", "is empty"),
    "empty.npy": (b"", "is empty"),
    "text.png": (b"not an image", "not a readable image"),
    "half.png": (png(255 - strip)[:120], "not a readable image"),
    "tiny.png": (png(strip[10:16, 18:40]), "22x6"),
    "white.png": (png(paper), "no ink"),
    "black.png": (png(0 * paper), "no ink"),
    "black strip.png": (png(0 * strip), "no ink"),
    "speck.png": (png(speck), "3 pixels high"),
    "blot.png": (png(blot), "patches"),
    "shade.png": (png(np.linspace(80, 220, 600) + 0 * paper), "no ink"),
    "half.npy": (saved(strip)[:1000], "cut short"),  # test_data.py has all faults of .npy files
    "white.npy": (saved(255 - strip), "light background"),
    "blank.npy": (saved(np.stack([strip, 0 * strip])), "strip 1.* no ink"),
    "folder.png": (None, "is not a file"),
    "missing.npy": (None, "is not a file"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_file_is_named_with_its_fault(name: str, tmp_path: Path) -> None:
    content, fault = FAULTS[name]
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    elif name == "folder.png":
        path.mkdir()
    with pytest.raises((ImageError, DataError), match=fault) as error:
        read_strips(path)
    assert str(path) in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own, about damaged tags
@given(
    damage=st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), max_size=8),
    kept=st.floats(0.01, 1),
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF"]),
)
@settings(examples, max_examples=60, phases=[Phase.generate])  # every example is small already
def test_a_damaged_image_is_read_or_refused(damage: list, kept: float, kind: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    black_on_white(strip, 2).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for place, byte in damage:
        content[place % len(content)] = byte
    path = tmp_path / "damaged"
    path.write_bytes(content[: max(1, round(kept * len(content)))])
    try:
        assert read_image(path).dtype == np.uint8
    except ImageError as error:
        assert str(path) in str(error)
