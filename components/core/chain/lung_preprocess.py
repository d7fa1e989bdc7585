"""Step one: Hounsfield units on a regular grid of 1 mm, so that every later step counts in millimetres whatever the scanner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.core.chain.ct_volume import Triple

STEP_MM = 1.0
LOW_HU, HIGH_HU = -1024.0, 400.0  # air to calcium: above, density says nothing more about where a nodule ends


@dataclass(frozen=True)
class Grid:
    """A regular grid in a series: voxel (i, j, k) of it lies at `step_mm` * (i, j, k) from the series' first voxel, in its axes."""

    shape: tuple[int, int, int]
    step_mm: float = STEP_MM

    @classmethod
    def over(cls, shape: tuple[int, ...], step_mm: Triple) -> Grid:
        """The grid that covers a series of `shape` voxels `step_mm` apart."""
        d, h, w = (max(1, int(np.floor((n - 1) * s / STEP_MM + 1e-6)) + 1) for n, s in zip(shape, step_mm, strict=True))
        return cls((d, h, w))

    def voxel(self, points: ArrayLike, step_mm: Triple) -> NDArray[np.float64]:
        """(n, 3) points of this grid -> voxels of the series."""
        return np.asarray(points, dtype=np.float64) * self.step_mm / np.array(step_mm)


def working_grid(hu: NDArray[np.int16], step_mm: Triple) -> tuple[NDArray[np.float32], Grid]:
    """The series on a 1 mm grid, limited to [-1024, 400] HU.

    Bilinear; where a voxel is smaller than the grid's step, the triangle is widened to the step, so that noise averages and nothing aliases.

    Args:
        hu: (slices, rows, columns).
        step_mm: Distance of slices, rows and columns.
    """
    grid = Grid.over(hu.shape, step_mm)
    along, down, across = (_weights(n, m, s) for n, m, s in zip(hu.shape, grid.shape, step_mm, strict=True))
    planes = np.empty((hu.shape[0], *grid.shape[1:]), dtype=np.float32)
    for k, plane in enumerate(hu):
        limited = np.clip(plane, LOW_HU, HIGH_HU).astype(np.float32)
        planes[k] = (across @ (down @ limited).T).T
    out = np.asarray(along @ planes.reshape(len(planes), -1), dtype=np.float32).reshape(grid.shape)
    return out, grid


def _weights(length: int, size: int, step_mm: float) -> Any:
    """(size, length) sparse interpolation weights; each row sums to 1."""
    from scipy.sparse import csr_array

    step = STEP_MM / step_mm
    wide = max(1.0, step)
    at = np.arange(size) * step
    reach = int(np.ceil(wide))
    columns = np.floor(at)[:, None].astype(np.int64) + np.arange(-reach, reach + 2)[None, :]
    weight = np.maximum(0.0, 1 - np.abs(columns - at[:, None]) / wide) * ((columns >= 0) & (columns < length))
    weight /= weight.sum(1, keepdims=True)
    rows = np.repeat(np.arange(size), columns.shape[1])
    return csr_array((weight.ravel().astype(np.float32), (rows, np.clip(columns, 0, length - 1).ravel())), shape=(size, length))
