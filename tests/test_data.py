"""The sources of strips: what they hold, which is chosen, and what is said of files that cannot be used."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import os
import pickle
import re
import shutil
import socket
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import digitsum.data
from digitsum.data import MNIST_MD5, digit_glyphs, load_data, mnist_glyphs, mnist_is_there, source_glyphs
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
    return MNIST


@pytest.fixture
def fake_mnist(tmp_path, monkeypatch, small_sources) -> Path:
    """A folder with MNIST's four files, of 50 random digits each, which pass for the real ones."""
    raw = tmp_path / "fake" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    checksums = {}
    for name in MNIST_MD5:
        shape = (50, 28, 28) if "images" in name else (50,)
        header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
        (raw / name).write_bytes(header + random.integers(0, 256 if len(shape) > 1 else 10, shape, np.uint8).tobytes())
        checksums[name] = hashlib.md5((raw / name).read_bytes()).hexdigest()
    monkeypatch.setattr(digitsum.data, "MNIST_MD5", checksums)
    return tmp_path / "fake"


# Sources


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


def test_digit_glyphs_are_the_bundled_digits_at_the_size_of_mnist():
    from sklearn.datasets import load_digits

    small, (glyphs, labels) = load_digits(), digit_glyphs()
    assert glyphs.shape == (1797, 28, 28) and glyphs.dtype == np.uint8
    np.testing.assert_array_equal(labels, small.target)
    border = glyphs.copy()
    border[:, 4:24, 4:24] = 0
    assert glyphs.max() == 255 and not border.any()
    for large, corner in ((4, 0), (23, 7)):  # corners are the corners of the small image, to a rounding
        np.testing.assert_allclose(glyphs[:, large, large], small.images[:, corner, corner] * 255 / 16, atol=1)
    assert 25 < glyphs.mean() < 50  # MNIST: 33


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


def test_the_seed_decides_and_no_two_data_sets_share_a_stream(fake_mnist, monkeypatch):
    write_pair(fake_mnist, n=300)
    compose, streams = digitsum.data.compose, []
    monkeypatch.setattr(
        digitsum.data, "compose", lambda *args, seed, **kw: streams.append(seed) or compose(*args, seed=seed, **kw)
    )
    for source in ("course", "mnist", "digits"):
        streams.clear()
        prints = [load_data(source, fake_mnist, seed).fingerprint for seed in (0, 1, 2)]
        assert len(set(prints)) == 3 and len(set(streams)) == len(streams)
        assert load_data(source, fake_mnist, 0).fingerprint == prints[0]


def test_head_shortens_every_split(small_sources, tmp_path):
    data = load_data("digits")
    short = data.head(50, 7)
    assert [len(strips) for strips in short.splits.values()] == [50, 7, 7, 7]
    np.testing.assert_array_equal(short.train.images, data.train.images[:50])
    assert short.fingerprint != data.fingerprint and (short.source, short.seed) == (data.source, data.seed)
    assert len(data.head(5).val) == len(data.val) and data.head(None).fingerprint == data.fingerprint
    write_pair(tmp_path)
    assert list(load_data("course", tmp_path).head(5, 1).splits) == ["train", "val", "test"]


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.dictionaries(st.integers(0, 120), st.integers(1, 60), min_size=1, max_size=4), seed=st.integers(0, 2**32)
)
def test_course_splits_are_disjoint_and_cover_all_pairs(sizes, seed):
    with tempfile.TemporaryDirectory() as folder:
        start = 0
        for k, size in sizes.items():
            write_pair(Path(folder), k, size, start)
            start += size
        if start < 10:
            with pytest.raises(DataError, match="At least 10 are needed"):
                load_data("course", folder, seed)
            return
        data = load_data("auto", folder, seed)
    tenth = start // 10
    assert [len(strips) for strips in data.splits.values()] == [start - 2 * tenth, tenth, tenth] and data.unseen is None
    found = np.concatenate([numbers(strips) for strips in data.splits.values()])
    assert sorted(found) == list(range(start))
    for strips in data.splits.values():
        np.testing.assert_array_equal(strips.sums, numbers(strips) % 37)


def test_a_course_split_is_the_same_on_every_platform(tmp_path):
    write_pair(tmp_path, n=30)
    data = load_data("course", tmp_path)
    assert numbers(data.val).tolist() == [12, 16, 5] and numbers(data.test).tolist() == [9, 27, 26]


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
    before = load_data("course", tmp_path)
    for name, change in (("data0.npy", images), ("lab0.npy", sums)):
        np.save(tmp_path / name, change(np.load(tmp_path / name)))
    data = load_data("course", tmp_path)
    assert data.fingerprint == before.fingerprint
    assert data.train.sums.dtype == np.int64 and data.train.sums.dtype.isnative and data.train.images.dtype == np.uint8


def test_files_that_are_passed_over_are_named(tmp_path):
    write_pair(tmp_path)
    np.save(tmp_path / "images.npy", np.zeros(3))
    assert "images.npy" in load_data("course", tmp_path).reason


