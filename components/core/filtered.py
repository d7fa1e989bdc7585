"""What the figures of samples are taken from: the samples themselves, smoothed, high-passed, and their differences, each computed once.

Device profiles (`components/core/devices.py`) and image quality (`components/core/image_quality.py`) share it, so measuring both costs one pass.
A sample of many values is looked at through a grid of blocks, so a request's figures cost about the same whatever its size (decision 0217).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.spec import DiseaseSpec

SPATIAL_AXES = {"image": 2, "tiles": 2, "volume": 3, "window": 1, "table": 0}
MOST_VALUES = 18_000  # of one sample that are looked at
EDGE = {1: 256, 2: 16, 3: 8}  # of a block, by the number of spatial axes
FEW = 2048  # values that are sorted sooner than parted
PIECE = 8192  # most values of one scalar product: OpenBLAS starts threads for more than 10,000
ALIGNED = 8  # blocks begin at a multiple: those of JPEG do too


class Filtered:
    """Samples in the spec's unit; everything beside them is made at first use and kept.

    Args:
        x: (n, *input.shape).

    `y` holds the values looked at as (n, channels, *space, 1), or of blocks as (n, 1, *space, planes): the channels of the first, of the second ...
    Neighbours are taken along the first axis of space only, where each operation is one long loop, and space is turned between axes (`turned`):
    NumPy's cost for so few values is that of its loops. A sample's figures do not depend on the others it is measured with.
    """

    def __init__(self, x: NDArray[Any], spec: DiseaseSpec) -> None:
        x = np.asarray(x)
        self.axes, self.n = SPATIAL_AXES[spec.input.layout], len(x)
        self.channels = x.shape[1] if self.axes else 1
        self._whole = x
        seen = blocks(x, self.axes)
        seen = seen[..., None] if seen is x else np.moveaxis(seen.reshape(self.n, 1, -1, *seen.shape[2:]), 2, -1)
        self.y: NDArray[np.float32] = np.ascontiguousarray(seen, dtype=np.float32)

    @cached_property
    def unfinite(self) -> int:
        """Values of all of x that are not finite."""
        return int((~np.isfinite(self._whole)).sum()) if self._whole.dtype.kind == "f" else 0

    @property
    def flat(self) -> NDArray[np.float32]:
        """(n, values looked at)."""
        return self.y.reshape(self.n, -1)

    @cached_property
    def means(self) -> NDArray[np.float64]:
        """(n, channels), of the values looked at; a table has one."""
        n, outer, inner = self.n, self.y.shape[1], self.y.shape[-1]
        lines = np.add.reduce(self.y.astype(np.float64), axis=2).reshape(n, outer, -1, inner)
        planes = np.add.reduce(lines, axis=2).reshape(n, -1, self.channels)
        return np.add.reduce(planes, axis=1) / (self.y[0].size // self.channels)

    @cached_property
    def along(self) -> list[NDArray[np.float32]]:
        """`y` with each spatial axis as the first, the others behind it in their cycle."""
        views = [self.y]
        while len(views) < self.axes:
            views.append(turned(views[-1]))
        return views

    @cached_property
    def steps(self) -> list[NDArray[np.float32]]:
        """Forward differences along each spatial axis, the first axis of space in each as in `along`."""
        return [x[:, :, 1:] - x[:, :, :-1] for x in self.along]

    @cached_property
    def smooth(self) -> NDArray[np.float32]:
        """`y` lightly smoothed, by [1, 4, 6, 4, 1] / 16 along each spatial axis with mirrored edges: noise hardly moves its percentiles."""
        x = self.y
        for _ in range(self.axes):
            x = x.take(_mirrored(x.shape[2], 2), axis=2)
            for _ in range(4):  # the weights are binomial: four sums of neighbours
                x = x[:, :, 1:] + x[:, :, :-1]
            x = turned(x)
        return x * np.float32(16**-self.axes)

    @cached_property
    def fine(self) -> NDArray[np.float32]:
        """Magnitude of the finest structure: [1, -2, 1] along each spatial axis, scaled to keep the standard deviation of white noise.

        Source:
            Immerkaer, Computer Vision and Image Understanding 1996: fast noise variance estimation.
        """
        x, scale = self.y, 1.0
        for axis in range(self.axes):
            if x.shape[2] > 2:
                step = x[:, :, 1:] - x[:, :, :-1] if axis else self.steps[0]
                x, scale = step[:, :, 1:] - step[:, :, :-1], scale * 6**-0.5
            x = turned(x)
        x = np.abs(x)
        x *= np.float32(scale)
        return x

    @cached_property
    def slope(self) -> NDArray[np.float32]:
        """Magnitude of the forward differences along the spatial axes, per pixel; as `y`, one less along each axis."""
        axes, total = self.axes, None
        for first, step in enumerate(self.steps):
            if not step.shape[2]:
                continue
            inner = step[(slice(None), slice(None), slice(None), *(slice(0, max(1, size - 1)) for size in step.shape[3:-1]))]
            squares = inner.transpose(0, 1, *(2 + (axis - first) % axes for axis in range(axes)), axes + 2).copy()
            squares *= squares
            total = squares if total is None else np.add(total, squares, out=total)
        return np.zeros_like(self.y) if total is None else np.sqrt(total, out=total)


def blocks(x: NDArray[Any], axes: int) -> NDArray[Any]:
    """What is looked at of samples (n, channels, *space): all of at most `MOST_VALUES` values, else blocks on an even grid.

    Returns:
        x itself, or (n * blocks, channels, *edge), a sample's blocks one after the other.
    """
    if x[:1].size <= MOST_VALUES or not axes:
        return x
    corners = _corners(x.shape[1:], axes)
    edge = (*x.shape[1 : x.ndim - axes], *(min(size, EDGE[axes]) for size in x.shape[x.ndim - axes :]))
    found = np.empty((len(x), len(corners), *edge), x.dtype)
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


def turned(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """As `Filtered.y`, with the first axis of space behind the others."""
    return np.ascontiguousarray(x.transpose(0, 1, *range(3, x.ndim - 1), 2, x.ndim - 1))


def mean_square(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n,) of values laid out as `Filtered.y`, from sums over a plane or a line of it."""
    depth = 2 if values[0, 0].size <= PIECE else 3
    rows = values.reshape(*values.shape[:depth], -1)
    return np.add.reduce(np.vecdot(rows, rows).reshape(len(values), -1), axis=1).astype(np.float64) / values[0].size


