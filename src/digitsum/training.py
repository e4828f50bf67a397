"""Training: one visible loop, on whatever device there is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from tqdm.auto import tqdm

from . import distributed, extras
from .boxes import boxed
from .checkpoints import CheckpointError, in_brief, load_state, save_state
from .compose import Strips
from .cuts import cut
from .data import Data
from .devices import autocast, denormals_as_zero, keep_freed_memory, pick_device
from .experiments import EXPERIMENTS, Experiment, decisive
from .models import MODELS, StripModel
from .models.layers import MARGIN, ink_ends
from .objectives import OBJECTIVES
from .optim import OPTIMIZERS
from .provenance import provenance
from .stream import StripStream


def _one_cycle(optimizer: torch.optim.Optimizer, steps: int, warmup: float) -> LRScheduler:
    if warmup * steps == 1:  # by whose distance from 1 OneCycleLR divides
        warmup *= 1 + 1e-9
    rates = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, rates, steps, pct_start=warmup, cycle_momentum=False)


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer, int, float], LRScheduler]] = {
    "constant": lambda optimizer, steps, warmup: LambdaLR(optimizer, lambda step: 1.0),
    "one_cycle": _one_cycle,
}
EVALUATION_BATCH = 128  # on two CPU cores up to half as fast again as 512, whose activations fit no cache
ACCURACY_EVERY = 8  # batches; the training accuracy of a curve needs no more, and a reader's sums cost time
POOL = 16  # batches that are sorted by width together


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where it stopped and what may help."""


@dataclass
class Run:
    """A finished training run: the model with its best weights on validation, and how it got there.

    `sessions` tells on what and with which code it was trained, in order: one entry, and another wherever it went on
    after an interruption under other circumstances.
    """

    experiment: Experiment
    seed: int
    model: StripModel
    last: dict[str, Tensor]
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    seconds: float = 0.0
    sessions: list[dict[str, Any]] = field(default_factory=list)


def build(experiment: Experiment, seed: int = 0) -> StripModel:
    """The experiment's untrained model on the CPU, with its objective as `.objective`; the same for the same seed."""
    objective = replace(OBJECTIVES[experiment.objective], **experiment.objective_args)
    args = dict(experiment.model_args) | ({"weights": experiment.weights} if experiment.weights else {})
    with _seeded(seed):
        model = MODELS[experiment.model](outputs=objective.outputs, **args)
    model.objective = objective
    return model


def trainable(model: StripModel) -> bool:
    """Whether there is anything to train, as there is not in report E's OCR."""
    return any(p.requires_grad for p in model.parameters())