# Choice of the source


def test_auto_prefers_the_course_then_mnist_then_digits(fake_mnist, offline, tmp_path):
    write_pair(fake_mnist)
    assert load_data("auto", fake_mnist).source == "course"
    (fake_mnist / "data0.npy").unlink()
    (fake_mnist / "lab0.npy").unlink()
    data = load_data("auto", fake_mnist)
    assert data.source == "mnist" and str(fake_mnist / "MNIST" / "raw") in data.reason
    data = load_data("auto", tmp_path / "none")
    assert data.source == "digits" and "MNIST neither there nor downloadable (" in data.reason
    assert "\n" not in data.reason and not (tmp_path / "none").exists()


@pytest.mark.parametrize("broken", ["lab0.npy", "data0.npy", "MNIST/raw/train-images-idx3-ubyte"])
def test_auto_does_not_pass_over_broken_files(fake_mnist, offline, broken):
    if not broken.startswith("MNIST"):
        write_pair(fake_mnist)
    (fake_mnist / broken).write_bytes(b"junk")
    with pytest.raises(DataError, match=Path(broken).name):
        load_data("auto", fake_mnist)


def test_sources_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(DataError, match="no source 'imagenet'. Use one of auto, course, mnist, digits"):
        load_data("imagenet")
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match=r"holds no data<k>\.npy. Put data0\.npy"):
            load_data("course", root)
    with pytest.raises(DataError, match="'course' are not made of glyphs"):
        source_glyphs("course")


# Course files that cannot be used: (file, what is done to it, what the message says besides the file's name)


