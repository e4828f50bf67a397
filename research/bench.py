"""Measure speed and memory.

Works that are compared take turns in one process (A B A B). Each machine has one record in `results/bench/`, with every
repeat. A part that is measured again replaces its earlier figures. `paper/performance.py` makes the tables.
"""

import itertools
import multiprocessing
import re
import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm

from digitsum.augment import augment
from digitsum.checkpoints import best_checkpoint, load_checkpoint, write_json
from digitsum.compose import GLYPH, HEIGHT, Strips
from digitsum.data import Data
from digitsum.devices import pick_device, tune_process
from digitsum.errors import DataError, RecordError
from digitsum.evaluation import predictions
from digitsum.experiments import Augmentation, Experiment
from digitsum.likelihood import SYMBOLS, sum_log_likelihood
from digitsum.optim import OPTIMIZERS
from digitsum.provenance import provenance
from digitsum.runs import load_json
from digitsum.training import SCHEDULES, build, resident, train_epoch, validate

from .studies.variants import LeNet
from .systems import EXPERIMENTS

COMPARED = (
    "baseline_cnn-classification", "cnn_attention-classification", "resnet50_imagenet-classification", "reader",
    "reader_small",
)  # fmt: skip
TIMED_TO_ACCURACY = (  # with the number of epochs: a schedule is at its best at its end
    ("reader_small", 12), ("reader", 5), ("reader", 15), ("cnn_attention-classification", 8),
    ("resnet50_imagenet-classification", 25),
)  # fmt: skip
TARGETS = (0.845, 0.95, 0.9555, 0.97)  # ResNet-50's report, a round number, the best public system, and one beyond
WORKERS = 2  # of the usual loop's DataLoader
REPEATS = 3
SECONDS = 1.5  # the rough length of one measurement of short calls
STRIPS = 2048  # of an epoch: whole batches, and a multiple of ACCURACY_EVERY of them
LATE = 1000  # the number of an epoch far behind the start, in which the sum likelihood's objective matches moments
BATCH, BATCHES = 64, (1, 64, 1024)  # of the likelihood and of prediction
COLUMNS, DIGITS, CUT = (42, 84, 168, 336), (2, 4, 6, 8), (16, 64, 256)
CHECKED, CHECKS = 2000, 4  # unseen strips that are read on the way to an accuracy, and how often in an epoch

Work = Callable[[], Any]
Result = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """What every part measures with."""

    data: Data
    device: torch.device
    minutes: float = 30.0  # the limit of each training of "accuracy"
    models: Path = Path("models")  # the folder of published weights


def measure(
    part: str, data: Data, *, device: str = "auto", minutes: float = 30.0,
    models: str | Path = "models", results: str | Path = "results",
) -> Result:  # fmt: skip
    """Measure one of PARTS, write it into the machine's record, and return the whole record.

    The number of threads is torch's (set OMP_NUM_THREADS). Raise RecordError, before anything is measured, if the
    machine's file is damaged.
    """
    tune_process()
    setup = Setup(data, pick_device(device), minutes, Path(models))
    about = provenance(setup.device)
    machine = about.pop("hardware")
    path = Path(results, "bench", f"{_slug(machine)}.json")
    record = read_machine(path) if path.exists() else {"hardware": machine, "parts": {}}
    path.parent.mkdir(parents=True, exist_ok=True)  # if it cannot be made, this stops before anything is measured
    started = time.perf_counter()
    measured = {"repeats": REPEATS} | PARTS[part](setup)
    seconds = round(time.perf_counter() - started, 1)
    record["parts"][part] = measured | about | {"source": data.source, "data": data.fingerprint, "seconds": seconds}
    write_json(record, path)
    return record


