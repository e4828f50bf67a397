"""Augmentation of a batch on the device it lives on, drawn anew for each image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """How far images are moved and bent; amounts are the largest to either side, drawn uniformly per image.

    `shift` in pixels, `scale` as a share of height and of width, `slant` in columns per row, `elastic` the standard
    deviation in pixels of a smooth displacement drawn on a grid of points `elastic_cell` pixels apart.
    """

    shift: float = 0.0
    scale: float = 0.0
    slant: float = 0.0
    elastic: float = 0.0
    elastic_cell: int = 8

    def __call__(self, images: Tensor) -> Tensor:
        """The images (N, 1, H, W) float, each warped by its own draw; what moves in from outside is black."""
        n, _, height, width = images.shape
        draw = torch.rand(3, n, device=images.device) * 2 - 1
        pixel = torch.tensor([2 / width, 2 / height], device=images.device)  # in grid_sample's units, -1..1 across
        theta = torch.zeros(n, 2, 3, device=images.device)
        theta[:, 0, 0] = 1 + self.scale * draw[0]
        theta[:, 1, 1] = 1 + self.scale * draw[1]
        theta[:, 0, 1] = self.slant * draw[2] * height / width
        theta[:, :, 2] = self.shift * pixel * torch.rand(n, 2, device=images.device).mul_(2).sub_(1)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        if self.elastic:
            cells = (2, height // self.elastic_cell, width // self.elastic_cell)
            field = torch.randn(n, *cells, device=images.device) * self.elastic
            field = F.interpolate(field, (height, width), mode="bicubic", align_corners=True)
            grid = grid + field.permute(0, 2, 3, 1) * pixel
        return F.grid_sample(images, grid, align_corners=False)
