"""The few operations on masks and volumes that the chain needs, each with the types it takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]
Box = tuple[slice, slice, slice]


def _ndimage() -> Any:
    from scipy import ndimage

    return ndimage


def labels(mask: Mask) -> tuple[NDArray[np.int32], int]:
    """Parts that touch by a face, numbered from 1, and how many there are."""
    found, n = _ndimage().label(mask)
    return found, int(n)


def boxes(label: NDArray[Any]) -> list[Box]:
    """The bounding box of each label from 1."""
    return _ndimage().find_objects(label)


def box_of(mask: Mask, margin: int) -> Box:
    """The bounding box of what is True, and `margin` voxels around it."""
    found = boxes(mask.view(np.int8))[0]
    a, b, c = (slice(max(0, s.start - margin), min(n, s.stop + margin)) for s, n in zip(found, mask.shape, strict=True))
    return a, b, c


def part_at(mask: Mask, point: tuple[int, int, int]) -> Mask:
    """The part of `mask` that holds `point`; nothing where the point is outside."""
    label, _ = labels(mask)
    return label == label[point] if label[point] else np.zeros_like(mask)


def distance(mask: Mask, step_mm: Sequence[float] = (1.0, 1.0, 1.0)) -> Floats:
    """Of each voxel of `mask` to the nearest one outside; 0 outside, infinite where there is no outside."""
    if mask.all():
        return np.full(mask.shape, np.inf, dtype=np.float32)
    return _ndimage().distance_transform_edt(mask, sampling=step_mm).astype(np.float32)


def dilated(mask: Mask, times: int = 1) -> Mask:
    return _ndimage().binary_dilation(mask, iterations=times)


def eroded(mask: Mask) -> Mask:
    """What lies beyond the volume counts as mask."""
    return _ndimage().binary_erosion(mask, border_value=1)


def opened(mask: Mask) -> Mask:
    return _ndimage().binary_opening(mask)


def filled(plane: Mask) -> Mask:
    """A plane without its holes."""
    return _ndimage().binary_fill_holes(plane)


def blurred(values: Floats, sigma: float | Sequence[float], *, truncate: float = 3.0) -> Floats:
    """Gaussian, `sigma` in voxels; the edge is repeated."""
    return _ndimage().gaussian_filter(values, sigma, truncate=truncate, mode="nearest")


def highest_near(values: Floats) -> Floats:
    """The highest of each voxel and its 26 neighbours."""
    return _ndimage().maximum_filter(values, size=3, mode="nearest")


def medians(values: Floats, label: NDArray[np.int32], which: NDArray[np.int32]) -> NDArray[np.float64]:
    """The median of the values under each of the labels `which`."""
    return np.atleast_1d(np.asarray(_ndimage().median(values, label, which), dtype=np.float64))
