"""Training: one visible loop, on whatever device there is."""

from __future__ import annotations

import ctypes
import platform
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from tqdm.auto import tqdm

from .checkpoints import load_state, save_state
from .compose import Strips
from .cuts import cut
from .data import Data
from .experiments import EXPERIMENTS, Experiment
from .models import MODELS, StripModel
from .objectives import OBJECTIVES
from .optim import OPTIMIZERS

SCHEDULES: dict[str, Callable[[torch.optim.Optimizer, int, float], LRScheduler]] = {
    "constant": lambda optimizer, steps, warmup: LambdaLR(optimizer, lambda step: 1.0),
    "one_cycle": lambda optimizer, steps, warmup: OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], steps, pct_start=warmup, cycle_momentum=False
    ),
}
EVALUATION_BATCH = 512
ACCURACY_EVERY = 8  # batches; the training accuracy of a curve needs no more, and a reader's sums cost time
POOL, MARGIN = 16, 8  # batches that are sorted by width together; columns kept right of a batch's ink


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where it stopped and what may help."""


@dataclass
class Run:
    """A finished training run: the model with its best weights on validation, and how it got there."""

    experiment: Experiment
    seed: int
    model: StripModel
    last: dict[str, Tensor]
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    seconds: float = 0.0


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The device asked for; "auto" takes CUDA, then Apple's MPS, then the CPU."""
    if str(device) != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 faster than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for the next step, where it is glibc; otherwise nothing changes.

    By itself it gives every large tensor back to the system, and at the next step the same memory comes back page by
    page. Up to 2 GB stay with the process. The numbers are those of mallopt(3): M_TRIM_THRESHOLD and M_MMAP_THRESHOLD.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(-1, 2**31 - 1)
        library.mallopt(-3, 2**25)


def build(experiment: Experiment, seed: int = 0) -> StripModel:
    """The experiment's untrained model on the CPU, with its objective as `.objective`; the same for the same seed."""
    objective = replace(OBJECTIVES[experiment.objective], **experiment.objective_args)
    args = dict(experiment.model_args) | ({"weights": experiment.weights} if experiment.weights else {})
    with _seeded(seed):
        model = MODELS[experiment.model](outputs=objective.outputs, **args)
    model.objective = objective
    return model


def to_input(images: Tensor) -> Tensor:
    """Images (N, 40, W) uint8 as a model takes them: (N, 1, 40, W) float32 in 0..1, channels last."""
    return images.unsqueeze(1).to(torch.float32, memory_format=torch.channels_last).div_(255)


