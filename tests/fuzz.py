"""Mutate every kind of file that is opened, and see what becomes of it: python tests/fuzz.py --count 1500.

A case is refused (one of the package's errors), same (the sound file's content comes back), silent (other content comes
back) or raw (any other exception, or a crash). Fails on anything raw, on a hang, on a silent change of weights or of a
resume state, and on more than 500 MB of memory beside the libraries' own (0.8 GB with the CUDA build of torch). Cases
run in other processes and depend on seed and number alone.
"""

import argparse
import copy
import io
import json
import os
import random
import resource
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from digitsum.checkpoints import load_checkpoint, load_state, save_checkpoint, save_state
from digitsum.data import load_data
from digitsum.errors import DigitsumError
from digitsum.evaluation import predictions, unpack
from digitsum.images import read_strips
from digitsum.models import MODELS
from digitsum.runs import read_record

LIMIT = 60  # seconds for a case, imports included
MEMORY = 500_000_000  # bytes beside what the libraries take
FAILURES = ("raw", "hang", "memory")
OUTCOMES = ("refused", "same", "silent", *FAILURES)
TELLING = ("checkpoint", "state")  # kinds whose silent changes are failures: they have a digest
Kind = tuple[Callable[[random.Random | None, Path], object], Callable[[Path], Any]]
JUNK: Any = (None, True, -1, 0, 7.5, 1e300, 10**400, "", "x" * 300, "\x1b[31m\n\ud800", [], {}, [[]], {"a": 0}, 1e999)


