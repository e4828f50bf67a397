"""The sources of strips: what they hold, which is chosen, and what is said of files that cannot be used."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import http.server
import os
import pickle
import socket
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import digitsum.data
from digitsum.data import MNIST_MD5, DataError, digit_glyphs, load_data, mnist_glyphs, mnist_is_there


def write_pair(root: Path, k: int | str = 0, n: int = 20, start: int = 0) -> None:
    """A pair of course files whose images carry their own number in their first two pixels."""
    numbers = np.arange(start, start + n)
    images = np.zeros((n, 40, 168), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = numbers % 256, numbers // 256
    np.save(root / f"data{k}.npy", images)
    np.save(root / f"lab{k}.npy", (numbers % 37).astype(np.uint8))


def numbers(strips) -> np.ndarray:
    return strips.images[:, 0, 0] + 256 * strips.images[:, 0, 1].astype(np.int64)


@pytest.fixture
def offline(monkeypatch, small_sources):
    """No mirror of MNIST answers, and none has been asked before."""
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    digitsum.data._download_once.cache_clear()
    yield MNIST
    digitsum.data._download_once.cache_clear()


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


@contextlib.contextmanager
def served(folder: Path):
    """The address of a web server on a folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


# Sources


def test_digits_are_complete_and_pinned(digits):
    assert {name: strips.images.shape for name, strips in digits.splits.items()} == {
        "train": (24_000, 40, 168),
        "val": (3_000, 40, 168),
        "test": (3_000, 40, 168),
        "unseen": (6_000, 40, 168),
    }
    for strips in digits.splits.values():
        assert strips.images.dtype == np.uint8 and strips.sums.dtype == np.int64
        np.testing.assert_array_equal(strips.sums, strips.digits.sum(axis=1))
        assert strips.images.max() == 255
    assert digits.fingerprint == "ff80185105cac194"  # published numbers belong to these very strips
    assert digits.source == "digits" and digits.seed == 0
    assert digits.reason == "source: digits (asked for; scikit-learn's bundled 8x8 digits, enlarged)"


def test_digit_glyphs_are_the_bundled_digits_at_the_size_of_mnist():
    from sklearn.datasets import load_digits

    small = load_digits()
    glyphs, labels = digit_glyphs()
    assert glyphs.shape == (1797, 28, 28) and glyphs.dtype == np.uint8
    np.testing.assert_array_equal(labels, small.target)
    assert glyphs.max() == 255
    assert (
        not glyphs[:, :4].any()
        and not glyphs[:, 24:].any()
        and not glyphs[..., :4].any()
        and not glyphs[..., 24:].any()
    )
    for large, corner in ((4, 0), (23, 7)):  # corners are the corners of the small image, to a rounding
        np.testing.assert_allclose(glyphs[:, large, large], small.images[:, corner, corner] * 255 / 16, atol=0.5)
    assert 25 < glyphs.mean() < 50  # MNIST: 33


@pytest.mark.parametrize("seed", [0, 7])
def test_unseen_strips_share_no_glyph_with_the_others(monkeypatch, small_sources, seed):
    parts = []
    compose = digitsum.data.compose
    monkeypatch.setattr(
        digitsum.data, "compose", lambda *args, **kwargs: parts.append(args[0]) or compose(*args, **kwargs)
    )
    load_data("digits", seed=seed)
    seen, unseen = ({glyph.tobytes() for glyph in glyphs} for glyphs in parts)
    assert len(seen) == 1437 and len(unseen) == 360 and not seen & unseen


def test_mnist_is_complete_and_pinned(mnist, mnist_root):
    assert {name: len(strips) for name, strips in mnist.splits.items()} == {
        "train": 24_000,
        "val": 3_000,
        "test": 3_000,
        "unseen": 6_000,
    }
    assert mnist.fingerprint == "5a36ed102a6db2ee"  # published numbers belong to these very strips
    assert mnist.source == "mnist" and mnist.reason.startswith("source: mnist (asked for; MNIST's digits from ")


