"""What a sample looks like to someone who watches the machine and not the patient: level, noise, sharpness, clipping, compression, colour.

The figures of a device profile (`components/core/devices.py`) for each sample on its own, and some that tell one cause of a change from another.
Register keeps them for the drift reference, the server logs them with every answer; the drift monitor compares.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.devices import sample_figures
from components.core.filtered import Filtered, cut
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
    out, y, n, flat = sample_figures(of, spec), of.y, of.n, of.flat
    low, high = spec.input.range
    edge = CLIPPED * (high - low)
    span = out["p99"] - out["p01"]
    out["skewness"] = np.divide(out["p99"] + out["p01"] - 2 * out["p50"], span, out=np.zeros(n), where=span > 0)
    clipped = (np.count_nonzero(flat <= low + edge, axis=1), np.count_nonzero(flat >= high - edge, axis=1))
    out["clipped_low"], out["clipped_high"] = (np.asarray(k) / flat.shape[1] for k in clipped)
    out["fineness"] = _fineness(of)
    if "blockiness" in (wanted := names(spec)):
        out["blockiness"] = _blockiness(of)
    if "red_green" in wanted:
        red, green, blue = (np.maximum(y[:, c].reshape(n, -1).mean(1, dtype=np.float64) - low, edge) for c in range(3))
        out["red_green"], out["blue_green"] = np.log2(red / green), np.log2(blue / green)
    return {name: np.array([float(f"{value:.6g}") for value in out[name]]) for name in wanted}


def _fineness(of: Filtered) -> Floats:
    y, n = of.y, of.n
    near, far = np.zeros(n), np.zeros(n)
    for axis in range(y.ndim - of.axes, y.ndim):
        if y.shape[axis] > 2:
            near += _energy(of.step(axis), n)
            far += _energy(cut(y, axis, 2, None) - cut(y, axis, None, -2), n)
    return np.log2(np.divide(near, far, out=np.ones(n), where=(far > 0) & (near > 0)))


def _energy(step: NDArray[np.float32], n: int) -> Floats:
    values = step.reshape(n, -1)
    return (values * values).mean(1, dtype=np.float64)


def _blockiness(of: Filtered) -> Floats:
    """Over both directions; blocks start at the sample's corner, so a resampled or cropped image shows less of them."""
    n, ratios = of.n, []
    for axis in (of.y.ndim - 2, of.y.ndim - 1):
        step = np.abs(of.step(axis))
        border = step[(*[slice(None)] * axis, slice(BLOCK - 1, None, BLOCK))]
        if border.size in (0, step.size):
            continue
        across, all_of_it = (part.reshape(n, -1).sum(1, dtype=np.float64) for part in (border, step))
        inside = (all_of_it - across) / (step.size - border.size)
        ratios.append(np.divide(across / border.size, inside, out=np.ones(n), where=inside > 0) - 1)
    return np.mean(ratios, axis=0) if ratios else np.zeros(n)
