"""The systems that the reports describe beside their main ones, and the two references that they lack."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from digitsum.compose import GLYPH, Strips
from digitsum.cuts import cut
from digitsum.data import Data, DataError
from digitsum.evaluation import InputError, Predictions, evaluate, predict, read
from digitsum.experiments import EXPERIMENTS, differences
from digitsum.models import MODELS, StripModel
from digitsum.models.cnn_attention import SelfAttention
from digitsum.models.layers import Float32Linear, Normalise
from digitsum.objectives import OBJECTIVES
from digitsum.runs import run_experiment
from digitsum.training import build, train


def layers(name: str) -> list[str]:
    """The layers of an experiment's model that have sizes, in their order."""
    words = []
    for module in build(replace(EXPERIMENTS[name], weights=None)).modules():
        if isinstance(module, nn.Conv2d):
            words.append(f"{module.in_channels}-{module.out_channels}")
        elif isinstance(module, nn.Dropout):
            words.append(f"dropout {module.p}")
        elif type(module) in (nn.Linear, Float32Linear):
            words.append(f"linear {module.in_features}-{module.out_features}")
    return words


# The reports' networks


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "cnn3_dropout-classification",
            ["1-32", "32-64", "64-128", f"linear {128 * 5 * 21}-256", "dropout 0.7", "linear 256-37"],
        ),
        ("cnn2_dropout-regression", ["1-32", "32-64", f"linear {64 * 420}-128", "dropout 0.5", "linear 128-1"]),
        ("cnn2_linear-regression", ["1-32", "32-64", f"linear {64 * 420}-1"]),
    ],
)
def test_plain_networks_have_the_layers_of_their_reports(name, expected):
    assert layers(name) == expected


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("cnn3_dropout-classification", {"optimizer": "adam", "lr": 1e-3, "batch_size": 64, "epochs": 8}),
        ("baseline_cnn-regression", {"epochs": 15}),
        ("baseline_cnn-classification", {"epochs": 15}),
        ("cnn2_dropout-regression", {"optimizer": "adam", "epochs": 100, "select": "loss"}),
        ("cnn2_linear-regression", {"optimizer": "adam", "select": "accuracy"}),
        ("vit-regression", {"epochs": 4, "weights": "IMAGENET1K_V1"}),
    ],
)
def test_settings_are_those_of_the_reports(name, settings):
    assert {key: getattr(EXPERIMENTS[name], key) for key in settings} == settings


def test_report_d_normalises_to_minus_one_and_one():
    model = build(EXPERIMENTS["cnn2_dropout-regression"])
    assert isinstance(model.normalise, Normalise)
    assert model.normalise(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)).flatten().tolist() == [-1, 1]
    assert not any(name.startswith("normalise") for name in model.state_dict())


CONVOLUTIONS = ["1-32", "32-64", "64-128", "128-128", "128-128"]


@pytest.mark.parametrize(
    ("name", "places", "convolutions"),
    [
        ("cnn_attention-regression", ["5"], CONVOLUTIONS),
        ("cnn_no_attention-regression", [], [*CONVOLUTIONS, "128-128", "128-128"]),
        ("cnn_attention_several-regression", ["3", "4", "5"], CONVOLUTIONS),
        ("cnn_attention_between-regression", ["3"], CONVOLUTIONS),
    ],
)
def test_attention_stands_where_report_e_has_it(name, places, convolutions):
    """Seen from what runs, not from what is there; all else is as in the network with one layer."""
    model, ran = build(EXPERIMENTS[name]), []
    for block in model.features:
        block.register_forward_hook(lambda *_: ran.append("convolution"))
    for block in model.attention.values():
        block.register_forward_hook(lambda *_: ran.append("attention"))
    model(torch.rand(2, 1, 40, 84))
    expected = [["convolution"] + ["attention"] * (str(k) in places) for k in range(1, len(convolutions) + 1)]
    assert ran == sum(expected, [])
    assert [word for word in layers(name) if "linear" not in word] == convolutions
    apart = differences(EXPERIMENTS[name], EXPERIMENTS["cnn_attention-regression"])
    assert set(apart) <= {"model_args", "label", "left_open"}


def test_attention_mixes_cells_and_keeps_the_map():
    attention, x = SelfAttention(8, 2), torch.rand(2, 8, 3, 4)
    changed = x.clone()
    changed[:, :, 0, 0] += 1
    assert attention(x).shape == x.shape
    assert not torch.equal(attention(x)[:, :, 2, 3], attention(changed)[:, :, 2, 3])
    nn.init.zeros_(attention.attention.out_proj.weight)
    assert torch.equal(attention(x), x), "a way around it"


# Transfer


def test_frozen_weights_stay_and_the_rest_learns(tiny):
    experiment = replace(EXPERIMENTS["vgg16_frozen-regression"], weights=None, epochs=1, batch_size=2)
    run = train(experiment, tiny.head(2, 2), device="cpu", progress=False)
    for name, start in build(experiment).state_dict().items():
        assert torch.equal(run.last[name], start) == name.startswith("frozen"), name