def mutated(content: bytes, rng: random.Random | None) -> bytes:
    """Return the content with one to three random changes, half of them near its start; without `rng` with none."""
    if rng is None:
        return content
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        size = len(data)
        at = rng.randrange(min(size, 300) if rng.random() < 0.5 else size) if size else 0
        run = rng.choice((1, 2, 4, 8, 100, size // 3))
        change = rng.randrange(7)
        if change == 0 and size:
            data[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            data[at : at + run] = rng.randbytes(len(data[at : at + run]))
        elif change == 2:
            data[at : at + run] = rng.choice((b"\0", b"\xff", b"\x7f")) * len(data[at : at + run])
        elif change == 3:
            del data[at : at + run]
        elif change == 4:
            data[at:at] = rng.randbytes(min(run, 1000))
        elif change == 5:
            data[at:at] = data[at : at + run]
        else:
            data = data[:at]
    return bytes(data)


def restructured(value: dict[str, Any], rng: Any) -> dict[str, Any]:
    """Return a copy of JSON values in which one, somewhere, is gone, another or of another type."""
    value = copy.deepcopy(value)
    inner: Any = value
    path = [inner]
    while isinstance(inner, dict | list) and inner and rng.random() < 0.85:
        inner = inner[rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))]
        path.append(inner)
    holder = next(each for each in reversed(path) if isinstance(each, dict | list) and each)
    key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    if rng.random() < 0.25:
        del holder[key]
    elif isinstance(holder[key], str) and rng.random() < 0.5:
        holder[key] = mutated(holder[key].encode("utf-8", "surrogatepass"), rng).decode("latin-1")
    elif isinstance(holder[key], int | float) and rng.random() < 0.5:
        holder[key] = rng.choice((-1, 0, 1, 2, 100, 10**6, 10**12)) * (holder[key] or 1)
    else:
        holder[key] = rng.choice(JUNK)
    return value


# Each kind returns what writes a case (the sound file without `rng`), and what reads it into something comparable.


def picture(folder: Path) -> Kind:
    image = Image.new("L", (240, 70), 255)
    ImageDraw.Draw(image).text((20, 10), "3 1 4 1", fill=0, font_size=44)
    sound = []
    for kind, mode in {"PNG": "L", "JPEG": "L", "BMP": "1", "GIF": "P", "TIFF": "L", "WEBP": "RGB"}.items():
        image.convert(mode).save(buffer := io.BytesIO(), kind)
        sound.append(buffer.getvalue())

    def write(rng: random.Random | None, path: Path) -> None:
        way = rng.randrange(5) if rng else 2
        if rng and way == 0:  # whole, but odd
            size = rng.choice((1, 7, 40, 168, 2000)), rng.choice((1, 7, 40, 168, 2000))
            odd = image.resize(size).convert(rng.choice(("1", "L", "P", "RGB", "RGBA", "LA", "I;16", "I", "F", "CMYK")))
            odd.save(path, "TIFF" if odd.mode in ("I", "F", "CMYK") else "PNG")
        elif rng and way == 1:  # a PNG that promises another size or depth, with the right checksum
            sides = (rng.choice((1, 240, 13_000, 2**20, 2**31 - 1)) for _ in range(2))
            depth = rng.choice((1, 8, 16)), rng.choice((0, 2, 3, 4, 6))
            chunk = b"IHDR" + struct.pack(">IIBB", *sides, *depth) + sound[0][26:29]
            path.write_bytes(sound[0][:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + sound[0][33:])
        else:
            path.write_bytes(mutated(rng.choice(sound) if rng else sound[0], rng))

    return write, lambda path: read_strips(path).tobytes()


def npy(folder: Path) -> Kind:
    strips = np.zeros((4, 40, 168), np.uint8)
    strips[:, 10:30, 20:120:10] = 255

    def write(rng: random.Random | None, path: Path) -> None:
        array: Any = strips
        if rng and rng.random() < 0.3:
            shape = rng.choice(((4, 40, 168), (40, 168), (4, 1, 40, 168), (0, 40, 168), (4, 40, 3), (26880,), ()))
            array = np.resize(strips, shape).astype(rng.choice(("u1", "i8", "f4", "f2", "?", "c8", "S3", "M8[s]")))
        np.save(buffer := io.BytesIO(), array)
        path.write_bytes(mutated(buffer.getvalue(), rng) if array is strips else buffer.getvalue())

    return write, lambda path: read_strips(path.rename(path.with_suffix(".npy"))).tobytes()


def course(folder: Path) -> Kind:
    images = np.random.default_rng(0).integers(0, 255, (20, 40, 168)).astype(np.uint8) * (np.arange(168) % 20 == 0)
    files = []
    for array in (images.astype(np.uint8), np.arange(20)):
        np.save(buffer := io.BytesIO(), array)
        files.append(buffer.getvalue())

    def write(rng: random.Random | None, path: Path) -> None:
        path.mkdir()
        which = rng.randrange(2) if rng else 2
        for number, (name, content) in enumerate(zip(("data0.npy", "lab0.npy"), files, strict=True)):
            (path / name).write_bytes(mutated(content, rng) if number == which else content)

    return write, lambda path: load_data("course", path).fingerprint


def _trained() -> tuple[Any, dict[str, Any]]:
    """Return a small model and a whole description of it."""
    args = {"widths": [2, 4, 4], "depths": [1, 0, 0, 1]}
    entry = dict.fromkeys(("value", "low", "high"), 0.5)
    about = {
        "experiment": "reader", "seed": 0, "source": "digits", "data": "0" * 16, "commit": None, "weights": "none",
        "settings": {"model": "reader", "model_args": args, "objective": "sum_likelihood"},
        "validation": {"n": 4} | dict.fromkeys(("accuracy", "mse", "mae"), entry),
    }  # fmt: skip
    return MODELS["reader"](11, **args).eval(), about


def _answer(path: Path) -> Any:
    model = load_checkpoint(path)
    predicted = predictions(model, np.zeros((2, 40, 168), np.uint8))
    told = model.metadata["validation"]["accuracy"]["value"], model.metadata["data"], model.metadata["seed"]
    return repr([predicted.values, told, *(tensor.numpy().tobytes() for tensor in model.state_dict().values())])


def checkpoint(folder: Path) -> Kind:
    model, about = _trained()
    save_checkpoint(model, path := folder / "sound", **about)
    return lambda rng, case: case.write_bytes(mutated(path.read_bytes(), rng)), _answer


def forged(folder: Path) -> Kind:
    """Write checkpoints with the right digest of other metadata or weights."""
    model, about = _trained()

    def write(rng: random.Random | None, path: Path) -> None:
        other, state = about, dict(model.state_dict())
        for _ in rng.choice(("1", "12", "123")) if rng else ():
            other = restructured(other, rng)
        if rng and rng.random() < 0.3:
            name = rng.choice(list(state))
            tensor = state.pop(name)
            odd = (tensor[None], tensor.double(), tensor.bool(), tensor * torch.nan, tensor.half() / 0, tensor.long())
            state[name + rng.choice(("", "", "x"))] = rng.choice(odd)
        holder: Any = argparse.Namespace(state_dict=lambda: state)
        save_checkpoint(holder, path, **other)

    return write, _answer


def state(folder: Path) -> Kind:
    model, about = _trained()
    save_state(path := folder / "sound", key=about, model=model.state_dict(), history=[{"epoch": 1}], best_epoch=1)
    return lambda rng, case: case.write_bytes(mutated(path.read_bytes(), rng)), lambda path: repr(load_state(path))


def record(folder: Path) -> Kind:
    sound = json.loads(Path("results/mnist/most_common-seed0.json").read_bytes())

    def write(rng: random.Random | None, path: Path) -> None:
        if rng and rng.random() < 0.7:
            path.write_text(json.dumps(restructured(sound, rng)))
        else:
            path.write_bytes(mutated(json.dumps(sound).encode(), rng))

    def read(path: Path) -> Any:
        found = read_record(path)
        return repr([found, unpack(found["answers"]).values if "answers" in found else None])

    return write, read


KINDS = {each.__name__: each for each in (picture, npy, course, checkpoint, forged, state, record)}


def work(kind: str, seed: int, first: int, count: int) -> None:
    """Run the cases from `first` on, and print a line for each."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (24 * MEMORY, 24 * MEMORY))  # spares the machine
    libraries = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write, read = KINDS[kind](folder)
        write(None, folder / "none")
        expected = read(folder / "none")
        for number in range(first, count):
            path = folder / f"case{number}"
            write(random.Random(f"{kind} {seed} {number}"), path)
            try:
                outcome, told = ("same" if read(path) == expected else "silent"), ""
            except DigitsumError:
                outcome, told = "refused", ""
            except Exception as error:
                outcome, told = "raw", f"{type(error).__name__}: {error}"
            if (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - libraries) * 1024 > MEMORY:
                outcome, told = "memory", f"{outcome} {told}"
            print(json.dumps([outcome, told[:200]]), flush=True)
            if outcome == "memory":  # that was the peak of this process
                return
            for left in folder.glob(f"case{number}*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def fuzz(kind: str, seed: int, count: int) -> Counter[str]:
    """Run all cases of a kind in processes of their own; a new one after a crash, a hang, or too much memory."""
    outcomes: Counter[str] = Counter()
    while (first := outcomes.total()) < count:
        command = [sys.executable, __file__, "--work", kind, "--seed", str(seed), "--first", str(first)]
        with subprocess.Popen([*command, "--count", str(count)], stdout=subprocess.PIPE, bufsize=0) as process:
            assert process.stdout
            while outcomes.total() < count:
                outcome, told = "hang", ""
                if select.select([process.stdout], [], [], LIMIT)[0]:
                    line = process.stdout.readline()
                    outcome, told = json.loads(line) if line else ("raw", f"the process died ({process.wait()})")
                if outcome in FAILURES or (outcome == "silent" and kind in TELLING):
                    print(f"{kind} {outcomes.total()}: {outcome} {told}", flush=True)
                outcomes[outcome] += 1
                if outcome in ("hang", "memory") or told.startswith("the process died"):
                    break
            process.kill()
    return outcomes


def main() -> int:
    """Fuzz every kind, print the table, and return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1500, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--work", choices=KINDS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        work(chosen.work, chosen.seed, chosen.first, chosen.count)
        return 0
    os.environ["OMP_NUM_THREADS"], failed = "1", 0
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda kind: fuzz(kind, chosen.seed, chosen.count), chosen.kinds))
    print(f"{'':11}" + "".join(f"{outcome:>9}" for outcome in OUTCOMES))
    for kind, outcomes in zip(chosen.kinds, found, strict=True):
        print(f"{kind:11}" + "".join(f"{outcomes[outcome]:9}" for outcome in OUTCOMES))
        failed += sum(outcomes[each] for each in (*FAILURES, *(["silent"] if kind in TELLING else [])))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
