"""Gain and zero error of worn accelerometers: each sensor's own gravity is the standard.

Whatever the person does, the mean of a sensor's three axes over a window is near 1 g in length, in a direction that says how it is worn. The window's
mean length is made 1 g, which undoes a gain exactly; the zero errors of single axes cannot be told from how the sensor sits, and stay.
Windows whose mean is far from any gravity (less than `LEAST_G` or over `MOST_G`) are left alone: no gain error is so large.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

AXES, CHANNELS = (1,), 0
GRAVITY = 1000 / 8000  # 1 g, as a share of the range of -4000 to 4000 mg that stands behind [0, 1]
LEAST_G, MOST_G = 0.3, 3.0


def harmonise(x: NDArray[np.float32], axes: int) -> NDArray[np.float32]:
    """(n, C, T) in [0, 1] with 0.5 for rest in free fall -> the same; C in whole sensors of three axes, all of one gain."""
    del axes
    centred = x - np.float32(0.5)
    sensors = centred.reshape(len(x), -1, 3, x.shape[2])
    length = np.median(np.linalg.norm(sensors.mean(axis=3, dtype=np.float64), axis=2), axis=1) / GRAVITY
    gain = np.where((length > LEAST_G) & (length < MOST_G), 1 / np.maximum(length, LEAST_G), 1.0)
    return centred * gain[:, None, None].astype(np.float32) + np.float32(0.5)
