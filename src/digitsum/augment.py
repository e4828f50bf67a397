"""Augmentation of a batch on the device where it lives, drawn anew for each image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .experiments import Augmentation


def augment(images: Tensor, settings: Augmentation | None) -> Tensor:
    """Move, bend and thicken each image (N, 1, H, W) in 0..1 by its own random draw; its sum stays what it was.

    Ink is moved no farther than to the edge of the canvas. Bends may cost digits their outermost pixels there.
    """
    if settings is None:
        return images
    n, _, height, width = images.shape
    device = images.device

    def draw(amount: float) -> Tensor:
        return amount * (2 * torch.rand(n, 1, 1, device=device) - 1)

    ink = images[:, 0] > 0
    left, right = _extent(ink.any(dim=1))  # (N, 1, 1), as all that is drawn
    top, bottom = _extent(ink.any(dim=2))
    if settings.dilation:
        images = _dilate(images, draw(settings.dilation)[:, None])
    wide, high, shear = 1 + draw(settings.scale), 1 + draw(settings.scale), draw(settings.shear)
    # Where the ink's centre goes: near where it was, and at least half of the ink's new size from every edge.
    half_width = (right - left) / 2 * wide + shear.abs() * (bottom - top) / 2 * high
    half_height = (bottom - top) / 2 * high
    x = _keep_inside((left + right) / 2 + draw(settings.shift).round(), half_width, width)
    y = _keep_inside((top + bottom) / 2 + draw(settings.shift).round(), half_height, height)

    rows = torch.arange(height, device=device)[:, None] - y  # (N, H, 1), from the new centre
    columns = torch.arange(width, device=device) - x  # (N, 1, W)
    from_row = (top + bottom) / 2 + rows / high
    from_column = (left + right) / 2 + (columns + shear * rows) / wide
    grid = torch.stack([from_column, from_row.expand_as(from_column)], dim=1)  # (N, 2, H, W), in pixels
    for deviation, distance in settings.elastic:
        down, across = _interpolation(height, distance, device), _interpolation(width, distance, device)
        points = deviation * torch.randn(n, 2, down.shape[1], across.shape[1], device=device)
        grid = grid + down @ points @ across.T
    last = torch.tensor([width - 1, height - 1], device=device).view(1, 2, 1, 1)
    grid = (2 * grid / last - 1).permute(0, 2, 3, 1)
    bent = F.grid_sample(images, grid, mode="bicubic", align_corners=True)  # as fast as bilinear, and sharper
    return ((bent - 0.5) * (1 + settings.sharpen) + 0.5).clamp(0, 1)


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the last true place (N, 1, 1) in rows (N, L); of a row without any, its ends."""
    first, behind = (each.byte().argmax(dim=1)[:, None, None].float() for each in (occupied, occupied.flip(1)))
    return first, occupied.shape[1] - 1 - behind


def _keep_inside(centre: Tensor, half: Tensor, length: int) -> Tensor:
    """Return the nearest centre that keeps `half` to either side inside 0..length-1; the middle if none does."""
    middle = (length - 1) / 2
    return centre.maximum(half.clamp(max=middle)).minimum((length - 1 - half).clamp(min=middle))


def _dilate(images: Tensor, amount: Tensor) -> Tensor:
    """Go part of the way to one pixel more of pen on every side, or for negative amounts to one pixel less."""
    more = _spread(images) - images
    less = images - 1 + _spread(1 - images)
    return images + amount.clamp(min=0) * more + amount.clamp(max=0) * less


def _spread(images: Tensor) -> Tensor:
    """Return each pixel's largest value in the 3x3 around it: four comparisons, much faster than max pooling."""
    x = F.pad(images, (1, 1))
    x = torch.maximum(torch.maximum(x[..., :-2], x[..., 2:]), images)
    y = F.pad(x, (0, 0, 1, 1))
    return torch.maximum(torch.maximum(y[..., :-2, :], y[..., 2:, :]), x)


def _interpolation(length: int, distance: float, device: torch.device) -> Tensor:
    """Return the matrix (length, points) that interpolates bicubically from points `distance` apart to pixels."""
    points = round(length / distance) + 2
    each = torch.eye(points, device=device).view(1, points, points, 1)
    return F.interpolate(each, (length, 1), mode="bicubic", align_corners=True)[0, :, :, 0].T
