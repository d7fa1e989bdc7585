"""How a sample is put together, whatever machine made it: what lies where, how much of it is fine and how much coarse, how colours go together.

Figures of image quality (`components/core/image_quality.py`) tell devices apart; these tell a head from a bottle and a head from one that stands
upside down. They are relative to the sample's own level and contrast, and of a photograph only what is lit counts, so gain, offset, colour of the
light and the round edge of a camera's field move them little. They are for `components/core/outside.py` alone and are not logged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.filtered import SPATIAL_AXES
from components.core.spec import DiseaseSpec

Floats = NDArray[np.float64]
GRID = {2: 4, 3: 3}  # blocks along each axis of space
SIDE = {1: 1024, 2: 64, 3: 32}  # most samples along an axis that are looked at; the finest structure is a matter of image quality
LAGS = (1, 2, 4, 8, 16)
LIT = 0.06  # of the range: darker than this is the frame of a photograph
DARK = 0.03  # of the range, added before the logarithm: the sensor's own floor
SMALL = 1e-6


def figures(x: NDArray[Any], spec: DiseaseSpec) -> dict[str, Floats]:
    """Each (n,), of samples (n, *input.shape) in the spec's unit. A table has none.

    Returns:
        block_*: Mean of each block of a coarse grid, about the sample's mean, in its standard deviations.
        rough_*: log of the mean step between neighbours in each block, relative to the sample's.
        octave_*: log of the root mean square of differences 1, 2, 4 ... apart, in standard deviations.
        tails, lean, middle: Shape of the histogram: outer over inner quartiles, asymmetry, median about the mean.
        light, tint_1, tint_2: Photographs: log2 of the spread of brightness and of the two colour ratios over what is lit.
        together_*: Correlations of brightness and colour ratios. shown_*: Share of each block that is lit.
        level_*, swing_*: Recordings: the channels' means and log spreads, smallest first, so a turned sensor is the same one.
    """
    axes = SPATIAL_AXES[spec.input.layout]
    if not axes:
        return {}
    low, high = spec.input.range
    u = (_coarser(np.asarray(x, dtype=np.float32), axes) - np.float32(low)) / np.float32(high - low)
    if axes == 1:
        found = _recording(u - np.float32(-low / (high - low)))
    elif axes == 2 and u.shape[1] == 3:
        found = _photograph(np.maximum(u, 0))
    else:
        found = _grey(u.mean(axis=1), axes)
    return {name: np.asarray(values, dtype=np.float64) for name, values in found.items()}


def _photograph(u: NDArray[np.float32]) -> dict[str, Any]:
    n = len(u)
    lit = (u.mean(axis=1) > LIT).astype(np.float32)
    total = lit.reshape(n, -1).sum(axis=1) + 1
    octaves = np.log2(u + np.float32(DARK))
    planes, spreads = [], []
    for whole in (octaves.mean(axis=1), octaves[:, 0] - octaves[:, 1], octaves[:, 2] - octaves[:, 1]):
        plane = (whole - ((whole * lit).reshape(n, -1).sum(axis=1) / total)[:, None, None]) * lit
        planes.append(plane)
        spreads.append(np.sqrt((plane * plane).reshape(n, -1).sum(axis=1) / total))
    out: dict[str, Any] = {name: np.log2(s + 0.02) for name, s in zip(("light", "tint_1", "tint_2"), spreads, strict=True)}
    for k, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        out[f"together_{k}"] = (planes[i] * planes[j]).reshape(n, -1).sum(axis=1) / total / (spreads[i] * spreads[j] + 1e-3)
    light, spread, share = planes[0], spreads[0], _pooled(lit, GRID[2])
    out |= _numbered("block", _pooled(light, GRID[2]) / (share + 0.1) / (spread[:, None] + 0.02))
    steps = np.zeros_like(light)
    steps[:, :-1] += np.abs(np.diff(light, axis=1)) * lit[:, 1:] * lit[:, :-1]
    steps[:, :, :-1] += np.abs(np.diff(light, axis=2)) * lit[:, :, 1:] * lit[:, :, :-1]
    rough = _pooled(steps, GRID[2]) / (share + 0.05)
    out |= _numbered("rough", np.log((rough + 0.02) / (rough.mean(axis=1, keepdims=True) + 0.02)))
    out |= _octaves(light, lit, spread**2 + 1e-3, 1e-4)
    return out | _numbered("shown", _pooled(lit, 3))


def _grey(y: NDArray[np.float32], axes: int) -> dict[str, Any]:
    n = len(y)
    spread = y.reshape(n, -1).std(axis=1) + SMALL
    blocks = _pooled(y, GRID[axes])
    out: dict[str, Any] = _numbered("block", (blocks - blocks.mean(axis=1, keepdims=True)) / spread[:, None])
    steps = np.zeros_like(y)
    for axis in range(1, y.ndim):
        inner = tuple(slice(None, -1) if a == axis else slice(None) for a in range(y.ndim))
        steps[inner] += np.abs(np.diff(y, axis=axis))
    rough = _pooled(steps, GRID[axes])
    least = 1e-3 * spread[:, None]
    out |= _numbered("rough", np.log((rough + least) / (rough.mean(axis=1, keepdims=True) + least)))
    return out | _octaves(y, None, spread**2, SMALL * spread**2) | _histogram(y, spread)


def _recording(u: NDArray[np.float32]) -> dict[str, Any]:
    """About zero: `u` is in ranges of the sensor."""
    n = len(u)
    spread = u.reshape(n, -1).std(axis=1) + SMALL
    means = u.mean(axis=2)
    out = _numbered("level", np.sort(np.abs(means) / spread[:, None], axis=1))
    out |= _numbered("swing", np.sort(np.log(u.std(axis=2) / spread[:, None] + 1e-3), axis=1))
    around = u - means[:, :, None]
    return out | _octaves(around, None, spread**2, SMALL * spread**2, first=2) | _histogram(u, spread)


def _histogram(y: NDArray[np.float32], spread: Any) -> dict[str, Any]:
    flat = np.sort(y.reshape(len(y), -1), axis=1)
    p05, p25, p50, p75, p95 = (flat[:, int(q * (flat.shape[1] - 1))] for q in (0.05, 0.25, 0.5, 0.75, 0.95))
    inner = p75 - p25 + 0.05 * spread
    tails = np.log((p95 - p05 + 1e-3 * spread) / inner)
    return {"tails": tails, "lean": (p75 + p25 - 2 * p50) / inner, "middle": (p50 - flat.mean(axis=1)) / spread}


def _octaves(y: NDArray[np.float32], lit: NDArray[np.float32] | None, over: Any, least: Any, *, first: int = 1) -> dict[str, Any]:
    """Of differences along each axis from `first` on; with `lit`, only between places that are lit."""
    n, out = len(y), {}
    for axis in range(first, y.ndim):
        for lag in LAGS:
            if y.shape[axis] <= 2 * lag:
                break
            ahead, behind = (tuple(cut if a == axis else slice(None) for a in range(y.ndim)) for cut in (slice(lag, None), slice(None, -lag)))
            squares = (y[ahead] - y[behind]) ** 2
            if lit is None:
                energy = squares.reshape(n, -1).mean(axis=1)
            else:
                both = lit[ahead] * lit[behind]
                energy = (squares * both).reshape(n, -1).sum(axis=1) / (both.reshape(n, -1).sum(axis=1) + 1)
            out[f"octave_{lag}_{axis - first}"] = 0.5 * np.log((energy + least) / over)
    return out


def _coarser(x: NDArray[np.float32], axes: int) -> NDArray[np.float32]:
    """Means over whole blocks until no axis of space is longer than `SIDE`."""
    for axis in range(x.ndim - axes, x.ndim):
        factor = -(-x.shape[axis] // SIDE[axes])
        if factor > 1:
            whole = x.shape[axis] // factor
            cut = x[tuple(slice(0, whole * factor) if a == axis else slice(None) for a in range(x.ndim))]
            x = cut.reshape(*x.shape[:axis], whole, factor, *x.shape[axis + 1 :]).mean(axis=axis + 1)
    return x


def _pooled(y: NDArray[np.floating], blocks: int) -> NDArray[np.floating]:
    """(n, blocks ** axes): means over a grid of blocks; an axis that is shorter has as many as it is long."""
    for axis in range(1, y.ndim):
        edges = np.unique(np.linspace(0, y.shape[axis], blocks + 1).round().astype(int))
        sizes = np.diff(edges).reshape(-1, *[1] * (y.ndim - axis - 1))
        y = np.add.reduceat(y, edges[:-1], axis=axis) / sizes.astype(np.float32)
    return y.reshape(len(y), -1)


def _numbered(name: str, values: Any) -> dict[str, Any]:
    return {f"{name}_{k}": values[:, k] for k in range(values.shape[1])}
