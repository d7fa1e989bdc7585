"""Images that a model was not made for, in its own format: those of another disease, noise, one colour, and its own ones spoilt."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from components.core.devices import SPATIAL_AXES
from components.core.spec import DiseaseSpec

Array = NDArray[np.generic]
NOISE = ("white noise", "grey noise", "one colour")
STRENGTHS = 5


def brought(x: Array, of: DiseaseSpec, to: DiseaseSpec) -> Array:
    """Samples of one disease in the shape, unit and type of another, as somebody would convert them: range to range, resized, grey to colour.

    A volume becomes its middle slice, a picture becomes a volume of equal slices, a recording becomes a picture of its channels.
    """
    own, axes = SPATIAL_AXES[of.input.layout], SPATIAL_AXES[to.input.layout]
    low, high = of.input.range
    unit = np.clip((np.asarray(x, dtype=np.float32) - low) / (high - low), 0, 1)
    if own == 1:  # to its own swing: at the sensor's range a gait is one grey
        swing = np.abs(np.asarray(x, dtype=np.float32)).max(axis=(1, 2), keepdims=True) + 1e-6
        unit = (np.asarray(x, dtype=np.float32) / swing + 1)[:, None] / 2
    channels, size = to.input.shape[0], to.input.shape[1:]
    if axes == 1:
        line = unit.mean(axis=1).reshape(len(unit), -1)
        line = np.tile(line, (1, -(-channels * size[0] // line.shape[1])))[:, : channels * size[0]].reshape(len(unit), channels, size[0])
        return ((line - line.mean(axis=(1, 2), keepdims=True)) * 4000).astype(to.input.dtype)
    if own == 3 and axes == 2:
        unit = unit[:, :, unit.shape[2] // 2]
    if own < 3 and axes == 3:
        unit = np.repeat(_resized(unit.mean(axis=1, keepdims=True), size[1:])[:, :, None], size[0], axis=2)
    else:
        unit = _resized(unit, size)
    if unit.shape[1] != channels:
        unit = np.repeat(unit.mean(axis=1, keepdims=True), channels, axis=1)
    return _typed(to.input.range[0] + unit * (to.input.range[1] - to.input.range[0]), to)


def noise(kind: str, n: int, spec: DiseaseSpec, rng: np.random.Generator) -> Array:
    """One of `NOISE`. One colour is as a camera sees it: with a little noise of its own."""
    low, high = (-2000.0, 2000.0) if spec.input.layout == "window" else spec.input.range
    shape = (n, *spec.input.shape)
    if kind == "white noise":
        x = rng.uniform(low, high, shape)
    elif kind == "grey noise":
        x = np.clip(rng.normal((low + high) / 2, (high - low) / 8, shape), low, high)
    else:
        x = rng.uniform(low, high, (n, shape[1], *[1] * (len(shape) - 2))) + rng.normal(0, (high - low) / 255, shape)
    return _typed(x, spec)


def _turned(x: NDArray[np.float32], strength: int, spec: DiseaseSpec) -> NDArray[np.float32]:
    from scipy.ndimage import rotate

    angle = (30, 60, 90, 135, 180)[strength]
    if spec.input.layout == "window":  # every sensor of three axes about its second one
        a, out = np.deg2rad(angle), x.copy()
        for first in range(0, x.shape[1] - 2, 3):
            out[:, first] = np.cos(a) * x[:, first] + np.sin(a) * x[:, first + 2]
            out[:, first + 2] = np.cos(a) * x[:, first + 2] - np.sin(a) * x[:, first]
        return out
    return np.asarray(rotate(x, angle, axes=(x.ndim - 2, x.ndim - 1), reshape=False, order=1, mode="nearest"), dtype=np.float32)


def _blurred(x: NDArray[np.float32], strength: int, spec: DiseaseSpec) -> NDArray[np.float32]:
    from scipy.ndimage import gaussian_filter

    axes = SPATIAL_AXES[spec.input.layout]
    sigma = (0.75, 1.5, 3.0, 4.5, 6.0)[strength]
    return np.asarray(gaussian_filter(x, [0] * (x.ndim - axes) + [sigma] * axes, mode="nearest"), dtype=np.float32)


def _zoomed(x: NDArray[np.float32], strength: int, spec: DiseaseSpec) -> NDArray[np.float32]:
    """The middle of the sample alone."""
    axes, factor = SPATIAL_AXES[spec.input.layout], (1.2, 1.5, 2.0, 3.0, 4.0)[strength]
    for axis in range(x.ndim - axes, x.ndim):
        size = x.shape[axis]
        x = _along(x, axis, (size - 1) / 2 + (np.arange(size) - (size - 1) / 2) / factor)
    return x


def _shifted(x: NDArray[np.float32], strength: int, spec: DiseaseSpec) -> NDArray[np.float32]:
    """Along the last axis; what comes in is the border's value."""
    size = x.shape[-1]
    return x[..., np.clip(np.arange(size) - round((0.1, 0.2, 0.3, 0.4, 0.5)[strength] * size), 0, size - 1)]


def _inverted(x: NDArray[np.float32], strength: int, spec: DiseaseSpec) -> NDArray[np.float32]:
    """Contrast about the middle of the range (of a sensor: about 0) times 0.6, 0.2, -0.2, -0.6, -1."""
    low, high = spec.input.range
    middle = np.float32((low + high) / 2)
    return (middle + np.float32(0.6 - 0.4 * strength) * (x - middle)).astype(np.float32)


SPOILT: dict[str, Callable[[NDArray[np.float32], int, DiseaseSpec], NDArray[np.float32]]] = {
    "blurred": _blurred, "zoomed": _zoomed, "shifted": _shifted, "inverted": _inverted, "turned": _turned,
}  # fmt: skip


def spoilt(name: str, x: Array, strength: int, spec: DiseaseSpec) -> Array:
    """Own samples after one of `SPOILT`, at strength 0 to 4."""
    return _typed(SPOILT[name](np.asarray(x, dtype=np.float32), strength, spec), spec)


def _typed(x: NDArray[np.floating], spec: DiseaseSpec) -> Array:
    return x.astype(np.float32) if np.dtype(spec.input.dtype).kind == "f" else np.rint(x).astype(spec.input.dtype)


def _resized(x: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    for axis, wanted in zip(range(x.ndim - len(size), x.ndim), size, strict=True):
        n = x.shape[axis]
        if n > wanted:
            edges = np.linspace(0, n, wanted + 1).round().astype(int)
            x = np.add.reduceat(x, edges[:-1], axis=axis) / np.diff(edges).reshape(-1, *[1] * (x.ndim - axis - 1)).astype(np.float32)
        elif n < wanted:
            x = _along(x, axis, np.linspace(0, n - 1, wanted))
    return x


def _along(x: NDArray[np.float32], axis: int, places: NDArray[np.float64]) -> NDArray[np.float32]:
    """Values at fractional places of one axis."""
    below = np.clip(places.astype(int), 0, max(0, x.shape[axis] - 2))
    share = np.clip(places - below, 0, 1).astype(np.float32).reshape(-1, *[1] * (x.ndim - axis - 1))
    above = np.minimum(below + 1, x.shape[axis] - 1)
    return (np.take(x, below, axis) * (1 - share) + np.take(x, above, axis) * share).astype(np.float32)
