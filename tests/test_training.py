"""The real train() on a handful of strips: it learns, it is reproducible, it stops and resumes as promised."""

from __future__ import annotations

import math
import os
import pickle
import random
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from test_evaluation import Told, telling

from digitsum import devices, provenance, training
from digitsum.augment import Augmentation
from digitsum.checkpoints import CheckpointError, load_state
from digitsum.compose import Strips
from digitsum.data import Data
from digitsum.devices import pick_device
from digitsum.evaluation import predict
from digitsum.experiments import EXPERIMENTS, Experiment
from digitsum.objectives import OBJECTIVES, Regression
from digitsum.training import Run, TrainingError, resident, run_key, to_input, train, validate

CPU = torch.device("cpu")
STEPS = 3  # an epoch of the experiments below, on the 48 strips of `tiny`
SHORT = replace(EXPERIMENTS["baseline_cnn-regression"], epochs=3, batch_size=16)
# Everything that a run's state must carry: running statistics, a schedule, momenta, random draws within an epoch.
STATEFUL = replace(
    EXPERIMENTS["cnn_attention-regression"], epochs=3, batch_size=16, augment=Augmentation(shift=2, slant=0.2)
)
HISTORY = {"epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_mae", "lr", "seconds"}


def run(experiment: Experiment, data: Data, **options) -> Run:
    return train(experiment, data, device="cpu", progress=False, **options)


def assert_same_run(one: Run, other: Run) -> None:
    """Bit for bit, apart from the time it took."""
    for mine, theirs in ((one.last, other.last), (one.model.state_dict(), other.model.state_dict())):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert [row | {"seconds": 0} for row in one.history] == [row | {"seconds": 0} for row in other.history]
    assert one.best_epoch == other.best_epoch


def some_differ(one: Run, other: Run) -> bool:
    return any(not torch.equal(one.last[name], other.last[name]) for name in one.last)


@pytest.fixture(scope="module")
def short_run(tiny) -> Run:
    return run(SHORT, tiny)


@pytest.fixture(scope="module")
def stateful_run(tiny) -> Run:
    return run(STATEFUL, tiny)


# Learning


@pytest.mark.parametrize(
    "name", [n for n, e in EXPERIMENTS.items() if not e.weights and n not in ("most_common", "ocr")]
)
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
        labels = data.train.sums if experiment.supervision == "sums" else data.train.digits.ravel()
        assert losses[-1] < entropy(np.bincount(labels))


def test_a_reader_learns_from_the_likelihood_alone(tiny):
    """From the first loss on, which is no squared error, to one that the same answer to all strips cannot have."""
    experiment = replace(
        EXPERIMENTS["reader_small"], objective_args={"start_steps": 0}, epochs=24, lr=0.01, schedule="constant",
        augment=None,
    )  # fmt: skip
    data = tiny.head(8, 8)
    losses = [row["train_loss"] for row in run(experiment, data).history]
    assert losses[-1] < entropy(np.bincount(data.train.sums)) < losses[0] / 2


@pytest.mark.parametrize(("wanted", "there"), [(True, True), (False, True), (True, False)])
def test_trains_in_bfloat16_where_it_is_wanted_and_there(wanted, there, tiny, monkeypatch):
    noted, build = [], training.build

    def noting(*args):
        model = build(*args)
        model.register_forward_hook(lambda *_: noted.append((model.training, torch.is_autocast_enabled("cpu"))))
        return model

    monkeypatch.setattr(training, "build", noting)
    monkeypatch.setattr(devices, "has_bfloat16", lambda device: there)
    run(replace(SHORT, epochs=1, bfloat16=wanted), tiny)
    assert [autocast for in_training, autocast in noted if in_training] == STEPS * [wanted and there]


def test_the_last_epochs_see_sharp_strips(tiny, monkeypatch):
    drawn, augment = [], Augmentation.__call__

    def noted(self, images):
        drawn.append(self)
        return augment(self, images)

    monkeypatch.setattr(Augmentation, "__call__", noted)
    run(replace(STATEFUL, epochs=4, clean=0.25), tiny)
    assert drawn == 3 * STEPS * [STATEFUL.augment] + STEPS * [Augmentation(shift=2)]


