"""What a sample looks like to someone who watches the machine and not the patient: level, noise, sharpness, clipping, compression, colour.

The figures of a device profile (`components/core/devices.py`) for each sample on its own, and some that tell one cause of a change from another.
Register keeps them for the drift reference, the server logs them with every answer; the drift monitor compares.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.devices import SPATIAL_AXES, sample_figures
from components.core.spec import DiseaseSpec

CLIPPED = 0.005  # of the range: values this close to its ends count as clipped
BLOCK = 8  # pixels: of a JPEG block
Floats = NDArray[np.float64]
BASE = ("mean", "sd", "p01", "p50", "p99", "noise_sd", "sharpness", "skewness", "clipped_low", "clipped_high", "fineness")
ALL = (*BASE, "blockiness", "red_green", "blue_green")  # of any spec


def names(spec: DiseaseSpec) -> tuple[str, ...]:
    """The figures of a spec's samples, in order. A table has none of its own: its columns are watched themselves."""
    layout, channels = spec.input.layout, spec.input.shape[0]
    if layout not in ("image", "tiles"):
        return BASE
    return (*BASE, "blockiness", *(("red_green", "blue_green") if channels == 3 else ()))


def figures(x: NDArray[Any], spec: DiseaseSpec) -> dict[str, Floats]:
    """The figures of each sample.

    Args:
        x: (n, *input.shape), in `spec.input.unit`, finite.

    Returns:
        Each (n,), six significant digits: the seven of `sample_figures`, and
        skewness: (p99 + p01 - 2 p50) / (p99 - p01) of lightly smoothed values, in [-1, 1]; a gamma moves it, gain and offset do not.
        clipped_low, clipped_high: Share of values at the ends of `input.range`.
        fineness: log2 of the energy of the finest differences over that of differences twice as far apart; 0 for white noise, lower for blur.
        blockiness: Mean step across the borders of 8-pixel blocks over the mean step elsewhere, minus 1; 0 without compression.
        red_green, blue_green: log2 of the ratio of the channels' means.
    """
    out = sample_figures(x, spec)
    y = np.asarray(x, dtype=np.float32)
    n, axes = len(y), SPATIAL_AXES[spec.input.layout]
    low, high = spec.input.range
    edge = CLIPPED * (high - low)
    flat = y.reshape(n, -1)
    span = out["p99"] - out["p01"]
    out["skewness"] = np.divide(out["p99"] + out["p01"] - 2 * out["p50"], span, out=np.zeros(n), where=span > 0)
    out["clipped_low"], out["clipped_high"] = (flat <= low + edge).mean(1), (flat >= high - edge).mean(1)
    out["fineness"] = _fineness(y, axes)
    if "blockiness" in (wanted := names(spec)):
        out["blockiness"] = _blockiness(y)
    if "red_green" in wanted:
        red, green, blue = (np.maximum(y[:, c].reshape(n, -1).mean(1, dtype=np.float64) - low, edge) for c in range(3))
        out["red_green"], out["blue_green"] = np.log2(red / green), np.log2(blue / green)
    return {name: np.array([float(f"{value:.6g}") for value in out[name]]) for name in wanted}


def _fineness(y: NDArray[np.float32], axes: int) -> Floats:
    n = len(y)
    near, far = np.zeros(n), np.zeros(n)
    for axis in range(y.ndim - axes, y.ndim):
        if y.shape[axis] > 2:
            near += (np.diff(y, axis=axis).reshape(n, -1) ** 2).mean(1, dtype=np.float64)
            far += (_apart(y, axis).reshape(n, -1) ** 2).mean(1, dtype=np.float64)
    return np.log2(np.divide(near, far, out=np.ones(n), where=(far > 0) & (near > 0)))


def _apart(y: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    first, second = [slice(None)] * y.ndim, [slice(None)] * y.ndim
    first[axis], second[axis] = slice(2, None), slice(None, -2)
    return y[tuple(first)] - y[tuple(second)]


def _blockiness(y: NDArray[np.float32]) -> Floats:
    """Over both directions; blocks start at the sample's corner, so a resampled or cropped image shows less of them."""
    n, ratios = len(y), []
    for axis in (y.ndim - 2, y.ndim - 1):
        step = np.abs(np.diff(y, axis=axis))
        at = np.arange(step.shape[axis]) % BLOCK == BLOCK - 1
        if not at.any() or at.all():
            continue
        moved = np.moveaxis(step, axis, -1)
        border, inside = (moved[..., chosen].reshape(n, -1).mean(1, dtype=np.float64) for chosen in (at, ~at))
        ratios.append(np.divide(border, inside, out=np.ones(n), where=inside > 0) - 1)
    return np.mean(ratios, axis=0) if ratios else np.zeros(n)
