"""Objectives: losses and predicted sums against computations by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from conftest import OBJECTIVE_NAMES

from digitsum.likelihood import sum_log_likelihood
from digitsum.objectives import NUM_SUMS, OBJECTIVES


def reads(*digits: int, confidence: float = 12.0) -> torch.Tensor:
    """Return logits (1, 8, 11) of columns that surely hold the digits, in every second column."""
    logits = torch.zeros(1, 8, 11)
    logits[..., 0] = confidence
    for k, digit in enumerate(digits):
        logits[0, 2 * k, digit + 1] = 2 * confidence
    return logits


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_losses_are_finite_and_answers_are_sums(name):
    objective = OBJECTIVES[name]
    shape = (3, 8, objective.outputs) if name == "sum_likelihood" else (3, objective.outputs)
    outputs = torch.randn(*shape, requires_grad=True)
    for step in (0, None):
        objective.loss(outputs, torch.tensor([0, 17, 36]), step=step).backward()
        assert outputs.grad.isfinite().all() and outputs.grad.any()
    answer, sums = objective.answer(outputs.detach()), objective.sums(outputs.detach())
    assert answer.values.shape == sums.shape == (3,) and answer.values.is_floating_point()
    assert torch.equal(objective.whole(answer.values), sums) and sums.dtype == torch.int64
    assert sums.min() >= 0 and sums.max() <= 36
    assert torch.equal(objective.truth(sums), sums)


def test_regression_loss_is_the_mean_squared_error():
    outputs = torch.tensor([[10.0], [20.5], [-1.0]])
    loss = OBJECTIVES["regression"].loss(outputs, torch.tensor([12, 20, 0]))
    assert loss.item() == pytest.approx((4 + 0.25 + 1) / 3)


@pytest.mark.parametrize(
    ("value", "total"),
    [(7.4, 7), (7.6, 8), (-3.2, 0), (-0.4, 0), (36.4, 36), (1e9, 36), (0.5, 0), (1.5, 2)],
)
def test_regression_rounds_half_to_even_and_stays_in_range(value, total):
    outputs = torch.tensor([[value]])
    assert OBJECTIVES["regression"].sums(outputs).tolist() == [total]
    assert OBJECTIVES["regression"].values(outputs).tolist() == [pytest.approx(value)]


def test_classification_takes_the_largest_score_and_loses_cross_entropy_in_nats():
    outputs = torch.zeros(2, NUM_SUMS)
    outputs[1, 5] = 3.0
    loss = OBJECTIVES["classification"].loss(outputs, torch.tensor([8, 5]))
    assert loss.item() == pytest.approx((math.log(37) + math.log(36 + math.exp(3)) - 3) / 2, rel=1e-5)
    for total in (0, 17, 36):
        outputs[:, total] = 4.0 + total
        assert OBJECTIVES["classification"].sums(outputs).tolist() == [total] * 2


@pytest.mark.parametrize("digits", [(0, 0, 0, 0), (9, 9, 9, 9), (1, 0, 7, 5)])
def test_the_likelihood_predicts_the_sum_of_the_digits_it_sees(digits):
    answer = OBJECTIVES["sum_likelihood"].answer(reads(*digits))
    assert answer.values.tolist() == [float(sum(digits))] and answer.readings[0].digits == list(digits)
    assert answer.log_p.exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_the_likelihoods_loss_is_the_mean_negative_log_likelihood_after_the_first_steps():
    """Before, it matches moments. Columns surely hold 1, 2, 3, 4, labelled 16: the mean is 6 off, the count right."""
    objective, outputs, sums = OBJECTIVES["sum_likelihood"], torch.randn(3, 8, 11), torch.tensor([0, 20, 36])
    expected = pytest.approx(-sum_log_likelihood(outputs, sums).mean().item(), rel=1e-5)
    assert objective.loss(outputs, sums).item() == expected
    assert objective.loss(outputs, sums, step=objective.start_steps).item() == expected
    early = objective.loss(reads(1, 2, 3, 4, confidence=30.0), torch.tensor([16]), step=0)
    assert early.item() == pytest.approx(6**2 / (4 * 8.25), rel=1e-3)
    two = replace(objective, count=2)
    assert two.loss(reads(3, 4, confidence=30.0), torch.tensor([7])).item() == pytest.approx(0, abs=1e-2)
    assert two.answer(reads(3, 4)).log_p.shape == (1, 19)
