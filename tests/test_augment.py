"""Augmentation: drawn per image, no further than asked for, the same for the same seed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from digitsum.augment import augment
from digitsum.experiments import BENT, Augmentation

STRONG = Augmentation(shift=3, scale=0.2, shear=0.3, dilation=0.5, elastic=((1.5, 8), (2.0, 20)))
ONE_OF_EACH = [
    Augmentation(shift=6), Augmentation(scale=0.2), Augmentation(shear=0.3), Augmentation(dilation=0.5),
    Augmentation(elastic=((1.5, 8),)),
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
    """Return centres of mass (N, 2) as (row, column)."""
    ink = images[:, 0] / images[:, 0].sum(dim=(1, 2), keepdim=True)
    rows, columns = torch.arange(40.0), torch.arange(168.0)
    return torch.stack([ink.sum(2) @ rows, ink.sum(1) @ columns], dim=1)


def mass(images: torch.Tensor) -> torch.Tensor:
    return images.sum(dim=(1, 2, 3))


def test_nothing_asked_for_changes_nothing(strips):
    assert augment(strips, None) is strips
    torch.testing.assert_close(augment(strips, Augmentation()), strips, atol=1e-3, rtol=0)


@pytest.mark.parametrize("settings", [*ONE_OF_EACH, STRONG], ids=str)
def test_each_image_has_its_own_draw(settings, bars):
    changed = augment(bars, settings)
    assert changed.shape == bars.shape and changed.dtype == bars.dtype
    distinct = len(torch.unique(changed.flatten(1), dim=0))
    # shifts are in whole pixels, so some of so many images are the same
    assert distinct == len(bars) or (settings == ONE_OF_EACH[0] and distinct > len(bars) // 2)


def test_the_same_seed_draws_the_same(bars):
    torch.manual_seed(3)
    first, second = augment(bars, STRONG), augment(bars, STRONG)
    torch.manual_seed(3)
    assert torch.equal(augment(bars, STRONG), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("width", [168, 84])
def test_values_stay_in_range_and_the_images_given_as_they_are(strips, width):
    strips = strips[..., :width]
    before = strips.clone()
    changed = augment(strips, STRONG)
    assert changed.isfinite().all() and changed.min() >= 0 and changed.max() <= 1 + 1e-6
    assert torch.equal(strips, before)
    assert not augment(torch.zeros(4, 1, 40, width), STRONG).any(), "an empty image stays empty"


@pytest.mark.parametrize("shift", [1.0, 4.0])
def test_shift_is_in_whole_pixels_each_way(shift, bars, strips):
    moved = centres(augment(bars, Augmentation(shift=shift))) - centres(bars)
    assert moved.abs().max() <= shift + 1e-2
    assert (moved.amax(dim=0) > 0.8 * shift).all() and (moved.amin(dim=0) < -0.8 * shift).all()
    pushed = augment(strips, Augmentation(shift=30))  # never out of the canvas: every pixel is still there
    torch.testing.assert_close(pushed.flatten(1).sort().values, strips.flatten(1).sort().values, rtol=0, atol=1e-2)


def test_scale_is_a_fraction_of_each_side(bars):
    size = mass(augment(bars, Augmentation(scale=0.2))) / mass(bars)
    assert 0.8**2 - 0.05 < size.min() < 0.9 and 1.1 < size.max() < 1.2**2 + 0.05


def test_shear_is_in_columns_per_row(bars):
    changed = augment(bars, Augmentation(shear=0.3))
    top, bottom = ((changed[:, 0, row] @ torch.arange(168.0)) / changed[:, 0, row].sum(1) for row in (15, 25))
    shear = (bottom - top) / 10
    assert shear.abs().max() <= 0.3 + 2e-2 and shear.max() > 0.2 and shear.min() < -0.2
    torch.testing.assert_close(mass(changed), mass(bars), rtol=2e-2, atol=0)  # the overshoot that is cut off


def test_dilation_is_at_most_a_pixel_on_each_side(strips):
    changed = augment(strips, Augmentation(dilation=1.0))
    thickest, thinnest = F.max_pool2d(strips, 3, 1, 1), -F.max_pool2d(-strips, 3, 1, 1)
    assert (changed <= thickest + 1e-3).all() and (changed >= thinnest - 1e-3).all()
    assert (mass(changed) > 1.2 * mass(strips)).any() and (mass(changed) < 0.8 * mass(strips)).any()


@pytest.mark.parametrize("deviation", [0.75, 1.5])
def test_elastic_moves_by_about_its_standard_deviation(deviation, bars):
    moved = centres(augment(bars, Augmentation(elastic=((deviation, 30),)))) - centres(bars)
    assert 0.4 * deviation < moved.std() < 1.4 * deviation and moved.mean().abs() < 0.5 * deviation


def test_strips_are_as_sharp_after_bending_as_before(mnist):
    def steepness(images: torch.Tensor) -> torch.Tensor:
        return images.diff(dim=3).square().mean() + images.diff(dim=2).square().mean()

    strips = torch.from_numpy(mnist.train.images[:300]).unsqueeze(1) / 255
    assert abs(steepness(augment(strips, BENT)) / steepness(strips) - 1) < 0.1
    assert steepness(augment(strips, replace(BENT, sharpen=0.0))) / steepness(strips) < 0.85
