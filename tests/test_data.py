"""The sources of strips: what they hold, which is chosen, and what is said of files that cannot be used."""

import os
import pickle
import re
import shutil
import socket
import tempfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import digitsum.data
from digitsum.data import load_data, source_glyphs
from digitsum.errors import DataError


def write_pair(root: Path, k: int | str = 0, n: int = 20, start: int = 0) -> None:
    """Write a pair of course files whose images carry their own number in their first two pixels."""
    numbers = np.arange(start, start + n)
    images = np.zeros((n, 40, 168), np.uint8)
    images[:, 0, 0], images[:, 0, 1], images[:, 20, 20:40] = numbers % 256, numbers // 256, 255
    np.save(root / f"data{k}.npy", images)
    np.save(root / f"lab{k}.npy", (numbers % 37).astype(np.uint8))


def numbers(strips) -> np.ndarray:
    return strips.images[:, 0, 0] + 256 * strips.images[:, 0, 1].astype(np.int64)


@pytest.fixture
def offline(monkeypatch, small_sources):
    """No mirror of MNIST answers."""
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("source", ["digits", "mnist"])
def test_sources_are_complete(source, request):
    data = request.getfixturevalue(source)
    sizes = {"train": 24_000, "val": 3_000, "test": 3_000, "unseen": 6_000}
    assert {name: strips.images.shape for name, strips in data.splits.items()} == {
        name: (size, 40, 168) for name, size in sizes.items()
    }
    for strips in data.splits.values():
        assert strips.images.dtype == np.uint8 and strips.sums.dtype == np.int64
        np.testing.assert_array_equal(strips.sums, strips.digits.sum(axis=1))
    assert (data.source, data.seed) == (source, 0) and data.reason.startswith(f"source: {source} (asked for; ")
    assert source == "digits" or data.fingerprint == "5a36ed102a6db2ee", "published numbers belong to these very strips"


@pytest.mark.parametrize(("source", "seed"), [("digits", 0), ("digits", 7), ("mnist", 0)])
def test_unseen_strips_share_no_glyph_with_the_others(source, seed, request, monkeypatch, small_sources):
    """Neither the glyphs that strips are drawn from, nor those that stand in the strips themselves."""
    root = request.getfixturevalue("mnist_root") if source == "mnist" else "data"
    pools = source_glyphs(source, root, seed)
    seen, unseen = ({glyph.tobytes() for glyph in glyphs} for glyphs, _ in pools)
    assert seen and unseen and not seen & unseen
    data = load_data(source, root, seed)
    for name, strips in data.splits.items():
        glyphs, labels = pools[name == "unseen"]
        np.testing.assert_array_equal(labels[strips.glyphs], strips.digits)
        rows = np.arange(len(strips))
        for row, index, (top, left) in zip(rows, strips.glyphs[:, 0], strips.corners[:, 0], strict=True):
            width = min(28, strips.corners[row, 1, 1] - left)  # up to where the next glyph begins
            assert np.array_equal(strips.images[row, top : top + 28, left : left + width], glyphs[index, :, :width])


def test_the_seed_decides_and_no_two_data_sets_share_a_stream(tmp_path, monkeypatch, small_sources):
    write_pair(tmp_path, n=300)
    compose = Mock(wraps=digitsum.data.compose)
    monkeypatch.setattr(digitsum.data, "compose", compose)
    for source in ("course", "digits"):
        assert len({load_data(source, tmp_path, seed).fingerprint for seed in (0, 1, 2)}) == 3
    assert len({call.kwargs["seed"] for call in compose.mock_calls}) == compose.call_count == 6
    assert load_data("digits", seed=1).fingerprint == load_data("digits", seed=1).fingerprint