def test_resnet50_takes_a_step(tiny):
    experiment = replace(EXPERIMENTS["resnet50-classification"], weights=None, epochs=1, batch_size=2)
    result = run(experiment, tiny.head(2, 2))
    start = training.build(experiment).state_dict()
    assert not torch.equal(start["backbone.conv1.weight"], result.last["backbone.conv1.weight"])
    assert not torch.equal(start["head.weight"], result.last["head.weight"])


def test_an_experiment_can_be_named(tiny):
    result = train("baseline_cnn-regression", tiny.head(4, 4), device="cpu", progress=False)
    assert result.experiment == EXPERIMENTS["baseline_cnn-regression"] and len(result.history) == 15


def test_history_has_a_row_for_each_epoch(short_run):
    assert [row["epoch"] for row in short_run.history] == [1, 2, 3]
    for row in short_run.history:
        assert set(row) == HISTORY
        assert all(isinstance(value, (int, float)) and math.isfinite(value) for value in row.values())
        assert row["lr"] == SHORT.lr
    assert short_run.seconds == pytest.approx(sum(row["seconds"] for row in short_run.history))


@pytest.mark.parametrize(
    ("schedule", "rates"), [("constant", {0: 1.0, 10: 1.0, 99: 1.0}), ("one_cycle", {0: 1 / 25, 9: 1.0, 99: 4e-6})]
)
def test_schedules(schedule, rates):
    """As shares of the learning rate, at the first, the tenth and the last of 100 steps with a tenth of warm-up."""
    optimizer = training.OPTIMIZERS["adamw"](torch.nn.Linear(1, 1), 0.5, 0.0)
    scheduler = training.SCHEDULES[schedule](optimizer, 100, 0.1)
    used = []
    for _ in range(100):
        used.append(optimizer.param_groups[0]["lr"] / 0.5)
        optimizer.step()
        scheduler.step()
    assert {step: used[step] for step in rates} == pytest.approx(rates)
    assert max(used) == pytest.approx(1.0)


@pytest.mark.parametrize("warmup", sorted({e.warmup for e in EXPERIMENTS.values() if e.schedule == "one_cycle"}))
def test_one_cycle_fits_runs_of_any_length(warmup):
    for steps in range(1, 2 * round(1 / warmup)):  # among them one whose warm-up is a single step
        optimizer = training.OPTIMIZERS["adamw"](torch.nn.Linear(1, 1), 0.5, 0.0)
        scheduler = training.SCHEDULES["one_cycle"](optimizer, steps, warmup)
        used = []
        for _ in range(steps):
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert all(0 < rate <= 0.5 for rate in used)


def test_a_run_goes_through_its_schedule(tiny):
    history = run(replace(SHORT, schedule="one_cycle", warmup=0.5), tiny).history
    optimizer = training.OPTIMIZERS["adam"](torch.nn.Linear(1, 1), SHORT.lr, 0.0)
    scheduler = training.SCHEDULES["one_cycle"](optimizer, SHORT.epochs * STEPS, 0.5)
    rates = []
    for _ in range(SHORT.epochs * STEPS):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert [row["lr"] for row in history] == rates[STEPS - 1 :: STEPS] and len(set(rates)) > 1


@pytest.mark.parametrize(("every", "right"), [(1, 30), (training.ACCURACY_EVERY, 38)])
def test_averages_of_training_are_those_of_the_strips(every, right, tiny, monkeypatch):
    """With a learning rate of zero, in batches of four and of three strips."""
    sums = np.arange(38) % 20
    strips = telling(10 * sums + 20 * (np.arange(38) >= right), sums)
    monkeypatch.setattr(training, "build", lambda *_: Told())
    monkeypatch.setattr(training, "ACCURACY_EVERY", every)
    (row,) = run(replace(SHORT, lr=0.0, epochs=1, batch_size=4), replace(tiny, train=strips)).history
    assert row["train_accuracy"] == pytest.approx(right / 38)
    assert row["train_loss"] == pytest.approx(4 * (38 - right) / 38, rel=1e-4, abs=1e-6)


