"""The optimisers: Muon against its definition, the library's with what they are given."""

from __future__ import annotations

import pytest
import torch
from conftest import CORE
from torch import nn

from digitsum.experiments import EXPERIMENTS
from digitsum.models import StripModel
from digitsum.objectives import OBJECTIVES
from digitsum.optim import MUON_LR, Muon
from digitsum.training import build


class Layers(StripModel):
    """A convolution that sees the image, a hidden one, and a linear layer that makes the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.hidden = nn.Conv2d(1, 5, 3), nn.Conv2d(5, 40, (1, 2), bias=False)
        self.head = nn.Linear(40, 1)
        self.objective = OBJECTIVES["regression"]


def test_muon_moves_hidden_matrices_by_their_orthogonal_momentum():
    """To what five steps of its iteration leave; the other weights move as by AdamW without decay."""
    torch.manual_seed(0)
    model, twin = Layers(), Layers()
    twin.load_state_dict(model.state_dict())
    lr, decay, weight = 0.01, 0.1, model.hidden.weight
    muon = Muon(model, lr, decay)
    others = [*twin.first.parameters(), *twin.head.parameters()]
    adamw = torch.optim.AdamW(others, lr=lr, weight_decay=0, betas=(0.9, 0.99))
    momentum = torch.zeros(40, 10)
    rate = MUON_LR * lr
    for _ in range(3):
        for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            mine.grad = theirs.grad = torch.randn_like(mine)
        before, gradient = weight.detach().flatten(1).clone(), weight.grad.flatten(1)
        muon.step()
        adamw.step()
        momentum = 0.95 * momentum + gradient
        left, _, right = torch.linalg.svd(gradient + 0.95 * momentum, full_matrices=False)
        step = (before * (1 - rate * decay) - weight.detach().flatten(1)) / (rate * (40 / 10) ** 0.5)
        turned = left.T @ step @ right.T
        assert (turned.diagonal() - 0.95).abs().max() < 0.35
        assert (turned - turned.diagonal().diag()).abs().max() < 1e-3
        for layer in ("first", "head"):
            torch.testing.assert_close(getattr(model, layer).state_dict(), getattr(twin, layer).state_dict())


@pytest.mark.parametrize("name", [name for name in CORE if EXPERIMENTS[name].optimizer == "muon"])
def test_muon_takes_all_weights_between_the_first_and_the_last_layer(name):
    model = build(EXPERIMENTS[name])
    hidden = {id(p) for p in Muon(model, 1.0, 0.0).param_groups[1]["params"]}
    matrices = [p for p in model.parameters() if p.ndim > 1]
    assert [id(p) in hidden for p in matrices] == [False] + [True] * (len(matrices) - 2) + [False]