class Bomb:
    """Once unpickled, it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("exploded",)


def saved(array: np.ndarray):
    return lambda path: np.save(path, array, allow_pickle=True)


INKED = np.zeros((20, 40, 168), np.uint8)
INKED[:, 20, 20:40] = 255
REMEDIES = re.compile(r"\. (Copy|Correct|Multiply|Put|Save|Scale|Take)\b")
FAULTS = {
    "missing images": ("data0.npy", Path.unlink, "missing.*lab0.npy"),
    "missing sums": ("lab0.npy", Path.unlink, "missing.*data0.npy"),
    "cut images": ("data0.npy", lambda p: os.truncate(p, 5000), "cut short"),
    "cut header": ("data0.npy", lambda p: os.truncate(p, 40), "cannot be read"),
    "cut magic": ("lab0.npy", lambda p: os.truncate(p, 3), "cannot be read"),
    "trailing bytes": ("lab0.npy", lambda p: p.write_bytes(p.read_bytes() + b"0"), "goes on after its end"),
    "empty file": ("data0.npy", lambda p: p.write_bytes(b""), "data0.npy"),
    "no strips": ("data0.npy", saved(np.zeros((0, 40, 168), np.uint8)), r"\(0, 40, 168\)"),
    "pickled array": ("data0.npy", saved(np.array([Bomb()] * 20, object)), "pickled"),
    "pickle": ("lab0.npy", lambda p: p.write_bytes(pickle.dumps(Bomb())), "cannot be read"),
    "junk header": ("data0.npy", lambda p: p.write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': '|u1'("), "cannot be"),
    "unknown version": ("data0.npy", lambda p: p.write_bytes(b"\x93NUMPY\x09" + p.read_bytes()[7:]), "cannot be read"),
    "text": ("lab0.npy", lambda p: p.write_text("12\n13\n"), "cannot be read"),
    "folder": ("lab0.npy", lambda p: (p.unlink(), p.mkdir()), "cannot be read"),
    "turned images": ("data0.npy", saved(np.ones((20, 168, 40), np.uint8)), r"\(20, 168, 40\)"),
    "flat images": ("data0.npy", saved(np.ones((20, 6720), np.uint8)), r"\(20, 6720\)"),
    "narrow images": ("data0.npy", saved(INKED[:, :, :160]), "160.* 168"),
    "words": ("data0.npy", saved(INKED.astype("U3")), "<U3"),
    "large values": ("data0.npy", saved(INKED * 2.0), r"510"),
    "negative values": ("data0.npy", saved(INKED - 1.0), r"-1\.0"),
    "not a number": ("data0.npy", saved(np.where(INKED, np.nan, 0.0)), "nan"),
    "all black": ("data0.npy", saved(0 * INKED), "black"),
    "binary": ("data0.npy", saved(INKED // 255), "0 and 1"),
    "black on white": ("data0.npy", saved(255 - INKED), "background"),
    "the same images": ("data1.npy", lambda p: shutil.copy(p.with_name("data0.npy"), p), "same images.*data0.npy"),
    "float sums": ("lab0.npy", saved(np.zeros(20)), "float64"),
    "time sums": ("lab0.npy", saved(np.zeros(20, "m8[s]")), r"timedelta64\[s\]"),
    "two columns of sums": ("lab0.npy", saved(np.zeros((20, 2), int)), r"\(20, 2\)"),
    "one sum": ("lab0.npy", saved(np.array(3)), r"\(\)"),
    "fewer sums": ("lab0.npy", saved(np.zeros(19, int)), r"19.* 20"),
    "sum of 37": ("lab0.npy", saved(np.arange(18, 38)), "37.* 19 "),
    "sum of -1": ("lab0.npy", saved(np.arange(-1, 19)), "-1.* 0 "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_unusable_course_file_is_named_with_its_fault_and_remedy(fault, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pair(tmp_path, 0)
    write_pair(tmp_path, 1, start=20)
    name, breaks, message = FAULTS[fault]
    breaks(tmp_path / name)
    with pytest.raises(DataError, match=message) as error:
        load_data("course", tmp_path)
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)
    assert REMEDIES.search(str(error.value)), "no remedy"
    assert not (tmp_path / "exploded").exists(), "a pickle was run"


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(["data0.npy", "lab0.npy"]), place=st.integers(0, 10**6), bits=st.integers(1, 255),
    kept=st.none() | st.floats(0, 1),
)  # fmt: skip
def test_a_damaged_course_file_is_read_or_refused(name, place, bits, kept):
    """A flipped byte or a cut anywhere: a DataError, or strips of the usual shape."""
    with tempfile.TemporaryDirectory() as folder:
        write_pair(Path(folder))
        path = Path(folder) / name
        content = bytearray(path.read_bytes())
        content[place % 200 % len(content)] ^= bits  # mostly in the header, which is where it hurts
        path.write_bytes(content if kept is None else content[: round(kept * len(content))])
        try:
            assert load_data("course", folder).train.images.shape == (16, 40, 168)
        except DataError as error:
            assert folder in str(error)


# MNIST's files


@pytest.mark.parametrize("name", MNIST_MD5)
def test_a_damaged_mnist_file_is_refused(fake_mnist, name):
    path = fake_mnist / "MNIST" / "raw" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{name} is corrupt .*Delete it"):
        load_data("mnist", fake_mnist)


@pytest.fixture
def mirror(fake_mnist, offline, tmp_path, monkeypatch):
    """A mirror of the stand-in for MNIST; gives the folder it serves."""
    mirrored = tmp_path / "mirror"
    mirrored.mkdir()
    for path in (fake_mnist / "MNIST" / "raw").iterdir():
        (mirrored / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    resources = [(f"{name}.gz", hashlib.md5((mirrored / f"{name}.gz").read_bytes()).hexdigest()) for name in MNIST_MD5]

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=mirrored))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(offline, "resources", resources)
    monkeypatch.setattr(offline, "mirrors", ["http://127.0.0.1:9/", f"http://127.0.0.1:{server.server_port}/"])
    yield mirrored
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("source", ["mnist", "auto"])
def test_mnist_is_downloaded(mirror, fake_mnist, tmp_path, source, capsys):
    root = tmp_path / "new"
    data = load_data(source, root)
    assert data.source == "mnist" and mnist_is_there(root)
    assert data.fingerprint == load_data("mnist", fake_mnist).fingerprint
    assert capsys.readouterr().out == ""


def test_a_download_of_something_else_is_refused(mirror, tmp_path):
    for path in mirror.iterdir():
        path.write_bytes(b"<html>please log in</html>")
    with pytest.raises(DataError, match="could not be downloaded into .*raw .* Go online"):
        load_data("mnist", tmp_path / "new")


def test_a_failed_download_leaves_nothing_behind_and_is_tried_once(offline, tmp_path, monkeypatch):
    root, asked, timeout = tmp_path / "data", [], socket.getdefaulttimeout()
    download = offline.download
    monkeypatch.setattr(offline, "download", lambda self: asked.append(self) or download(self))
    for _ in range(3):
        assert load_data("auto", root).source == "digits"
    assert len(asked) == 1
    with pytest.raises(DataError, match="could not be downloaded into .*raw .*Go online"):
        load_data("mnist", root)  # asked for by name: tried again
    assert len(asked) == 2 and not root.exists()
    root.write_text("not a folder")
    with pytest.raises(DataError, match="data/MNIST/raw .*make the folder writable"):
        load_data("mnist", root)
    assert socket.getdefaulttimeout() == timeout


def test_a_silent_internet_is_given_up(offline, tmp_path, monkeypatch):
    monkeypatch.setattr(digitsum.data, "TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(offline, "mirrors", [f"http://127.0.0.1:{silent.getsockname()[1]}/"] * 2)
        assert load_data("auto", tmp_path).source == "digits"


def test_mnist_glyphs_are_told_apart(mnist_root):
    for part, size, ones in ((True, 60_000, 6742), (False, 10_000, 1135)):
        glyphs, labels = mnist_glyphs(mnist_root, part)
        assert glyphs.shape == (size, 28, 28) and glyphs.dtype == np.uint8
        assert np.bincount(labels)[1] == ones and labels.dtype == np.int64