def run_key(experiment: Experiment, *others: Any) -> str:
    """A text that tells runs apart by the settings that decide and by `others`."""
    return repr((sorted(decisive(asdict(experiment)).items()), *others))


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
    alone. A model with nothing to train comes back as it is, with an empty history. Raises `TrainingError` when the
    loss stops being finite.
    """
    if isinstance(experiment, str):
        experiment = EXPERIMENTS[experiment]
    device = pick_device(device)
    keep_freed_memory()
    model = build(experiment, seed).to(device).to(memory_format=torch.channels_last)
    if not trainable(model):
        return Run(experiment, seed, model.eval(), last=_weights(model))
    strips: Strips | StripStream = data.train[: experiment.train_limit]
    choose = data.val
    if isinstance(strips, Strips):
        if experiment.passes > 1:  # indexing copies
            strips = strips[np.tile(np.arange(len(strips)), experiment.passes)]
        if model.reads_cuts:
            strips, choose = cut(strips), cut(choose)
        elif model.reads_boxes:
            strips, choose = boxed(strips), boxed(choose)
    elif model.reads_cuts or model.reads_boxes:
        raise TrainingError(f"{experiment.name} learns from digits' places, which a stream of strips does not tell")
    sizes, parts = strips.sizes if isinstance(strips, StripStream) else [len(strips)], _parts(strips, device)
    val_images, val_sums = (distributed.mine(tensor) for tensor in resident(choose, device))
    steps = sum(_steps(size, experiment.batch_size) for size in sizes)
    if min(size // _steps(size, experiment.batch_size) for size in sizes) < 2 * distributed.processes():
        raise TrainingError(
            f"{len(strips)} training strips in batches of {experiment.batch_size} leave a batch of one strip to a "
            "process, which batch normalisation cannot take. Use larger batches or more strips."
        )
    if len(data.val) < distributed.processes():
        raise TrainingError(f"{len(data.val)} validation strips are too few for {distributed.processes()} processes")
    optimizer = OPTIMIZERS[experiment.optimizer](model, experiment.lr, experiment.weight_decay)
    scheduler = SCHEDULES[experiment.schedule](optimizer, steps * experiment.epochs, experiment.warmup)
    run = Run(experiment, seed, model, last={})
    best: dict[str, Tensor] = {}
    key = run_key(experiment, seed, data.fingerprint)
    here = provenance(device)
    here["versions"] |= extras.versions(experiment.model)

    if state_path and state_path.exists():
        state = load_state(state_path, key)
        try:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            scheduler.load_state_dict(state["scheduler"])
            best, run.history = state["best"], state["history"]
            run.best_epoch, run.seconds, run.sessions = state["best_epoch"], state["seconds"], state["sessions"]
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{state_path} does not fit this version of the code: {in_brief(error)}. Go on with the version that "
                "left it, or delete it to start that run anew."
            ) from error
    if not run.sessions or run.sessions[-1] | {"date": here["date"]} != here:
        run.sessions.append(here)

    net = distributed.parallel(model)
    total, done = steps * experiment.epochs, steps * len(run.history)
    with tqdm(total=total, initial=done, desc=experiment.name, disable=not progress or distributed.rank() > 0) as bar:
        for epoch in range(len(run.history) + 1, experiment.epochs + 1):
            started = time.perf_counter()
            with _seeded(seed, epoch, device=device):
                trained = train_epoch(net, optimizer, scheduler, experiment, parts(), steps, epoch, bar)
            distributed.average_statistics(model)
            val = validate(model, val_images, val_sums, experiment.bfloat16)
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
            if state_path and distributed.rank() == 0:
                save_state(
                    state_path, key=key, model=model.state_dict(), optimizer=optimizer.state_dict(),
                    scheduler=scheduler.state_dict(), best=best, history=run.history, best_epoch=run.best_epoch,
                    seconds=run.seconds, sessions=run.sessions,
                )  # fmt: skip
    run.last = _weights(model)
    model.load_state_dict(best)
    model.eval()
    return run


@denormals_as_zero()
def train_epoch(
    model: StripModel,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
    experiment: Experiment,
    parts: Iterable[tuple[Tensor, Tensor]],
    steps: int,
    epoch: int,
    bar: tqdm,
) -> dict[str, float]:
    """One pass over `parts`, each images (N, 40, W) uint8 and sums (N,) on the device; `steps` batches in all.

    Returns the mean loss, and the accuracy on every ACCURACY_EVERY-th batch.
    """
    model.train()
    objective, device = model.objective, next(model.parameters()).device
    augment = experiment.augment
    if augment and epoch > round((1 - experiment.clean) * experiment.epochs):
        augment = augment.moving
    losses = torch.zeros(steps, device=device)
    correct, counted, n = torch.zeros((), device=device), 0, 0
    for step, (images, sums) in enumerate(shuffled(parts, experiment.batch_size, experiment.crop)):
        batch, size = to_input(images), len(sums)
        if augment:
            batch = augment(batch)
        batch, sums = distributed.mine(batch), distributed.mine(sums)
        with autocast(device, experiment.bfloat16):
            outputs = model(batch)
        outputs = outputs.float()
        loss = objective.loss(outputs, sums, step=(epoch - 1) * steps + step)
        optimizer.zero_grad(set_to_none=True)
        distributed.weighted(loss, len(sums), size).backward()
        with autocast(device, experiment.bfloat16):  # for Muon's matrix products
            optimizer.step()
        scheduler.step()
        losses[step] = loss.detach() * len(sums)
        n += size
        if step % ACCURACY_EVERY == 0:
            correct += (objective.sums(outputs.detach()) == objective.truth(sums)).sum()
            counted += size
        bar.update()
        if step % 50 == 49 or step == steps - 1:  # reading a loss waits for the device, so not at every step
            lr = optimizer.param_groups[0]["lr"]
            _check_finite(distributed.total(losses[: step + 1]), epoch, 1, lr)
    loss, correct = distributed.total(torch.stack([losses.sum(), correct]))
    return {"loss": loss.item() / n, "accuracy": correct.item() / counted}


def _parts(strips: Strips | StripStream, device: torch.device) -> Callable[[], Iterable[tuple[Tensor, Tensor]]]:
    """What gives an epoch its images and sums on the device: the whole set, held there, or a stream's chunks."""
    if isinstance(strips, StripStream):
        chunks = len(strips.sizes)
        return lambda: (resident(chunk, device) for chunk in strips.chunks(torch.randperm(chunks).tolist()))
    held = [resident(strips, device)]
    return lambda: held


