"""Training: one visible loop, on whatever device there is."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from tqdm import tqdm

from .augment import augment
from .checkpoints import load_state, refusing, save_state
from .compose import Strips
from .data import Data
from .devices import all_reduce, autocast, average_statistics, pick_device, rank, shard, tune_process, world_size
from .errors import TrainingError
from .experiments import EXPERIMENTS, Experiment, same_settings
from .models import MODELS, StripModel
from .objectives import OBJECTIVES
from .optim import OPTIMIZERS
from .provenance import provenance

ACCURACY_EVERY = 8  # training accuracy is counted on every so many batches
EVALUATION_BATCH = 128  # larger activations fit no cache of a CPU
POOL = 16  # batches whose strips are sorted by width together, where strips are trimmed
MARGIN = 8  # columns that stay right of the ink where blank columns are trimmed


def _one_cycle(optimizer: torch.optim.Optimizer, steps: int, warmup: float) -> LRScheduler:
    if warmup * steps == 1:  # OneCycleLR divides by the distance from 1
        warmup *= 1 + 1e-9
    rates = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, rates, steps, pct_start=warmup, cycle_momentum=False)


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer, int, float], LRScheduler]] = {
    "constant": lambda optimizer, steps, warmup: LambdaLR(optimizer, lambda step: 1.0),
    "one_cycle": _one_cycle,
}


@dataclass
class Run:
    """Hold a training run: the model with its best weights on validation, and how it got there."""

    experiment: Experiment
    seed: int
    model: StripModel
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    start: str = "none"  # the weights that it started from
    sessions: list[dict[str, Any]] = field(default_factory=list)  # provenance; several if it was interrupted

    @property
    def seconds(self) -> float:
        """Return how long all epochs took."""
        return math.fsum(row["seconds"] for row in self.history)


def build(experiment: Experiment, seed: int = 0) -> StripModel:
    """Build the experiment's untrained model on the CPU with its `.objective`; the same for the same seed."""
    objective = replace(OBJECTIVES[experiment.objective], **experiment.objective_args)
    weights = {} if experiment.weights in (None, *EXPERIMENTS) else {"weights": experiment.weights}  # research's models
    with _seeded(seed):
        model = MODELS[experiment.model](outputs=objective.outputs, **experiment.model_args, **weights)
    model.objective = objective
    return model


