"""Augmentation of a batch on the device it lives on, drawn anew for each image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """How far a strip is moved and bent, and its pen thickened, such that the sum stays what it was.

    It is moved no farther than to the edge of the canvas; bends may cost digits their outermost pixels there.

    Amounts are the largest to either side, drawn uniformly per image: `shift` in whole pixels, `scale` as a share of
    height and of width, `slant` in columns per row, `thickness` as a share of the way to one pixel more or less of pen
    on each side. `warps` are elastic displacements, each drawn from a normal distribution of a standard deviation in
    pixels at points of a distance in pixels: ((deviation, distance), ...). `sharpen` is the contrast added around
    mid-grey to all images, as a share of what they have: it gives back the steep edges that interpolation flattens.
    """

    shift: float = 0.0
    scale: float = 0.0
    slant: float = 0.0
    thickness: float = 0.0
    warps: tuple[tuple[float, float], ...] = ()
    sharpen: float = 0.0

    @property
    def moving(self) -> Augmentation:
        """The shift alone, which keeps every pixel as sharp as it was: all else blurs a little, by interpolating."""
        return type(self)(shift=self.shift)

    def __call__(self, images: Tensor) -> Tensor:
        """The images (N, 1, H, W) in 0..1, each changed by its own draw; what comes in from outside is black."""
        n, _, height, width = images.shape
        device = images.device

        def draw(amount: float) -> Tensor:
            return amount * (2 * torch.rand(n, device=device) - 1)

        ink = images[:, 0] > 0
        left, right = _extent(ink.any(dim=1))
        top, bottom = _extent(ink.any(dim=2))
        if self.thickness:
            images = _thicken(images, draw(self.thickness).view(n, 1, 1, 1))
        wide, high, slant = 1 + draw(self.scale), 1 + draw(self.scale), draw(self.slant)
        # Where the ink's centre goes: near where it was, and at least half of the ink's new size from every edge.
        half_width = (right - left) / 2 * wide + slant.abs() * (bottom - top) / 2 * high
        half_height = (bottom - top) / 2 * high
        x = _keep_inside((left + right) / 2 + draw(self.shift).round(), half_width, width)
        y = _keep_inside((top + bottom) / 2 + draw(self.shift).round(), half_height, height)

        rows = torch.arange(height, device=device)[:, None] - y.view(n, 1, 1)  # (N, H, 1), from the new centre
        columns = torch.arange(width, device=device) - x.view(n, 1, 1)  # (N, 1, W)
        from_row = ((top + bottom) / 2).view(n, 1, 1) + rows / high.view(n, 1, 1)
        from_column = ((left + right) / 2).view(n, 1, 1) + (columns + slant.view(n, 1, 1) * rows) / wide.view(n, 1, 1)
        grid = torch.stack([from_column, from_row.expand_as(from_column)], dim=1)  # (N, 2, H, W), in pixels
        for deviation, distance in self.warps:
            down, across = _interpolation(height, distance, device), _interpolation(width, distance, device)
            points = deviation * torch.randn(n, 2, down.shape[1], across.shape[1], device=device)
            grid = grid + down @ points @ across.T
        last = torch.tensor([width - 1, height - 1], device=device).view(1, 2, 1, 1)
        grid = (2 * grid / last - 1).permute(0, 2, 3, 1)
        bent = F.grid_sample(images, grid, mode="bicubic", align_corners=True)  # as fast as bilinear, and sharper
        return ((bent - 0.5) * (1 + self.sharpen) + 0.5).clamp(0, 1)


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last true position in each row of `occupied` (N, L), as floats; the whole row if none is."""
    length = occupied.shape[1]
    position = torch.arange(length, device=occupied.device)
    first = torch.where(occupied, position, length).amin(dim=1)
    last = torch.where(occupied, position, -1).amax(dim=1)
    none = last < 0
    return first.masked_fill(none, 0).float(), last.masked_fill(none, length - 1).float()


def _keep_inside(centre: Tensor, half: Tensor, length: int) -> Tensor:
    """The nearest centre at which `half` to either side lies inside 0..length-1; the middle where it cannot."""
    middle = (length - 1) / 2
    return centre.maximum(half.clamp(max=middle)).minimum((length - 1 - half).clamp(min=middle))


def _thicken(images: Tensor, amount: Tensor) -> Tensor:
    """Part of the way to the image with a pixel more pen on every side, or for negative amounts with a pixel less."""
    more = _spread(images) - images
    less = images - 1 + _spread(1 - images)
    return images + amount.clamp(min=0) * more + amount.clamp(max=0) * less


def _spread(images: Tensor) -> Tensor:
    """Each pixel's largest value in the 3x3 around it, as four comparisons: many times faster than max pooling."""
    x = F.pad(images, (1, 1))
    x = torch.maximum(torch.maximum(x[..., :-2], x[..., 2:]), images)
    y = F.pad(x, (0, 0, 1, 1))
    return torch.maximum(torch.maximum(y[..., :-2, :], y[..., 2:, :]), x)


def _interpolation(length: int, distance: float, device: torch.device) -> Tensor:
    """The matrix (length, points) that interpolates, bicubically, from points about `distance` apart to pixels."""
    points = round(length / distance) + 2
    each = torch.eye(points, device=device).view(1, points, points, 1)
    return F.interpolate(each, (length, 1), mode="bicubic", align_corners=True)[0, :, :, 0].T
