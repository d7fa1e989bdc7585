"""What the figures of samples are taken from: the samples themselves, smoothed, high-passed, and their differences, each computed once.

Device profiles (`components/core/devices.py`) and image quality (`components/core/image_quality.py`) share it, so measuring both costs one pass.
A sample of many values is looked at through a grid of blocks, so a request's figures cost about the same whatever its size (decision 0217).
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.spec import DiseaseSpec

SPATIAL_AXES = {"image": 2, "tiles": 2, "volume": 3, "window": 1, "table": 0}
SMOOTH = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
MOST_VALUES = 18_000  # of one sample that are looked at
EDGE = {1: 256, 2: 16, 3: 8}  # of a block, by the number of spatial axes
ALIGNED = 8  # blocks begin at a multiple: those of JPEG do too


class Filtered:
    """Samples in the spec's unit; everything beside them is made at first use and kept.

    Args:
        x: (n, *input.shape).

    `y` is x, or its blocks, a sample's one after the other (`blocks`); `n` counts samples.
    """

    def __init__(self, x: NDArray[Any], spec: DiseaseSpec) -> None:
        x = np.asarray(x)
        self.axes, self.n = SPATIAL_AXES[spec.input.layout], len(x)
        self._whole = x
        self.y: NDArray[np.float32] = blocks(x, self.axes).astype(np.float32, copy=False)
        self._steps: dict[int, NDArray[np.float32]] = {}

    @cached_property
    def unfinite(self) -> int:
        """Values of all of x that are not finite."""
        return int((~np.isfinite(self._whole)).sum()) if self._whole.dtype.kind == "f" else 0

    @property
    def flat(self) -> NDArray[np.float32]:
        """(n, values looked at)."""
        return self.y.reshape(self.n, -1)

    @cached_property
    def smooth(self) -> NDArray[np.float32]:
        """Lightly smoothed: noise hardly moves its percentiles."""
        return filtered(self.y, SMOOTH, self.axes)

    @cached_property
    def fine(self) -> NDArray[np.float32]:
        """Magnitude of the finest structure: [1, -2, 1] along each spatial axis, scaled to keep the standard deviation of white noise.

        Source:
            Immerkaer, Computer Vision and Image Understanding 1996: fast noise variance estimation.
        """
        x = self.y
        for axis in range(x.ndim - self.axes, x.ndim):
            if x.shape[axis] > 2:
                middle = cut(x, axis, 1, -1) * np.float32(-2)
                middle += cut(x, axis, None, -2)
                middle += cut(x, axis, 2, None)
                middle *= np.float32(6**-0.5)
                x = middle
        return np.abs(x)

    def step(self, axis: int) -> NDArray[np.float32]:
        """Forward differences along one axis of `y`."""
        if axis not in self._steps:
            self._steps[axis] = cut(self.y, axis, 1, None) - cut(self.y, axis, None, -1)
        return self._steps[axis]

    @cached_property
    def slope(self) -> NDArray[np.float32]:
        """Magnitude of the forward differences along the spatial axes, per pixel."""
        y = self.y
        inner = (..., *(slice(0, max(1, size - 1)) for size in y.shape[y.ndim - self.axes :]))
        squares = np.zeros_like(y[inner])
        for axis in range(y.ndim - self.axes, y.ndim):
            if y.shape[axis] > 1:
                step = self.step(axis)[inner]
                squares += step * step
        return np.sqrt(squares, out=squares)


def blocks(x: NDArray[Any], axes: int) -> NDArray[Any]:
    """What is looked at of samples (n, channels, *space): all of at most `MOST_VALUES` values, else blocks on an even grid.

    Returns:
        x itself, or (n * blocks, channels, *edge) float32, a sample's blocks one after the other.
    """
    if x[:1].size <= MOST_VALUES or not axes:
        return x
    corners = _corners(x.shape[1:], axes)
    edge = (*x.shape[1 : x.ndim - axes], *(min(size, EDGE[axes]) for size in x.shape[x.ndim - axes :]))
    found = np.empty((len(x), len(corners), *edge), np.float32)
    for n, corner in enumerate(corners):
        found[:, n] = x[(..., *corner)]
    return found.reshape(-1, *edge)


@lru_cache(maxsize=64)
def _corners(shape: tuple[int, ...], axes: int) -> list[tuple[slice, ...]]:
    space, edge = shape[len(shape) - axes :], EDGE[axes]
    each = int(np.prod(shape)) // int(np.prod(space)) * edge**axes
    along = max(1, int((MOST_VALUES / each) ** (1 / axes) + 1e-9))
    starts = [np.unique(np.linspace(0, max(0, size - edge), along).astype(int) // ALIGNED * ALIGNED) for size in space]
    return [tuple(slice(int(a), int(a) + edge) for a in corner) for corner in product(*starts)]


def cut(x: NDArray[np.float32], axis: int, first: int | None, end: int | None) -> NDArray[np.float32]:
    """x[first:end] along one axis."""
    return x[(*[slice(None)] * axis, slice(first, end))]


def filtered(x: NDArray[np.float32], weights: NDArray[np.floating], axes: int) -> NDArray[np.float32]:
    """The same symmetric weights along each of the last `axes` axes; edges are mirrored."""
    from scipy.ndimage import correlate1d

    for axis in range(x.ndim - axes, x.ndim):
        x = np.asarray(correlate1d(x, weights, axis=axis, mode="reflect"), dtype=np.float32)
    return x
