"""The real train() on a handful of strips: it learns, it is reproducible, it stops and resumes as promised."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SMALL, Told, interrupt, run, telling
from scipy.stats import binomtest, entropy
from torch import nn

from digitsum import devices, provenance, training
from digitsum.checkpoints import load_state, save_state
from digitsum.compose import Strips, compose
from digitsum.data import source_glyphs
from digitsum.errors import CheckpointError, DeviceError, TrainingError
from digitsum.evaluation import predict
from digitsum.experiments import EXPERIMENTS, Augmentation
from digitsum.objectives import OBJECTIVES, Regression
from digitsum.optim import OPTIMIZERS
from digitsum.training import Run, batches, resident, validate

CPU = torch.device("cpu")
STEPS = 3  # an epoch of the experiments below, on the 48 strips of `tiny`
SHORT = replace(
    EXPERIMENTS["baseline_cnn-regression"], model_args={"channels": (4, 8), "hidden": 16}, epochs=3, batch_size=16
)
# Everything that a run's state must carry: running statistics, a schedule, momenta, random draws within an epoch.
STATEFUL = replace(
    EXPERIMENTS["cnn_attention-regression"], epochs=3, batch_size=16, augment=Augmentation(shift=2, shear=0.2)
)


def without_time(run: Run) -> list[dict[str, float]]:
    return [row | {"seconds": 0} for row in run.history]


def assert_same_run(one: Run, other: Run) -> None:
    """Bit for bit, apart from the time it took."""
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert without_time(one) == without_time(other) and one.best_epoch == other.best_epoch


@pytest.fixture(scope="module")
def short_run(tiny) -> Run:
    return run(SHORT, tiny)


@pytest.fixture(scope="module")
def stateful_run(tiny) -> Run:
    return run(STATEFUL, tiny)


# Learning


@pytest.mark.parametrize("name", [name for name in SMALL if name != "reader"])
def test_memorises_a_handful(name, tiny):
    """To a loss that one answer to all strips cannot have: below the sums' variance, or the labels' entropy."""
    experiment, data = replace(EXPERIMENTS[name], epochs=16, batch_size=16, augment=None), tiny.head(16, 8)
    if experiment.objective == "regression":  # around 0, so that no step is spent on the sums' mean
        data = replace(data, train=replace(data.train, sums=data.train.sums - 18))
    losses = [row["train_loss"] for row in run(experiment, data).history]
    assert losses[-1] < 0.7 * losses[0]
    if experiment.objective == "regression":
        assert losses[-1] < data.train.sums.var()
    if experiment.objective == "classification":
        assert losses[-1] < entropy(np.bincount(data.train.sums))


def test_a_reader_learns_from_the_likelihood_alone(tiny):
    """From the first loss on, which is no squared error, to one that the same answer to all strips cannot have."""
    experiment = replace(
        EXPERIMENTS["reader"], model_args={"widths": (16, 32, 64)}, objective_args={"start_steps": 0}, epochs=24,
        lr=0.01, schedule="constant", augment=None,
    )  # fmt: skip
    data = tiny.head(8, 8)
    losses = [row["train_loss"] for row in run(experiment, data).history]
    assert losses[-1] < entropy(np.bincount(data.train.sums)) < losses[0] / 2


def test_learns_to_read_strips_that_it_has_not_seen(tiny):
    """Of one digit each: more right sums than the best constant answer has, by a binomial test."""

    def strips(glyphs, n: int, seed: int) -> Strips:
        drawn = compose(*glyphs, n, seed=seed, digits=1)
        return Strips(drawn.images[:, :, :40], drawn.sums)

    seen, unseen = source_glyphs("digits")
    experiment = replace(
        EXPERIMENTS["reader"], model_args={"widths": (16, 32, 64)}, objective_args={"count": 1, "start_steps": 0},
        epochs=3, batch_size=32, trim=False, augment=None,
    )  # fmt: skip
    result = run(experiment, replace(tiny, train=strips(seen, 800, 0), val=strips(seen, 50, 1)))
    test = strips(unseen, 200, 2)
    right = int((predict(result.model, test.images, digits=1) == test.sums).sum())
    constant = np.bincount(test.sums).max() / len(test)
    assert binomtest(right, len(test), constant, alternative="greater").pvalue < 1e-6


@pytest.mark.parametrize(("wanted", "there"), [(True, True), (False, True), (True, False)])
def test_trains_in_bfloat16_where_it_is_wanted_and_there_and_predicts_in_float32(wanted, there, tiny, monkeypatch):
    noted, build = [], training.build

    def noting(*args):
        model = build(*args)
        model.register_forward_hook(lambda *_: noted.append((model.training, torch.is_autocast_enabled("cpu"))))
        return model

    monkeypatch.setattr(training, "build", noting)
    monkeypatch.setattr(devices, "has_bfloat16", lambda device: there)
    result = run(replace(SHORT, epochs=1, bfloat16=wanted), tiny.head(16, 4))
    assert [autocast for in_training, autocast in noted if in_training] == [wanted and there]
    noted.clear()
    predict(result.model, tiny.val.images)
    assert noted == [(False, False)]


def test_resnet50_takes_a_step(tiny):
    experiment = replace(EXPERIMENTS["resnet50-classification"], weights=None, epochs=1, batch_size=2)
    start, end = training.build(experiment).state_dict(), run(experiment, tiny.head(2, 2)).model.state_dict()
    assert not any(torch.equal(start[name], end[name]) for name in ("backbone.conv1.weight", "head.weight"))


def test_history_has_a_row_for_each_epoch(short_run):
    assert [row["epoch"] for row in short_run.history] == [1, 2, 3]
    for row in short_run.history:
        assert row.keys() == {"epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds"}
        assert all(isinstance(value, (int, float)) and math.isfinite(value) for value in row.values())
        assert row["lr"] == SHORT.lr
    assert short_run.seconds == pytest.approx(sum(row["seconds"] for row in short_run.history))


@pytest.mark.parametrize(
    ("schedule", "steps", "warmup", "rates"),
    [
        ("constant", 100, 0.1, {0: 1.0, 10: 1.0, 99: 1.0}),
        ("one_cycle", 100, 0.1, {0: 1 / 25, 9: 1.0, 99: 4e-6}),
        ("one_cycle", 40, 0.025, {39: 4e-6}),  # a warm-up of a single step
        ("one_cycle", 1, 0.3, {0: 4e-6}),
    ],
)
def test_schedules(schedule, steps, warmup, rates):
    """As fractions of the learning rate."""
    optimizer = OPTIMIZERS["adamw"](nn.Linear(1, 1), 0.5, 0.0)
    scheduler = training.SCHEDULES[schedule](optimizer, steps, warmup)
    used = []
    for _ in range(steps):
        used.append(optimizer.param_groups[0]["lr"] / 0.5)
        optimizer.step()
        scheduler.step()
    assert {step: used[step] for step in rates} == pytest.approx(rates)
    assert min(used) > 0 and max(used) <= 1


def test_averages_are_those_of_the_strips(tiny, monkeypatch):
    """In training, with a learning rate of zero in batches of four and of three strips; and in validation."""
    sums = np.arange(38) % 20
    strips = telling(10 * sums + 20 * (np.arange(38) >= 30), sums)  # the last eight are 2 off
    monkeypatch.setattr(training, "build", lambda *_: Told())
    monkeypatch.setattr(training, "ACCURACY_EVERY", 1)
    monkeypatch.setattr(training, "EVALUATION_BATCH", 3)
    experiment = replace(SHORT, lr=0.0, epochs=1, batch_size=4)
    (row,) = run(experiment, replace(tiny, train=strips, val=strips[20:])).history
    assert row["train_accuracy"] == pytest.approx(30 / 38) and row["val_accuracy"] == pytest.approx(10 / 18)
    assert row["train_loss"] == pytest.approx(4 * 8 / 38, rel=1e-4)
    assert row["val_loss"] == pytest.approx(4 * 8 / 18, rel=1e-4)


@pytest.mark.parametrize("trim", [False, True])
def test_batches_hold_every_strip_once_with_all_of_its_ink(trim):
    images = torch.zeros(67, 40, 168, dtype=torch.uint8)
    images[torch.arange(67), 0, 2 * torch.arange(67)] = 255
    torch.manual_seed(0)
    one, other = (list(batches(images, torch.arange(67), 8, trim)) for _ in range(2))
    for epoch in (one, other):
        assert sorted(len(sums) for _, sums in epoch) == [7] * 5 + [8] * 4
        assert sorted(torch.cat([sums for _, sums in epoch]).tolist()) == list(range(67))
        assert all((batch.amax((1, 2)) == 255).all() for batch, _ in epoch)
    assert [sums.tolist() for _, sums in one] != [sums.tolist() for _, sums in other]
    widths = [batch.shape[2] for batch, _ in one]
    assert all(width % 4 == 0 for width in widths) and (widths == [168] * 9) != trim
    if trim:  # strips of similar width come together, and batches in random order
        assert all(sums.max() - sums.min() < 8 for _, sums in one) and widths != sorted(widths)


@pytest.mark.parametrize("name", SMALL)
def test_a_lone_strip_in_the_last_batch_is_no_obstacle(name, tiny):
    """Batch normalisation cannot train on a batch of one; 16 leaves one of 17."""
    assert len(run(replace(EXPERIMENTS[name], epochs=1, batch_size=16), tiny.head(17, 4)).history) == 1


# What it may see, and what decides


class Sealed(SimpleNamespace):
    """Strips that must not be looked at: only their fingerprint is there, everything else is an AttributeError."""


def test_sees_nothing_but_images_and_sums_of_training_and_validation(short_run, tiny):
    sealed = replace(
        tiny,
        train=Strips(tiny.train.images, tiny.train.sums),
        val=Strips(tiny.val.images, tiny.val.sums),
        test=Sealed(fingerprint=tiny.test.fingerprint),
        unseen=Sealed(fingerprint=tiny.unseen.fingerprint),
    )
    torch.manual_seed(12345)  # what was drawn before decides nothing either
    assert_same_run(run(SHORT, sealed), short_run)


def test_validation_strips_do_not_train(short_run, tiny):
    other = run(SHORT, replace(tiny, val=tiny.test))
    assert [row["train_loss"] for row in other.history] == [row["train_loss"] for row in short_run.history]
    assert other.history[0]["val_loss"] != short_run.history[0]["val_loss"]


def test_seed_limit_and_repeats_decide(short_run, tiny):
    assert without_time(run(SHORT, tiny, seed=1)) != without_time(short_run)
    assert without_time(run(replace(SHORT, train_limit=20), tiny)) == without_time(run(SHORT, tiny.head(20)))
    twice = replace(tiny, train=tiny.train[np.arange(48).repeat(2)])
    one, other = run(replace(SHORT, lr=0.0, repeats=2), tiny), run(replace(SHORT, lr=0.0), twice)
    assert one.history[0]["train_loss"] == pytest.approx(other.history[0]["train_loss"], rel=1e-4)


def test_the_callers_random_streams_stay_untouched(tiny):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    run(replace(STATEFUL, epochs=1), tiny)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])


@pytest.mark.parametrize(("select", "best"), [("accuracy", 2), ("loss", 4)])
def test_best_is_the_first_epoch_that_is_best_by_select(select, best, tiny, monkeypatch):
    """Validation is scripted; the run must end with the weights that it saw in the best epoch."""
    script = zip([3.0, 2.0, 2.5, 1.0, 1.0], [0.1, 0.5, 0.3, 0.5, 0.2], strict=True)
    weights = []

    def scripted(model, images, sums, bfloat16):
        weights.append(model.head.weight.detach().clone())
        loss, accuracy = next(script)
        return {"loss": loss, "accuracy": accuracy}

    monkeypatch.setattr(training, "validate", scripted)
    result = run(replace(SHORT, epochs=5, select=select), tiny)
    assert result.best_epoch == best
    assert torch.equal(result.model.head.weight, weights[best - 1])
    assert not torch.equal(weights[best - 1], weights[-1])


def test_the_model_validates_as_its_best_epoch_did(stateful_run, tiny):
    row = stateful_run.history[stateful_run.best_epoch - 1]
    found = validate(stateful_run.model, *resident(tiny.val, CPU))
    assert {f"val_{name}": value for name, value in found.items()}.items() <= row.items()
    assert not stateful_run.model.training and stateful_run.model.objective == OBJECTIVES["regression"]


# Runs that cannot go on


@dataclass(frozen=True)
class Broken(Regression):
    """Regression whose loss is `value` from the given training step on."""

    value: float = math.nan
    step: int = 0

    def loss(self, outputs, targets, step=None):
        loss = super().loss(outputs, targets)
        return loss * self.value if step is not None and step >= self.step else loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("step", "epoch"), [(0, 1), (4, 2)])
def test_a_loss_that_is_not_finite_stops_the_run(value, step, epoch, tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "regression", Broken(value=value, step=step))
    state_path = tmp_path / "resume.pt"
    with pytest.raises(TrainingError, match=f"epoch {epoch}, by step {STEPS * epoch} .*1.00e-03"):
        run(SHORT, tiny, state_path=state_path)
    assert state_path.exists() == (epoch > 1), "the last whole epoch is kept, if there is one"


@pytest.mark.parametrize("batch_size", [4, 48])
def test_too_high_a_learning_rate_stops_the_run(batch_size, tiny):
    """With 48 the only training loss is still finite: what the step has done shows on validation first."""
    with pytest.raises(TrainingError, match=r"epoch 1, by step \d+ .*1\.00e\+30.*lower learning rate"):
        run(replace(SHORT, batch_size=batch_size, epochs=1, lr=1e30), tiny)


@pytest.mark.parametrize(("strips", "validation", "batch_size"), [(1, 4, 16), (0, 4, 16), (8, 4, 1), (8, 0, 4)])
def test_too_few_strips_are_refused_before_training(strips, validation, batch_size, tiny):
    with pytest.raises(TrainingError, match="too few"):
        run(replace(SHORT, batch_size=batch_size), tiny.head(strips, validation))


# Interrupted and resumed


def test_resumes_bit_exactly(stateful_run, tiny, tmp_path, monkeypatch):
    """In the middle of the second epoch; the state holds whole epochs only."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, STEPS + 2)
        run(STATEFUL, tiny, state_path=tmp_path / "resume.pt")
    state = load_state(tmp_path / "resume.pt")
    assert [row["epoch"] for row in state["history"]] == [1]
    torch.rand(7)
    interrupt(monkeypatch, 2 * STEPS + 1)  # one more than are left
    renamed = replace(STATEFUL, report="in other words")  # words make no other run
    assert_same_run(run(renamed, tiny, state_path=tmp_path / "resume.pt"), stateful_run)
    assert_same_run(run(STATEFUL, tiny, state_path=tmp_path / "resume.pt"), stateful_run)  # finished: no step more


