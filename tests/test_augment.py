"""Augmentation: drawn per image, no further than asked for, the same for the same seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from digitsum.augment import Augmentation
from digitsum.experiments import EXPERIMENTS

STRONG = Augmentation(shift=3, scale=0.2, slant=0.3, thickness=0.5, warps=((1.5, 8), (2.0, 20)))
ONE_OF_EACH = [
    Augmentation(shift=6), Augmentation(scale=0.2), Augmentation(slant=0.3), Augmentation(thickness=0.5),
    Augmentation(warps=((1.5, 8),)),
]  # fmt: skip


@pytest.fixture
def bars() -> torch.Tensor:
    """64 equal images (64, 1, 40, 168) of a bar off the centre, with a soft edge above and below."""
    image = torch.zeros(40, 168)
    image[14:27, 60:65] = 1.0
    image[13, 60:65] = image[27, 60:65] = 0.5
    return image.repeat(64, 1, 1, 1)


@pytest.fixture
def strips(tiny) -> torch.Tensor:
    """Real strips (48, 1, 40, 168), whose ink reaches the edges in places."""
    return torch.from_numpy(tiny.train.images).unsqueeze(1) / 255


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def centres(images: torch.Tensor) -> torch.Tensor:
    """Centres of mass (N, 2) as (row, column)."""
    ink = images[:, 0] / images[:, 0].sum(dim=(1, 2), keepdim=True)
    rows, columns = torch.arange(40.0), torch.arange(168.0)
    return torch.stack([ink.sum(2) @ rows, ink.sum(1) @ columns], dim=1)


def mass(images: torch.Tensor) -> torch.Tensor:
    return images.sum(dim=(1, 2, 3))


def test_nothing_asked_for_changes_nothing(strips):
    torch.testing.assert_close(Augmentation()(strips), strips, atol=1e-4, rtol=0)


@pytest.mark.parametrize("augment", [*ONE_OF_EACH, STRONG], ids=str)
def test_each_image_has_its_own_draw(augment, bars):
    changed = augment(bars)
    assert changed.shape == bars.shape and changed.dtype == bars.dtype
    distinct = len(torch.unique(changed.flatten(1), dim=0))
    # shifts are in whole pixels, so among so many images some are the same
    assert distinct > len(bars) // 2 if augment == augment.moving else distinct == len(bars)


def test_the_same_seed_draws_the_same(bars):
    torch.manual_seed(3)
    first, second = STRONG(bars), STRONG(bars)
    torch.manual_seed(3)
    assert torch.equal(STRONG(bars), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("width", [168, 84])
def test_values_stay_in_range_and_the_images_given_as_they_are(strips, width):
    strips = strips[..., :width]
    before = strips.clone()
    changed = STRONG(strips)
    assert changed.isfinite().all() and changed.min() >= 0 and changed.max() <= 1 + 1e-6
    assert torch.equal(strips, before)


def test_an_empty_image_stays_empty():
    assert not STRONG(torch.zeros(4, 1, 40, 168)).any()


@pytest.mark.parametrize("shift", [1.0, 4.0])
def test_shift_is_in_pixels_each_way(shift, bars):
    moved = centres(Augmentation(shift=shift)(bars)) - centres(bars)
    assert moved.abs().max() <= shift + 1e-3
    assert (moved.amax(dim=0) > 0.8 * shift).all() and (moved.amin(dim=0) < -0.8 * shift).all()
    assert abs(np.corrcoef(moved.T)[0, 1]) < 0.4, "rows and columns are not drawn apart"


def test_moving_keeps_every_pixel_sharp(strips):
    moved = STRONG.moving(strips)
    assert not torch.allclose(moved, strips, atol=0.1), "nothing was moved"
    # whole pixels only, so every image is made of the very values it had
    torch.testing.assert_close(moved.flatten(1).sort().values, strips.flatten(1).sort().values, rtol=0, atol=1e-3)


def test_shift_never_pushes_ink_out(strips):
    torch.testing.assert_close(mass(Augmentation(shift=30)(strips)), mass(strips), rtol=0.03, atol=0)


def test_scale_is_a_share_of_each_side(bars):
    size = mass(Augmentation(scale=0.2)(bars)) / mass(bars)
    assert 0.8**2 - 0.02 < size.min() < 0.85 and 1.15 < size.max() < 1.2**2 + 0.02


def test_slant_is_in_columns_per_row(bars):
    changed = Augmentation(slant=0.3)(bars)
    top, bottom = ((changed[:, 0, row] @ torch.arange(168.0)) / changed[:, 0, row].sum(1) for row in (15, 25))
    slant = (bottom - top) / 10
    assert slant.abs().max() <= 0.3 + 1e-2 and slant.max() > 0.2 and slant.min() < -0.2
    torch.testing.assert_close(mass(changed), mass(bars), rtol=5e-3, atol=0)  # the overshoot that is cut off


def test_thickness_is_at_most_a_pixel_on_each_side(strips):
    changed = Augmentation(thickness=1.0)(strips)
    thickest, thinnest = F.max_pool2d(strips, 3, 1, 1), -F.max_pool2d(-strips, 3, 1, 1)
    assert (changed <= thickest + 1e-4).all() and (changed >= thinnest - 1e-4).all()
    assert (mass(changed) > 1.2 * mass(strips)).any() and (mass(changed) < 0.8 * mass(strips)).any()


@pytest.mark.parametrize("deviation", [0.75, 1.5])
def test_warps_bend_by_about_their_standard_deviation(deviation, bars):
    moved = centres(Augmentation(warps=((deviation, 30),))(bars)) - centres(bars)
    assert 0.5 * deviation < moved.std() < 1.2 * deviation and moved.mean().abs() < 0.4 * deviation


@pytest.mark.parametrize("name", ["reader", "oracle-digit_labels"])
def test_strips_are_as_sharp_after_bending_as_before(name, mnist):
    def steepness(images: torch.Tensor) -> torch.Tensor:
        return images.diff(dim=3).square().mean() + images.diff(dim=2).square().mean()

    strips = torch.from_numpy(mnist.train.images[:500]).unsqueeze(1) / 255
    augment = EXPERIMENTS[name].augment
    assert abs(steepness(augment(strips)) / steepness(strips) - 1) < 0.05
    assert steepness(replace(augment, sharpen=0.0)(strips)) / steepness(strips) < 0.8
