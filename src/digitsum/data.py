"""The sources of strips behind one call: the course's files, MNIST, or scikit-learn's bundled digits."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import io
import math
import re
import socket
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from .compose import GLYPH, HEIGHT, MAX_SUM, WIDTH, Strips, compose, permutation
from .errors import DataError

SOURCES = ("auto", "course", "mnist", "digits")
STRIPS = 30_000  # composed of training glyphs and divided 80/10/10, as many as the course's files hold
UNSEEN = 6_000  # composed of glyphs that are in none of those
INK = 20  # rows and columns of a digit within its glyph
TIMEOUT = 5.0  # seconds without an answer before a download is given up
MNIST_MD5 = {  # of the unpacked files
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


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

    def head(self, train: int | None, other: int | None = None) -> Data:
        """Return the data with the first `train` training strips and `other` of each other split; None keeps all."""
        unseen = None if self.unseen is None else self.unseen[:other]
        return replace(self, train=self.train[:train], val=self.val[:other], test=self.test[:other], unseen=unseen)


def load_data(source: str = "auto", root: str | Path = "data", seed: int = 0) -> Data:
    """Load the strips of a source, split by `seed`. "auto" takes the first of course, mnist and digits that it can get.

    course: every pair `data<k>.npy` (N, 40, 168) uint8 and `lab<k>.npy` (N,) integer sums in `root`, split 80/10/10.
    mnist: strips of MNIST's digits in `root`/MNIST/raw, downloaded if they are missing; `unseen` has the test digits.
    digits: strips of scikit-learn's bundled digits; a fifth of the digits make `unseen`.
    Raises `DataError` for anything unusable. "auto" passes over a source that is missing, never over a broken one.
    """
    root = Path(root)
    if source not in SOURCES:
        raise DataError(f"There is no source {source!r}. Use one of {', '.join(SOURCES)}.")
    if source == "course" or (source == "auto" and _course_pairs(root)):
        return _course(root, seed)
    why = "asked for" if source != "auto" else f"no data<k>.npy in {root}{_passed_over(root)}"
    if source == "mnist" or (source == "auto" and mnist_is_there(root)):
        return _composed("mnist", seed, f"{why}; MNIST's digits from {root / 'MNIST' / 'raw'}", root)
    if source == "auto":
        fault = _download_fault(root)
        if mnist_is_there(root):
            return _composed("mnist", seed, f"{why}; MNIST's digits downloaded into {root / 'MNIST' / 'raw'}", root)
        why += f", MNIST neither there nor downloadable ({fault or 'deleted since'})"
    return _composed("digits", seed, f"{why}; scikit-learn's bundled 8x8 digits, enlarged")


# Course files


def _course_pairs(root: Path) -> list[tuple[Path, Path]]:
    """Return the paths (data<k>.npy, lab<k>.npy) for each k of which either file is there."""
    matches = (re.fullmatch(r"(?:data|lab)([0-9]*)\.npy", path.name) for path in root.glob("*.npy"))
    numbers = sorted({match[1] for match in matches if match}, key=lambda k: (len(k), k))
    return [(root / f"data{k}.npy", root / f"lab{k}.npy") for k in numbers]


def _course(root: Path, seed: int) -> Data:
    pairs = _course_pairs(root)
    if not pairs:
        raise DataError(f"{root} holds no data<k>.npy. Put data0.npy, lab0.npy, ... there, or name their folder.")
    files = [_open_pair(*paths) for paths in pairs]
    seen: dict[str, Path] = {}
    for (path, _), (part, _) in zip(pairs, files, strict=True):
        twin = seen.setdefault(hashlib.sha256(part.tobytes()).hexdigest(), path)
        if twin != path:
            raise DataError(f"{path} holds the same images as {twin}. Take one of them away, with its labels.")
    images, sums = (np.concatenate(parts) for parts in zip(*files, strict=True))
    tenth = len(sums) // 10
    if not tenth:
        raise DataError(f"{root} holds {len(sums)} strips. At least 10 are needed to split them 80/10/10.")
    parts = np.split(permutation(len(sums), seed), [len(sums) - 2 * tenth, len(sums) - tenth])
    train, val, test = (Strips(images[rows], sums[rows]) for rows in parts)
    names = ", ".join(path.name for path, _ in pairs[:3]) + (", ..." if len(pairs) > 3 else "")
    return Data("course", train, val, test, None, f"source: course ({names} in {root}{_passed_over(root)})", seed)


def _passed_over(root: Path) -> str:
    """Name the .npy files of a folder that are no data<k>.npy or lab<k>.npy."""
    known = {path for pair in _course_pairs(root) for path in pair}
    others = sorted(path.name for path in root.glob("*.npy") if path not in known)
    return f"; not used: {', '.join(others)}, whose names are not data<k>.npy or lab<k>.npy" if others else ""


def _open_pair(images_path: Path, sums_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 40, 168) uint8 and their sums (N,) int64."""
    for path, partner in ((images_path, sums_path), (sums_path, images_path)):
        if not path.exists():
            raise DataError(f"{path} is missing. Put it beside {partner.name}, or take {partner.name} away.")
    images, sums = open_strips(images_path), open_npy(sums_path)
    if images.shape[2] != WIDTH:
        raise DataError(f"{images_path} has strips of {images.shape[2]} columns. Save them with {WIDTH}.")
    if sums.dtype.kind not in "iu":
        raise DataError(f"{sums_path} has dtype {sums.dtype}. Save the sums as integers.")
    if sums.shape not in ((len(images),), (len(images), 1)):
        raise DataError(f"{sums_path} has shape {sums.shape} for {len(images)} images. Save one sum for each image.")
    sums = sums.reshape(-1).astype(np.int64)
    wrong = np.flatnonzero((sums < 0) | (sums > MAX_SUM))
    if len(wrong):
        raise DataError(
            f"{sums_path} has the sum {sums[wrong[0]]} in row {wrong[0]} ({len(wrong)} outside 0..{MAX_SUM} in all). "
            f"Correct it: four digits add up to at most {MAX_SUM}."
        )
    return images, sums


