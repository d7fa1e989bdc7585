"""Step four: which voxels are the nodule. On the series' own grid, so that nothing is lost to resampling.

The region grows from the middle of the candidate over all that is denser than a threshold between the nodule and the lung around it, and not
beyond the closed surface of the lung, which is where the chest wall begins. An opening whose ball is as wide as a share of the nodule takes
off the vessels that run into it, and what is left of the wall.

Source:
    Kostis et al., IEEE Transactions on Medical Imaging 2003 (threshold, opening for vessels); Kuhnigk et al., IEEE Transactions on Medical
    Imaging 2006 (adaptive opening, parting from the wall).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.core.chain import morphology as m
from components.core.chain.ct_volume import Triple
from components.core.chain.morphology import Floats, Mask

REACH_MM = 22.0
LEVEL = 0.40  # of the way from lung to nodule at which its surface is drawn
SOLID_HU = 100.0  # calcium above this says nothing about the surface
OPENING = 0.45  # radius of the ball that vessels do not survive, as a share of the nodule's
WALL_MM = 1.0  # by which the closed surface of the lung may be wrong


@dataclass(frozen=True)
class Region:
    """A nodule's voxels.

    Args:
        corner: Voxel of the series at which `mask` begins.
        mask: (slices, rows, columns).
        grown: Voxels of the region before vessels and wall were taken off.
        volume_mm3, diameter_mm: The diameter is the sphere's of that volume.
        centre: Centre of mass, in voxels of the series.
        inner_hu, around_hu, threshold_hu: Middle of the nodule, lung around it, and what was between them.
        dense_shell: Share of the voxels just outside it that are above the threshold: where vessels and wall are attached.
    """

    corner: tuple[int, int, int]
    mask: Mask
    grown: int
    volume_mm3: float
    diameter_mm: float
    centre: tuple[float, float, float]
    inner_hu: float
    around_hu: float
    threshold_hu: float
    dense_shell: float

    def into(self, labels: NDArray[np.uint8], value: int) -> None:
        """Write `value` into a volume of labels where the nodule is."""
        box = tuple(slice(c, c + n) for c, n in zip(self.corner, self.mask.shape, strict=True))
        labels[box][self.mask] = value


def segment(hu: NDArray[np.int16], lung: Mask, step_mm: Triple, *, centre: tuple[float, float, float], radius_mm: float) -> Region | None:
    """Outline one nodule.

    Args:
        hu: (slices, rows, columns), the whole series.
        lung: The lungs on the working grid of 1 mm.
        centre: In voxels of the series.
        radius_mm: About how large it is.

    Returns:
        None where nothing denser than lung lies at the place.
    """
    reach = float(np.clip(3 * radius_mm + 8, 12, REACH_MM))
    low = [max(0, int(np.floor(c - reach / s))) for c, s in zip(centre, step_mm, strict=True)]
    high = [min(n, int(np.ceil(c + reach / s)) + 1) for c, s, n in zip(centre, step_mm, hu.shape, strict=True)]
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    part = hu[box].astype(np.float32)
    inside = _lung_at(lung, box, step_mm)
    offsets = [(np.arange(a, b) - c) * s for a, b, c, s in zip(low, high, centre, step_mm, strict=True)]
    away = np.sqrt(offsets[0][:, None, None] ** 2 + offsets[1][None, :, None] ** 2 + offsets[2][None, None, :] ** 2).astype(np.float32)

    smooth = m.blurred(part, [0.6 / s for s in step_mm], truncate=2.0)
    core = away <= max(0.5 * radius_mm, 0.6 * max(step_mm))
    inner = min(float(np.percentile(smooth[core], 75)), SOLID_HU)
    ring = inside & (away > 1.5 * radius_mm + 2) & (part < -500)
    around = float(np.median(part[ring])) if ring.sum() > 50 else -850.0
    threshold = around + LEVEL * (inner - around)
    if inner - around < 120:
        return None
    dense = smooth > threshold
    seed = _seed(dense & inside & (away <= max(radius_mm, 2 * max(step_mm))), away)
    if seed is None:
        return None
    region = m.part_at(dense & (m.distance(~inside, step_mm) <= WALL_MM), seed)
    depth = m.distance(region, step_mm)
    top = _peak(depth, away, radius_mm, region & inside)
    kept = _opened(region, depth, top, step_mm)
    voxels = np.argwhere(kept)
    volume = len(voxels) * float(np.prod(step_mm))
    mean = voxels.mean(axis=0) + low
    shell = m.dilated(kept) & ~kept
    return Region(
        corner=(low[0], low[1], low[2]), mask=kept, grown=int(region.sum()), volume_mm3=volume, diameter_mm=float((6 * volume / np.pi) ** (1 / 3)),
        centre=(float(mean[0]), float(mean[1]), float(mean[2])), inner_hu=inner, around_hu=around, threshold_hu=threshold,
        dense_shell=float(dense[shell].mean()) if shell.any() else 0.0,
    )  # fmt: skip


def _lung_at(lung: Mask, box: tuple[slice, ...], step_mm: Triple) -> Mask:
    """The lung mask on the voxels of `box`: the nearest point of the 1 mm grid."""
    near = [np.clip(np.rint(np.arange(s.start, s.stop) * step).astype(int), 0, n - 1) for s, step, n in zip(box, step_mm, lung.shape, strict=True)]
    return lung[np.ix_(*near)]


def _seed(where: Mask, away: Floats) -> tuple[int, int, int] | None:
    if not where.any():
        return None
    z, y, x = np.unravel_index(int(np.argmin(np.where(where, away, np.inf))), where.shape)
    return int(z), int(y), int(x)


def _peak(depth: Floats, away: Floats, radius_mm: float, among: Mask) -> tuple[int, int, int]:
    """The deepest voxel near the middle; nearer ones win."""
    value = np.where(among, depth - 0.5 * np.maximum(away - 0.5 * radius_mm, 0), -np.inf)
    z, y, x = np.unravel_index(int(np.argmax(value)), value.shape)
    return int(z), int(y), int(x)


def _opened(region: Mask, depth: Floats, top: tuple[int, int, int], step_mm: Triple) -> Mask:
    """Without what is thin beside the nodule: the part deeper than a share of its depth, grown back by as much."""
    ball = OPENING * float(depth[top])
    core = m.part_at(depth >= ball, top)
    if not core.any():
        return region
    return region & (m.distance(~core, step_mm) <= ball * 1.1)