def test_averages_of_validation_are_over_all_batches(monkeypatch):
    monkeypatch.setattr(training, "EVALUATION_BATCH", 3)
    sums, off = np.array([3, 7, 11, 20, 5, 6, 9]), np.array([0, 4, 20, -10, 0, 30, -4])
    found = validate(Told(), *resident(telling(10 * sums + off, sums), CPU), False)
    expected = {"accuracy": 4 / 7, "mae": np.abs(off / 10).mean(), "loss": np.square(off / 10).mean()}
    assert found == pytest.approx(expected, rel=1e-4)


def test_cropped_batches_are_of_strips_of_like_width_in_random_order():
    images = torch.zeros(64, 40, 168, dtype=torch.uint8)
    images[torch.arange(64), 0, 2 * torch.arange(64)] = 255
    torch.manual_seed(0)
    parts = training.shuffled([(images, torch.arange(64))], 8, True)
    batches = [(sorted(sums.tolist()), batch.shape[2]) for batch, sums in parts]
    assert sorted(batches) == [(list(range(k, k + 8)), (2 * k + 15 + 8) // 4 * 4) for k in range(0, 64, 8)]
    assert batches != sorted(batches)


def test_another_seed_takes_the_strips_in_another_order(tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "to_input", lambda images: seen.append(images.sum().item()) or to_input(images))
    for seed in (0, 1):
        run(replace(SHORT, epochs=1), tiny, seed=seed)
    assert seen[:STEPS] != seen[STEPS + 1 :][:STEPS]


@pytest.mark.parametrize("name", [name for name, e in EXPERIMENTS.items() if not e.weights and e.epochs])
def test_a_lone_strip_in_the_last_batch_is_no_obstacle(name, tiny):
    """Batch normalisation cannot train on a batch of one; 16 leaves one of 17."""
    assert len(run(replace(EXPERIMENTS[name], epochs=1, batch_size=16), tiny.head(17, 4)).history) == 1


# What it may see


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
    assert_same_run(run(SHORT, sealed), short_run)


def test_validation_strips_do_not_touch_the_weights(short_run, tiny):
    other = run(SHORT, replace(tiny, val=tiny.test))
    assert not some_differ(other, short_run)
    assert other.history[0]["val_loss"] != short_run.history[0]["val_loss"]


def test_train_limit_takes_the_first_strips(tiny):
    limited, cut = run(replace(SHORT, train_limit=20), tiny), run(SHORT, tiny.head(20))
    assert not some_differ(limited, cut)


# Reproducible


def test_same_seed_same_run_whatever_was_drawn_before(short_run, tiny):
    torch.manual_seed(12345)
    assert_same_run(run(SHORT, tiny), short_run)


def test_another_seed_is_another_run(short_run, tiny):
    assert some_differ(run(SHORT, tiny, seed=1), short_run)


def test_the_order_of_the_strips_differs_between_epochs(tiny, monkeypatch):
    seen = []
    to_input = training.to_input
    monkeypatch.setattr(training, "to_input", lambda images: seen.append(images.sum().item()) or to_input(images))
    run(SHORT, tiny)
    in_training = [seen[epoch * (STEPS + 1) :][:STEPS] for epoch in range(3)]  # one batch of validation follows
    assert len({tuple(sorted(batches)) for batches in in_training}) == 3
    assert len({sum(batches) for batches in in_training}) == 1


@pytest.mark.parametrize("pool", [1, 2, 16])
def test_cropped_batches_hold_every_strip_once_and_all_of_its_ink(pool, tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "POOL", pool)
    monkeypatch.setattr(training, "to_input", lambda images: seen.append(images) or to_input(images))
    run(replace(EXPERIMENTS["reader"], epochs=1, batch_size=8, augment=None), tiny)
    seen = seen[: len(tiny.train) // 8]  # the rest is validation
    assert {len(batch) for batch in seen} == {8}
    ink = sorted(int(strip.sum()) for batch in seen for strip in batch)
    assert ink == sorted(int(strip.sum()) for strip in torch.from_numpy(tiny.train.images))
    widths = [batch.shape[2] for batch in seen]
    assert all(width % 4 == 0 and width <= 168 for width in widths)
    assert min(widths) < 168 and (pool == 1 or len(set(widths)) > 1)


def test_the_callers_random_streams_stay_untouched(tiny):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    run(replace(STATEFUL, epochs=1), tiny)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])


# The best epoch


@pytest.mark.parametrize(("select", "best"), [("accuracy", 2), ("loss", 4)])
def test_best_is_the_first_epoch_that_is_best_by_select(select, best, tiny, monkeypatch):
    """Validation is scripted; the run must end with the weights that it saw in the best epoch."""
    script = zip([3.0, 2.0, 2.5, 1.0, 1.0], [0.1, 0.5, 0.3, 0.5, 0.2], strict=True)
    weights = []

    def scripted(model, images, sums, bfloat16):
        weights.append(model.head.weight.detach().clone())
        loss, accuracy = next(script)
        return {"loss": loss, "accuracy": accuracy, "mae": 0.0}

    monkeypatch.setattr(training, "validate", scripted)
    result = run(replace(SHORT, epochs=5, select=select), tiny)
    assert result.best_epoch == best
    assert torch.equal(result.model.head.weight, weights[best - 1])
    assert torch.equal(result.last["head.weight"], weights[-1])
    assert not torch.equal(weights[best - 1], weights[-1])


def test_the_model_validates_as_its_best_epoch_did(stateful_run, tiny):
    row = stateful_run.history[stateful_run.best_epoch - 1]
    found = validate(stateful_run.model, *resident(tiny.val, CPU))
    assert {f"val_{name}": value for name, value in found.items()}.items() <= row.items()
    assert not stateful_run.model.training
    assert stateful_run.model.objective == OBJECTIVES["regression"]


# Losses that are not finite


@dataclass(frozen=True)
class Broken(Regression):
    """Regression whose loss is `value` from the given training step on."""

    value: float = math.nan
    step: int = 0

    def loss(self, outputs, sums, step=None):
        loss = super().loss(outputs, sums)
        return loss * self.value if step is not None and step >= self.step else loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("step", "where"), [(0, "epoch 1 at step 1"), (4, "epoch 2 at step 2")])