def open_strips(path: Path) -> np.ndarray:
    """Read strips from an .npy file as (N, 40, W) uint8, black 0 to ink 255.

    It may hold (40, W), (N, 40, W), (N, 1, 40, W) or (N, 40, W, 1), as integers 0..255 or floats 0..1 or 0..255.
    Raises `DataError` for anything else, and for images that are inverted, binary or all black.
    """
    images = open_npy(path)
    shape = images.shape
    if images.ndim == 4 and 1 in (shape[1], shape[3]):
        images = images[:, 0] if shape[1] == 1 else images[..., 0]
    images = images[None] if images.ndim == 2 else images
    if images.ndim != 3 or images.shape[1] != HEIGHT:
        raise DataError(f"{path} has shape {shape}. Save it as (N, {HEIGHT}, W), with W = {WIDTH} for training.")
    if images.dtype.kind not in "buif":
        raise DataError(f"{path} holds {images.dtype}. Save it as uint8, black 0 to ink 255.")
    low, high = images.min(), images.max()
    if not 0 <= low <= high <= 255:  # also refuses NaN
        raise DataError(f"{path} holds values {low}..{high}. Scale them to 0..255 and save as uint8.")
    if not high:
        raise DataError(f"{path} is all black. Save white digits on black, 0..255.")
    if high <= 1 and images.dtype.kind in "iu":
        raise DataError(f"{path} holds only 0 and 1. Multiply it by 255 and save as uint8.")
    if np.median(images[:100]) > 127 * (1 if high > 1 else 1 / 255):
        raise DataError(f"{path} has a light background. Save 255 - images: white digits on black.")
    if images.dtype == np.uint8:
        return images
    return np.rint(images * (255.0 if high <= 1 else 1.0)).astype(np.uint8)


