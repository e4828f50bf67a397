"""Every model of the registry: shapes, gradients, saving and loading; and the layers that the reports give."""

from dataclasses import replace

import pytest
import torch
from conftest import CORE, save
from torch import nn

from digitsum.checkpoints import load_checkpoint
from digitsum.experiments import EXPERIMENTS
from digitsum.models import MODELS
from digitsum.models.layers import Float32Linear
from digitsum.training import build


@pytest.mark.parametrize("name", CORE)
def test_outputs_gradients_and_checkpoints(name, tmp_path):
    """Loading a checkpoint asks for no published weights and gives identical outputs."""
    experiment = replace(EXPERIMENTS[name], weights=None)
    model = build(experiment).to(memory_format=torch.channels_last)
    images = torch.rand(2, 1, 40, 168, generator=torch.Generator().manual_seed(0))
    outputs, objective = model(images), model.objective  # in training: moves batch norms' running statistics
    assert outputs.shape[0] == 2 and outputs.shape[-1] == objective.outputs
    assert outputs.dtype == torch.float32 and outputs.isfinite().all()
    objective.loss(outputs, torch.tensor([3, 29])).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
    assert next(model.parameters()).grad.any(), "no gradient arrives at the first layer"

    path = tmp_path / f"{name}.safetensors"
    save(model, path, experiment)
    loaded = load_checkpoint(path)
    with torch.no_grad():
        assert torch.equal(loaded(images), model.eval()(images))
    assert loaded.objective == objective


def test_baseline_has_the_layers_of_report_a():
    layers = list(MODELS["baseline_cnn"](37).modules())
    shapes = [tuple(m.weight.shape) for m in layers if isinstance(m, nn.Conv2d | nn.Linear)]
    assert shapes == [(32, 1, 3, 3), (64, 32, 3, 3), (128, 64 * 420), (37, 128)]
    assert sum(isinstance(m, nn.MaxPool2d) for m in layers) == 2


def test_the_last_linear_layer_computes_in_float32_under_autocast():
    layer, x = Float32Linear(8, 1), torch.rand(4, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        computed = layer(x)
    assert computed.dtype == torch.float32
    assert torch.equal(computed, nn.functional.linear(x.float(), layer.weight, layer.bias))
