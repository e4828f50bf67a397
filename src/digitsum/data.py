"""The sources of strips behind one call: the course's files, MNIST, or scikit-learn's bundled digits."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import io
import math
import queue
import re
import socket
import threading
import time
import urllib.request
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from .compose import GLYPH, HEIGHT, MAX_SUM, WIDTH, Strips, compose, permutation

SOURCES = ("auto", "course", "mnist", "digits")
STRIPS = 30_000  # composed of training glyphs and divided 80/10/10, as many as the course's files hold
UNSEEN = 6_000  # composed of glyphs that are in none of those
TIMEOUT = 5.0  # seconds without an answer after which a download is given up
MNIST_MD5 = {  # of the unpacked files
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class DataError(Exception):
    """Data that cannot be used; the message names the file, the fault and the remedy."""


@dataclass(frozen=True, eq=False)
class Data:
    """One source's strips, split; `unseen` holds only glyphs that are in no other split, None where that is not known.

    `reason` says in one line which source this is and why; `seed` is the one the strips and splits were drawn with.
    """

    source: str
    train: Strips
    val: Strips
    test: Strips
    unseen: Strips | None
    reason: str
    seed: int

    @property
    def splits(self) -> dict[str, Strips]:
        """The splits by name, in the order train, val, test and, where there is one, unseen."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return splits if self.unseen is None else splits | {"unseen": self.unseen}

    @cached_property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the splits' names and fingerprints."""
        text = " ".join(f"{name}:{strips.fingerprint}" for name, strips in self.splits.items())
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def head(self, train: int | None, other: int | None = None) -> Data:
        """The same data with only the first `train` training strips and `other` of each other split; None keeps all."""
        unseen = None if self.unseen is None else self.unseen[:other]
        return replace(self, train=self.train[:train], val=self.val[:other], test=self.test[:other], unseen=unseen)


def load_data(source: str = "auto", root: str | Path = "data", seed: int = 0) -> Data:
    """Load the strips of a source, split by `seed`; "auto" takes the first of course, mnist and digits that can be had.

    course: every pair `data<k>.npy` (N, 40, 168) uint8 and `lab<k>.npy` (N,) integer sums in `root`, split 80/10/10.
    mnist: strips of the MNIST digits in `root`/MNIST/raw, downloaded where they are missing; `unseen` is made of the
    test digits. digits: strips of scikit-learn's bundled digits, a fifth of which are kept for `unseen`.

    Raises DataError for anything unusable; "auto" passes over a source that is missing, never over one that is broken.
    """
    root = Path(root)
    if source not in SOURCES:
        raise DataError(f"source {source!r} is not known; use one of {', '.join(SOURCES)}")
    if source == "course" or (source == "auto" and _course_pairs(root)):
        return _course(root, seed)
    why = "asked for" if source != "auto" else f"no data<k>.npy in {root}"
    if source == "mnist" or (source == "auto" and mnist_is_there(root)):
        return _mnist(root, seed, f"{why}; MNIST's digits from {root / 'MNIST' / 'raw'}")
    if source == "auto":
        fault = _download_once(root)
        if mnist_is_there(root):
            return _mnist(root, seed, f"{why}; MNIST's digits downloaded into {root / 'MNIST' / 'raw'}")
        why += f", MNIST neither there nor downloadable ({fault or 'deleted since'})"
    return _digits(seed, f"{why}; scikit-learn's bundled 8x8 digits, enlarged")


# Course files


def _course_pairs(root: Path) -> list[tuple[Path, Path]]:
    """The paths (data<k>.npy, lab<k>.npy) for each k of which either file is there."""
    matches = (re.fullmatch(r"(?:data|lab)([0-9]*)\.npy", path.name) for path in root.glob("*.npy"))
    numbers = sorted({match[1] for match in matches if match}, key=lambda k: (len(k), k))
    return [(root / f"data{k}.npy", root / f"lab{k}.npy") for k in numbers]


def _course(root: Path, seed: int) -> Data:
    pairs = _course_pairs(root)
    if not pairs:
        raise DataError(
            f"{root} holds no data<k>.npy; put the course's data0.npy, lab0.npy, ... there or name its folder"
        )
    files = [_open_pair(*paths) for paths in pairs]
    sums = np.concatenate([labels for _, labels in files])
    tenth = len(sums) // 10
    if not tenth:
        raise DataError(f"{root} holds {len(sums)} strips; at least 10 are needed to split them 80/10/10")
    rows = permutation(len(sums), seed)

    def gather(rows: np.ndarray) -> Strips:
        images = np.empty((len(rows), HEIGHT, WIDTH), np.uint8)
        start = 0
        for mapped, labels in files:
            here = np.flatnonzero((rows >= start) & (rows < start + len(labels)))
            images[here] = mapped[rows[here] - start]
            start += len(labels)
        return Strips(images, sums[rows])

    train, val, test = (gather(part) for part in np.split(rows, [len(sums) - 2 * tenth, len(sums) - tenth]))
    names = ", ".join(images.name for images, _ in pairs[:3]) + (", ..." if len(pairs) > 3 else "")
    return Data("course", train, val, test, None, f"source: course ({names} in {root})", seed)


