"""Every experiment's model: shapes, gradients, saving and loading; and the layers that the reports give."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import digitsum.models.pretrained
from digitsum.checkpoints import load_checkpoint, save_checkpoint
from digitsum.devices import has_bfloat16
from digitsum.experiments import EXPERIMENTS
from digitsum.likelihood import most_agreed, read_strings, sum_distribution
from digitsum.models import MODELS
from digitsum.models.layers import Float32Linear
from digitsum.objectives import MAX_SUM, OBJECTIVES
from digitsum.studies import STUDIES
from digitsum.training import build


def untrained(name: str) -> nn.Module:
    """The experiment's model from a random start."""
    return build(replace(EXPERIMENTS[name], weights=None))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 1, 40, 168, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def sums() -> torch.Tensor:
    return torch.tensor([3, 29])


def test_experiments_and_studies_use_every_model_and_every_objective():
    variants = [
        v.experiment for study in STUDIES.values() if study.variants for v in study.variants(EXPERIMENTS["reader"])
    ]
    assert {experiment.model for experiment in [*EXPERIMENTS.values(), *variants]} == set(MODELS)
    assert {experiment.objective for experiment in [*EXPERIMENTS.values(), *variants]} == set(OBJECTIVES)


@pytest.mark.parametrize("name", [name for name, e in EXPERIMENTS.items() if e.objective not in ("text", "boxes")])
def test_outputs_and_gradients(name, images, sums):
    model, objective = untrained(name), OBJECTIVES[EXPERIMENTS[name].objective]
    outputs = model(images)
    assert outputs.shape[0] == 2 and outputs.shape[-1] == objective.outputs
    assert outputs.dtype == torch.float32 and outputs.isfinite().all()
    assert objective.values(outputs).shape == objective.sums(outputs).shape == (2,)
    assert objective.values(outputs).is_floating_point() and objective.sums(outputs).dtype == torch.int64
    assert objective.sums(outputs).min() >= 0 and objective.sums(outputs).max() <= MAX_SUM

    loss = objective.loss(outputs, sums)
    assert loss.shape == () and loss.isfinite()
    loss.backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
    assert next(model.parameters()).grad.any(), "no gradient arrives at the first layer"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_save_and_load_give_identical_outputs(name, images, sums, tmp_path, monkeypatch):
    experiment = EXPERIMENTS[name]
    model = untrained(name).to(memory_format=torch.channels_last)
    model(images)  # moves the batch norms' running statistics away from their start
    model.eval()
    path = tmp_path / f"{name}.safetensors"
    about = {"model": experiment.model, "model_args": experiment.model_args, "objective": experiment.objective}
    save_checkpoint(model, path, **about, weights=experiment.weights)
    del model.objective

    def download(*_):
        raise AssertionError("loading a checkpoint asked for published weights")

    monkeypatch.setattr(digitsum.models.pretrained, "pretrained_state", download)
    loaded = load_checkpoint(path)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
    assert loaded.objective == OBJECTIVES[experiment.objective]