def train(
    experiment: Experiment, data: Data, *, seed: int = 0, device: str | torch.device = "auto",
    state_path: Path | None = None, progress: bool = True, start: StripModel | None = None,
) -> Run:  # fmt: skip
    """Train on `data.train` and keep the epoch that is best on `data.val`. The test sets are not touched.

    Training starts from the model `start`, or from the experiment's untrained one. The state is kept at `state_path`
    after every epoch. An interrupted run goes on from there, on the CPU to the very same weights.
    Raises `TrainingError` if the loss stops being finite, `CheckpointError` for a state of another run.
    """
    device = pick_device(device)
    tune_process()
    model = (start or build(experiment, seed)).to(device).to(memory_format=torch.channels_last)
    once = resident(data.train[: experiment.train_limit], device)
    images, sums = (torch.cat([each] * experiment.repeats) for each in once)
    val_images, val_sums = (shard(tensor) for tensor in resident(data.val, device))
    steps = math.ceil(len(sums) / experiment.batch_size)
    if len(sums) // max(steps, 1) < 2 * world_size() or len(data.val) < world_size():
        raise TrainingError(
            f"{len(sums)} training strips in {steps} batches and {len(data.val)} validation strips are too few for "
            f"{world_size()} processes: each needs 2 training strips per batch. Use more strips or larger batches."
        )
    optimizer = OPTIMIZERS[experiment.optimizer](model, experiment.lr, experiment.weight_decay)
    scheduler = SCHEDULES[experiment.schedule](optimizer, steps * experiment.epochs, experiment.warmup)
    run, best = Run(experiment, seed, model, start=experiment.weights or "none"), model.state_dict()
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    key = {"settings": asdict(experiment), "seed": seed, "data": data.fingerprint}
    if state_path and state_path.exists():
        best = _resume(run, state_path, key, parts)
    here = provenance(device)
    if not run.sessions or run.sessions[-1] | {"date": here["date"]} != here:
        run.sessions.append(here)

    pick, by = (min, "val_loss") if experiment.select == "loss" else (max, "val_accuracy")
    parallel = model if world_size() == 1 else DDP(model, broadcast_buffers=False)
    done, quiet = len(run.history), not progress or rank() > 0
    with tqdm(total=steps * experiment.epochs, initial=steps * done, desc=experiment.name, disable=quiet) as bar:
        for epoch in range(done + 1, experiment.epochs + 1):
            started = time.perf_counter()
            with _seeded(seed, epoch, device=device):
                trained = train_epoch(parallel, optimizer, scheduler, experiment, images, sums, epoch, bar)
            average_statistics(model)
            row = {"epoch": epoch} | trained | validate(model, val_images, val_sums, experiment.bfloat16)
            _check_finite(row["train_loss"] + row["val_loss"], epoch, scheduler)
            row |= {"lr": optimizer.param_groups[0]["lr"], "seconds": time.perf_counter() - started}
            run.history.append(row)
            if pick(run.history, key=itemgetter(by)) is row:  # of equals the first
                run.best_epoch, best = epoch, copy.deepcopy(model.state_dict())
            bar.set_postfix(epoch=epoch, loss=f"{row['train_loss']:.3f}", val_accuracy=f"{row['val_accuracy']:.1%}")
            if state_path and rank() == 0:
                states = {name: part.state_dict() for name, part in parts.items()}
                kept = {"history": run.history, "best_epoch": run.best_epoch, "sessions": run.sessions}
                save_state(state_path, key=key, best=best, **states, **kept)
    model.load_state_dict(best)
    for weight in model.parameters():
        weight.data.copy_(weight.data.half())  # as its file holds it
    model.eval()
    return run


def train_epoch(
    model: Any, optimizer: torch.optim.Optimizer, scheduler: LRScheduler, experiment: Experiment,
    images: Tensor, sums: Tensor, epoch: int, bar: Any,
) -> dict[str, float]:  # fmt: skip
    """Train one pass over images (N, 40, W) uint8 and targets (N, ...) on the device; return mean loss and accuracy."""
    model.train()
    objective = getattr(model, "module", model).objective
    steps = math.ceil(len(sums) / experiment.batch_size)
    totals = torch.zeros(3, device=images.device)  # of the loss; of right sums among those counted; of those counted
    for step, (batch, targets) in enumerate(batches(images, sums, experiment.batch_size, experiment.trim)):
        batch, size = augment(to_input(batch), experiment.augment), len(targets)
        batch, targets = shard(batch), shard(targets)
        with autocast(images.device, experiment.bfloat16):
            outputs = model(batch).float()
        loss = objective.loss(outputs, targets, step=(epoch - 1) * steps + step)
        optimizer.zero_grad(set_to_none=True)
        (loss * (world_size() * len(targets) / size)).backward()  # shards may differ by a row
        with autocast(images.device, experiment.bfloat16):  # for Muon's matrix products
            optimizer.step()
        scheduler.step()
        totals[0] += loss.detach() * len(targets)
        if step % ACCURACY_EVERY == 0:
            totals[1] += (objective.sums(outputs.detach()) == objective.truth(targets)).sum()
            totals[2] += len(targets)
        bar.update()
        if step % 50 == 49:  # not at every step, as reading a loss waits for the device
            _check_finite(all_reduce(totals)[0].item(), epoch, scheduler)
    loss_sum, right, counted = all_reduce(totals).tolist()
    return {"train_loss": loss_sum / len(sums), "train_accuracy": right / counted}


