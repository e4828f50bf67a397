"""The optimisers: Muon against its definition, the library's with what they are given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from digitsum.optim import MUON_LR, OPTIMIZERS, Muon


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "muon"])
def test_the_librarys_optimisers_get_rate_and_decay(name):
    optimizer = OPTIMIZERS[name](nn.Linear(1, 1), 0.25, 0.125)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.25, 0.125)]


def test_muon_moves_hidden_matrices_by_their_orthogonal_momentum():
    """To what five steps of its iteration leave; the other weights move as by AdamW without decay."""
    torch.manual_seed(0)
    model, twin = (nn.Sequential(nn.Linear(4, 5), nn.Conv2d(5, 40, (1, 2), bias=False), nn.Linear(40, 2)) for _ in "ab")
    twin.load_state_dict(model.state_dict())
    lr, decay, weight = 0.01, 0.1, model[1].weight
    muon = Muon(model, lr, decay)
    others = [*twin[0].parameters(), *twin[2].parameters()]
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
        assert (turned - turned.diagonal().diag()).abs().max() < 1e-4
        for k in (0, 2):
            torch.testing.assert_close(list(model[k].parameters()), list(twin[k].parameters()))
