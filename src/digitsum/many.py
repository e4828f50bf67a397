"""Many runs side by side: one process per device."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

import torch

from .data import Data
from .runs import run_experiment
from .studies import run_study

Job = TypeVar("Job")


def run_alone(load: Callable[[], Data], settings: Mapping[str, Any], job: tuple[str, int]) -> dict[str, Any]:
    """Run the experiment and seed of a job in a process that has no data yet; returns the record.

    It stands here and not in `__main__`, which a process of `python -m digitsum` cannot import.
    """
    return run_experiment(job[0], load(), seed=job[1], progress=False, **settings)


def study_alone(
    load: Callable[[], Data], study: str, settings: Mapping[str, Any], job: tuple[str, int]
) -> list[tuple[Path, dict[str, Any]]]:
    """The same for a variant and a seed of a study; returns what `run_study` yields."""
    return list(run_study(study, load(), only=[job[0]], seeds=[job[1]], progress=False, **settings))


def side_by_side(work: Callable[[Job], Any], jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, Future]]:
    """Call `work` on each job once in so many processes; yields a job and its future when it is done, or has failed.

    The processes take the GPUs by turns as their current device, and share the processor's threads evenly. `work` must
    be a function that a fresh process can import.
    """
    context = multiprocessing.get_context("spawn")  # a forked process could not use CUDA
    numbers = context.SimpleQueue()
    for k in range(processes):
        numbers.put(k)
    threads = max(1, torch.get_num_threads() // processes)
    with ProcessPoolExecutor(processes, context, _settle, (numbers, threads)) as pool:
        futures = {pool.submit(work, job): job for job in dict.fromkeys(jobs)}
        for future in as_completed(futures):
            yield futures[future], future


def _settle(numbers: Any, threads: int) -> None:
    torch.set_num_threads(threads)
    number = numbers.get()
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
