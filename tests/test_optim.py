"""The optimisers: Muon against its definition, the library's with what they are given."""

from dataclasses import replace

import pytest
import torch
from conftest import CORE

from digitsum.experiments import EXPERIMENTS
from digitsum.optim import MUON_LR, Muon
from digitsum.training import build


def test_muon_moves_hidden_matrices_by_their_orthogonal_momentum():
    """To what five steps of its iteration leave; the other weights move as by AdamW without decay."""
    small = replace(EXPERIMENTS["baseline_cnn-regression"], model_args={"channels": (2, 40), "hidden": None})
    model, twin, hidden = build(small), build(small), "features.3.weight"
    others = [name for name, _ in model.named_parameters() if name != hidden]
    lr, decay, weight = 0.01, 0.1, model.get_parameter(hidden)
    muon = Muon(model, lr, decay)
    adamw = torch.optim.AdamW(map(twin.get_parameter, others), lr=lr, weight_decay=0, betas=(0.9, 0.99))
    momentum = torch.zeros(40, 18)
    rate = MUON_LR * lr
    torch.manual_seed(0)
    for _ in range(3):
        for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            mine.grad = theirs.grad = torch.randn_like(mine)
        before, gradient = weight.detach().flatten(1).clone(), weight.grad.flatten(1)
        muon.step()
        adamw.step()
        momentum = 0.95 * momentum + gradient
        left, _, right = torch.linalg.svd(gradient + 0.95 * momentum, full_matrices=False)
        step = (before * (1 - rate * decay) - weight.detach().flatten(1)) / (rate * (40 / 18) ** 0.5)
        turned = left.T @ step @ right.T
        assert (turned.diagonal() - 0.95).abs().max() < 0.35
        assert (turned - turned.diagonal().diag()).abs().max() < 1e-3
        for name in others:
            torch.testing.assert_close(model.get_parameter(name), twin.get_parameter(name))


@pytest.mark.parametrize("name", [name for name in CORE if EXPERIMENTS[name].optimizer == "muon"])
def test_muon_takes_all_weights_between_the_first_and_the_last_layer(name):
    model = build(EXPERIMENTS[name])
    hidden = {id(p) for p in Muon(model, 1.0, 0.0).param_groups[1]["params"]}
    matrices = [p for p in model.parameters() if p.ndim > 1]
    assert [id(p) in hidden for p in matrices] == [False] + [True] * (len(matrices) - 2) + [False]