def test_a_loss_that_is_not_finite_stops_the_run(value, step, where, tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "regression", Broken(value=value, step=step))
    state_path = tmp_path / "resume.pt"
    with pytest.raises(TrainingError) as caught:
        run(SHORT, tiny, state_path=state_path)
    assert where in str(caught.value) and "1.00e-03" in str(caught.value) and str(value) in str(caught.value)
    assert state_path.exists() == (step >= STEPS)  # the last whole epoch, where there is one


@pytest.mark.parametrize("batch_size", [4, 48])
def test_too_high_a_learning_rate_stops_the_run(batch_size, tiny):
    """With 48 the only training loss is still finite: what the step has done shows on validation first."""
    with pytest.raises(TrainingError, match=r"epoch 1 at step \d+ .*1\.00e\+30.*lower learning rate"):
        run(replace(SHORT, batch_size=batch_size, epochs=1, lr=1e30), tiny)


# Interrupted and resumed


def interrupt(monkeypatch, at: int) -> None:
    """Press Ctrl-C in training step `at`, counted from 1 over all epochs."""

    class Bar(training.tqdm):
        def update(self, n=1):
            nonlocal at
            at -= 1
            if at == 0:
                raise KeyboardInterrupt

    monkeypatch.setattr(training, "tqdm", Bar)


@pytest.mark.parametrize("at", [2, STEPS + 2, 2 * STEPS])
def test_resumes_bit_exactly(at, stateful_run, tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, at)
        run(STATEFUL, tiny, state_path=tmp_path / "resume.pt")
    torch.rand(7)
    assert_same_run(run(STATEFUL, tiny, state_path=tmp_path / "resume.pt"), stateful_run)