def train(
    experiment: str | Experiment,
    data: Data,
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    state_path: Path | None = None,
    progress: bool = True,
) -> Run:
    """Train one experiment on `data.train`, choosing the epoch that is best on `data.val`; test sets are not touched.

    Where `state_path` is given, the state is kept there after every epoch, and a run that was interrupted goes on from
    it: on the CPU to the very same weights, since the order of the data and every random draw depend on seed and epoch
    alone. Raises `TrainingError` when the loss stops being finite.
    """
    if isinstance(experiment, str):
        experiment = EXPERIMENTS[experiment]
    device = pick_device(device)
    keep_freed_memory()
    model = build(experiment, seed).to(device).to(memory_format=torch.channels_last)
    strips, choose = data.train[: experiment.train_limit], data.val
    learn = strips[np.tile(np.arange(len(strips)), experiment.passes)]
    if model.reads_cuts:
        learn, choose = cut(learn), cut(choose)
    images, sums = resident(learn, device)
    val_images, val_sums = resident(choose, device)
    steps = -(-len(sums) // experiment.batch_size)
    if len(sums) // steps < 2:
        raise TrainingError(
            f"{len(sums)} training strips in batches of {experiment.batch_size} leave a batch of one strip, which "
            "batch normalisation cannot take. Use larger batches or more strips."
        )
    optimizer = OPTIMIZERS[experiment.optimizer](model, experiment.lr, experiment.weight_decay)
    scheduler = SCHEDULES[experiment.schedule](optimizer, steps * experiment.epochs, experiment.warmup)
    run = Run(experiment, seed, model, last={})
    best: dict[str, Tensor] = {}
    key = repr((sorted(asdict(experiment).items()), seed, data.fingerprint))

    if state_path and state_path.exists():
        state = load_state(state_path, key)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        best, run.history = state["best"], state["history"]
        run.best_epoch, run.seconds = state["best_epoch"], state["seconds"]

    total, done = steps * experiment.epochs, steps * len(run.history)
    with tqdm(total=total, initial=done, desc=experiment.name, disable=not progress) as bar:
        for epoch in range(len(run.history) + 1, experiment.epochs + 1):
            started = time.perf_counter()
            with _seeded(seed, epoch, device=device):
                trained = _train_epoch(model, optimizer, scheduler, experiment, images, sums, epoch, bar)
            val = validate(model, val_images, val_sums)
            lr = optimizer.param_groups[0]["lr"]
            _check_finite(torch.tensor([val["loss"]]), epoch, steps, lr)
            row = {
                "epoch": epoch, "train_loss": trained["loss"], "train_accuracy": trained["accuracy"],
                "val_loss": val["loss"], "val_accuracy": val["accuracy"], "val_mae": val["mae"],
                "lr": lr, "seconds": time.perf_counter() - started,
            }  # fmt: skip
            run.history.append(row)
            run.seconds += row["seconds"]
            if not best or _score(row, experiment) > _score(run.history[run.best_epoch - 1], experiment):
                run.best_epoch, best = epoch, _weights(model)
            bar.set_postfix(epoch=epoch, loss=f"{row['train_loss']:.3f}", val_accuracy=f"{row['val_accuracy']:.1%}")
            if state_path:
                save_state(
                    state_path, key=key, model=model.state_dict(), optimizer=optimizer.state_dict(),
                    scheduler=scheduler.state_dict(), best=best, history=run.history, best_epoch=run.best_epoch,
                    seconds=run.seconds,
                )  # fmt: skip
    run.last = _weights(model)
    model.load_state_dict(best)
    model.eval()
    return run


def _train_epoch(
    model: StripModel,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
    experiment: Experiment,
    images: Tensor,
    sums: Tensor,
    epoch: int,
    bar: tqdm,
) -> dict[str, float]:
    """One pass over resident images (N, 40, W) uint8 in random order.

    Returns the mean loss, and the accuracy on every ACCURACY_EVERY-th batch.
    """
    model.train()
    objective, device = model.objective, images.device
    steps = -(-len(sums) // experiment.batch_size)
    losses = torch.zeros(steps, device=device)
    correct, counted = torch.zeros((), device=device), 0
    ends = _ink_ends(images).cpu() if experiment.crop else None
    for step, rows in enumerate(_batches(steps, len(sums), ends)):
        width = images.shape[2] if ends is None else min(images.shape[2], int(ends[rows].max()) + MARGIN) // 4 * 4
        rows = rows.to(device)
        batch = to_input(images[rows, :, :width])
        if experiment.augment:
            batch = experiment.augment(batch)
        with autocast(device):
            outputs = model(batch)
        outputs = outputs.float()
        loss = objective.loss(outputs, sums[rows], step=(epoch - 1) * steps + step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        with autocast(device):  # for Muon's matrix products
            optimizer.step()
        scheduler.step()
        losses[step] = loss.detach() * len(rows)
        if step % ACCURACY_EVERY == 0:
            correct += (objective.sums(outputs.detach()) == sums[rows]).sum()
            counted += len(rows)
        bar.update()
        if step % 50 == 49 or step == steps - 1:  # reading a loss waits for the device, so not at every step
            _check_finite(losses[: step + 1], epoch, 1, optimizer.param_groups[0]["lr"])
    return {"loss": losses.sum().item() / len(sums), "accuracy": correct.item() / counted}


def _batches(steps: int, n: int, ends: Tensor | None) -> list[Tensor]:
    """The row numbers 0..n-1 in random order, in `steps` batches of nearly the same size, so that none is a lone strip.

    Given the column `ends` (N,) of each strip, strips of similar ends come together, the batches in random order.
    """
    order = torch.randperm(n)
    if ends is None:
        return list(order.tensor_split(steps))
    pools = order.tensor_split(-(-steps // POOL))
    order = torch.cat([pool[ends[pool].argsort(stable=True)] for pool in pools])
    batches = order.tensor_split(steps)
    return [batches[i] for i in torch.randperm(steps)]


def _ink_ends(images: Tensor) -> Tensor:
    """The number of columns (N,) up to and with the last that holds ink, of images (N, 40, W) uint8."""
    columns = torch.arange(1, images.shape[2] + 1, device=images.device)
    return ((images.amax(dim=1) > 0) * columns).amax(dim=1)


def resident(strips: Strips, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images (N, 40, W) uint8 and sums (N,) on the device: a whole set is small enough to live there."""
    return torch.from_numpy(np.array(strips.images)).to(device), torch.from_numpy(np.array(strips.sums)).to(device)


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 autocast where the device has it, otherwise nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_bfloat16(device))


@torch.no_grad()
def validate(model: StripModel, images: Tensor, sums: Tensor) -> dict[str, float]:
    """Loss, accuracy of the predicted sums and mean absolute error over resident images (N, 40, W) uint8."""
    model.eval()
    objective = model.objective
    loss = correct = error = torch.zeros((), device=images.device)
    for batch, truth in zip(images.split(EVALUATION_BATCH), sums.split(EVALUATION_BATCH), strict=True):
        with autocast(images.device):
            outputs = model(to_input(batch))
        outputs = outputs.float()
        loss = loss + objective.loss(outputs, truth) * len(truth)
        values = objective.values(outputs)
        correct = correct + (objective.whole(values) == truth).sum()
        error = error + (values - truth).abs().sum()
    return {"loss": loss.item() / len(sums), "accuracy": correct.item() / len(sums), "mae": error.item() / len(sums)}


def _weights(model: StripModel) -> dict[str, Tensor]:
    """A copy of all weights and buffers on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def _score(row: dict[str, float], experiment: Experiment) -> float:
    return -row["val_loss"] if experiment.select == "loss" else row["val_accuracy"]


def _check_finite(losses: Tensor, epoch: int, first_step: int, lr: float) -> None:
    """Stop at the first loss that is not a number or infinite."""
    bad = (~torch.isfinite(losses)).nonzero()
    if len(bad):
        raise TrainingError(
            f"The loss is {losses[bad[0, 0]].item()} in epoch {epoch} at step {int(bad[0, 0]) + first_step} (learning "
            f"rate about {lr:.2e}). A lower learning rate usually helps; the state of the last whole epoch is kept."
        )


@contextmanager
def _seeded(*parts: int, device: torch.device | None = None):
    """Draw from torch's random numbers as a function of `parts`, and leave the caller's stream as it was."""
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1)))
        yield