def test_mnist_glyphs_are_told_apart(mnist_root):
    (train, train_labels), (test, test_labels) = (
        mnist_glyphs(mnist_root, part, download=False) for part in (True, False)
    )
    assert train.shape == (60_000, 28, 28) and test.shape == (10_000, 28, 28) and train.dtype == test.dtype == np.uint8
    assert np.bincount(train_labels).tolist()[:3] == [5923, 6742, 5958] and train_labels.dtype == np.int64
    assert np.bincount(test_labels).tolist()[:3] == [980, 1135, 1032]


def test_unseen_mnist_strips_are_made_of_test_digits(fake_mnist, monkeypatch):
    monkeypatch.setattr(digitsum.data, "UNSEEN", 200)
    data = load_data("mnist", fake_mnist)
    (train, _), (test, _) = mnist_glyphs(fake_mnist, True), mnist_glyphs(fake_mnist, False)
    for strips, glyphs in ((data.train, train), (data.unseen, test)):
        top, left = strips.corners[0, 0]
        width = min(28, max(strips.corners[0, 1, 1] - left, 0))
        assert width > 0
        corner = strips.images[0, top : top + 28, left : left + width]
        assert (glyphs[:, :, :width] == corner).all(axis=(1, 2)).sum() == 1
    assert not np.array_equal(data.train.digits[:100], data.unseen.digits[:100])  # streams of their own


def test_no_two_data_sets_share_a_stream_of_random_numbers(monkeypatch, small_sources):
    compose, seeds = digitsum.data.compose, []
    monkeypatch.setattr(
        digitsum.data,
        "compose",
        lambda *args, seed, **others: seeds.append(seed) or compose(*args, seed=seed, **others),
    )
    for seed in range(4):
        load_data("digits", seed=seed)
    assert len(set(seeds)) == len(seeds) == 8


def test_the_seed_decides(fake_mnist):
    write_pair(fake_mnist, n=300)
    for source in ("course", "mnist", "digits"):
        prints = [load_data(source, fake_mnist, seed).fingerprint for seed in (0, 1, 2, 0)]
        assert len(set(prints)) == 3 and prints[0] == prints[3], source


def test_head_shortens_every_split(small_sources, tmp_path):
    data = load_data("digits")
    short = data.head(50, 7)
    assert {name: len(strips) for name, strips in short.splits.items()} == {
        "train": 50,
        "val": 7,
        "test": 7,
        "unseen": 7,
    }
    np.testing.assert_array_equal(short.train.images, data.train.images[:50])
    assert short.fingerprint != data.fingerprint and (short.source, short.seed) == (data.source, data.seed)
    assert len(data.head(5).val) == len(data.val) and data.head(None).fingerprint == data.fingerprint
    write_pair(tmp_path)
    assert list(load_data("course", tmp_path).head(5, 1).splits) == ["train", "val", "test"]


@settings(max_examples=30, deadline=None)
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
            with pytest.raises(DataError, match="at least 10 are needed"):
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
    assert data.reason == f"source: course (data0.npy in {tmp_path})"


@pytest.mark.parametrize("dtype", ["int8", "<i8", ">i4", "uint64"])
def test_course_sums_may_be_any_integers(tmp_path, dtype):
    write_pair(tmp_path)
    np.save(tmp_path / "lab0.npy", np.arange(20).astype(dtype))
    images = np.load(tmp_path / "data0.npy")
    np.save(tmp_path / "data0.npy", np.asfortranarray(images))
    data = load_data("course", tmp_path)
    assert data.train.sums.dtype == np.int64 and data.train.sums.dtype.isnative
    np.testing.assert_array_equal(data.train.sums, numbers(data.train))


# Choice of the source


def test_auto_prefers_the_course_then_mnist_then_digits(fake_mnist, offline, tmp_path):
    write_pair(fake_mnist)
    assert load_data("auto", fake_mnist).source == "course"
    (fake_mnist / "data0.npy").unlink()
    (fake_mnist / "lab0.npy").unlink()
    data = load_data("auto", fake_mnist)
    assert data.reason == (
        f"source: mnist (no data<k>.npy in {fake_mnist}; MNIST's digits from {fake_mnist / 'MNIST' / 'raw'})"
    )
    data = load_data("auto", tmp_path / "none")
    assert data.reason.startswith(
        f"source: digits (no data<k>.npy in {tmp_path / 'none'}, MNIST neither there nor downloadable "
        "(no answer from 127.0.0.1:9: "
    )
    assert data.reason.endswith("; scikit-learn's bundled 8x8 digits, enlarged)") and "\n" not in data.reason
    assert not (tmp_path / "none").exists()


