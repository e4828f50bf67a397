"""The strip generator: what a strip is, that it is the same everywhere, and that it looks like the course's data."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digitsum.compose import DIGIT_WIDTH, GLYPH, HEIGHT, WIDTH, compose
from digitsum.data import source_glyphs


def synthetic(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return glyphs of a formula, with ink in every corner, and labels that take all ten digits."""
    pixels = np.arange(count * GLYPH * GLYPH, dtype=np.int64)
    return ((pixels * 7919 + pixels // 13) % 256).astype(np.uint8).reshape(-1, GLYPH, GLYPH), np.arange(count) * 3 % 10


def test_the_same_strips_on_every_platform():
    strips = compose(*synthetic(50), 100, seed=0)
    assert strips.fingerprint == "a3e74cb61017cbe1"
    layout = np.concatenate([strips.digits[..., None], strips.corners], axis=-1).astype("<i8")
    assert hashlib.sha256(layout.tobytes()).hexdigest()[:16] == "4ef0d04357053bfd"


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(0, 12),
    digits=st.integers(1, 9),
    count=st.integers(1, 30),
    seed=st.integers(0, 2**64),
    dtype=st.sampled_from(["uint8", "<i8", ">i4"]),
)
def test_a_strip_is_its_glyphs_at_its_corners_labelled_with_their_sum(n, digits, count, seed, dtype):
    glyphs, labels = synthetic(count)
    strips = compose(glyphs, labels.astype(dtype), n, seed=seed, digits=digits)
    assert len(strips) == n and strips.sums.dtype == np.int64 and strips.images.dtype == np.uint8
    np.testing.assert_array_equal(strips.digits, labels[strips.glyphs])
    np.testing.assert_array_equal(strips.sums, strips.digits.sum(axis=1))
    expected = np.zeros((n, HEIGHT, digits * DIGIT_WIDTH), np.uint8)
    for image, row, corners in zip(expected, strips.glyphs, strips.corners, strict=True):
        for glyph, (top, left) in zip(row, corners, strict=True):
            assert 0 <= top <= HEIGHT - GLYPH and 0 <= left <= image.shape[1] - GLYPH
            box = image[top : top + GLYPH, left : left + GLYPH]
            box[:] = np.maximum(box, glyphs[glyph])
    np.testing.assert_array_equal(strips.images, expected)
    gaps = np.diff(strips.corners[..., 1], axis=1) - GLYPH
    assert ((gaps >= -16) & (gaps <= 14)).all()
    again = compose(glyphs, labels, n, seed=seed, digits=digits)
    assert again.fingerprint == strips.fingerprint


def test_every_place_and_glyph_is_drawn_evenly():
    strips = compose(*synthetic(10), 20_000, seed=1)
    assert strips.images.shape == (20_000, HEIGHT, WIDTH)
    for drawn, kinds in ((strips.digits, 10), (strips.corners[..., 0], 13)):
        counts = np.bincount(drawn.ravel(), minlength=kinds)
        assert len(counts) == kinds
        assert np.abs(counts / counts.mean() - 1).max() < 0.05


def test_strips_look_like_the_course_data(mnist, mnist_root):
    """The published figures of the sums and the ink, and the ink lost where digits overlap (data/README.md)."""
    assert mnist.train.sums.mean() == pytest.approx(17.80, abs=0.15)
    assert mnist.train.sums.var() == pytest.approx(33.28, abs=1)
    images = mnist.train.images[:5_000]
    assert images.mean() == pytest.approx(15.51, abs=0.1)
    assert images.std() == pytest.approx(56.11, abs=0.2)
    columns, rows = (images > 0).any(axis=1), (images > 0).any(axis=2)
    edges = {
        "left": (columns.argmax(axis=1), [5, 6, 9, 13, 21]),
        "right": (WIDTH - 1 - columns[:, ::-1].argmax(axis=1), [81, 95, 108, 117, 135]),
        "top": (rows.argmax(axis=1), [2, 4, 6, 8, 11]),
    }
    for name, (edge, real) in edges.items():
        np.testing.assert_allclose(np.percentile(edge, [5, 25, 50, 75, 95]), real, atol=4, err_msg=name)
    (glyphs, _), _ = source_glyphs("mnist", mnist_root)
    ink = glyphs.sum(axis=(1, 2), dtype=np.int64)[mnist.train.glyphs[:5_000]].sum()
    assert 1 - images.sum(dtype=np.int64) / ink == pytest.approx(0.0024, abs=0.0009)