def _open_pair(images_path: Path, sums_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The images, memory-mapped, and their sums as int64."""
    for path, partner in ((images_path, sums_path), (sums_path, images_path)):
        if not path.exists():
            raise DataError(
                f"{path} is missing, the partner of {partner.name}; put it there or take {partner.name} away"
            )
    images, sums = _open_npy(images_path), _open_npy(sums_path)
    if images.dtype != np.uint8:
        raise DataError(f"{images_path} has dtype {images.dtype}; save it as uint8, black 0 to ink 255")
    if images.ndim != 3 or images.shape[1:] != (HEIGHT, WIDTH):
        raise DataError(f"{images_path} has shape {images.shape}; save it as (N, {HEIGHT}, {WIDTH})")
    if sums.dtype.kind not in "iu":
        raise DataError(f"{sums_path} has dtype {sums.dtype}; save the sums as integers")
    if sums.ndim != 1:
        raise DataError(f"{sums_path} has shape {sums.shape}; save it as (N,), one sum for each image")
    if len(sums) != len(images):
        raise DataError(
            f"{sums_path} has {len(sums)} sums for the {len(images)} images of {images_path.name}; "
            "use files that belong together"
        )
    wrong = np.flatnonzero((sums < 0) | (sums > MAX_SUM))
    if len(wrong):
        raise DataError(
            f"{sums_path} has the sum {sums[wrong[0]]} in row {wrong[0]} ({len(wrong)} outside 0..{MAX_SUM} in all); "
            f"correct it: four digits add up to at most {MAX_SUM}"
        )
    return images, sums.astype(np.int64)


def _open_npy(path: Path) -> np.ndarray:
    """Map an .npy file read-only, never unpickling, after holding its size to its header."""
    try:
        size = path.stat().st_size
        if size == 0:
            raise DataError(f"{path} is empty; copy it again")
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            expected = file.tell() + math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise DataError(f"{path} holds pickled Python objects, which are not loaded; save a plain integer array")
        if not math.prod(shape):
            raise DataError(f"{path} holds an array of shape {shape}, so nothing; copy it again or take it away")
        if size != expected:
            fault = "is cut short" if size < expected else "goes on after its end"
            raise DataError(f"{path} {fault} ({size:,} bytes, its header says {expected:,}); copy it again")
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except DataError:
        raise
    except Exception as error:  # what NumPy raises on junk is undocumented: EOFError, tokenize.TokenError and others
        detail = " ".join(str(error).split())[:120]
        raise DataError(f"{path} cannot be read as an .npy array ({detail}); copy it again or take it away") from error


# MNIST


def mnist_is_there(root: str | Path) -> bool:
    """Whether all four unpacked MNIST files are in `root`/MNIST/raw."""
    return all((Path(root) / "MNIST" / "raw" / name).is_file() for name in MNIST_MD5)


def mnist_glyphs(root: str | Path = "data", train: bool = True, download: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """MNIST's 60,000 training or 10,000 test digits: glyphs (G, 28, 28) uint8 and labels (G,) int64.

    Raises DataError where the files are missing (and `download` is off or fails) or their checksums differ.
    """
    root = Path(root)
    if not mnist_is_there(root):
        if not download:
            raise DataError(f"{root / 'MNIST' / 'raw'} lacks MNIST's files; put {', '.join(MNIST_MD5)} there")
        _download(root)
    for name in MNIST_MD5:
        if name.startswith("train") == train:
            _check_mnist_file(root / "MNIST" / "raw" / name)
    from torchvision.datasets import MNIST  # imported here, as importing torch takes seconds

    mnist = MNIST(root, train=train, download=False)
    return mnist.data.numpy(), mnist.targets.numpy()


def _check_mnist_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, functools.partial(hashlib.md5, usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); delete it, and it is downloaded again") from error
    if found != MNIST_MD5[path.name]:
        raise DataError(
            f"{path} is corrupt (MD5 {found} in place of {MNIST_MD5[path.name]}); delete it, and it is downloaded again"
        )


def _mnist(root: Path, seed: int, why: str) -> Data:
    return _composed("mnist", seed, why, root)


@functools.cache
def _download_once(root: Path) -> str:
    """What went wrong with downloading MNIST into `root`, if anything; remembered, so that a process waits once."""
    try:
        _download(root)
    except DataError as error:
        return " ".join(str(error.__cause__).split())
    return ""


def _download(root: Path) -> None:
    """Download and unpack MNIST into `root`/MNIST/raw in one attempt, leaving no empty folders where it fails."""
    from torchvision.datasets import MNIST
    from torchvision.datasets.utils import check_integrity

    raw = root / "MNIST" / "raw"
    made = [folder for folder in (raw, raw.parent, root) if not folder.exists()]
    timeout = socket.getdefaulttimeout()
    try:
        raw.mkdir(parents=True, exist_ok=True)
        if not all(check_integrity(str(raw / name), md5) for name, md5 in MNIST.resources):
            _await_answer([mirror + MNIST.resources[0][0] for mirror in MNIST.mirrors], TIMEOUT)
        socket.setdefaulttimeout(TIMEOUT)
        with contextlib.redirect_stdout(io.StringIO()):  # torchvision prints each mirror it tries
            MNIST(root, download=True)
    except (RuntimeError, OSError, http.client.HTTPException) as error:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # refuses where something is in it
        detail = " ".join(str(error).split())
        raise DataError(
            f"{raw} could not be filled with MNIST ({detail}); go online, make the folder writable, "
            "or put the four files of MNIST there"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _await_answer(urls: list[str], seconds: float) -> None:
    """Return as soon as one of the addresses answers; raise OSError where none has within `seconds`.

    A socket's time-out counts anew for each address of a host and leaves out the name's look-up, which can add up to
    minutes: threads that may be left behind do the asking.
    """
    answers: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def ask(url: str) -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds).close()
            answers.put(None)
        except (OSError, http.client.HTTPException) as error:
            answers.put(error)

    for url in urls:
        threading.Thread(target=ask, args=(url,), daemon=True).start()
    hosts = " or ".join(urlsplit(url).netloc for url in urls)
    end = time.monotonic() + seconds
    fault: Exception | None = None
    for _ in urls:
        try:
            fault = answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            raise TimeoutError(f"no answer from {hosts} in {seconds:g} s") from None
        if fault is None:
            return
    raise ConnectionError(f"no answer from {hosts}: {getattr(fault, 'reason', fault)}")


# scikit-learn's digits


def digit_glyphs() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 digits bundled with scikit-learn, enlarged: glyphs (1797, 28, 28) uint8 and labels (1797,) int64.

    Their 8x8 pixels of 0..16 become 20x20 of 0..255, the ink size of MNIST, by bilinear interpolation in integers
    (exact, so the same on every platform), with 4 black pixels all around.
    """
    from sklearn.datasets import load_digits

    small = load_digits()
    size, ink = 8, 20
    at = np.arange(ink) * (size - 1)  # positions among the small pixels, in units of 1/(ink - 1)
    left = np.minimum(at // (ink - 1), size - 2)
    weights = np.zeros((ink, size), np.int64)
    weights[np.arange(ink), left + 1] = at - left * (ink - 1)
    weights[np.arange(ink), left] = ink - 1 - weights[np.arange(ink), left + 1]
    large = weights @ small.images.astype(np.int64) @ weights.T  # (1797, 20, 20), in units of 1/(ink - 1)**2
    scale = 16 * (ink - 1) ** 2
    border = (GLYPH - ink) // 2
    glyphs = np.zeros((len(large), GLYPH, GLYPH), np.uint8)
    glyphs[:, border : border + ink, border : border + ink] = (large * 255 + scale // 2) // scale
    return glyphs, small.target.astype(np.int64)


def _digits(seed: int, why: str) -> Data:
    return _composed("digits", seed, why)


# Both generated sources


Glyphs = tuple[np.ndarray, np.ndarray]  # (G, 28, 28) uint8 and labels (G,)


def source_glyphs(source: str, root: str | Path = "data", seed: int = 0) -> tuple[Glyphs, Glyphs]:
    """The glyphs that a source's training, validation and test strips are made of, and those of `unseen`.

    Raises DataError for a source that is not composed of glyphs.
    """
    if source == "mnist":
        return mnist_glyphs(root, train=True), mnist_glyphs(root, train=False)
    if source == "digits":
        glyphs, labels = digit_glyphs()
        seen, unseen = np.split(permutation(len(labels), seed), [len(labels) * 4 // 5])
        return (glyphs[seen], labels[seen]), (glyphs[unseen], labels[unseen])
    raise DataError(f"the strips of source {source!r} are not made of glyphs; use mnist or digits")


def _composed(source: str, seed: int, why: str, root: str | Path = "data") -> Data:
    seen, unseen = source_glyphs(source, root, seed)
    strips = compose(*seen, STRIPS, seed=2 * seed)  # even and odd: no two data sets share a stream
    tenth = STRIPS // 10
    return Data(
        source,
        train=strips[: STRIPS - 2 * tenth],
        val=strips[STRIPS - 2 * tenth : STRIPS - tenth],
        test=strips[STRIPS - tenth :],
        unseen=compose(*unseen, UNSEEN, seed=2 * seed + 1),
        reason=f"source: {source} ({why})",
        seed=seed,
    )