def test_auto_asks_for_mnist_only_once(offline, tmp_path, monkeypatch):
    asked = []
    await_answer = digitsum.data._await_answer
    monkeypatch.setattr(digitsum.data, "_await_answer", lambda *args: asked.append(args) or await_answer(*args))
    for _ in range(3):
        assert load_data("auto", tmp_path).source == "digits"
    assert len(asked) == 1
    with pytest.raises(DataError):
        load_data("mnist", tmp_path)  # asked for by name: tried again
    assert len(asked) == 2


@pytest.mark.parametrize("breakage", ["lab0.npy missing", "data0.npy empty", "MNIST corrupt"])
def test_auto_does_not_pass_over_broken_files(fake_mnist, offline, breakage):
    write_pair(fake_mnist)
    if breakage == "lab0.npy missing":
        (fake_mnist / "lab0.npy").unlink()
    elif breakage == "data0.npy empty":
        (fake_mnist / "data0.npy").write_bytes(b"")
    else:
        (fake_mnist / "data0.npy").unlink()
        (fake_mnist / "lab0.npy").unlink()
        (fake_mnist / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"junk")
    with pytest.raises(DataError, match=breakage.split()[0]):
        load_data("auto", fake_mnist)


def test_an_unknown_source_is_refused():
    with pytest.raises(DataError, match="source 'imagenet' is not known; use one of auto, course, mnist, digits"):
        load_data("imagenet")


@pytest.mark.parametrize("there", [False, True])
def test_the_course_without_files_is_refused(tmp_path, there):
    root = tmp_path if there else tmp_path / "none"
    with pytest.raises(DataError, match=r"holds no data<k>\.npy; put the course's"):
        load_data("course", root)


# Course files that cannot be used: (file, what is done to it, what the message says besides the file's name)


def junk(path: Path) -> None:
    path.write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': '|u1'(")


def version_nine(path: Path) -> None:
    path.write_bytes(b"\x93NUMPY\x09" + path.read_bytes()[7:])


def objects(path: Path) -> None:
    np.save(path, np.array([{}, 1, "x"], dtype=object), allow_pickle=True)


def save(array: np.ndarray):
    return lambda path: np.save(path, array)


