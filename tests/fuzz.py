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
import multiprocessing
import os
import random
import resource
import shutil
import signal
import struct
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
import pandas as pd
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
OUTCOMES = ("refused", "same", "silent", "raw", "hang", "memory")
DIGESTED = ("checkpoint", "state")  # kinds whose silent changes are failures
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


def restructured(value: Any, rng: random.Random) -> Any:
    """Return a copy of JSON values in which one, somewhere, is gone, another or of another type."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        key: Any = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        value = copy.copy(value)
        if rng.random() < 0.1:
            del value[key]
        else:
            value[key] = restructured(value[key], rng)
        return value
    if isinstance(value, str) and rng.random() < 0.5:
        return mutated(value.encode("utf-8", "surrogatepass"), rng).decode("latin-1")
    if isinstance(value, int | float) and rng.random() < 0.5:
        return rng.choice((-1, 0, 1, 2, 100, 10**6, 10**12)) * (value or 1)
    return rng.choice(JUNK)


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


def course(folder: Path) -> Kind:
    images = np.zeros((20, 40, 168), np.uint8)
    images[:, 10:30, 20:120:10] = np.arange(100, 120)[:, None, None]
    sound = {"data0.npy": images, "lab0.npy": np.arange(20)}

    def write(rng: random.Random | None, path: Path) -> None:
        path.mkdir()
        for name, array in sound.items():
            np.save(path / name, array)
        if rng:
            path = path / rng.choice(list(sound))
            if rng.random() < 0.3:  # whole, but odd
                shape = rng.choice(((20, 40, 168), (20, 1, 40, 168), (40, 168), (0, 40, 168), (20, 40, 3), (20,), ()))
                kind = rng.choice(("u1", "i8", "f4", "f2", "?", "c8", "S3", "M8[s]"))
                np.save(path, np.resize(sound[path.name], shape).astype(kind))
            else:
                path.write_bytes(mutated(path.read_bytes(), rng))

    return write, lambda path: load_data("course", path).fingerprint


def _trained() -> tuple[Any, dict[str, Any]]:
    """Return a small model and a whole description of it."""
    args = {"widths": [2, 4, 4], "depths": [1, 0, 0, 1]}
    about = {
        "experiment": "reader", "seed": 0, "source": "digits", "data": "0" * 16, "commit": None, "weights": "none",
        "settings": {"model": "reader", "model_args": args, "objective": "sum_likelihood"},
        "validation": {"accuracy": dict.fromkeys(("value", "low", "high"), 0.5)},
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
            key = rng.choice(list(other))
            other = other | {key: restructured(other[key], rng)}
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


KINDS = {each.__name__: each for each in (picture, course, checkpoint, forged, state, record)}


def work(kind: str, seed: int, first: int, count: int, log: str) -> None:
    """Run the cases from `first` on, and write a line for each."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (24 * MEMORY, 24 * MEMORY))  # spares the machine
    libraries = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as name, open(log, "a", buffering=1) as lines:
        write, read = KINDS[kind](Path(name))
        write(None, Path(name, "none"))
        expected = read(Path(name, "none"))
        for number in range(first, count):
            signal.alarm(LIMIT)  # ends this process
            folder = Path(name, str(number))
            folder.mkdir()
            write(random.Random(f"{kind} {seed} {number}"), folder / "case")
            try:
                outcome = "same" if read(folder / "case") == expected else "silent"
            except DigitsumError:
                outcome = "refused"
            except Exception as error:
                outcome = f"raw {error!r:.200}"
            shutil.rmtree(folder)
            high = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - libraries) * 1024 > MEMORY
            print(f"memory {outcome}" if high else outcome, file=lines)
            if high:  # that was the peak of this process
                return


def fuzz(kind: str, seed: int, count: int) -> tuple[Counter[str], int]:
    """Run all cases of a kind in a process of their own, and in a new one after a crash, a hang, or too much memory.

    Returns how often each outcome was, and the number of failures.
    """
    outcomes, failed, spawn = Counter[str](), 0, multiprocessing.get_context("spawn")
    with tempfile.NamedTemporaryFile("r") as log:
        while (first := outcomes.total()) < count:
            process = spawn.Process(target=work, args=(kind, seed, first, count, log.name))
            process.start()
            process.join()
            lines = log.read().splitlines()
            if process.exitcode:
                lines.append("hang" if process.exitcode == -signal.SIGALRM else f"raw exit status {process.exitcode}")
            for number, line in enumerate(lines, first):
                outcome = line.split()[0]
                outcomes[outcome] += 1
                if outcome not in ("refused", "same", "" if kind in DIGESTED else "silent"):
                    failed += 1
                    print(f"{kind} {number}: {line}", flush=True)
    return outcomes, failed


def main() -> int:
    """Fuzz every kind, print the table, and return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1500, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda kind: fuzz(kind, chosen.seed, chosen.count), chosen.kinds))
    print(pd.DataFrame([outcomes for outcomes, _ in found], chosen.kinds, OUTCOMES).fillna(0).astype(int).to_string())
    return int(any(failed for _, failed in found))


if __name__ == "__main__":
    sys.exit(main())