def test_vgg16_trains_the_convolution_before_and_the_head():
    model = build(replace(EXPERIMENTS["vgg16_frozen-regression"], weights=None))
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in model.frozen.parameters()) == 14_714_688  # of VGG-16's convolutions, as published
    assert sum(trained.values()) == (9 + 1) * 3 + (512 * 49 + 1) * 128 + 128 + 1


def test_vit_sees_the_strip_stretched_to_a_square():
    model, seen = build(replace(EXPERIMENTS["vit-regression"], weights=None)), []
    model.backbone = nn.Module()
    model.backbone.forward = lambda x: seen.append(x) or torch.zeros(len(x), 768)
    half = torch.zeros(1, 1, 40, 168)
    half[..., 84:] = 1
    model(half)
    dark, bright = (seen[0][0, :, :, columns] for columns in (slice(0, 110), slice(114, 224)))
    assert seen[0].shape == (1, 3, 224, 224)
    assert (dark < 0).all() and (bright > 0).all()  # ImageNet's normalisation
    assert dark.std(dim=(1, 2)).max() < 1e-5, "stretched from edge to edge, without a border"


# The most common sum


@given(
    st.lists(st.integers(0, 36), min_size=2, max_size=200).filter(
        lambda sums: len(counts := sorted(np.bincount(sums))) == 1 or counts[-1] > counts[-2]
    )
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_most_common_training_sum_is_predicted(sums):
    strips = Strips(np.zeros((len(sums), 40, 28), np.uint8), np.array(sums))
    data = Data("digits", strips, strips[:2], strips[:2], None, "", 0)
    model = train("most_common", data, device="cpu", progress=False).model
    assert predict(model, strips.images[:3]).tolist() == [np.bincount(sums).argmax()] * min(3, len(sums))


# The oracle


class Told(StripModel):
    """Reads the digit that stands in a cut's first pixel."""

    reads_cuts = True
    objective = OBJECTIVES["classification"]

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return nn.functional.one_hot((images[:, 0, 0, 0] * 255).long(), 37) * self.one


def marked(n: int) -> Strips:
    """Strips without ink but the digit itself in the first pixel of every glyph."""
    generator = np.random.default_rng(0)
    digits, corners = generator.integers(0, 10, (n, 4)), np.zeros((n, 4, 2), np.int64)
    corners[:, :, 0] = generator.integers(0, 13, (n, 4))
    corners[:, :, 1] = [0, 40, 100, 140]
    images = np.zeros((n, 40, 168), np.uint8)
    images[np.arange(n)[:, None], corners[:, :, 0], corners[:, :, 1]] = digits
    return Strips(images, digits.sum(1), digits, corners)


def test_a_cut_is_what_stands_at_a_digits_place(digits):
    strips = digits.test[:20]
    cuts = cut(strips)
    assert cuts.images.shape == (80, 40, GLYPH) and cuts.images.dtype == np.uint8
    assert np.array_equal(cuts.sums, strips.digits.ravel())
    assert not cuts.images[:, GLYPH:].any()
    for k, ((top, left), row) in enumerate(zip(strips.corners.reshape(-1, 2), np.repeat(range(20), 4), strict=True)):
        window = strips.images[row, top : top + GLYPH, left : left + GLYPH]
        assert np.array_equal(cuts.images[k, :GLYPH], window)


def test_strips_are_read_from_their_cuts():
    strips = marked(30)
    predicted = read(Told(), strips)
    assert isinstance(predicted, Predictions)
    assert np.array_equal(predicted.sums, strips.sums) and np.array_equal(predicted.values, strips.sums)


def test_the_oracle_learns_digits_and_reads_sums(tiny, tmp_path):
    run = train(
        replace(EXPERIMENTS["oracle-digit_labels"], epochs=20, batch_size=64, lr=1e-2, augment=None),
        tiny.head(48, 8), device="cpu", progress=False,
    )  # fmt: skip
    metrics, _ = evaluate(run.model, tiny.head(48, 8))
    assert metrics["train"]["n"] == 48 and metrics["train"]["accuracy"]["value"] > 0.9
    with pytest.raises(InputError, match="DigitCNN reads strips of 28 columns, not of 168"):
        predict(run.model, tiny.test.images)


def test_strips_of_unknown_digits_cannot_be_cut(tiny, tmp_path):
    unknown = replace(tiny, **{name: Strips(strips.images, strips.sums) for name, strips in tiny.splits.items()})
    with pytest.raises(DataError, match="mnist or digits"):
        run_experiment(
            "oracle-digit_labels", unknown, preset_name="smoke", progress=False,
            models=tmp_path / "m", results=tmp_path / "r",
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_only_the_name_that_says_so_uses_digit_labels():
    for name, experiment in EXPERIMENTS.items():
        model = MODELS[experiment.model]
        told = getattr(model, "reads_cuts", False) or getattr(model, "reads_boxes", False)
        assert told == (experiment.supervision not in ("sums", "nothing")) == ("digit_labels" in name)