@torch.no_grad()
def validate(model: StripModel, images: Tensor, sums: Tensor, bfloat16: bool = True) -> dict[str, float]:
    """Return mean loss and accuracy over images (N, 40, W) uint8 on the device, of all processes together."""
    model.eval()
    objective, totals = model.objective, torch.zeros(3, device=images.device)  # of the loss; of right sums; of strips
    for batch, targets in zip(images.split(EVALUATION_BATCH), sums.split(EVALUATION_BATCH), strict=True):
        with autocast(images.device, bfloat16):
            outputs = model(to_input(batch)).float()
        totals[0] += objective.loss(outputs, targets) * len(targets)
        totals[1] += (objective.sums(outputs) == objective.truth(targets)).sum()
        totals[2] += len(targets)
    loss_sum, right, counted = all_reduce(totals).tolist()
    return {"val_loss": loss_sum / counted, "val_accuracy": right / counted}


def batches(images: Tensor, sums: Tensor, batch_size: int, trim: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images and targets in random order, in batches of nearly the same size: none is a single strip.

    With `trim`, strips of similar width come together, without the columns that are blank in all of them.
    """
    steps, order = math.ceil(len(sums) / batch_size), torch.randperm(len(sums))
    groups: Sequence[Tensor] = order.tensor_split(steps)
    width = images.shape[2]
    if trim:
        ends = ink_ends(images).cpu()
        pools = order.tensor_split(math.ceil(steps / POOL))
        alike = torch.cat([pool[ends[pool].argsort(stable=True)] for pool in pools]).tensor_split(steps)
        groups = [alike[i] for i in torch.randperm(steps)]
    for rows in groups:
        if trim:
            width = min(images.shape[2], int(ends[rows].max()) + MARGIN) // 4 * 4
        rows = rows.to(images.device)
        yield images[rows, :, :width], sums[rows]


def ink_ends(images: Tensor) -> Tensor:
    """Return the number of columns (N,) up to the last that holds ink, of images (N, 40, W) uint8."""
    columns = torch.arange(1, images.shape[2] + 1, device=images.device)
    return ((images.amax(dim=1) > 0) * columns).amax(dim=1)


def resident(strips: Strips, device: torch.device) -> tuple[Tensor, Tensor]:
    """Copy images (N, 40, W) uint8 and targets to the device: a whole set is small enough to live there."""
    return torch.tensor(strips.images, device=device), torch.tensor(strips.sums, device=device)


def to_input(images: Tensor) -> Tensor:
    """Turn images (N, 40, W) uint8 into a model's input: (N, 1, 40, W) float32 in 0..1, channels last."""
    return images.unsqueeze(1).to(torch.float32, memory_format=torch.channels_last).div_(255)


def _check_finite(loss: float, epoch: int, scheduler: LRScheduler) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"The loss is {loss} in epoch {epoch}, by step {scheduler.last_epoch} (learning rate "
            f"{scheduler.get_last_lr()[0]:.2e}). Try a lower learning rate; the state of the last whole epoch is kept."
        )


def _resume(run: Run, path: Path, key: dict[str, Any], parts: dict[str, Any]) -> dict[str, Tensor]:
    """Put the state at `path` back into the run and its parts; return the best weights so far."""
    state = load_state(path)
    with refusing(path, "Delete it to start that run anew."):
        there = state["key"]
        if there | {"settings": key["settings"]} != key or not same_settings(there["settings"], key["settings"]):
            raise ValueError("it is the state of a run with other settings or other data")
        run.model.load_state_dict(state["best"])
        for name, part in parts.items():
            part.load_state_dict(state[name])
        run.history, run.best_epoch, run.sessions = state["history"], state["best_epoch"], state["sessions"]
    return state["best"]


@contextmanager
def _seeded(*parts: int, device: torch.device | None = None) -> Iterator[None]:
    """Make torch's random draws a function of `parts`, and restore the caller's random state afterwards."""
    gpus = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1)))
        yield