def shuffled(
    parts: Iterable[tuple[Tensor, Tensor]], batch_size: int, crop: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each part's images and sums in random order, in batches of nearly the same size.

    None is then a lone strip, which batch norm could not take. Where asked to `crop`, strips whose ink ends in similar
    columns come together, the batches in random order and without the columns that are blank in all of their strips.
    """
    for images, sums in parts:
        steps, order = _steps(len(sums), batch_size), torch.randperm(len(sums))
        if not crop:
            for rows in order.to(images.device).tensor_split(steps):
                yield images[rows], sums[rows]
            continue
        ends = ink_ends(images).cpu()
        pools = order.tensor_split(-(-steps // POOL))
        batches = torch.cat([pool[ends[pool].argsort(stable=True)] for pool in pools]).tensor_split(steps)
        for rows in (batches[i] for i in torch.randperm(steps)):
            width = min(images.shape[2], int(ends[rows].max()) + MARGIN) // 4 * 4
            rows = rows.to(images.device)
            yield images[rows, :, :width], sums[rows]


def _steps(strips: int, batch_size: int) -> int:
    return -(-strips // batch_size)


def resident(strips: Strips, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images (N, 40, W) uint8 and sums (N,) on the device: a whole set is small enough to live there."""
    return torch.from_numpy(np.array(strips.images)).to(device), torch.from_numpy(np.array(strips.sums)).to(device)


@torch.no_grad()
@denormals_as_zero()
def validate(model: StripModel, images: Tensor, sums: Tensor, bfloat16: bool = True) -> dict[str, float]:
    """Loss, accuracy of the predicted sums and mean absolute error over resident images (N, 40, W) uint8, at one look.

    Over those of all processes, where there are several.
    """
    model.eval()
    objective = model.objective
    loss = correct = error = torch.zeros((), device=images.device)
    for batch, truth in zip(images.split(EVALUATION_BATCH), sums.split(EVALUATION_BATCH), strict=True):
        with autocast(images.device, bfloat16):
            outputs = model(to_input(batch))
        outputs = outputs.float()
        loss = loss + objective.loss(outputs, truth) * len(truth)
        truth = objective.truth(truth)
        values = objective.values(outputs)
        correct = correct + (objective.whole(values) == truth).sum()
        error = error + (values - truth).abs().sum()
    count = torch.tensor(len(sums), device=images.device)
    loss, correct, error, count = distributed.total(torch.stack([loss, correct, error, count])).tolist()
    return {"loss": loss / count, "accuracy": correct / count, "mae": error / count}


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
    """Draw from torch's random numbers as a function of `parts`, and leave the caller's as they were.

    Put back are the processor's and, where `device` is one, that GPU's; those of other GPUs are not.
    """
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1)))
        yield