def test_every_part_of_a_run_says_where_it_was_made(tiny, tmp_path, monkeypatch):
    """Once for parts that were made in the same way, whatever the day."""
    found = {}
    for commit, date, step in (("a", "1", 2), ("a", "2", STEPS + 2), ("b", "3", STEPS + 2), ("a", "4", 0)):
        here = provenance.provenance(CPU) | {"commit": commit, "date": date}
        with monkeypatch.context() as patch:
            patch.setattr(training, "provenance", lambda device, here=here: here)
            interrupt(patch, step)
            try:
                found = run(replace(SHORT, epochs=4), tiny, state_path=tmp_path / "resume.pt")
            except KeyboardInterrupt:
                continue
    assert [(each["commit"], each["date"]) for each in found.sessions] == [("a", "2"), ("b", "3"), ("a", "4")]


@pytest.mark.parametrize("other", ["seed", "settings", "data", "damage", "a weight's name", "an entry", "an optimiser"])
def test_a_state_that_does_not_fit_is_refused_and_stays(other, tiny, tmp_path):
    path, experiment, data = tmp_path / "resume.pt", replace(SHORT, epochs=1), tiny.head(16)
    run(experiment, data, state_path=path)
    state = load_state(path)
    if other == "settings":
        experiment = replace(experiment, lr=5e-4)
    elif other == "data":
        data = tiny.head(17)
    elif other == "damage":
        path.write_bytes(path.read_bytes()[:-1000])
    elif other == "a weight's name":
        state["model"]["former.name"] = state["model"].pop("head.weight")
    elif other == "an entry":
        del state["sessions"]
    elif other == "an optimiser":
        state["optimizer"]["param_groups"] = []
    if other.startswith("a"):
        save_state(path, **state)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"resume\.pt .*Delete it"):
        run(experiment, data, seed=int(other == "seed"), state_path=path)
    assert path.read_bytes() == before


# Devices


def test_auto_takes_cuda_or_else_the_processor(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.pick_device("auto") == devices.pick_device("cpu") == devices.pick_device(CPU) == CPU
    with pytest.raises(DeviceError, match="toaster"):
        devices.pick_device("toaster")


@pytest.mark.parametrize(
    ("name", "avx512", "amx", "faster"),
    [
        ("AMD EPYC", True, False, True), ("AMD EPYC", False, False, False),
        ("Intel(R) Xeon(R) Processor", True, False, False), ("Intel(R) Xeon(R) Processor", True, True, True),
    ],
)  # fmt: skip
def test_bfloat16_is_for_processors_that_are_faster_in_it(name, avx512, amx, faster, monkeypatch):
    monkeypatch.setattr(devices, "processor", lambda: name)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert devices.has_bfloat16(CPU) is faster
    assert devices.has_bfloat16(torch.device("mps")) is False
