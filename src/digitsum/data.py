"""The sources of strips behind one call: the course's files, MNIST, or scikit-learn's bundled digits."""

import hashlib
import re
import socket
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import FileLock
from PIL import Image

from .compose import GLYPH, HEIGHT, MAX_SUM, WIDTH, Strips, compose, permutation
from .errors import DataError, refusing

STRIPS = 30_000  # composed of training glyphs and divided 80/10/10, as many as the course's files hold
UNSEEN = 6_000  # composed of glyphs that are in none of those
TIMEOUT = 5.0  # seconds without an answer before a download is given up
MNIST_MD5 = {  # of the unpacked files
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}

Glyphs = tuple[np.ndarray, np.ndarray]  # (G, 28, 28) uint8 and labels (G,)


@dataclass(frozen=True, eq=False)
class Data:
    """Hold one source's strips, split. `unseen` holds only glyphs of no other split; None if that is not known.

    `reason` says in one line which source this is and why. `seed` drew the strips and the splits.
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
        """Return the splits by name: train, val, test and, if there is one, unseen."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return splits if self.unseen is None else splits | {"unseen": self.unseen}

    @cached_property
    def fingerprint(self) -> str:
        """Return the first 16 hexadecimal digits of the SHA-256 of the splits' names and fingerprints."""
        text = " ".join(f"{name}:{strips.fingerprint}" for name, strips in self.splits.items())
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def head(self, train: int | None, other: int | None = None) -> Self:
        """Return the data with the first `train` training strips and `other` of each other split; None keeps all."""
        cut: Any = {name: strips[: train if name == "train" else other] for name, strips in self.splits.items()}
        return replace(self, **cut)


def load_data(source: str = "auto", root: str | Path = "data", seed: int = 0) -> Data:
    """Load the strips of a source, split by `seed`. "auto" takes the first of course, mnist and digits that it can get.

    course: every pair `data<k>.npy` (N, 40, 168) uint8 and `lab<k>.npy` (N,) integer sums in `root`, split 80/10/10.
    mnist: strips of MNIST's digits in `root`/MNIST/raw, downloaded if they are missing; `unseen` has the test digits.
    digits: strips of scikit-learn's bundled digits; a fifth of the digits make `unseen`.
    Raises `DataError` for anything unusable. "auto" passes over a source that is missing, never over a broken one.
    """
    root, why = Path(root), "asked for"
    if source == "auto":
        source, why = _first_available(root)
    if source == "course":
        (strips, reason), unseen = _course(root, seed), None
    else:
        seen, others = source_glyphs(source, root, seed)
        strips = compose(*seen, STRIPS, seed=2 * seed)  # even and odd: no two data sets share a stream
        unseen = compose(*others, UNSEEN, seed=2 * seed + 1)
        glyphs = f"MNIST's digits from {root / 'MNIST' / 'raw'}" if source == "mnist" else "scikit-learn's 8x8 digits"
        reason = f"{why}; {glyphs}"
    tenth = len(strips) // 10
    train, val, test = strips[: -2 * tenth], strips[-2 * tenth : -tenth], strips[-tenth:]
    return Data(source, train, val, test, unseen, f"source: {source} ({reason})", seed)


def _first_available(root: Path) -> tuple[str, str]:
    """Return the first source that can be had, and why it is that one."""
    pairs, others = _course_files(root)
    if pairs:
        return "course", ""
    why = f"no data<k>.npy in {root}{others}"
    try:
        _download(root)
    except DataError as error:
        return "digits", f"{why}; {error}"
    return "mnist", why


def _course_files(root: Path) -> tuple[list[tuple[Path, Path]], str]:
    """Return the paths (data<k>.npy, lab<k>.npy) for each k of which either is there, and words on other .npy files."""
    names = {path.name: re.fullmatch(r"(?:data|lab)([0-9]*)\.npy", path.name) for path in root.glob("*.npy")}
    numbers = sorted({match[1] for match in names.values() if match}, key=lambda k: (len(k), k))
    others = ", ".join(sorted(name for name, match in names.items() if not match))
    words = f"; not used: {others}, whose names are not data<k>.npy or lab<k>.npy" if others else ""
    return [(root / f"data{k}.npy", root / f"lab{k}.npy") for k in numbers], words


def _course(root: Path, seed: int) -> tuple[Strips, str]:
    """Return the course's strips in random order, and the files that they are from."""
    pairs, others = _course_files(root)
    if not pairs:
        raise DataError(f"{root} holds no data<k>.npy. Put data0.npy, lab0.npy, ... there, or name their folder.")
    images, sums, seen = [], [], dict[str, Path]()
    for images_path, sums_path in pairs:
        images.append(open_strips(images_path, WIDTH))
        sums.append(_open_sums(sums_path, len(images[-1])))
        twin = seen.setdefault(hashlib.sha256(images[-1].tobytes()).hexdigest(), images_path)
        if twin != images_path:
            raise DataError(f"{images_path} holds the same images as {twin}. Take one of them away, with its labels.")
    strips = Strips(np.concatenate(images), np.concatenate(sums))
    if len(strips) < 10:
        raise DataError(f"{root} holds {len(strips)} strips. At least 10 are needed to split them 80/10/10.")
    names = ", ".join(path.name for path, _ in pairs)
    return strips[permutation(len(strips), seed)], f"{names} in {root}{others}"