@settings(max_examples=20, deadline=None)
@given(sizes=st.dictionaries(st.integers(0, 120), st.integers(10, 60), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_course_splits_are_disjoint_and_cover_all_pairs(sizes, seed):
    with tempfile.TemporaryDirectory() as folder:
        total = 0
        for k, size in sizes.items():
            write_pair(Path(folder), k, size, total)
            total += size
        data = load_data("auto", folder, seed)
    tenth = total // 10
    assert [len(strips) for strips in data.splits.values()] == [total - 2 * tenth, tenth, tenth]
    assert sorted(np.concatenate([numbers(strips) for strips in data.splits.values()])) == list(range(total))
    assert all((strips.sums == numbers(strips) % 37).all() for strips in data.splits.values())


@pytest.mark.parametrize(
    ("images", "sums"),
    [
        (np.asfortranarray, lambda sums: sums.astype("int8")),
        (lambda images: images[:, None], lambda sums: sums.astype(">i4")),
        (lambda images: images[..., None].astype("<i8"), lambda sums: sums.astype("uint64")[:, None]),
        (lambda images: (images / 255).astype("f4"), lambda sums: sums.astype("<i8")),
    ],
)
def test_other_forms_of_the_same_course_files_give_the_same_strips(images, sums, tmp_path):
    write_pair(tmp_path, n=30)
    np.save(tmp_path / "images.npy", np.zeros(3))
    before = load_data("course", tmp_path)
    assert "images.npy" in before.reason, "what is passed over is named"
    assert numbers(before.val).tolist() == [12, 16, 5], "the same on every platform"
    for name, change in (("data0.npy", images), ("lab0.npy", sums)):
        np.save(tmp_path / name, change(np.load(tmp_path / name)))
    data = load_data("course", tmp_path)
    assert data.fingerprint == before.fingerprint
    assert data.train.sums.dtype == np.int64 and data.train.sums.dtype.isnative and data.train.images.dtype == np.uint8


def test_auto_prefers_the_course_then_mnist_then_digits_and_passes_over_nothing_broken(mnist_root, offline, tmp_path):
    write_pair(tmp_path)
    assert load_data("auto", tmp_path).source == "course"
    (tmp_path / "lab0.npy").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"lab0\.npy"):
        load_data("auto", tmp_path)
    data = load_data("auto", mnist_root)
    assert data.source == "mnist" and str(mnist_root) in data.reason
    data = load_data("auto", tmp_path / "none")
    assert data.source == "digits" and "MNIST could not be downloaded" in data.reason and "\n" not in data.reason


def test_a_corrupt_mnist_file_is_refused(mnist_root, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(mnist_root / "MNIST" / "raw", raw)
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"junk")
    for source in ("mnist", "auto"):
        with pytest.raises(DataError, match="t10k-labels-idx1-ubyte cannot be used .*Delete it"):
            load_data(source, tmp_path)


def test_sources_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(DataError, match="no source 'course' of glyphs. Use mnist or digits"):
        source_glyphs("course")
    with pytest.raises(DataError, match=r"holds no data<k>\.npy. Put data0\.npy"):
        load_data("course", tmp_path / "none")


def saved(array: np.ndarray):
    return lambda path: np.save(path, array)


INKED = np.zeros((20, 40, 168), np.uint8)
INKED[:, 20, 20:40] = 255
FAULTS = {
    "missing images": ("data0.npy", Path.unlink, "no such file.* Save"),
    "cut images": ("data0.npy", lambda p: os.truncate(p, 5000), "cannot be used"),
    "trailing bytes": ("lab0.npy", lambda p: p.write_bytes(p.read_bytes() + b"0"), "1 bytes after its end"),
    "no strips": ("data0.npy", saved(np.zeros((0, 40, 168), np.uint8)), r"\(0, 40, 168\)"),
    "pickle": ("lab0.npy", lambda p: p.write_bytes(pickle.dumps({})), "pickled"),
    "folder": ("lab0.npy", lambda p: (p.unlink(), p.mkdir()), "cannot be used"),
    "narrow images": ("data0.npy", saved(INKED[:, :, :160]), "160.* 168"),
    "negative values": ("data0.npy", saved(INKED - 1.0), r"-1\.0"),
    "all black": ("data0.npy", saved(0 * INKED), "black"),
    "binary": ("data0.npy", saved(INKED // 255), "0 and 1.*multiply"),
    "black on white": ("data0.npy", saved(255 - INKED), "background"),
    "the same images": ("data1.npy", lambda p: shutil.copy(p.with_name("data0.npy"), p), "same images.*data0.npy"),
    "float sums": ("lab0.npy", saved(np.zeros(20)), "float64"),
    "fewer sums": ("lab0.npy", saved(np.zeros(19, int)), r"19.* 20"),
    "sum of 37": ("lab0.npy", saved(np.arange(18, 38)), "37.* 19"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_unusable_course_file_is_named_with_its_fault_and_remedy(fault, tmp_path):
    write_pair(tmp_path, 0)
    write_pair(tmp_path, 1, start=20)
    name, breaks, message = FAULTS[fault]
    breaks(tmp_path / name)
    with pytest.raises(DataError, match=message) as error:
        load_data("course", tmp_path)
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)
    assert re.search(r"\. (Save|Take) ", str(error.value)), "no remedy"


def test_a_failed_download_says_what_to_do(offline, tmp_path):
    timeout = socket.getdefaulttimeout()
    (tmp_path / "file").write_text("not a folder")
    for root in (tmp_path, tmp_path / "file"):
        with pytest.raises(DataError, match="could not be downloaded into .*raw .*Go online"):
            load_data("mnist", root)
    assert socket.getdefaulttimeout() == timeout
