"""The optimisers, by name. Each takes a model, a learning rate and a weight decay."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .models import StripModel

MUON_LR = 7.0  # the matrices' learning rate over that of the other weights: 0.02 to 3e-3


class Muon(torch.optim.AdamW):
    """Muon for the hidden layers' weights, AdamW for the first and last layer, the norms and the biases.

    A hidden weight, as a matrix (outputs, inputs * kernel), moves by its momentum made orthogonal. Every direction of
    the matrix then learns at the same pace. `lr` is AdamW's; the matrices use MUON_LR times it, and only they decay.
    The first layer is a convolution that sees an image, of one or three channels. The last one makes the outputs.
    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (momentum 0.95, Nesterov, five
    Newton-Schulz steps). torch.optim.Muon takes matrices only, no convolutions.
    """

    def __init__(self, model: StripModel, lr: float, weight_decay: float) -> None:
        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.MultiheadAttention)]
        inner = [m for m in layers if getattr(m, "in_channels", 0) not in (1, 3)]
        weights = [p for m in inner for p in m.parameters(recurse=False) if p.ndim > 1 and p.requires_grad]
        hidden = [p for p in weights if p.shape[0] != model.objective.outputs]
        others = [p for p in model.parameters() if not any(p is h for h in hidden)]
        groups = [
            {"params": others, "weight_decay": 0.0, "muon": False},
            {"params": hidden, "lr": MUON_LR * lr, "muon": True},
        ]
        super().__init__(groups, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.99))

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient."""
        every = self.param_groups
        self.param_groups = [group for group in every if not group["muon"]]
        loss = super().step(closure)
        self.param_groups = every
        for group in (group for group in every if group["muon"]):
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                    state["step"] = torch.zeros(())  # AdamW looks for it when it loads a state
                momentum = state["momentum"].mul_(0.95).add_(p.grad)
                update = _orthogonal((p.grad + 0.95 * momentum).flatten(1)).view_as(p)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * max(1, p.shape[0] / p[0].numel()) ** 0.5)
        return loss


def _orthogonal(matrix: Tensor) -> Tensor:
    """Return roughly the nearest matrix with singular values of one, by five steps of a Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


OPTIMIZERS: dict[str, Callable[[StripModel, float, float], torch.optim.Optimizer]] = {
    "adam": lambda model, lr, decay: torch.optim.Adam(model.parameters(), lr, weight_decay=decay, fused=True),
    "adamw": lambda model, lr, decay: torch.optim.AdamW(model.parameters(), lr, weight_decay=decay, fused=True),
    "muon": Muon,
}
