"""Augmentation: drawn per image, no further than asked for, the same for the same seed."""

from dataclasses import replace

import pytest
import torch

from digitsum.augment import augment
from digitsum.experiments import BENT, Augmentation

ALL = {"shift": 3, "scale": 0.2, "shear": 0.3, "dilation": 0.5, "elastic": ((1.5, 8), (2.0, 20))}
PARTS = [Augmentation(**{name: value}) for name, value in ALL.items()]


@pytest.fixture
def strips(tiny) -> torch.Tensor:
    """Strips (48, 1, 40, 168), whose ink reaches the edges in places."""
    return torch.from_numpy(tiny.train.images).unsqueeze(1) / 255


@pytest.mark.parametrize("settings", [*PARTS, Augmentation(**ALL)], ids=str)
def test_each_image_has_its_own_draw_and_a_seed_draws_the_same(settings, strips):
    same, before = strips[:1].repeat(20, 1, 1, 1), strips.clone()
    torch.manual_seed(3)
    first, second = augment(same, settings), augment(strips, settings)
    torch.manual_seed(3)
    assert torch.equal(augment(same, settings), first)
    assert len(torch.unique(first.flatten(1), dim=0)) > 10
    assert second.isfinite().all() and second.min() >= 0 and second.max() <= 1 + 1e-6
    assert torch.equal(strips, before) and augment(strips, None) is strips
    assert not augment(torch.zeros(4, 1, 40, 84), settings).any(), "an empty image stays empty"


def test_shifts_are_whole_pixels_and_never_push_ink_out(strips):
    torch.manual_seed(0)
    moved = augment(strips, Augmentation(shift=30))
    assert not torch.allclose(moved, strips, atol=0.1)
    torch.testing.assert_close(moved.flatten(1).sort().values, strips.flatten(1).sort().values, rtol=0, atol=1e-2)


def test_shear_is_in_columns_per_row():
    torch.manual_seed(0)
    bars = torch.zeros(64, 1, 40, 168)
    bars[:, :, 13:28, 60:65] = 1.0
    changed = augment(bars, Augmentation(shear=0.3))
    top, bottom = ((changed[:, 0, row] @ torch.arange(168.0)) / changed[:, 0, row].sum(1) for row in (15, 25))
    shear = (bottom - top) / 10
    assert shear.abs().max() <= 0.32 and shear.max() > 0.2 and shear.min() < -0.2


def test_strips_are_as_sharp_after_bending_as_before(mnist):
    def steepness(images: torch.Tensor) -> torch.Tensor:
        return images.diff(dim=3).square().mean() + images.diff(dim=2).square().mean()

    strips = torch.from_numpy(mnist.train.images[:300]).unsqueeze(1) / 255
    assert abs(steepness(augment(strips, BENT)) / steepness(strips) - 1) < 0.1
    assert steepness(augment(strips, replace(BENT, sharpen=0.0))) / steepness(strips) < 0.85