FAULTS = {
    "missing images": ("data0.npy", Path.unlink, "is missing, the partner of lab0.npy; put it there"),
    "missing sums": ("lab0.npy", Path.unlink, "is missing, the partner of data0.npy; put it there"),
    "truncated images": ("data0.npy", lambda p: os.truncate(p, 5000), "is cut short .*; copy it again"),
    "truncated header": ("data0.npy", lambda p: os.truncate(p, 40), "cannot be read .*; copy it again"),
    "truncated magic": ("lab0.npy", lambda p: os.truncate(p, 3), "cannot be read .*; copy it again"),
    "trailing bytes": ("lab0.npy", lambda p: p.write_bytes(p.read_bytes() + b"0"), "goes on after its end .*; copy it"),
    "empty file": ("data0.npy", lambda p: p.write_bytes(b""), "is empty; copy it again"),
    "empty sums": ("lab0.npy", lambda p: p.write_bytes(b""), "is empty; copy it again"),
    "no strips": ("data0.npy", save(np.zeros((0, 40, 168), np.uint8)), r"shape \(0, 40, 168\), so nothing; copy"),
    "pickled array": ("data0.npy", objects, "holds pickled Python objects, which are not loaded; save a plain"),
    "pickle": ("lab0.npy", lambda p: p.write_bytes(pickle.dumps([1])), "cannot be read .*; copy it again"),
    "junk header": ("data0.npy", junk, "cannot be read .*; copy it again"),
    "unknown version": ("data0.npy", version_nine, "cannot be read .*; copy it again"),
    "text": ("lab0.npy", lambda p: p.write_text("12\n13\n"), "cannot be read .*; copy it again"),
    "folder": ("lab0.npy", lambda p: (p.unlink(), p.mkdir()), "cannot be read .*; copy it again"),
    "float images": ("data0.npy", save(np.zeros((20, 40, 168))), "has dtype float64; save it as uint8"),
    "signed images": ("data0.npy", save(np.zeros((20, 40, 168), np.int8)), "has dtype int8; save it as uint8"),
    "flat images": (
        "data0.npy",
        save(np.zeros((20, 6720), np.uint8)),
        r"shape \(20, 6720\); save it as \(N, 40, 168\)",
    ),
    "turned images": ("data0.npy", save(np.zeros((20, 168, 40), np.uint8)), r"shape \(20, 168, 40\); save it as"),
    "float sums": ("lab0.npy", save(np.zeros(20)), "has dtype float64; save the sums as integers"),
    "time sums": ("lab0.npy", save(np.zeros(20, "m8[s]")), r"has dtype timedelta64\[s\]; save the sums as integers"),
    "column of sums": ("lab0.npy", save(np.zeros((20, 1), int)), r"has shape \(20, 1\); save it as \(N,\)"),
    "one sum": ("lab0.npy", save(np.array(3)), r"has shape \(\); save it as \(N,\)"),
    "fewer sums": ("lab0.npy", save(np.zeros(19, int)), "has 19 sums for the 20 images of data0.npy; use files that"),
    "more images": ("data0.npy", save(np.zeros((21, 40, 168), np.uint8)), "data0.npy; use files that belong together"),
    "sum of 37": (
        "lab0.npy",
        save(np.arange(18, 38)),
        r"has the sum 37 in row 19 \(1 outside 0\.\.36 in all\); correct it",
    ),
    "sum of -1": (
        "lab0.npy",
        save(np.arange(-1, 19)),
        r"has the sum -1 in row 0 \(1 outside 0\.\.36 in all\); correct it",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_unusable_course_file_is_named_with_its_fault_and_remedy(tmp_path, fault):
    write_pair(tmp_path, 0)
    write_pair(tmp_path, 1)
    name, breaks, message = FAULTS[fault]
    breaks(tmp_path / name)
    with pytest.raises(DataError, match=message) as error:
        load_data("course", tmp_path)
    assert name in str(error.value) and str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pickle_is_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    write_pair(tmp_path)
    np.save(tmp_path / "lab0.npy", np.array([Bomb()] * 20, dtype=object), allow_pickle=True)
    with pytest.raises(DataError):
        load_data("course", tmp_path)
    assert not (tmp_path / "exploded").exists()


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["data0.npy", "lab0.npy"]),
    at=st.integers(0, 200),
    junk=st.binary(max_size=40),
    end=st.one_of(st.none(), st.integers(0, 300)),
)
@pytest.mark.filterwarnings("ignore")
def test_whatever_a_file_holds_it_loads_or_is_refused(name, at, junk, end):
    with tempfile.TemporaryDirectory() as folder:
        write_pair(Path(folder))
        content = (Path(folder) / name).read_bytes()
        (Path(folder) / name).write_bytes((content[:at] + junk + content[at + len(junk) :])[:end])
        with contextlib.suppress(DataError):
            data = load_data("course", folder)
            assert len(data.train) == 16 and 0 <= data.train.sums.min() <= data.train.sums.max() <= 36


# MNIST files that cannot be used, and its download


@pytest.mark.parametrize("name", MNIST_MD5)
@pytest.mark.parametrize("fault", ["bit", "truncated", "empty"])
def test_a_corrupt_mnist_file_is_named_with_its_remedy(fake_mnist, name, fault):
    path = fake_mnist / "MNIST" / "raw" / name
    content = path.read_bytes()
    path.write_bytes({"bit": content[:-1] + bytes([content[-1] ^ 1]), "truncated": content[:30], "empty": b""}[fault])
    with pytest.raises(DataError, match=f"{name} is corrupt .*; delete it, and it is downloaded again"):
        load_data("mnist", fake_mnist)


def test_mnist_is_not_downloaded_when_that_is_not_wanted(tmp_path):
    with pytest.raises(DataError, match=r"raw lacks MNIST's files; put train-images-idx3-ubyte, .* there"):
        mnist_glyphs(tmp_path, download=False)