@pytest.mark.parametrize("optimizer", training.OPTIMIZERS)
@pytest.mark.parametrize("schedule", training.SCHEDULES)
def test_resumes_bit_exactly_with_every_optimizer_and_schedule(optimizer, schedule, tiny, tmp_path, monkeypatch):
    experiment = replace(SHORT, epochs=2, optimizer=optimizer, schedule=schedule, weight_decay=0.1)
    data, state_path = tiny.head(32, 8), tmp_path / "resume.pt"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, at=3)
        run(experiment, data, state_path=state_path)
    assert_same_run(run(experiment, data, state_path=state_path), run(experiment, data))


def test_every_part_of_a_run_says_where_it_was_made(tiny, tmp_path, monkeypatch):
    """Once for parts that were made in the same way, whatever the day."""
    found = {}
    for commit, date, at in (("a", "1", 2), ("a", "2", STEPS + 2), ("b", "3", STEPS + 2), ("a", "4", 0)):
        here = provenance.provenance(CPU) | {"commit": commit, "date": date}
        with monkeypatch.context() as patch:
            patch.setattr(training, "provenance", lambda device, here=here: here)
            interrupt(patch, at)
            try:
                found = run(replace(SHORT, epochs=4), tiny, state_path=tmp_path / "resume.pt")
            except KeyboardInterrupt:
                continue
    assert [(each["commit"], each["date"]) for each in found.sessions] == [("a", "2"), ("b", "3"), ("a", "4")]
    assert set(found.sessions[0]) == {"hardware", "versions", "commit", "date"}


def test_other_words_make_no_other_run(stateful_run, tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, STEPS + 2)
        run(replace(STATEFUL, left_open="In other words."), tiny, state_path=tmp_path / "resume.pt")
    interrupt(monkeypatch, 2 * STEPS + 1)  # one more than are left
    assert_same_run(run(STATEFUL, tiny, state_path=tmp_path / "resume.pt"), stateful_run)


def test_a_run_is_known_by_what_decides(monkeypatch):
    """Not by words, nor by a setting that came later and is at its default."""

    @dataclass(frozen=True)
    class Later(Experiment):
        more: int = 0

    def key(row: Experiment) -> str:
        return run_key(row, 0, "data")

    before = key(STATEFUL)
    assert key(replace(STATEFUL, report="Z", left_open="In other words.", supervision="as ever")) == before
    monkeypatch.setattr("digitsum.experiments.Experiment", Later)
    later = Later(**vars(STATEFUL))
    assert key(later) == before != key(replace(later, more=1))
    assert before not in (key(replace(later, lr=0.5)), run_key(STATEFUL, 1, "data"), run_key(STATEFUL, 0, ""))


def test_a_finished_run_is_not_trained_further(tiny, tmp_path, monkeypatch):
    first = run(SHORT, tiny, state_path=tmp_path / "resume.pt")
    interrupt(monkeypatch, at=1)
    assert_same_run(run(SHORT, tiny, state_path=tmp_path / "resume.pt"), first)