def read_machine(path: Path) -> Result:
    """Read a machine's record. Raise RecordError for any other file."""
    try:
        record = load_json(path)
        _slug(record["hardware"]), record["parts"].items()
        return dict(record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{path} is not a benchmark's record ({error!r}). Restore it, or move it away.") from error


def _slug(machine: Result) -> str:
    name = machine["cpu"] if machine["device"] == "cpu" else machine["device"]
    words = f"{name} {machine['threads']} threads" + " bfloat16" * machine["bfloat16"]
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def seconds_of(work: Work, device: torch.device, calls: int = 1) -> float:
    """Return the seconds of one call, as the mean over `calls`."""

    def now() -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter()

    return timeit.timeit(work, timer=now, number=calls) / calls


def by_turns(works: Mapping[str, Work], device: torch.device) -> dict[str, list[float]]:
    """Return the seconds of a call of each work, measured REPEATS times by turns, after a call that does not count.

    A round of measurements lasts about SECONDS, in which short works are called often.
    """
    calls = {}
    for name, work in works.items():
        work()  # the first call may allocate and choose algorithms
        calls[name] = max(1, round(SECONDS / len(works) / seconds_of(work, device)))
    rounds = [{name: seconds_of(work, device, calls[name]) for name, work in works.items()} for _ in range(REPEATS)]
    return {name: [each[name] for each in rounds] for name in works}


def epoch(setup: Setup) -> Result:
    """Measure the seconds of an epoch by our loop and by the usual one, from the same start on the same strips."""
    rows, strips = [], setup.data.train[:STRIPS]
    for name in COMPARED:
        experiment = replace(EXPERIMENTS[name], weights=None, epochs=LATE)  # so many that no schedule ends
        works = {"ours": _ours(experiment, strips, setup.device), "usual": _usual(experiment, strips, setup.device)}
        rows.append({"experiment": name, "strips": len(strips), "seconds": by_turns(works, setup.device)})
    return {"rows": rows, "workers": WORKERS}


def _loop(experiment: Experiment, steps: int, device: torch.device) -> tuple[Any, Callable[..., Any]]:
    """Return the model, and our loop as a function of images, sums and the epoch's number; an epoch has `steps`."""
    model = build(experiment).to(device).to(memory_format=torch.channels_last)
    optimizer = OPTIMIZERS[experiment.optimizer](model, experiment.lr, experiment.weight_decay)
    scheduler = SCHEDULES[experiment.schedule](optimizer, steps * experiment.epochs, experiment.warmup)
    bar = tqdm(disable=True)
    return model, lambda images, sums, n: train_epoch(model, optimizer, scheduler, experiment, images, sums, n, bar)


def _ours(experiment: Experiment, strips: Strips, device: torch.device) -> Work:
    _, train = _loop(experiment, -(-len(strips) // experiment.batch_size), device)
    return partial(train, *resident(strips, device), LATE)


def _usual(experiment: Experiment, strips: Strips, device: torch.device) -> Work:
    """Return the reports' loop: a DataLoader with workers, float32, plain Adam, the loss read at every step.

    The workers stay alive between epochs, which is kinder to this loop than the reports were.
    """
    model = build(experiment).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=experiment.lr)
    images = torch.from_numpy(strips.images).unsqueeze(1).float() / 255
    loader = DataLoader(
        TensorDataset(images, torch.from_numpy(strips.sums)), experiment.batch_size, shuffle=True, num_workers=WORKERS,
        collate_fn=partial(_collate, experiment.augment), persistent_workers=True, pin_memory=device.type == "cuda",
    )  # fmt: skip

    def train() -> list[tuple[float, int]]:
        model.train()
        seen = []
        for images, sums in loader:
            outputs, sums = model(images.to(device)), sums.to(device)
            loss = model.objective.loss(outputs, sums)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append((loss.item(), (model.objective.sums(outputs) == sums).sum().item()))
        return seen

    return train


def _collate(settings: Augmentation | None, strips: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Join strips to a batch, each augmented on its own."""
    images, sums = zip(*strips, strict=True)
    return torch.cat([augment(image[None], settings) for image in images]), torch.stack(sums)


def likelihood(setup: Setup) -> Result:
    """Measure the sum likelihood of a batch, forward and backward, by columns and by digits.

    Where each column holds a digit, as in sums of cut digits, a step of LeNet on these digits is measured beside it.
    """
    generator = torch.Generator().manual_seed(0)
    network = LeNet(SYMBOLS).to(setup.device)

    def work(columns: int, digits: int, network: LeNet | None = None) -> Work:
        sums = torch.randint(9 * digits + 1, (BATCH,), generator=generator).to(setup.device)
        if network:
            cells = torch.rand(BATCH * columns, 1, HEIGHT, GLYPH, generator=generator).to(setup.device)
            return lambda: network(cells).logsumexp(1).mean().backward()
        logits = torch.randn(BATCH, columns, SYMBOLS, generator=generator).to(setup.device).requires_grad_()
        return lambda: torch.autograd.grad(-sum_log_likelihood(logits, sums, digits).mean(), logits)

    works = {
        "columns": {str(n): work(n, 4) for n in COLUMNS},
        "digits": {str(n): work(COLUMNS[0], n) for n in DIGITS},
        "cut digits": {str(n): work(n, n) for n in CUT},
        "LeNet on them": {str(n): work(n, n, network) for n in CUT},
    }
    kept = {str(n): _kept_bytes(works["cut digits"][str(n)]) for n in CUT}
    times = {key: by_turns(each, setup.device) for key, each in works.items()}
    return {"batch": BATCH, "kept_bytes": kept} | times


def _kept_bytes(work: Work) -> int:
    """Return the bytes of all tensors that a call keeps for its gradient."""
    sizes: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    return sum(sizes)


def prediction(setup: Setup) -> Result:
    """Measure the seconds of a call of `predictions`, and the peak memory of a process that does nothing else.

    It takes the run's weights if there are any, and other images in every call, since TTA depends on both.
    """
    images = np.resize(setup.data.test.images, (max(BATCHES), *setup.data.test.images.shape[1:]))
    rows = []
    for name in COMPARED:
        weights = best_checkpoint(setup.models / setup.data.source, name)
        for n in BATCHES:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
                job = fresh.submit(_predict_alone, name, weights, images, n, str(setup.device))
                rows.append({"experiment": name, "images": n, "trained": weights is not None} | job.result())
    return {"rows": rows}


def _predict_alone(name: str, weights: Path | None, images: np.ndarray, n: int, device: str) -> Result:
    on = torch.device(device)
    model = load_checkpoint(weights) if weights else build(replace(EXPERIMENTS[name], weights=None))
    model = model.to(on).to(memory_format=torch.channels_last)
    before, batches = _peak(on), itertools.cycle(np.array_split(images, len(images) // n))
    seconds = by_turns({"predict": lambda: predictions(model, next(batches))}, on)["predict"]
    return {"seconds": seconds, "peak_bytes": _peak(on), "peak_bytes_before": before}


def _peak(device: torch.device) -> int:
    """Return the most memory in bytes that this process has used: on the GPU, or else in main memory (Linux)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # resource.getrusage would not do: Linux hands its figure down from a process to the programs that it starts.
    return 1024 * int(re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))[0])


def accuracy(setup: Setup) -> Result:
    """Measure the seconds of training until unseen strips are first read with each accuracy of TARGETS.

    Settings are the experiment's own except for the epochs. Raise DataError for a source without unseen strips.
    """
    if setup.data.unseen is None:
        raise DataError(f"The source {setup.data.source} has no unseen strips. Use --source mnist or digits.")
    rows = []
    for name, epochs in TIMED_TO_ACCURACY:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            checks = _checks(replace(EXPERIMENTS[name], weights=None), epochs, setup, setup.data.unseen[:CHECKED])
        reached = {str(t): next((c["seconds"] for c in checks if c["accuracy"] >= t), None) for t in TARGETS}
        rows.append({"experiment": name, "epochs": epochs, "reached": reached, "checks": checks})
    return {"rows": rows, "minutes": setup.minutes, "strips": CHECKED, "seed": 0, "repeats": 1}


def _checks(experiment: Experiment, epochs: int, setup: Setup, strips: Strips) -> list[dict[str, float]]:
    """Train; return, CHECKS times in an epoch, the seconds of training so far and the accuracy on `strips`."""
    images, sums = resident(setup.data.train, setup.device)
    unseen = resident(strips, setup.device)
    steps = -(-len(sums) // (CHECKS * experiment.batch_size))
    # Our loop takes each part of an epoch as an epoch of its own.
    model, train = _loop(replace(experiment, epochs=CHECKS * epochs), steps, setup.device)
    checks: list[dict[str, float]] = []
    seconds = 0.0
    for _ in range(epochs):
        for rows in torch.randperm(len(sums)).to(setup.device).tensor_split(CHECKS):
            number = len(checks) + 1
            seconds += seconds_of(partial(train, images[rows], sums[rows], number), setup.device)
            found = validate(model, *unseen)["val_accuracy"]
            checks.append({"step": steps * number, "seconds": seconds, "accuracy": found})
            if found >= max(TARGETS) or seconds > 60 * setup.minutes:
                return checks
    return checks


PARTS = {part.__name__: part for part in (epoch, likelihood, prediction, accuracy)}
