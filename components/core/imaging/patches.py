"""Cut one patch around a point on the spec's grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError
from components.core.spec import Input

AIR_HU = -1000


def cut_patch(plane: NDArray[np.generic], *, centre_rc: tuple[float, float], pixel_mm: tuple[float, float] | None, spec_input: Input) -> NDArray:
    """Resample a plane to `spec_input.spacing_mm` around a point.

    Bilinear; where the grid is coarser than the plane, the triangle is widened to the grid's step, so that nothing aliases. Outside the
    plane lies air (-1000 HU), or the low end of `spec_input.range` where the unit is not HU.

    Args:
        plane: (H, W) in the spec's unit.
        centre_rc: Row and column, in pixels of the plane; pixel centres are whole numbers. The patch's middle lies there.
        pixel_mm: Distance of rows and of columns; None only where the spec keeps the source's grid.

    Returns:
        `spec_input.shape` = (1, h, w), in `spec_input.dtype`, rounded where that is a whole number.

    Raises:
        DataError: No pixel spacing where the spec resamples, or a spec that is not a one-channel image.
    """
    if spec_input.layout != "image" or spec_input.shape[0] != 1:
        raise DataError("patches are one-channel images", where="cut_patch", got=f"{spec_input.layout} {list(spec_input.shape)}", allowed="[1, h, w]")
    if spec_input.spacing_mm is None:
        steps = (1.0, 1.0)
    elif pixel_mm is None:
        raise DataError("no pixel spacing", where="cut_patch", allowed="two numbers in mm")
    else:
        steps = (spec_input.spacing_mm[0] / pixel_mm[0], spec_input.spacing_mm[1] / pixel_mm[1])
    fill = float(AIR_HU if spec_input.unit == "HU" else spec_input.range[0])
    (r0, rows), (c0, columns) = (_weights(centre_rc[a], steps[a], spec_input.shape[1 + a], plane.shape[a]) for a in (0, 1))
    part = plane[r0 : r0 + rows.shape[1], c0 : c0 + columns.shape[1]].astype(np.float64) - fill
    patch = (rows @ part @ columns.T + fill)[None]
    dtype = np.dtype(spec_input.dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        patch = np.clip(np.rint(patch), limits.min, limits.max)
    return patch.astype(dtype)


def _weights(centre: float, step: float, size: int, length: int) -> tuple[int, NDArray[np.float64]]:
    """First index, and (size, n) interpolation weights of the n samples from there; what falls outside 0..length-1 has no weight."""
    wide = max(1.0, step)
    at = centre + (np.arange(size) - (size - 1) / 2) * step
    low, high = max(0, int(np.floor(at[0] - wide))), min(length, int(np.ceil(at[-1] + wide)) + 1)
    if low >= high:
        return 0, np.zeros((size, 0))
    first, last = int(np.floor(at[0] - wide)), int(np.ceil(at[-1] + wide))
    hat = np.maximum(0.0, 1 - np.abs(at[:, None] - np.arange(first, last + 1)[None, :]) / wide)
    hat /= hat.sum(1, keepdims=True)
    return low, hat[:, low - first : high - first]
