"""The real train() on a handful of strips: it learns, it is reproducible, it stops and resumes as promised."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SMALL, Told, interrupt, run, telling
from scipy.stats import binomtest, entropy
from torch import nn

from digitsum import devices, training
from digitsum.checkpoints import load_state, save_state
from digitsum.compose import Strips, compose
from digitsum.data import source_glyphs
from digitsum.errors import CheckpointError, TrainingError
from digitsum.evaluation import predict
from digitsum.experiments import EXPERIMENTS, Augmentation
from digitsum.objectives import Regression
from digitsum.optim import OPTIMIZERS
from digitsum.training import Run, batches

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


# Learning


@pytest.mark.parametrize("name", [name for name in SMALL if name != "reader"])
def test_memorises_a_handful(name, tiny):
    """To a loss that one answer to all strips cannot have: below the sums' variance, or the labels' entropy."""
    experiment, data = replace(EXPERIMENTS[name], epochs=16, batch_size=8, augment=None), tiny.head(8, 4)
    varied = entropy(np.bincount(data.train.sums))
    if experiment.objective == "regression":  # around 0, so that no step is spent on the sums' mean
        varied, data = data.train.sums.var(), replace(data, train=replace(data.train, sums=data.train.sums - 18))
    losses = [row["train_loss"] for row in run(experiment, data).history]
    assert losses[-1] < min(0.7 * losses[0], varied)


def test_learns_to_read_strips_that_it_has_not_seen(tiny):
    """Of one digit each: more right sums than the best constant answer has, by a binomial test."""

    def strips(glyphs, n: int, seed: int) -> Strips:
        drawn = compose(*glyphs, n, seed=seed, digits=1)
        return Strips(drawn.images[:, :, :40], drawn.sums)

    seen, unseen = source_glyphs("digits")
    experiment = replace(
        EXPERIMENTS["reader"], model_args={"widths": (8, 16, 32)}, objective_args={"count": 1, "start_steps": 0},
        epochs=3, batch_size=32, trim=False, augment=None,
    )  # fmt: skip
    result = run(experiment, replace(tiny, train=strips(seen, 800, 0), val=strips(seen, 50, 1)))
    test = strips(unseen, 200, 2)
    right = int((predict(result.model, test.images, digits=1) == test.sums).sum())
    constant = np.bincount(test.sums).max() / len(test)
    assert binomtest(right, len(test), constant, alternative="greater").pvalue < 1e-6


@pytest.mark.parametrize(("wanted", "there"), [(True, True), (False, True), (True, False)])
def test_trains_in_bfloat16_where_it_is_wanted_and_there_and_predicts_in_float32(wanted, there, tiny, monkeypatch):
    model, noted = training.build(SHORT), []
    model.register_forward_hook(lambda *_: noted.append((model.training, torch.is_autocast_enabled("cpu"))))
    monkeypatch.setattr(devices, "has_bfloat16", lambda device: there)
    run(replace(SHORT, epochs=1, bfloat16=wanted), tiny.head(16, 4), start=model)
    assert [autocast for in_training, autocast in noted if in_training] == [wanted and there]
    noted.clear()
    predict(model, tiny.val.images)
    assert noted == [(False, False)]


@pytest.mark.parametrize(("schedule", "first"), [("constant", 1.0), ("one_cycle", 1 / 25)])
def test_schedules_fit_runs_of_any_length(schedule, first):
    for steps in (1, 10, 40, 100):  # among them one whose warm-up is a single step
        optimizer = OPTIMIZERS["adamw"](nn.Linear(1, 1), 0.5, 0.0)
        scheduler, used = training.SCHEDULES[schedule](optimizer, steps, 0.1), []
        for _ in range(steps):
            used.append(optimizer.param_groups[0]["lr"] / 0.5)
            optimizer.step()
            scheduler.step()
        assert min(used) > 0 and max(used) <= 1
    assert used[0] == pytest.approx(first) and used[9] == pytest.approx(1)


def test_averages_are_those_of_the_strips(tiny, monkeypatch):
    """In training, with a learning rate of zero in batches of four and of three strips; and in validation."""
    sums = np.arange(38) % 20
    strips = telling(10 * sums + 20 * (np.arange(38) >= 30), sums)  # the last eight are 2 off
    monkeypatch.setattr(training, "ACCURACY_EVERY", 1)
    monkeypatch.setattr(training, "EVALUATION_BATCH", 3)
    experiment = replace(SHORT, lr=0.0, epochs=1, batch_size=4)
    (row,) = run(experiment, replace(tiny, train=strips, val=strips[20:]), start=Told()).history
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


# What it may see, and what decides


def test_sees_nothing_but_images_and_sums_of_training_and_validation(short_run, tiny):
    test, unseen = (SimpleNamespace(fingerprint=each.fingerprint) for each in (tiny.test, tiny.unseen))
    train, val = (Strips(each.images, each.sums) for each in (tiny.train, tiny.val))
    sealed = replace(tiny, train=train, val=val, test=test, unseen=unseen)
    torch.manual_seed(12345)  # what was drawn before decides nothing either
    assert_same_run(run(SHORT, sealed), short_run)


def test_seed_limit_and_repeats_decide(short_run, tiny):
    assert without_time(run(SHORT, tiny, seed=1)) != without_time(short_run)
    assert without_time(run(replace(SHORT, train_limit=20), tiny)) == without_time(run(SHORT, tiny.head(20)))
    twice = replace(tiny, train=tiny.train[np.arange(48).repeat(2)])
    one, other = run(replace(SHORT, lr=0.0, repeats=2), tiny), run(replace(SHORT, lr=0.0), twice)
    assert one.history[0]["train_loss"] == pytest.approx(other.history[0]["train_loss"], rel=1e-4)


def test_every_epoch_takes_the_strips_in_another_order(tiny, monkeypatch):
    seen, to_input = [], training.to_input
    monkeypatch.setattr(training, "to_input", lambda images: seen.append(images.sum().item()) or to_input(images))
    run(SHORT, tiny)
    epochs = [seen[k : k + STEPS] for k in range(0, len(seen), STEPS + 1)]  # one batch of validation follows each
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 3 and len({sum(epoch) for epoch in epochs}) == 1


@pytest.mark.parametrize(("select", "best"), [("accuracy", 2), ("loss", 4)])
def test_best_is_the_first_epoch_that_is_best_by_select(select, best, tiny, monkeypatch):
    """Validation is scripted; the run must end with the weights that it saw in the best epoch, in half precision."""
    script = zip([3.0, 2.0, 2.5, 1.0, 1.0], [0.1, 0.5, 0.3, 0.5, 0.2], strict=True)
    weights = []

    def scripted(model, images, sums, bfloat16):
        weights.append(model.head.weight.detach().half().float())
        loss, accuracy = next(script)
        return {"val_loss": loss, "val_accuracy": accuracy}

    monkeypatch.setattr(training, "validate", scripted)
    result = run(replace(SHORT, epochs=5, select=select), tiny)
    assert result.best_epoch == best
    assert torch.equal(result.model.head.weight, weights[best - 1])
    assert not torch.equal(weights[best - 1], weights[-1])


# Runs that cannot go on


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_whole_epoch(tiny, tmp_path, monkeypatch):
    loss = Regression.loss
    monkeypatch.setattr(Regression, "loss", lambda *args, step=None: loss(*args) * (math.nan if step == 4 else 1))
    with pytest.raises(TrainingError, match=r"nan in epoch 2, by step 6 .*1\.00e-03"):
        run(SHORT, tiny, state_path=tmp_path / "resume.pt")
    assert len(load_state(tmp_path / "resume.pt")["history"]) == 1


@pytest.mark.parametrize(("strips", "validation", "batch_size"), [(1, 4, 16), (0, 4, 16), (8, 4, 1), (8, 0, 4)])
def test_too_few_strips_are_refused_before_training(strips, validation, batch_size, tiny):
    with pytest.raises(TrainingError, match="too few"):
        run(replace(SHORT, batch_size=batch_size), tiny.head(strips, validation))


# Interrupted and resumed


def test_resumes_bit_exactly(tiny, tmp_path, monkeypatch):
    """In the middle of the second epoch; the state holds whole epochs only."""
    whole = run(STATEFUL, tiny)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, STEPS + 2)
        run(STATEFUL, tiny, state_path=tmp_path / "resume.pt")
    state = load_state(tmp_path / "resume.pt")
    assert [row["epoch"] for row in state["history"]] == [1]
    torch.rand(7)
    interrupt(monkeypatch, 2 * STEPS + 1)  # one more than are left
    renamed = replace(STATEFUL, report="in other words")  # words make no other run
    assert_same_run(run(renamed, tiny, state_path=tmp_path / "resume.pt"), whole)
    assert_same_run(run(STATEFUL, tiny, state_path=tmp_path / "resume.pt"), whole)  # finished: no step more


@pytest.mark.parametrize("other", ["seed", "settings", "data", "a name", "an entry"])
def test_a_state_that_does_not_fit_is_refused_and_stays(other, tiny, tmp_path):
    path, experiment, data = tmp_path / "resume.pt", replace(SHORT, epochs=1), tiny.head(16)
    run(experiment, data, state_path=path)
    state = load_state(path)
    if other == "a name":
        state["model"]["former.name"] = state["model"].pop("head.weight")
    elif other == "an entry":
        del state["sessions"]
    save_state(path, **state)
    before = path.read_bytes()
    changes = {"settings": {"experiment": replace(experiment, lr=5e-4)}, "data": {"data": tiny.head(17)}}
    options = {"experiment": experiment, "data": data, "seed": int(other == "seed")} | changes.get(other, {})
    with pytest.raises(CheckpointError, match=r"resume\.pt .*Delete it"):
        run(**options, state_path=path)
    assert path.read_bytes() == before