def open_npy(path: Path) -> np.ndarray:
    """Map an .npy file read-only. Its size must match its header, and nothing is unpickled. Raises `DataError`."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            expected, size = file.tell() + math.prod(shape) * dtype.itemsize, path.stat().st_size
        if dtype.hasobject:
            raise ValueError("it holds pickled Python objects, which are never loaded")
        if not math.prod(shape):
            raise ValueError(f"it holds an array of shape {shape}, so nothing")
        if size != expected:
            fault = "is cut short" if size < expected else "goes on after its end"
            raise ValueError(f"it {fault}: {size:,} bytes, its header says {expected:,}")
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # what NumPy raises on junk is undocumented: EOFError, tokenize.TokenError and others
        detail = " ".join(str(error).split())[:120]
        raise DataError(f"{path} cannot be read as an .npy array ({detail}). Copy it again or take it away.") from error


# MNIST


def mnist_is_there(root: str | Path) -> bool:
    """Tell whether all four unpacked MNIST files are in `root`/MNIST/raw."""
    return all((Path(root) / "MNIST" / "raw" / name).is_file() for name in MNIST_MD5)


def mnist_glyphs(root: str | Path = "data", train: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return MNIST's 60,000 training or 10,000 test digits: glyphs (G, 28, 28) uint8 and labels (G,) int64.

    Raises `DataError` if the files cannot be downloaded or their checksums differ.
    """
    root = Path(root)
    if not mnist_is_there(root):
        _download(root)
    for name, md5 in MNIST_MD5.items():
        path = root / "MNIST" / "raw" / name
        if name.startswith("train") != train:
            continue
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, functools.partial(hashlib.md5, usedforsecurity=False)).hexdigest()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error}). Delete it, and it is downloaded again.") from error
        if found != md5:
            raise DataError(f"{path} is corrupt (MD5 {found}, not {md5}). Delete it, and it is downloaded again.")
    from torchvision.datasets import MNIST  # imported here, as it takes seconds

    mnist = MNIST(root, train=train, download=False)
    return mnist.data.numpy(), mnist.targets.numpy()


@functools.cache  # so that a process waits for the internet once
def _download_fault(root: Path) -> str:
    """Try to download MNIST; return what went wrong, if anything."""
    try:
        _download(root)
    except DataError as error:
        return " ".join(str(error.__cause__).split())
    return ""


def _download(root: Path) -> None:
    """Download and unpack MNIST into `root`/MNIST/raw. If this fails, no empty folder stays behind."""
    from torchvision.datasets import MNIST

    raw = root / "MNIST" / "raw"
    made = [folder for folder in (raw, raw.parent, root) if not folder.exists()]
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # torchvision prints each mirror it tries
            MNIST(root, download=True)
    except (RuntimeError, OSError, http.client.HTTPException) as error:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # refuses if something is in it
        raise DataError(
            f"MNIST could not be downloaded into {raw} ({' '.join(str(error).split())}). Go online, make the folder "
            "writable, or put the four files of MNIST there."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


# scikit-learn's digits


def digit_glyphs() -> tuple[np.ndarray, np.ndarray]:
    """Return the 1,797 digits of scikit-learn, enlarged: glyphs (1797, 28, 28) uint8 and labels (1797,) int64.

    Their 8x8 pixels of 0..16 become 20x20 of 0..255, the size of MNIST's ink, with 4 black pixels all around. Pillow
    resizes in integers, so the result is the same on every platform.
    """
    from sklearn.datasets import load_digits

    small = load_digits()
    border = (GLYPH - INK) // 2
    glyphs = np.zeros((len(small.target), GLYPH, GLYPH), np.uint8)
    for glyph, image in zip(glyphs, small.images, strict=True):
        enlarged = Image.fromarray((image * 15.9375).astype(np.uint8)).resize((INK, INK), Image.Resampling.BILINEAR)
        glyph[border:-border, border:-border] = np.asarray(enlarged)
    return glyphs, small.target.astype(np.int64)


# Both generated sources

Glyphs = tuple[np.ndarray, np.ndarray]  # (G, 28, 28) uint8 and labels (G,)


def source_glyphs(source: str, root: str | Path = "data", seed: int = 0) -> tuple[Glyphs, Glyphs]:
    """Return the glyphs of a source's training, validation and test strips, and those of `unseen`.

    Raises `DataError` for a source that is not composed of glyphs.
    """
    if source == "mnist":
        return mnist_glyphs(root, train=True), mnist_glyphs(root, train=False)
    if source == "digits":
        glyphs, labels = digit_glyphs()
        seen, unseen = np.split(permutation(len(labels), seed), [len(labels) * 4 // 5])
        return (glyphs[seen], labels[seen]), (glyphs[unseen], labels[unseen])
    raise DataError(f"The strips of source {source!r} are not made of glyphs. Use mnist or digits.")


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