def open_strips(path: Path, width: int | None = None) -> np.ndarray:
    """Read strips from an .npy file as (N, 40, W) uint8, black 0 to ink 255. Raises `DataError` for anything else.

    It may hold (40, W), (N, 40, W), (N, 1, 40, W) or (N, 40, W, 1), as integers 0..255 or floats 0..1 or 0..255.
    """
    with refusing(path, f"Save (N, {HEIGHT}, {width or 'W'}) uint8, white digits, up to 255, on black, 0.", DataError):
        images = _open_npy(path)
        if images.ndim == 4 and 1 in (images.shape[1], images.shape[3]):
            images = images.squeeze(1 if images.shape[1] == 1 else 3)
        images = images[None] if images.ndim == 2 else images
        if images.ndim != 3 or images.shape[1:] != (HEIGHT, width or images.shape[2]):
            raise ValueError(f"its shape is {images.shape}")
        low, high = images.min(), images.max()
        full = 1 if images.dtype.kind == "f" and high <= 1 else 255
        for fault, found in {
            f"it holds {low}..{high}": images.dtype.kind not in "buif" or not 0 <= low <= high <= 255,  # or NaN
            "it is all black": high == 0,
            "it holds only 0 and 1: multiply it by 255": high == 1 != full,
            "its background is light: save 255 - images": np.median(images[:100]) > full / 2,
        }.items():
            if found:
                raise ValueError(fault)
        return images if images.dtype == np.uint8 else np.rint(images * (255 / full)).astype(np.uint8)


def _open_sums(path: Path, n: int) -> np.ndarray:
    with refusing(path, f"Save one sum from 0 to {MAX_SUM} for each of the {n} images, as integers.", DataError):
        sums = _open_npy(path)
        if sums.dtype.kind not in "iu" or sums.shape not in ((n,), (n, 1)):
            raise ValueError(f"{sums.dtype} {sums.shape}")
        sums = sums.reshape(-1)
        if (wrong := np.flatnonzero((sums < 0) | (sums > MAX_SUM))).size:
            raise ValueError(f"{sums[wrong[0]]} in row {wrong[0]}")
    return sums.astype(np.int64)


def _open_npy(path: Path) -> np.ndarray:
    """Map a whole .npy file read-only; nothing is unpickled."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    surplus = path.stat().st_size - array.offset - array.nbytes
    if surplus or not array.size:
        raise ValueError(f"an array of shape {array.shape}, and {surplus} bytes after its end")
    return array


def _download(root: Path) -> None:
    """Download and unpack MNIST into `root`/MNIST/raw if it is not there."""
    raw = root / "MNIST" / "raw"
    if all((raw / name).is_file() for name in MNIST_MD5):
        return
    from torchvision.datasets import MNIST  # imported here, as it takes seconds

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with FileLock(raw / ".lock"):  # one process downloads, the others wait and find it
            MNIST(root, download=True)
    except Exception as error:  # urllib and torchvision raise all kinds
        raise DataError(
            f"MNIST could not be downloaded into {raw} ({' '.join(str(error).split())}). "
            "Go online, make the folder writable, or put the four files of MNIST there."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _mnist(root: Path) -> tuple[Glyphs, Glyphs]:
    """Return MNIST's 60,000 training and 10,000 test digits, once their checksums are right."""
    _download(root)
    found = []
    for name, md5 in MNIST_MD5.items():
        path = root / "MNIST" / "raw" / name
        with refusing(path, "Delete it, and it is downloaded again.", DataError):
            content = path.read_bytes()
            if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
                raise ValueError("its MD5 is not that of MNIST's file")
        found.append(np.frombuffer(content, np.uint8, offset=16 if "images" in name else 8))
    train, train_labels, test, test_labels = found
    shape = (-1, GLYPH, GLYPH)
    return (train.reshape(shape), train_labels.astype(np.int64)), (test.reshape(shape), test_labels.astype(np.int64))


def digit_glyphs() -> Glyphs:
    """Return scikit-learn's digits as glyphs (1797, 28, 28) uint8 and labels (1797,) int64.

    Their 8x8 pixels of 0..16 become 20x20 of 0..255, the size of MNIST's ink, with 4 black pixels all around.
    """
    from sklearn.datasets import load_digits

    small = load_digits()
    pixels = (small.images * 15.9375).astype(np.uint8)
    # Pillow resizes in integers: the same on every platform.
    enlarged = [np.asarray(Image.fromarray(each).resize((20, 20), Image.Resampling.BILINEAR)) for each in pixels]
    return np.pad(enlarged, ((0, 0), (4, 4), (4, 4))), small.target.astype(np.int64)


def source_glyphs(source: str, root: str | Path = "data", seed: int = 0) -> tuple[Glyphs, Glyphs]:
    """Return the glyphs of a source's training, validation and test strips, and those of `unseen`."""
    if source == "mnist":
        return _mnist(Path(root))
    if source == "digits":
        glyphs, labels = digit_glyphs()
        seen, unseen = np.split(permutation(len(labels), seed), [len(labels) * 4 // 5])
        return (glyphs[seen], labels[seen]), (glyphs[unseen], labels[unseen])
    raise DataError(f"There is no source {source!r} of glyphs. Use mnist or digits.")
