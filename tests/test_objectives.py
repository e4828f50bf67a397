"""Objectives: losses and predicted sums against computations by hand."""

from __future__ import annotations

import math

import pytest
import torch

from digitsum.likelihood import sum_log_likelihood
from digitsum.objectives import MAX_SUM, NUM_SUMS, OBJECTIVES


def test_registry():
    assert all(name == objective.name for name, objective in OBJECTIVES.items())
    assert {"regression": 1, "classification": 37}.items() <= {k: v.outputs for k, v in OBJECTIVES.items()}.items()
    assert NUM_SUMS == MAX_SUM + 1 == 37


def test_regression_loss_is_the_mean_squared_error():
    outputs = torch.tensor([[10.0], [20.5], [-1.0]])
    loss = OBJECTIVES["regression"].loss(outputs, torch.tensor([12, 20, 0]))
    assert loss.item() == pytest.approx((4 + 0.25 + 1) / 3)


@pytest.mark.parametrize(
    ("value", "total"),
    [(7.4, 7), (7.6, 8), (-3.2, 0), (-0.4, 0), (36.4, 36), (41.0, 36), (1e9, 36), (0.5, 0), (1.5, 2)],
)
def test_regression_rounds_half_to_even_and_stays_in_range(value, total):
    objective, outputs = OBJECTIVES["regression"], torch.tensor([[value]])
    assert objective.sums(outputs).tolist() == [total]
    assert objective.values(outputs).tolist() == [pytest.approx(value)]


def test_classification_loss_is_the_mean_cross_entropy_in_nats():
    outputs = torch.zeros(2, NUM_SUMS)
    outputs[1, 5] = 3.0
    loss = OBJECTIVES["classification"].loss(outputs, torch.tensor([8, 5]))
    by_hand = (math.log(37) + math.log(36 + math.exp(3)) - 3) / 2
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("total", [0, 17, 36])
def test_classification_predicts_the_largest_score(total):
    outputs = torch.linspace(-2, 1, NUM_SUMS).repeat(2, 1)
    outputs[:, total] = 1.5
    objective = OBJECTIVES["classification"]
    assert objective.sums(outputs).tolist() == [total] * 2
    assert objective.values(outputs).tolist() == [float(total)] * 2


class TestSumLikelihood:
    """The likelihood itself is tested in test_likelihood.py."""

    @staticmethod
    def reads(*digits: int, confidence: float = 12.0) -> torch.Tensor:
        """Logits (1, 8, 11) of columns that surely hold the digits, in every second column."""
        logits = torch.zeros(1, 8, 11)
        logits[..., 0] = confidence
        for k, digit in enumerate(digits):
            logits[0, 2 * k, digit + 1] = 2 * confidence
        return logits

    @pytest.mark.parametrize("digits", [(0, 0, 0, 0), (9, 9, 9, 9), (1, 0, 7, 5)])
    def test_predicts_the_sum_of_the_digits_it_sees(self, digits):
        objective = OBJECTIVES["sum_likelihood"]
        assert objective.sums(self.reads(*digits)).tolist() == [sum(digits)]
        assert objective.values(self.reads(*digits)).tolist() == [float(sum(digits))]

    def test_loss_is_the_mean_negative_log_likelihood(self):
        objective, outputs, sums = OBJECTIVES["sum_likelihood"], torch.randn(3, 8, 11), torch.tensor([0, 20, 36])
        assert objective.loss(outputs, sums).item() == pytest.approx(-sum_log_likelihood(outputs, sums).mean().item())
        assert objective.loss(self.reads(1, 2, 3, 4), torch.tensor([10])).item() == pytest.approx(0, abs=1e-2)

    def test_the_first_steps_match_moments(self):
        """Columns that surely hold 1, 2, 3 and 4, labelled 16: the mean is 6 off, the count right."""
        objective = OBJECTIVES["sum_likelihood"]
        loss = objective.loss(self.reads(1, 2, 3, 4, confidence=30.0), torch.tensor([16]), step=0)
        assert loss.item() == pytest.approx(6**2 / (4 * 8.25), rel=1e-4)
        late = objective.loss(self.reads(1, 2, 3, 4), torch.tensor([16]), step=objective.start_steps)
        assert late == objective.loss(self.reads(1, 2, 3, 4), torch.tensor([16]))
