"""Speed, measured: what belongs together side by side in one run, by turns, every repeat written to a record.

A record is of one machine, `results/bench/<hardware>.json`; each of its parts says with which versions, at which commit
and when it was measured, and replaces the one measured before. `performance.py` makes the tables.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import re
import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from .augment import Augmentation
from .checkpoints import load_checkpoint, write_json
from .compose import Strips, compose
from .data import STRIPS, Data, DataError, digit_glyphs
from .devices import autocast, has_bfloat16, keep_freed_memory, pick_device
from .evaluation import predict
from .experiments import EXPERIMENTS, Experiment
from .likelihood import SYMBOLS, sum_log_likelihood
from .models import StripModel
from .optim import OPTIMIZERS
from .provenance import provenance
from .records import TableError
from .runs import find_checkpoints, set_aside, with_available_weights
from .training import (
    ACCURACY_EVERY,
    SCHEDULES,
    build,
    resident,
    shuffled,
    to_input,
    train_epoch,
    validate,
)

COMPARED = (
    "baseline_cnn-classification", "cnn_attention-classification", "resnet50-classification", "reader", "reader_small",
)  # fmt: skip
# With epochs in place of an experiment's own, since a schedule is at its best where it ends: None keeps them.
TIMED_TO_ACCURACY: tuple[tuple[str, int | None], ...] = (
    ("reader_small", None), ("reader", 5), ("reader", 15),
    ("cnn_attention-classification", 8), ("resnet50-classification", None),
)  # fmt: skip
TARGETS = (0.845, 0.95, 0.9555, 0.97)  # ResNet-50 as reported, a round number, the best public system, and further
WORKERS = 2  # of the usual loop's DataLoader
SECONDS = 1.5  # that one measurement takes, roughly, where a single call takes less
LATE = 1000  # an epoch's number, far behind the start in which the sum likelihood's objective matches moments
BATCHES = (1, 64, 1024)
COLUMNS, DIGITS = (42, 84, 168, 336), (2, 4, 6, 8)
CHECKED = 2000  # unseen strips that are read on the way to an accuracy
CHECKS = 4  # times in an epoch

Work = Callable[[], Any]
Result = dict[str, Any]


def measure(
    part: str,
    data: Data,
    *,
    device: str = "auto",
    repeats: int = 5,
    minutes: float | None = None,
    results: str | Path = "results",
) -> Result:
    """Measure one of PARTS and write it into the machine's record; returns the whole record.

    `minutes` limits each training of "accuracy", and is of no account elsewhere. The number of threads is torch's.
    Raises TableError, before anything is measured, where the file of the machine's record holds none.
    """
    keep_freed_memory()
    chosen, started = pick_device(device), time.perf_counter()
    about = provenance(chosen)
    machine = about.pop("hardware")
    name = machine["cpu"] if chosen.type == "cpu" else machine["device"]
    path = Path(results) / "bench" / f"{_slug(name)}-{machine['threads']}-threads.json"
    _there(path)
    measured = PARTS[part](data, chosen, repeats, minutes or 0)
    there = _there(path)  # again, since another process may have measured another part meanwhile
    if there.get("hardware") != machine:
        if there:  # another machine that goes by the same name, or this one set up otherwise
            set_aside(path)
        there = {"hardware": machine, "parts": {}}
    there["parts"][part] = (
        {"repeats": repeats}
        | measured
        | {
            "source": data.source,
            "data": data.fingerprint,
            "seconds": round(time.perf_counter() - started, 1),
        }
        | about
    )
    write_json(there, path)
    return there


def _there(path: Path) -> Result:
    """A machine's record, empty where there is none yet. Raises TableError for a file that is none."""
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["hardware"].items(), record["parts"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableError(
            f"{path} is not a benchmark's record ({error!r}); restore it, or take it away to begin another"
        ) from error
    return record


def by_turns(works: Mapping[str, Work], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """The seconds of `repeats` runs of each, all taking turns (A B A B), after one of each that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            elapsed = _seconds(work, device)
            if turn:
                seconds[name].append(elapsed)
    return seconds


def per_call(works: Mapping[str, Work], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """The same for works so short that a measurement takes many calls: the seconds of one call."""
    calls = {}
    for name, work in works.items():
        work()  # the first call may allocate and choose algorithms
        calls[name] = max(1, round(SECONDS / len(works) / _seconds(work, device)))

    def many(work: Work, times: int) -> None:
        for _ in range(times):
            work()

    seconds = by_turns({name: partial(many, work, calls[name]) for name, work in works.items()}, repeats, device)
    return {name: [total / calls[name] for total in totals] for name, totals in seconds.items()}


def _seconds(work: Work, device: torch.device) -> float:
    _synchronise(device)
    started = time.perf_counter()
    work()
    _synchronise(device)
    return time.perf_counter() - started


def _synchronise(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


# An epoch: our loop, the usual loop, and the model's work alone


def epoch(data: Data, device: torch.device, repeats: int, minutes: float) -> Result:
    """Seconds of an epoch by our loop, by the usual one, and of the same steps on batches that lie ready on the device.

    The share of our epoch that is not model work is what the last of the three saves.
    """
    rows = []
    for name in COMPARED:
        experiment = replace(EXPERIMENTS[name], weights=None)
        size = experiment.batch_size
        few = data.train[: 4 * size]
        train = _ours(experiment, few, device)
        train()
        step = _seconds(train, device) / 4
        # As in a whole epoch, one step in so many is one whose accuracy is counted.
        strips = data.train[: size * ACCURACY_EVERY * max(1, round(3 * SECONDS / step / ACCURACY_EVERY))]
        works = {
            "ours": _ours(experiment, strips, device),
            "usual": _usual(experiment, strips, device),
            "ready": _ready(experiment, strips, device),
        }
        rows.append({"experiment": name, "strips": len(strips), "seconds": by_turns(works, repeats, device)})
    return {"rows": rows, "workers": WORKERS}


def _loop(experiment: Experiment, strips: Strips, device: torch.device) -> tuple[StripModel, int, Callable]:
    """The experiment's model, the steps of an epoch, and our loop: a function of an epoch's number and a bar."""
    model = build(experiment).to(device).to(memory_format=torch.channels_last)
    steps = -(-len(strips) // experiment.batch_size)
    optimizer = OPTIMIZERS[experiment.optimizer](model, experiment.lr, experiment.weight_decay)
    scheduler = SCHEDULES[experiment.schedule](optimizer, steps * experiment.epochs, experiment.warmup)
    parts = [resident(strips, device)]
    return model, steps, lambda n, bar: train_epoch(model, optimizer, scheduler, experiment, parts, steps, n, bar)


def _ours(experiment: Experiment, strips: Strips, device: torch.device) -> Work:
    _, _, train = _loop(replace(experiment, epochs=LATE), strips, device)  # so many that no schedule ends
    return lambda: train(LATE, tqdm(disable=True))


def _ready(experiment: Experiment, strips: Strips, device: torch.device) -> Work:
    """The steps of our loop on batches that are made, augmented and on the device already, and nothing beside them."""
    step = _step(experiment, device)
    batches = [
        (experiment.augment(to_input(images)) if experiment.augment else to_input(images), sums)
        for images, sums in shuffled([resident(strips, device)], experiment.batch_size, experiment.crop)
    ]

    def train() -> None:
        for batch, sums in batches:
            step(batch, sums)

    return train


def _step(
    experiment: Experiment, device: torch.device, compiled: bool = False, bfloat16: bool | None = None
) -> Callable[[Tensor, Tensor], None]:
    """A step of our loop on a batch (N, 1, 40, W) in 0..1: forward, loss, backward, optimiser.

    In bfloat16 as training is, or as asked for.
    """
    if bfloat16 is None:
        bfloat16 = experiment.bfloat16 and has_bfloat16(device)
    mixed = partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=bfloat16)
    model = build(experiment).to(device).to(memory_format=torch.channels_last).train()
    optimizer = OPTIMIZERS[experiment.optimizer](model, experiment.lr, experiment.weight_decay)
    forward = torch.compile(model) if compiled else model

    def step(batch: Tensor, sums: Tensor) -> None:
        with mixed():
            outputs = forward(batch)
        loss = model.objective.loss(outputs.float(), sums)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        with mixed():
            optimizer.step()

    return step


class FloatStrips(Dataset):
    """The usual data set: all images as float tensors (1, 40, W), handed out and augmented one by one."""

    def __init__(self, strips: Strips, augment: Augmentation | None) -> None:
        self.images = torch.from_numpy(strips.images).unsqueeze(1).float() / 255
        self.sums = torch.from_numpy(strips.sums)
        self.augment = augment

    def __len__(self) -> int:
        return len(self.sums)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        image = self.images[i]
        return self.augment(image[None])[0] if self.augment else image, self.sums[i]


def _usual(experiment: Experiment, strips: Strips, device: torch.device) -> Work:
    """The reports' loop: a DataLoader with two workers, float32, Adam as it comes, the loss read at every step.

    The workers live on between epochs, which is kinder to it than the reports were.
    """
    model = build(experiment).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=experiment.lr)
    loader = DataLoader(
        FloatStrips(strips, experiment.augment), experiment.batch_size, shuffle=True, num_workers=WORKERS,
        persistent_workers=True, pin_memory=device.type == "cuda",
    )  # fmt: skip

    def train() -> tuple[float, int]:
        model.train()
        loss_sum, correct = 0.0, 0
        for images, sums in loader:
            images, sums = images.to(device), sums.to(device)
            optimizer.zero_grad()
            outputs = model(images)
            loss = model.objective.loss(outputs, sums)
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(sums)
            correct += (model.objective.sums(outputs) == sums).sum().item()
        return loss_sum, correct

    return train


def compiled(data: Data, device: torch.device, repeats: int, minutes: float) -> Result:
    """Seconds of a step as it is and with the model by `torch.compile`, and of the first such step, which compiles.

    All at one width of strips: a loop that crops them would compile several times, or for any width. It takes a C++
    compiler on the CPU.
    """
    torch.compile(torch.sin)(torch.zeros(1, device=device))  # the compiler's own start is no model's
    rows = []
    for name in COMPARED:
        experiment = replace(EXPERIMENTS[name], weights=None)
        batch = _first_batch(experiment, data, device)
        steps = {"plain": _step(experiment, device), "compiled": _step(experiment, device, compiled=True)}
        # As on a machine that has compiled nothing yet.
        with torch.compiler.config.patch(force_disable_caches=True):  # type: ignore[attr-defined]
            first = _seconds(partial(steps["compiled"], *batch), device)
        seconds = per_call({way: partial(step, *batch) for way, step in steps.items()}, repeats, device)
        rows.append({"experiment": name, "batch": experiment.batch_size, "first": first, "seconds": seconds})
    return {"rows": rows}


def precision(data: Data, device: torch.device, repeats: int, minutes: float) -> Result:
    """Seconds of a step in bfloat16 and of one in float32, whichever of the two the device is taken to be faster in."""
    rows = []
    for name in COMPARED:
        experiment = replace(EXPERIMENTS[name], weights=None)
        batch = _first_batch(experiment, data, device)
        works = {
            way: partial(_step(experiment, device, bfloat16=way == "bfloat16"), *batch)
            for way in ("bfloat16", "float32")
        }
        rows.append({"experiment": name, "batch": experiment.batch_size, "seconds": per_call(works, repeats, device)})
    return {"rows": rows}


# The sum likelihood


def likelihood(data: Data, device: torch.device, repeats: int, minutes: float) -> Result:
    """Seconds of the sum likelihood, forward and backward, within a step of the reader, and by columns and digits."""
    experiment = EXPERIMENTS["reader"]
    batch, sums = _first_batch(experiment, data, device)
    step = _step(experiment, device)
    with torch.no_grad(), autocast(device):
        logits = build(experiment).to(device)(batch).float()
    share = per_call(
        {"step": lambda: step(batch, sums), "likelihood": _likelihood(logits, sums)}, repeats, device
    )  # fmt: skip

    generator = torch.Generator().manual_seed(0)

    def drawn(columns: int, digits: int) -> Work:
        shape = (experiment.batch_size, columns, SYMBOLS)
        sums = torch.randint(9 * digits + 1, shape[:1], generator=generator).to(device)
        return _likelihood(torch.randn(shape, generator=generator).to(device), sums, digits)

    columns = per_call({str(n): drawn(n, 4) for n in COLUMNS}, repeats, device)
    digits = per_call({str(n): drawn(COLUMNS[0], n) for n in DIGITS}, repeats, device)
    return {"batch": len(sums), "share": share, "columns": columns, "digits": digits}


def _likelihood(logits: Tensor, sums: Tensor, digits: int = 4) -> Work:
    logits = logits.detach().requires_grad_()
    return lambda: torch.autograd.grad(-sum_log_likelihood(logits, sums, digits).mean(), logits)


def _first_batch(experiment: Experiment, data: Data, device: torch.device) -> tuple[Tensor, Tensor]:
    images, sums = resident(data.train[: experiment.batch_size], device)
    batch = to_input(images)
    return experiment.augment(batch) if experiment.augment else batch, sums


# Prediction


def prediction(data: Data, device: torch.device, repeats: int, minutes: float) -> Result:
    """Seconds of a call of `predict` and the peak memory of a process that does nothing else, by model and images.

    With the published weights where there are any, call after call on other images: how often a reader looks again
    depends on both. All predict in float32 but readers; where bfloat16 is fast, ResNet-50 is measured in it as well.
    """
    weights = find_checkpoints(data.source)
    images = np.resize(data.test.images, (max(BATCHES), *data.test.images.shape[1:]))
    rows = []
    both = [(name, False) for name in COMPARED] + [("resnet50-classification", True)] * has_bfloat16(device)
    for name, bfloat16 in both:
        for n in BATCHES:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as fresh:
                about = name, weights[name], bfloat16, images, n
                job = fresh.submit(_predict_alone, *about, str(device), torch.get_num_threads(), repeats)
                measured = {"experiment": name, "images": n, "trained": weights[name] is not None, "bfloat16": bfloat16}
                rows.append(measured | job.result())
    return {"rows": rows}


def _predict_alone(
    name: str, weights: Path | None, bfloat16: bool, images: np.ndarray, n: int, device: str, threads: int, repeats: int
) -> Result:
    torch.set_num_threads(threads)
    on = torch.device(device)
    model = load_checkpoint(weights) if weights else build(replace(EXPERIMENTS[name], weights=None))
    model = model.to(on).to(memory_format=torch.channels_last)
    before, batches = _peak(on), itertools.cycle(np.array_split(images, len(images) // n))
    with autocast(on, bfloat16):
        seconds = per_call({"predict": lambda: predict(model, next(batches))}, repeats, on)["predict"]
    return {"seconds": seconds, "peak_bytes": _peak(on), "peak_bytes_before": before}


def _peak(device: torch.device) -> int:
    """The most memory, in bytes, that this process has had on the GPU, or in main memory without one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # Linux hands ru_maxrss down to the programs that a process starts, so it is not their own
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1])  # type: ignore[index]
    import resource  # which Windows has not

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