@pytest.fixture
def mirror(fake_mnist, offline, tmp_path, monkeypatch):
    """A mirror of the stand-in for MNIST; gives the folder it serves."""
    mirrored = tmp_path / "mirror"
    mirrored.mkdir()
    for path in (fake_mnist / "MNIST" / "raw").iterdir():
        (mirrored / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    resources = [(f"{name}.gz", hashlib.md5((mirrored / f"{name}.gz").read_bytes()).hexdigest()) for name in MNIST_MD5]
    monkeypatch.setattr(offline, "resources", resources)
    with served(mirrored) as address:
        monkeypatch.setattr(offline, "mirrors", ["http://127.0.0.1:9/", address])
        yield mirrored


@pytest.mark.parametrize("source", ["mnist", "auto"])
def test_mnist_is_downloaded(mirror, fake_mnist, tmp_path, source, capsys):
    root = tmp_path / "new"
    data = load_data(source, root)
    assert data.source == "mnist" and mnist_is_there(root)
    assert data.fingerprint == load_data("mnist", fake_mnist).fingerprint
    assert capsys.readouterr().out == ""
    if source == "auto":
        assert data.reason.endswith(f"; MNIST's digits downloaded into {root / 'MNIST' / 'raw'})")


def test_a_deleted_mnist_file_is_downloaded_again(mirror, fake_mnist):
    before = load_data("mnist", fake_mnist).fingerprint
    path = fake_mnist / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    path.write_bytes(b"junk")
    with pytest.raises(DataError, match="delete it"):
        load_data("mnist", fake_mnist)
    path.unlink()
    assert load_data("mnist", fake_mnist).fingerprint == before


def test_packed_mnist_files_are_enough_offline(mirror, offline, fake_mnist, tmp_path, monkeypatch):
    monkeypatch.setattr(offline, "mirrors", ["http://127.0.0.1:9/"])
    raw = tmp_path / "packed" / "MNIST" / "raw"
    raw.parent.mkdir(parents=True)
    mirror.rename(raw)
    assert load_data("mnist", tmp_path / "packed").fingerprint == load_data("mnist", fake_mnist).fingerprint


def test_a_download_of_something_else_is_refused(mirror, tmp_path):
    for path in mirror.iterdir():
        path.write_bytes(b"<html>please log in</html>")
    with pytest.raises(
        DataError, match="raw could not be filled with MNIST .*; go online, make the folder writable, or put"
    ):
        load_data("mnist", tmp_path / "new")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("there", [False, True])
def test_a_failed_download_leaves_nothing_behind(tmp_path, there):
    root = tmp_path / "data"
    if there:
        root.mkdir()
    timeout = socket.getdefaulttimeout()
    with pytest.raises(DataError, match="raw could not be filled with MNIST .*; go online"):
        load_data("mnist", root)
    assert root.exists() == there and not (root / "MNIST").exists()
    assert socket.getdefaulttimeout() == timeout


def test_a_silent_network_is_given_up_soon(offline, tmp_path, monkeypatch):
    monkeypatch.setattr(digitsum.data, "TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(offline, "mirrors", [f"http://127.0.0.1:{silent.getsockname()[1]}/"] * 2)
        start = time.monotonic()
        data = load_data("auto", tmp_path)
    assert data.source == "digits" and time.monotonic() - start < 3
    assert "127.0.0.1" in data.reason


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("root", ["file", "file/data"])
def test_an_unwritable_folder_is_named(tmp_path, root):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match=f"{root}/MNIST/raw could not be filled with MNIST .*make the folder writable"):
        load_data("mnist", tmp_path / root)
    data = load_data("auto", tmp_path / root)
    assert data.source == "digits" and "file" in data.reason


@pytest.mark.usefixtures("mirror")
def test_a_read_only_folder_is_named(tmp_path, monkeypatch):
    def refuse(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        DataError, match=r"could not be filled with MNIST \(.*Permission denied.*\); .*make the folder writable"
    ):
        load_data("mnist", tmp_path / "locked")


def test_an_unreadable_mnist_file_is_named(fake_mnist, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(hashlib, "file_digest", refuse)
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte cannot be read \(.*Input/output error.*\); delete it"
    ):
        load_data("mnist", fake_mnist)
