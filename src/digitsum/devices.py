"""What the machine offers: devices, bfloat16, and several processes that train one run together."""

import contextlib
import ctypes
import functools
import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .errors import DigitsumError


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device, with "auto" CUDA if it is there, else the CPU. Raises `DigitsumError` if it cannot be used."""
    if str(device) == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).logcumsumexp(0)  # the likelihood's operation, which not every GPU has
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0].partition(". ")[0]  # torch lists all backends after it
        raise DigitsumError(f"The device {device} cannot be used ({why}). Use cpu.") from error
    return chosen


@functools.cache
def processor() -> str:
    """Return the processor's name, as exactly as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.*)", cpuinfo.read_text(encoding="utf-8")) if cpuinfo.exists() else []
    return [*names, platform.processor() or platform.machine()][0]


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether the device computes faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Intel's processors are faster with matrix units (AMX) only.
    needed = "_is_amx_tile_supported" if "Intel" in processor() else "_is_avx512_bf16_supported"
    return device.type == "cpu" and bool(getattr(torch.cpu, needed, bool)())


def autocast(device: torch.device, wanted: bool = True) -> torch.autocast:
    """Return a bfloat16 autocast, which does nothing where it is not wanted or the device is not fast in it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted and has_bfloat16(device))


def tune_process() -> None:
    """Make the process fast: take numbers below about 1e-38 for zero, and keep freed memory for the next step."""
    torch.set_flush_denormal(True)  # processors are many times slower with them, and trained attention is full of them
    if platform.libc_ver()[0] == "glibc":  # which returns large tensors to the system, and gets them page by page
        library = ctypes.CDLL(None)
        library.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD of mallopt(3)
        library.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD


# One run on several devices. torchrun starts a process on each. All draw the same batches, and each works on its own
# shard. The weights are those of one process up to rounding, but for batch normalisation, which sees shards.


@contextlib.contextmanager
def init_distributed(device: str) -> Iterator[None]:
    """Join the other processes of torchrun, each on its own device; only the first prints. Else do nothing."""
    if not dist.is_torchelastic_launched():
        yield
        return
    on_gpus = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_gpus and ":" in device:
        raise DigitsumError(f"Each process takes a GPU of its own, not all {device}. Use --device cuda, or cpu.")
    if on_gpus:
        torch.cuda.set_device(pick_device(f"cuda:{os.environ['LOCAL_RANK']}"))
    dist.init_process_group("nccl" if on_gpus else "gloo")
    try:
        with open(os.devnull, "w") as silence, contextlib.redirect_stdout(silence if rank() else sys.stdout):
            yield
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    """Return the number of processes that share the run: 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number. Process 0 writes files and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def shard(rows: Any) -> Any:
    """Return this process's part of rows that all processes hold. Shards are disjoint and differ by a row at most."""
    return rows[len(rows) * rank() // world_size() : len(rows) * (rank() + 1) // world_size()]


def all_reduce(values: Tensor) -> Tensor:
    """Return the sum over all processes."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def average_statistics(model: nn.Module) -> None:
    """Replace every process's running statistics of batch normalisation by their mean."""
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.copy_(all_reduce(buffer) / world_size())