KILLED = """
import os, pickle, signal, sys, torch
from digitsum import training
experiment, data, state_path, at, threads = pickle.load(sys.stdin.buffer)
torch.set_num_threads(threads)

class Bar(training.tqdm):
    left = at
    def update(self, n=1):
        Bar.left -= 1
        if Bar.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

training.tqdm = Bar
training.train(experiment, data, device="cpu", state_path=state_path, progress=False)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_process_is_resumed_bit_exactly(stateful_run, tiny, tmp_path):
    state_path = tmp_path / "resume.pt"
    told = pickle.dumps((STATEFUL, tiny, state_path, STEPS + 2, torch.get_num_threads()))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", KILLED], input=told, env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert [path.name for path in tmp_path.iterdir()] == ["resume.pt"]
    assert_same_run(run(STATEFUL, tiny, state_path=state_path), stateful_run)


@pytest.mark.parametrize("other", ["seed", "settings", "data"])
def test_the_state_of_another_run_is_refused(other, tiny, tmp_path):
    state_path = tmp_path / "resume.pt"
    run(replace(SHORT, epochs=1), tiny.head(16), state_path=state_path)
    before = state_path.read_bytes()
    experiment, data, seed = replace(SHORT, epochs=1), tiny.head(16), 0
    if other == "seed":
        seed = 1
    elif other == "settings":
        experiment = replace(experiment, lr=5e-4)
    else:
        data = tiny.head(17)
    with pytest.raises(CheckpointError, match="resume.pt belongs to a run with other settings or other data"):
        run(experiment, data, seed=seed, state_path=state_path)
    assert state_path.read_bytes() == before


def test_a_damaged_state_is_refused(tiny, tmp_path):
    state_path = tmp_path / "resume.pt"
    run(replace(SHORT, epochs=1), tiny.head(16), state_path=state_path)
    state_path.write_bytes(state_path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="resume.pt is not a whole training state .* Delete it"):
        run(replace(SHORT, epochs=1), tiny.head(16), state_path=state_path)


@pytest.mark.parametrize("change", ["a layer is called otherwise", "an entry is new", "another optimiser"])
def test_a_state_of_other_code_is_refused(change, tiny, tmp_path):
    path = tmp_path / "resume.pt"
    run(replace(SHORT, epochs=1), tiny.head(16), state_path=path)
    state = torch.load(path, weights_only=True)
    if change == "a layer is called otherwise":
        name = next(iter(state["model"]))
        state["model"]["former." + name] = state["model"].pop(name)
    elif change == "an entry is new":
        del state["sessions"]
    else:
        state["optimizer"]["param_groups"] = []
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="resume.pt does not fit this version of the code: .* or delete it"):
        run(replace(SHORT, epochs=1), tiny.head(16), state_path=path)


def test_the_state_holds_whole_epochs_only(tiny, tmp_path, monkeypatch):
    interrupt(monkeypatch, at=STEPS + 1)
    with pytest.raises(KeyboardInterrupt):
        run(SHORT, tiny, state_path=tmp_path / "resume.pt")
    key = torch.load(tmp_path / "resume.pt", weights_only=True)["key"]
    assert [row["epoch"] for row in load_state(tmp_path / "resume.pt", key)["history"]] == [1]


# Devices


@pytest.mark.parametrize(
    ("cuda", "mps", "device"),
    [(True, True, "cuda"), (False, True, "cpu"), (False, False, "cpu"), (True, False, "cuda")],
)
def test_auto_takes_cuda_or_else_the_processor(cuda, mps, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device("auto") == torch.device(device)
    assert pick_device("cpu") == pick_device(CPU) == CPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_trains_and_resumes_on_cuda(tiny, tmp_path, monkeypatch):
    before = torch.cuda.get_rng_state()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, STEPS + 2)
        train(STATEFUL, tiny, device="cuda", state_path=tmp_path / "resume.pt", progress=False)
    result = train(STATEFUL, tiny, device="cuda", state_path=tmp_path / "resume.pt", progress=False)
    assert [row["epoch"] for row in result.history] == [1, 2, 3]
    assert torch.equal(torch.cuda.get_rng_state(), before)


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


def half_of_a_denormal() -> float:
    return torch.full((), 1e-39).mul(0.5).item()


def test_denormals_count_as_zero_for_as_long_as_asked():
    with devices.denormals_as_zero():
        with devices.denormals_as_zero():
            assert half_of_a_denormal() == 0
        assert half_of_a_denormal() == 0
    assert half_of_a_denormal() > 0


def test_training_and_reading_take_denormals_for_zero(tiny, monkeypatch):
    """And leave them to others as they were, also where they fail."""
    seen = []

    def answer(self, batch):
        seen.append(half_of_a_denormal())
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "to_input", lambda images: answer(None, images))
    with pytest.raises(KeyboardInterrupt):
        run(SHORT, tiny)
    assert half_of_a_denormal() > 0
    model = training.build(SHORT)
    monkeypatch.setattr(type(model), "answer", answer)
    with pytest.raises(KeyboardInterrupt):
        predict(model, tiny.val.images)
    assert seen == [0, 0] and half_of_a_denormal() > 0
