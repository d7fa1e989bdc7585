"""What a sample looks like to someone who watches the machine and not the patient: level, noise, sharpness, clipping, compression, colour.

The figures of a device profile (`components/core/devices.py`) for each sample on its own, and some that tell one cause of a change from another.
Register keeps them for the drift reference, the server logs them with every answer; the drift monitor compares.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.devices import sample_figures
from components.core.filtered import Filtered
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


def figures(x: NDArray[Any] | Filtered, spec: DiseaseSpec) -> dict[str, Floats]:
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
    of = x if isinstance(x, Filtered) else Filtered(x, spec)
    out, y = sample_figures(of, spec), of.y
    n = len(y)
    low, high = spec.input.range
    edge = CLIPPED * (high - low)
    flat = y.reshape(n, -1)
    span = out["p99"] - out["p01"]
    out["skewness"] = np.divide(out["p99"] + out["p01"] - 2 * out["p50"], span, out=np.zeros(n), where=span > 0)
    out["clipped_low"], out["clipped_high"] = (flat <= low + edge).mean(1), (flat >= high - edge).mean(1)
    out["fineness"] = _fineness(of)
    if "blockiness" in (wanted := names(spec)):
        out["blockiness"] = _blockiness(of)
    if "red_green" in wanted:
        red, green, blue = (np.maximum(y[:, c].reshape(n, -1).mean(1, dtype=np.float64) - low, edge) for c in range(3))
        out["red_green"], out["blue_green"] = np.log2(red / green), np.log2(blue / green)
    return {name: np.array([float(f"{value:.6g}") for value in out[name]]) for name in wanted}


def _fineness(of: Filtered) -> Floats:
    y, n = of.y, len(of.y)
    near, far = np.zeros(n), np.zeros(n)
    for axis in range(y.ndim - of.axes, y.ndim):
        if y.shape[axis] > 2:
            near += (of.step(axis).reshape(n, -1) ** 2).mean(1, dtype=np.float64)
            far += (_apart(y, axis).reshape(n, -1) ** 2).mean(1, dtype=np.float64)
    return np.log2(np.divide(near, far, out=np.ones(n), where=(far > 0) & (near > 0)))


def _apart(y: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    first, second = [slice(None)] * y.ndim, [slice(None)] * y.ndim
    first[axis], second[axis] = slice(2, None), slice(None, -2)
    return y[tuple(first)] - y[tuple(second)]


def _blockiness(of: Filtered) -> Floats:
    """Over both directions; blocks start at the sample's corner, so a resampled or cropped image shows less of them."""
    n, ratios = len(of.y), []
    for axis in (of.y.ndim - 2, of.y.ndim - 1):
        step = np.abs(of.step(axis))
        at = np.arange(step.shape[axis]) % BLOCK == BLOCK - 1
        if not at.any() or at.all():
            continue
        others = tuple(a for a in range(1, step.ndim) if a != axis)
        place = step.mean(others, dtype=np.float64)  # (n, length of the axis)
        border, inside = place[:, at].mean(1), place[:, ~at].mean(1)
        ratios.append(np.divide(border, inside, out=np.ones(n), where=inside > 0) - 1)
    return np.mean(ratios, axis=0) if ratios else np.zeros(n)
