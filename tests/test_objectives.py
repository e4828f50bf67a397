"""Objectives: losses and predicted sums against computations by hand."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import OBJECTIVE_NAMES

from digitsum.likelihood import sum_log_likelihood
from digitsum.objectives import OBJECTIVES


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
    assert sums.min() >= 0 and sums.max() <= 36 and torch.equal(objective.truth(sums), sums)


def test_regression_squares_errors_rounds_half_to_even_and_stays_in_range():
    values = torch.tensor([[7.4], [7.6], [-3.2], [36.4], [1e9], [0.5], [1.5]])
    assert OBJECTIVES["regression"].sums(values).tolist() == [7, 8, 0, 36, 36, 0, 2]
    loss = OBJECTIVES["regression"].loss(values[:2], torch.tensor([7, 9]))
    assert loss.item() == pytest.approx((0.4**2 + 1.4**2) / 2)


def test_classification_takes_the_largest_score_and_loses_cross_entropy_in_nats():
    outputs = torch.zeros(2, 37)
    outputs[1, 5] = 3.0
    loss = OBJECTIVES["classification"].loss(outputs, torch.tensor([8, 5]))
    assert loss.item() == pytest.approx((math.log(37) + math.log(36 + math.exp(3)) - 3) / 2, rel=1e-5)
    assert OBJECTIVES["classification"].sums(outputs)[1] == 5


def test_the_likelihood_matches_moments_in_its_first_steps_and_reads_digits():
    """Columns surely hold 1, 2, 3, 4, labelled 16: the mean is 6 off, the count right."""
    objective, outputs, sums = OBJECTIVES["sum_likelihood"], torch.randn(3, 8, 11), torch.tensor([0, 20, 36])
    expected = pytest.approx(-sum_log_likelihood(outputs, sums).mean().item(), rel=1e-5)
    assert objective.loss(outputs, sums) == expected == objective.loss(outputs, sums, step=objective.start_steps)
    sure = torch.zeros(1, 8, 11)
    sure[..., 0] = 30.0
    sure[0, [0, 2, 4, 6], [2, 3, 4, 5]] = 60.0
    assert objective.loss(sure, torch.tensor([16]), step=0).item() == pytest.approx(6**2 / (4 * 8.25), rel=1e-3)
    answer = objective.answer(sure)
    assert answer.values.tolist() == [10.0] and answer.readings[0].digits == [1, 2, 3, 4]
    assert replace(objective, count=2).answer(sure).log_p.shape == (1, 19)