@pytest.mark.parametrize(
    "name", [n for n, e in EXPERIMENTS.items() if not e.weights and n not in ("most_common", "ocr")]
)
def test_a_model_is_a_function_of_its_seed(name):
    models = (build(EXPERIMENTS[name], seed) for seed in (1, 1, 2))
    one, again, other = (nn.utils.parameters_to_vector(model.parameters()) for model in models)
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_the_reader_looks_again_where_it_doubts(images):
    reader = untrained("reader")
    reader(images)  # moves the batch norms' running statistics away from their start
    assert torch.equal(reader(images), reader(images)), "in training, there is one look"
    reader.eval()
    with torch.no_grad():
        once = reader.glance(images)
        likeliest = once.softmax(2).amax(2).amin(1)
        reader.second_look = likeliest.median().item() + 1e-6  # so that half of the strips are in doubt
        doubtful = likeliest < reader.second_look
        assert doubtful.any() and not doubtful.all()
        answer, seen = reader.answer(images), reader.sees(images)
        moved = [F.pad(images, (8, 8)).roll(right, dims=3)[:, :, :, 4:-4] for right in (1, -1)]
        looks = [once, *(reader.glance(each)[:, 1:-1] for each in moved)]
    p = sum_distribution(once, 4).softmax(1)
    p[doubtful] = torch.stack([sum_distribution(look, 4).softmax(1) for look in looks]).mean(0)[doubtful]
    torch.testing.assert_close(answer.log_p.exp(), p, atol=1e-5, rtol=1e-5)
    assert torch.equal(answer.values, p.argmax(1).float())
    torch.testing.assert_close(seen[~doubtful], once.softmax(2)[~doubtful])
    torch.testing.assert_close(seen[doubtful], torch.stack(looks).softmax(3).mean(0)[doubtful], atol=1e-5, rtol=1e-5)
    of_one = read_strings(once, 4)
    of_several = most_agreed(torch.stack(looks), 4)
    for n, reading in enumerate(answer.readings):
        expected = (of_several if doubtful[n] else of_one)[n]
        assert reading.digits == expected.digits and reading.columns == expected.columns


def test_a_reader_that_was_not_taught_symbols_looks_once(images):
    reader = untrained("reader").eval()
    reader.objective = OBJECTIVES["expected_sum"]
    with torch.no_grad():
        answer, outputs = reader.answer(images), reader(images)
    assert outputs.softmax(2).amax(2).amin() < reader.second_look
    assert torch.equal(answer.values, reader.objective.values(outputs))


def test_a_readers_glance_is_what_it_sees_to_the_precision_of_bfloat16(images):
    reader = untrained("reader").eval()
    with torch.no_grad():
        exact, fast = reader(images), reader.glance(images)
    assert fast.dtype == exact.dtype == torch.float32
    torch.testing.assert_close(fast, exact, atol=0.05, rtol=0.02)
    if not has_bfloat16(images.device):
        assert torch.equal(fast, exact)


@pytest.mark.parametrize(("outputs", "total"), [(1, 3_459_713), (37, 3_464_357)])
def test_baseline_has_the_layers_of_report_a(outputs, total):
    model = MODELS["baseline_cnn"](outputs)
    convolutions = [(m.in_channels, m.out_channels, m.kernel_size) for m in model.modules() if isinstance(m, nn.Conv2d)]
    linears = [(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)]
    assert convolutions == [(1, 32, (3, 3)), (32, 64, (3, 3))]
    assert linears == [(64 * 420, 128), (128, outputs)]
    assert sum(isinstance(m, nn.MaxPool2d) for m in model.modules()) == 2
    assert parameters(model) == total


def test_cnn_attention_has_the_layers_of_report_e():
    model = MODELS["cnn_attention"](1)
    kinds = [type(m) for m in model.modules()]
    assert kinds.count(nn.Conv2d) == 5 and kinds.count(nn.MultiheadAttention) == 1
    assert kinds.count(nn.Linear) + kinds.count(Float32Linear) == 2
    order = [k for k in kinds if k in (nn.Conv2d, nn.MultiheadAttention, nn.Linear, Float32Linear)]
    assert order == [nn.Conv2d] * 5 + [nn.MultiheadAttention, nn.Linear, Float32Linear]


def test_resnet50_has_the_head_of_report_b():
    with torch.device("meta"):  # counts without drawing 24 million numbers
        model = MODELS["resnet50"](37)
    assert [(m.in_features, m.out_features) for m in (model.hidden[0], model.head)] == [(2048, 128), (128, 37)]
    assert isinstance(model.hidden[1], nn.ReLU) and model.hidden[2].p == 0.3
    assert parameters(model) == 23_508_032 + (2048 * 128 + 128) + (128 * 37 + 37)
    assert parameters(model) == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_the_last_linear_layer_computes_in_float32_under_autocast():
    layer, x = Float32Linear(8, 1), torch.rand(4, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        computed = layer(x)
    assert computed.dtype == torch.float32
    assert torch.equal(computed, nn.functional.linear(x.float(), layer.weight, layer.bias))
