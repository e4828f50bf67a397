"""The same on a GPU: training, resuming, predicting and the likelihood."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SMALL, interrupt, run, save

from digitsum.checkpoints import load_checkpoint
from digitsum.evaluation import predictions
from digitsum.experiments import BENT, EXPERIMENTS
from digitsum.likelihood import read_strings, sum_distribution, sum_log_likelihood
from digitsum.training import build

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")]


@pytest.mark.parametrize("name", [*SMALL, "resnet50-classification"])
def test_learns_on_a_gpu(name, tiny):
    experiment = replace(EXPERIMENTS[name], epochs=16, batch_size=16, augment=None, weights=None)
    result = run(experiment, tiny.head(32, 8), device="cuda")
    losses = [row["train_loss"] for row in result.history]
    assert losses[-1] < 0.7 * losses[0] and next(result.model.parameters()).is_cuda


def test_resumes_on_a_gpu_and_leaves_the_callers_random_stream(tiny, tmp_path, monkeypatch):
    """CUDA's convolutions add in any order, so a curve is the same to a tolerance only."""
    experiment = replace(EXPERIMENTS["reader"], epochs=3, batch_size=16, augment=BENT, bfloat16=False)
    before, path = torch.cuda.get_rng_state(), tmp_path / "resume.pt"
    whole = run(experiment, tiny, device="cuda")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, 5)
        run(experiment, tiny, device="cuda", state_path=path)
    resumed = run(experiment, tiny, device="cuda", state_path=path)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert [row["epoch"] for row in resumed.history] == [1, 2, 3]
    losses = [[row["train_loss"] for row in result.history] for result in (whole, resumed)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize("name", SMALL)
def test_a_gpu_predicts_what_a_processor_predicts(name, tiny, tmp_path):
    model, path = build(EXPERIMENTS[name]), tmp_path / "model.safetensors"
    save(model, path, EXPERIMENTS[name])
    here, there = (predictions(load_checkpoint(path, device), tiny.val.images) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(there.values, here.values, atol=0.05)
    assert [reading.columns for reading in there.readings] == [reading.columns for reading in here.readings]


@pytest.mark.parametrize("count", [4, (1, 6), None])
def test_the_likelihood_is_the_same_on_a_gpu(count):
    logits = 3 * torch.randn(8, 42, 11, generator=torch.Generator().manual_seed(0))
    logits[..., 0] += 4
    sums = torch.tensor([0, 1, 9, 17, 18, 20, 35, 36])
    found = []
    for device in ("cpu", "cuda"):
        x = logits.to(device).requires_grad_()
        value = sum_log_likelihood(x, sums.to(device), count)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        found.append([each.detach().cpu() for each in (value, gradient, sum_distribution(x, count)[:, :10])])
        assert len(read_strings(x[None], count)) == 8
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(there, here, atol=1e-3, rtol=1e-3)
