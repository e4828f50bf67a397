"""What the machine offers: devices, bfloat16, and how its memory is kept."""

from __future__ import annotations

import ctypes
import functools
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The device asked for; "auto" takes CUDA, else the CPU, but never Apple's MPS, on which nothing was ever run."""
    if str(device) != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@functools.cache
def processor() -> str:
    """The processor's name, as exactly as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 faster than in float32 (`bench --only precision` measures it).

    On CPUs: AMD's with AVX512-BF16, and Intel's where their matrix units (AMX) can be had. Without these an Intel
    multiplies bfloat16 more slowly than float32, whatever else it supports.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    needed = "_is_amx_tile_supported" if "Intel" in processor() else "_is_avx512_bf16_supported"
    return device.type == "cpu" and bool(getattr(torch.cpu, needed, bool)())


def autocast(device: torch.device, wanted: bool = True) -> torch.autocast:
    """bfloat16 autocast where it is wanted and the device has it, otherwise nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted and has_bfloat16(device))


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Have the processor take numbers nearer to zero than about 1e-38 for zero.

    It computes with them many times more slowly, and the attention of a trained network is full of them, as all but a
    few of its weights are next to nothing. Threads that torch had started before go on as they were.
    """
    before = not torch.full((), 1e-39, dtype=torch.float32, device="cpu").mul(0.5)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for the next step, where it is glibc; otherwise nothing changes.

    By itself it gives every large tensor back to the system, and at the next step the same memory comes back page by
    page. Up to 2 GB stay with the process. The numbers are those of mallopt(3): M_TRIM_THRESHOLD and M_MMAP_THRESHOLD.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(-1, 2**31 - 1)
        library.mallopt(-3, 2**25)