# Time to accuracy


class _Reached(Exception):
    """The training has gone as far as it needs to, or as long as it may."""


class _Checks:
    """In the place of a progress bar: stops the clock after every so many steps and reads unseen strips."""

    def __init__(self, model: StripModel, every: int, unseen: Strips, device: torch.device, limit: float) -> None:
        self.model, self.every, self.limit, self.device = model, every, limit, device
        self.images, self.sums = resident(unseen, device)
        self.steps, self.seconds, self.started = 0, 0.0, time.perf_counter()
        self.found: list[dict[str, float]] = []

    def update(self) -> None:
        self.steps += 1
        late = self.seconds + time.perf_counter() - self.started > self.limit
        if self.steps % self.every and not late:
            return
        _synchronise(self.device)
        self.seconds += time.perf_counter() - self.started
        accuracy = validate(self.model, self.images, self.sums)["accuracy"]
        self.found.append({"step": self.steps, "seconds": self.seconds, "accuracy": accuracy})
        if late or accuracy >= max(TARGETS):
            raise _Reached
        self.model.train()
        self.started = time.perf_counter()


def accuracy(data: Data, device: torch.device, repeats: int, minutes: float) -> Result:
    """Seconds of training until unseen strips are first read with each accuracy, by schedules of several lengths.

    All other settings are the experiment's own. The strips are looked at CHECKS times an epoch, while the clock
    stands; nothing is chosen by what is found. Raises DataError for a source without unseen strips.
    """
    if data.unseen is None:
        raise DataError(f"the source {data.source} has no unseen strips; use --source mnist or digits")
    unseen, rows = data.unseen[:CHECKED], []
    for name, epochs in TIMED_TO_ACCURACY:
        experiment = with_available_weights(EXPERIMENTS[name], "scratch")
        experiment = replace(experiment, epochs=epochs or experiment.epochs)
        model, steps, train = _loop(experiment, data.train, device)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            checks = _Checks(model, -(-steps // CHECKS), unseen, device, 60 * minutes)
            try:
                for n in range(1, experiment.epochs + 1):
                    train(n, checks)
            except _Reached:
                pass
        first = {str(t): next((c["seconds"] for c in checks.found if c["accuracy"] >= t), None) for t in TARGETS}
        rows.append(
            {
                "experiment": name,
                "epochs": experiment.epochs,
                "weights": experiment.weights or "none",
                "reached": first,
                "checks": checks.found,
            }
        )
    return {"rows": rows, "minutes": minutes, "strips": len(unseen), "seed": 0, "repeats": 1}


# Generation


def generation(data: Data, device: torch.device, repeats: int, minutes: float) -> Result:
    """Seconds of composing as many strips as a source has, and the peak memory meanwhile over what they take."""
    glyphs, labels = digit_glyphs()
    seconds = by_turns({"compose": lambda: compose(glyphs, labels, STRIPS, seed=0)}, repeats, torch.device("cpu"))
    tracemalloc.start()  # in a run of its own, as it slows things down
    strips = compose(glyphs, labels, STRIPS, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = sum(array.nbytes for array in vars(strips).values())
    return {"strips": STRIPS, "compose": seconds["compose"], "peak_bytes": peak, "result_bytes": size}


# The floor under the reader's step


class _Traffic(TorchDispatchMode):
    """Counts the bytes that every operation, on its own, has to read and to write."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.bytes += sum(t.nbytes for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor))
        return out


def floor(data: Data, device: torch.device, repeats: int, minutes: float) -> Result:
    """What a step of the reader computes and moves, how fast this machine multiplies and copies, and the step's time.

    All for whole strips: our loop too is measured without cropping them.

    The traffic is that of the operations as they are called, each reading and writing memory once: caches and fused
    operations need less, so that it is a floor for running them one by one, and no law.
    """
    experiment = EXPERIMENTS["reader"]
    batch, sums = _first_batch(experiment, data, device)
    step = _step(experiment, device)
    step(batch, sums)  # makes the optimiser's state
    with FlopCounterMode(display=False) as flops, _Traffic() as traffic:
        step(batch, sums)
    n, dtype = (8192 if device.type == "cuda" else 2048), torch.bfloat16 if has_bfloat16(device) else torch.float32
    left, right = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    source = torch.zeros(2**26, device=device)  # 256 MiB, more than caches hold
    target = torch.empty_like(source)
    works = {
        "multiply": lambda: left @ right,
        "copy": lambda: target.copy_(source),
        "step": lambda: step(batch, sums),
        "epoch": _ours(replace(experiment, crop=False), data.train[: 8 * experiment.batch_size], device),
    }
    seconds = per_call(works, repeats, device)
    return {
        "batch": len(sums), "dtype": str(dtype).removeprefix("torch."), "flops": flops.get_total_flops(),
        "traffic_bytes": traffic.bytes, "multiply_flops": 2 * n**3, "copy_bytes": 2 * source.nbytes,
        "multiply": seconds["multiply"], "copy": seconds["copy"], "step": seconds["step"],
        "loop_step": [epoch / 8 for epoch in seconds["epoch"]],
    }  # fmt: skip


# Where the reader's step goes

GROUPS = {  # the first with a word of an operation's name takes it
    "convolution": ("convolution", "conv2d"),
    "batch norm": ("batch_norm",),
    "matrix product": ("mm", "addmm", "bmm", "baddbmm", "matmul"),
    "resampling": ("grid_sampler", "upsample", "pool2d"),
    "sums of exponentials": ("logsumexp", "logcumsumexp", "logaddexp", "softmax", "exp", "log"),
    "copies, casts, gathers": ("copy", "clone", "cat", "fill", "zero", "empty", "index", "gather", "pad", "stack"),
    "optimiser kernels": ("fused", "foreach"),
}
OTHER = "other element-wise work"


def phases(data: Data, device: torch.device, repeats: int, minutes: float) -> Result:
    """Seconds a step of the reader spends in each group of operations, phase by phase, by torch.profiler."""
    experiment = EXPERIMENTS["reader"]
    model = build(experiment).to(device).to(memory_format=torch.channels_last).train()
    optimizer = OPTIMIZERS[experiment.optimizer](model, experiment.lr, experiment.weight_decay)
    images, sums = resident(data.train[: experiment.batch_size], device)
    augment = experiment.augment or (lambda batch: batch)
    found: dict[str, dict[str, list[float]]] = {}
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells when it starts and that it found no GPU

    # Each phase has a profiler of its own: on a GPU, backward runs in another thread, outside of any named range.
    def spent(phase: str, work: Work) -> Any:
        with profile(activities=activities) as profiler:
            made = work()
            _synchronise(device)
        groups = dict.fromkeys([*GROUPS, OTHER], 0.0)
        for event in profiler.key_averages():
            if event.device_type == DeviceType.CPU:  # operations; a GPU's kernels are counted with what launched them
                own = event.self_cpu_time_total if device.type == "cpu" else event.self_device_time_total
                groups[_group(event.key)] += own / 1e6
        for group, seconds in groups.items():
            found.setdefault(phase, {}).setdefault(group, []).append(seconds)
        return made

    def forward(batch: Tensor) -> Tensor:
        with autocast(device, experiment.bfloat16):
            return model(batch).float()

    for _ in range(repeats + 1):
        batch = spent("augmentation", lambda: augment(to_input(images)))
        outputs = spent("forward", partial(forward, batch))
        loss = spent("likelihood", partial(model.objective.loss, outputs, sums))
        optimizer.zero_grad(set_to_none=True)
        spent("backward", loss.backward)
        with autocast(device, experiment.bfloat16):  # for Muon's matrix products, as in training
            spent("optimiser", optimizer.step)
    medians = {
        phase: {group: statistics.median(times[1:]) for group, times in groups.items()}  # the first one warms up
        for phase, groups in found.items()
    }
    return {"batch": len(sums), "phases": medians}


def _group(operation: str) -> str:
    name = operation.removeprefix("aten::")
    return next((g for g, words in GROUPS.items() if re.search(rf"(^|_)({'|'.join(words)})(_|$)", name)), OTHER)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


PARTS: dict[str, Callable[[Data, torch.device, int, float], Result]] = {
    "epoch": epoch,
    "precision": precision,
    "compiled": compiled,
    "likelihood": likelihood,
    "prediction": prediction,
    "generation": generation,
    "floor": floor,
    "phases": phases,
    "accuracy": accuracy,
}
PARTS_TO_NAME = [part for part in PARTS if part != "accuracy"]  # which trains, for as long as is asked for
USUAL_PARTS = [part for part in PARTS_TO_NAME if part != "compiled"]  # which needs a compiler
