"""One run on several devices: a process on each, started by torchrun, training by DistributedDataParallel.

Every process goes through the same global batches, drawn from the same random numbers, and works on its own part of
each. The weights are therefore those of one process, to rounding, except where a layer looks across a batch or draws
random numbers itself: batch normalisation sees the part's statistics in place of the batch's, and dropout draws the
same mask for every part. Without torchrun every function here does nothing, or the obvious.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from .models import StripModel

Rows = TypeVar("Rows", Tensor, np.ndarray)
Thing = TypeVar("Thing")


class DeviceError(RuntimeError):
    """The processes cannot have a device each; the message says what to do."""


def processes() -> int:
    """How many processes share the run: 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number; 0 writes and speaks, the others only compute."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Join torchrun's other processes, each on a device of its own; nothing where torchrun did not start this one.

    Processes other than the first stay silent on standard output. Raises DeviceError where a machine has fewer GPUs
    than processes, or where all are told to take the same one.
    """
    if not dist.is_torchelastic_launched():
        yield
        return
    if ":" in device:
        raise DeviceError(f"torchrun gives every process a device of its own; give --device cuda in place of {device}")
    on_gpus = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    local = int(os.environ["LOCAL_RANK"])
    if on_gpus:
        if local >= torch.cuda.device_count():
            raise DeviceError(
                f"process {local} of this machine finds {torch.cuda.device_count()} GPUs; start no more processes than "
                "there are GPUs, or give --device cpu"
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if on_gpus else "gloo")
    try:
        with open(os.devnull, "w") as silence, contextlib.redirect_stdout(silence if rank() else sys.stdout):
            yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """Let the first process through the block before the others: what it downloads there, they find."""
    if rank() > 0:
        dist.barrier()
    yield
    if rank() == 0 and processes() > 1:
        dist.barrier()


def mine(rows: Rows) -> Rows:
    """This process's part of the rows that all processes hold; the parts are disjoint, and differ by a row at most."""
    return rows[len(rows) * rank() // processes() : len(rows) * (rank() + 1) // processes()]


def total(values: Tensor) -> Tensor:
    """The sum over all processes."""
    if processes() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def gathered(thing: Thing) -> list[Thing]:
    """What each process holds, in their order, as every process gets it."""
    if processes() == 1:
        return [thing]
    things: list[Thing] = [thing] * processes()
    dist.all_gather_object(things, thing)
    return things


def parallel(model: StripModel) -> StripModel:
    """The model as `backward` must have been through it, so that gradients are averaged over the processes."""
    if processes() == 1:
        return model
    wrapped: Any = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    wrapped.objective = model.objective
    return wrapped


def weighted(loss: Tensor, part: int, batch: int) -> Tensor:
    """The mean loss of a part, such that its average over the processes is the mean of the batch, however uneven."""
    return loss if processes() * part == batch else loss * (processes() * part / batch)


def average_statistics(model: nn.Module) -> None:
    """Make every process's running statistics of batch normalisation their mean."""
    if processes() > 1:
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(total(buffer) / processes())