def ranked(values: NDArray[np.float32], low: int, middle: int, high: int) -> NDArray[np.float32]:
    """(3, n): the values of three ascending ranks, 0 the lowest, of each row (n, values).

    One rank at a time, on both sides of the middle: NumPy has vector instructions for one rank, not for several at once.
    """
    if values.shape[1] < FEW:
        return np.sort(values, axis=1)[:, (low, middle, high)].T
    values = np.partition(values, middle, axis=1)
    values[:, :middle].partition(low, axis=1)
    values[:, middle:].partition(high - middle, axis=1)
    return values[:, (low, middle, high)].T


def rounded(figures: Mapping[str, NDArray[np.floating]]) -> dict[str, NDArray[np.float64]]:
    """Each figure (n,) to six significant digits."""
    return {name: np.array([float(f"{value:.6g}") for value in values.tolist()]) for name, values in figures.items()}


@lru_cache(maxsize=64)
def _mirrored(size: int, reach: int) -> NDArray[np.intp]:
    """Places along an axis with `reach` more on both sides: b a | a b c | c b."""
    return np.pad(np.arange(size), reach, mode="symmetric")


def filtered(x: NDArray[np.float32], weights: NDArray[np.floating], axes: int) -> NDArray[np.float32]:
    """The same symmetric weights along each of the last `axes` axes; edges are mirrored."""
    from scipy.ndimage import correlate1d

    for axis in range(x.ndim - axes, x.ndim):
        x = np.asarray(correlate1d(x, weights, axis=axis, mode="reflect"), dtype=np.float32)
    return x
