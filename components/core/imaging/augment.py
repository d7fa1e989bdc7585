"""Random views of training images: rotations, flips, small shifts and zooms. Drawn once from a seeded generator, then applied purely.

For what has no preferred direction: a CT patch around a nodule is as likely rotated as not (Sun et al. 2016 trained on rotations).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Augment:
    """What may be drawn.

    Args:
        flips: Mirror along the last axis with probability one half; with rotations this reaches every orientation.
        rotation: In the plane of the last two axes: by multiples of 90 degrees, or by any angle.
        shift: Largest shift, as a share of the side.
        zoom: Largest zoom in or out, as the natural logarithm of the factor: 0.1 is about 10 %.
    """

    flips: bool = True
    rotation: Literal["none", "quarter", "any"] = "quarter"
    shift: float = field(default=0.0, metadata={"low": 0, "high": 0.5})
    zoom: float = field(default=0.0, metadata={"low": 0, "high": 1})

    @property
    def moves(self) -> bool:
        """Whether anything is ever drawn."""
        return self.flips or self.rotation != "none" or self.shift > 0 or self.zoom > 0

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
        """(n, 2, 3) float32 maps from output to input positions, both in [-1, 1] (x, then y) over an image of height x width pixels."""
        import torch

        angle, mirror, zoom, right, down = torch.rand(5, n, generator=generator)  # always five draws: one option leaves the others' luck alone
        if self.rotation == "quarter":
            turns = torch.floor(angle * 4)
            cos, sin = torch.tensor([1.0, 0.0, -1.0, 0.0])[turns.long()], torch.tensor([0.0, 1.0, 0.0, -1.0])[turns.long()]
        elif self.rotation == "any":
            cos, sin = torch.cos(2 * math.pi * angle), torch.sin(2 * math.pi * angle)
        else:
            cos, sin = torch.ones(n), torch.zeros(n)
        sign = torch.where(mirror < 0.5, -1.0, 1.0) if self.flips else torch.ones(n)
        factor = torch.exp((2 * zoom - 1) * self.zoom)
        aspect = height / width  # a rotation is one in pixels, not in shares of unequal sides
        row_x = torch.stack([sign * cos * factor, -sin * factor * aspect, (2 * right - 1) * 2 * self.shift], dim=1)
        row_y = torch.stack([sign * sin * factor / aspect, cos * factor, (2 * down - 1) * 2 * self.shift], dim=1)
        return torch.stack([row_x, row_y], dim=1)


def warp(x: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Apply one map per sample, bilinear; what lies outside the image repeats its border.

    Args:
        x: (n, C, H, W), or (n, C, D, H, W) where every slice moves alike.
        maps: (n, 2, 3) as `Augment.draw` gives them.

    Returns:
        The shape of x.
    """
    from torch.nn import functional as F

    planes = x.reshape(x.shape[0], -1, *x.shape[-2:])
    grid = F.affine_grid(maps, list(planes.shape), align_corners=False)
    return F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False).reshape(x.shape)


def orientations(x: torch.Tensor) -> list[torch.Tensor]:
    """The flips of (n, C, [D,] H, W) and, for square images, their transposes: all 8 (or 4) exact views, the first being x itself."""
    views = [x, x.flip(-1), x.flip(-2), x.flip(-1).flip(-2)]
    return views + [view.transpose(-1, -2) for view in views] if x.shape[-1] == x.shape[-2] else views
