"""What the figures of samples are taken from: the samples themselves, smoothed, high-passed, and their differences, each computed once.

Device profiles (`components/core/devices.py`) and image quality (`components/core/image_quality.py`) share it, so measuring both costs one pass.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.spec import DiseaseSpec

SPATIAL_AXES = {"image": 2, "tiles": 2, "volume": 3, "window": 1, "table": 0}
SMOOTH = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16


class Filtered:
    """Samples (n, *input.shape) in the spec's unit; everything beside them is made at first use and kept."""

    def __init__(self, x: NDArray[Any], spec: DiseaseSpec) -> None:
        self.y: NDArray[np.float32] = np.asarray(x, dtype=np.float32)
        self.axes = SPATIAL_AXES[spec.input.layout]
        self._steps: dict[int, NDArray[np.float32]] = {}

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
                x = np.moveaxis(x, axis, -1)
                x = np.moveaxis((x[..., :-2] - 2 * x[..., 1:-1] + x[..., 2:]) * np.float32(6**-0.5), -1, axis)
        return np.abs(x)

    def step(self, axis: int) -> NDArray[np.float32]:
        """Forward differences along one axis of `y`."""
        if axis not in self._steps:
            self._steps[axis] = np.diff(self.y, axis=axis)
        return self._steps[axis]

    @cached_property
    def slope(self) -> NDArray[np.float32]:
        """Magnitude of the forward differences along the spatial axes, per pixel."""
        y = self.y
        inner = (..., *(slice(0, max(1, size - 1)) for size in y.shape[y.ndim - self.axes :]))
        squares = np.zeros_like(y[inner])
        for axis in range(y.ndim - self.axes, y.ndim):
            if y.shape[axis] > 1:
                squares += self.step(axis)[inner] ** 2
        return np.sqrt(squares)


def filtered(x: NDArray[np.float32], weights: NDArray[np.floating], axes: int) -> NDArray[np.float32]:
    """The same symmetric weights along each of the last `axes` axes; edges are mirrored."""
    from scipy.ndimage import correlate1d

    for axis in range(x.ndim - axes, x.ndim):
        x = np.asarray(correlate1d(x, weights, axis=axis, mode="reflect"), dtype=np.float32)
    return x
