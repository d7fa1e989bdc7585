"""What a sample looks like to someone who watches the machine and not the patient: level, noise, sharpness, clipping, compression, colour.

The figures of a device profile (`components/core/devices.py`) for each sample on its own, and some that tell one cause of a change from another.
Register keeps them for the drift reference, the server logs them with every answer; the drift monitor compares.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.devices import sample_figures
from components.core.filtered import Filtered, mean_square, rounded
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
    out, wanted = sample_figures(of, spec), names(spec)
    low, high = spec.input.range
    edge = CLIPPED * (high - low)
    span = out["p99"] - out["p01"]
    own = {"skewness": np.divide(out["p99"] + out["p01"] - 2 * out["p50"], span, out=np.zeros(of.n), where=span > 0)}
    own["clipped_low"], own["clipped_high"] = _share(of.flat <= low + edge), _share(of.flat >= high - edge)
    own["fineness"] = _fineness(of)
    if "blockiness" in wanted:
        own["blockiness"] = _blockiness(of)
    if "red_green" in wanted:
        red, green, blue = np.maximum(of.means - low, edge).T
        own["red_green"], own["blue_green"] = np.log2(red / green), np.log2(blue / green)
    out |= rounded(own)
    return {name: out[name] for name in wanted}


def _share(chosen: NDArray[np.bool_]) -> Floats:
    """(n,) of (n, values). Row by row: along an axis NumPy counts as if it summed integers."""
    return np.array([np.count_nonzero(row) for row in chosen]) / chosen.shape[1]


def _fineness(of: Filtered) -> Floats:
    near, far = np.zeros(of.n), np.zeros(of.n)
    for x, step in zip(of.along, of.steps, strict=True):
        if x.shape[2] > 2:
            near += mean_square(step)
            far += mean_square(x[:, :, 2:] - x[:, :, :-2])
    return np.log2(np.divide(near, far, out=np.ones(of.n), where=(far > 0) & (near > 0)))


def _blockiness(of: Filtered) -> Floats:
    """Over both directions; blocks start at the sample's corner, so a resampled or cropped image shows less of them."""
    n, ratios = of.n, []
    for step in of.steps:
        if not step.size:
            continue
        lines = np.add.reduce(np.abs(step).reshape(*step.shape[:3], -1), axis=3).astype(np.float64)
        borders = lines[:, :, BLOCK - 1 :: BLOCK]
        across, all_of_it = (np.add.reduce(part.reshape(n, -1), axis=1) for part in (borders, lines))
        if 0 < borders.size < lines.size:
            inside = (all_of_it - across) / (lines.size - borders.size)
            ratios.append(np.divide(across / borders.size, inside, out=np.ones(n), where=inside > 0) - 1)
    return np.asarray(sum(ratios)) / len(ratios) if ratios else np.zeros(n)
