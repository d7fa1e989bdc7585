"""A simulated slab of chest around the nodules: lung, chest wall with ribs, vessels. Lengths in mm, densities in HU, axes (z, y, x)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
VESSEL_HU = 35.0


@dataclass(frozen=True)
class Grid:
    """The voxel centres of a series: `slices` at `spacing_mm`, each averaged over `thickness_mm`, `size` x `size` pixels of `pixel_mm`."""

    size: int
    slices: int
    pixel_mm: float
    spacing_mm: float
    thickness_mm: float

    @property
    def z_mm(self) -> Floats:
        """(slices,) position of each slice."""
        return (np.arange(self.slices) * self.spacing_mm).astype(np.float32)

    @property
    def sub_mm(self) -> Floats:
        """Offsets at which a slice is sampled; their average is the partial volume effect."""
        n = max(2, int(np.ceil(self.thickness_mm / 0.8)))
        return (((np.arange(n) + 0.5) / n - 0.5) * self.thickness_mm).astype(np.float32)

    def box(self, centre_mm: Floats, reach_mm: float) -> tuple[slice, slice, slice]:
        """The voxels within `reach_mm` of a point, as slices."""
        z, y, x = (float(v) for v in centre_mm)
        half = reach_mm + self.thickness_mm / 2
        return (
            _span((z - half) / self.spacing_mm, (z + half) / self.spacing_mm, self.slices),
            _span((y - reach_mm) / self.pixel_mm, (y + reach_mm) / self.pixel_mm, self.size),
            _span((x - reach_mm) / self.pixel_mm, (x + reach_mm) / self.pixel_mm, self.size),
        )

    def points(self, box: tuple[slice, slice, slice], centre_mm: Floats, dz: float) -> Floats:
        """(z, y, x, 3) mm from `centre_mm` of the voxels in `box`, shifted by `dz` along z."""
        zz, yy, xx = box
        out = np.empty((zz.stop - zz.start, yy.stop - yy.start, xx.stop - xx.start, 3), dtype=np.float32)
        out[..., 0] = (np.arange(zz.start, zz.stop) * self.spacing_mm + dz - centre_mm[0])[:, None, None]
        out[..., 1] = (np.arange(yy.start, yy.stop) * self.pixel_mm - centre_mm[1])[None, :, None]
        out[..., 2] = (np.arange(xx.start, xx.stop) * self.pixel_mm - centre_mm[2])[None, None, :]
        return out


def lung(grid: Grid, rng: np.random.Generator) -> Floats:
    """(slices, size, size) parenchyma: about -860 HU, denser downwards, with a slow random texture that changes along z."""
    from scipy.fft import irfft2, rfft2

    n = grid.size
    f = np.hypot(np.fft.fftfreq(n, grid.pixel_mm)[:, None], np.fft.rfftfreq(n, grid.pixel_mm)[None, :])
    shape = (1 / (0.02 + f) ** 1.3 * np.exp(-((f / 0.35) ** 2))).astype(np.float32)
    shape[0, 0] = 0
    noise = np.asarray(rfft2(rng.standard_normal((2, n, n), dtype=np.float32)))
    fields = np.asarray(irfft2(noise * shape, s=(n, n)))
    fields *= np.float32(22) / fields.std(axis=(1, 2), keepdims=True)
    angle = (grid.z_mm / 12)[:, None, None]
    slope = np.linspace(-25, 25, n, dtype=np.float32)[None, :, None]
    return (np.float32(rng.normal(-862, 12)) + slope + fields[0] * np.cos(angle) + fields[1] * np.sin(angle)).astype(np.float32)


def add_wall(soft: Floats, grid: Grid, rng: np.random.Generator) -> tuple[Floats, tuple[float, float, float]]:
    """Put a chest wall with ribs along one side of `soft`, in place.

    Returns:
        (slices, size, size) HU that the ribs' calcium adds; the pleura, a cylinder along z: y and x of its axis and its radius, in mm.
    """
    width = grid.size * grid.pixel_mm
    reach, side = float(rng.uniform(20, 40)), int(rng.choice((-1, 1)))
    radius = float(rng.uniform(95, 130))
    y0 = width / 2 + float(rng.normal(0, 10))
    x0 = reach + radius if side < 0 else width - reach - radius
    axis = np.arange(grid.size, dtype=np.float32) * np.float32(grid.pixel_mm)
    from_axis = np.hypot(axis[:, None] - np.float32(y0), axis[None, :] - np.float32(x0))
    depth = from_axis - np.float32(radius)  # mm inside the wall, from the pleura
    wall = 0.5 + 0.5 * np.tanh(depth / np.float32(0.4))
    fat = 0.5 + 0.5 * np.tanh((depth - np.float32(14)) / np.float32(0.8))
    tissue = np.float32(45) - np.float32(145) * fat
    soft += (tissue - soft) * wall
    angle = np.arctan2(axis[:, None] - np.float32(y0), (axis[None, :] - np.float32(x0)) * side)
    first, ribs = float(rng.uniform(-0.5, -0.3)), np.zeros_like(soft)
    for k in range(3):
        for z, plane in zip(grid.z_mm, ribs, strict=True):
            along = (angle - np.float32(first + 0.38 * k + 0.004 * z)) * np.float32(radius)
            shape = (along / 9) ** 2 + ((depth - 8) / 4) ** 2
            np.maximum(plane, np.float32(450) * np.exp(-(shape**2)), out=plane)
    return ribs.astype(np.float32), (y0, x0, radius)


def vessels(grid: Grid, rng: np.random.Generator, *, count: int, through: Sequence[Floats] = ()) -> tuple[Floats, list[Floats]]:
    """Winding tubes of 0.5 to 2 mm radius.

    Args:
        count: Tubes that start anywhere.
        through: Points (3,) from which one more tube each starts, near the plane: what feeds a nodule.

    Returns:
        (slices, size, size) opacity in [0, 1]; points (3,) where a tube runs across the slices and so looks like a nodule in them.
    """
    opacity = np.zeros((grid.slices, grid.size, grid.size), dtype=np.float32)
    width, height = grid.size * grid.pixel_mm, grid.slices * grid.spacing_mm
    lookalikes: list[Floats] = []
    for n in range(count + len(through)):
        point = rng.uniform((0, 0, 0), (height, width, width))
        heading = rng.normal(size=3) * (0.8, 1, 1)
        radius = float(rng.uniform(0.7, 2.0))
        if n >= count:
            point, heading = np.asarray(through[n - count], dtype=np.float64), heading * (0.3, 1, 1)
        for _ in range(int(rng.integers(3, 7))):
            heading = heading / np.linalg.norm(heading)
            step = float(rng.uniform(7, 13))
            _tube(opacity, grid, point, heading, step, radius)
            if abs(heading[0]) > 0.85 and radius > 1.0 and 3 < point[0] < height - 3:
                lookalikes.append((point + heading * step / 2).astype(np.float32))
            point = point + heading * step
            heading = heading + rng.normal(0, 0.35, 3)
            radius *= float(rng.uniform(0.78, 0.98))
    return opacity, lookalikes


def _tube(opacity: Floats, grid: Grid, start: NDArray[np.float64], heading: NDArray[np.float64], length: float, radius: float) -> None:
    end = start + heading * length
    low, high = np.minimum(start, end), np.maximum(start, end)
    margin = radius + 1.0
    box = tuple(
        _span((low[a] - margin) / step, (high[a] + margin) / step, size)
        for a, (step, size) in enumerate(((grid.spacing_mm, grid.slices), (grid.pixel_mm, grid.size), (grid.pixel_mm, grid.size)))
    )
    if any(s.start >= s.stop for s in box):
        return
    zz, yy, xx = box
    origin = start.astype(np.float32)
    h = heading.astype(np.float32)
    y = (np.arange(yy.start, yy.stop) * grid.pixel_mm - origin[1]).astype(np.float32)[None, :, None]
    x = (np.arange(xx.start, xx.stop) * grid.pixel_mm - origin[2]).astype(np.float32)[None, None, :]
    total = np.zeros((zz.stop - zz.start, yy.stop - yy.start, xx.stop - xx.start), dtype=np.float32)
    subs = grid.sub_mm
    for dz in subs:
        z = (np.arange(zz.start, zz.stop) * grid.spacing_mm + dz - origin[0]).astype(np.float32)[:, None, None]
        along = np.clip(z * h[0] + y * h[1] + x * h[2], 0, np.float32(length))
        distance = np.sqrt((z - along * h[0]) ** 2 + (y - along * h[1]) ** 2 + (x - along * h[2]) ** 2)
        total += np.clip((np.float32(radius) - distance) / np.float32(0.5) + np.float32(0.5), 0, 1)
    total /= np.float32(len(subs))
    np.maximum(opacity[box], total, out=opacity[box])


def _span(low: float, high: float, size: int) -> slice:
    return slice(max(0, int(np.floor(low))), max(0, min(size, int(np.ceil(high)) + 1)))
