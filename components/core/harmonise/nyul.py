"""Histogram standardisation: percentiles of each sample's foreground are moved to fixed places, straight lines between them.

Nyul and Udupa learn the places from a training pool; here they are those of a normal distribution, so that nothing has to travel with the model
and no two trainings differ by it. The foreground is what exceeds the sample's mean, as there. Invariant under gain and offset, and, at the
landmarks, under any increasing change of the scale.

Source:
    Nyul and Udupa, Magnetic Resonance in Medicine 1999; ten inner landmarks: Nyul, Udupa and Zhang, IEEE Transactions on Medical Imaging 2000.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

AXES, CHANNELS = (2, 3), 0
PERCENTILES = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)
STANDARD = (0.3, 0.4161, 0.465, 0.5002, 0.5304, 0.5585, 0.5866, 0.6168, 0.652, 0.7009, 0.817)
"""0.5585 + 0.1111 z of each percentile's normal quantile z: from 0.3 to 0.817."""


def harmonise(x: NDArray[np.float32], axes: int) -> NDArray[np.float32]:
    """(n, C, ...) -> the same; each channel has landmarks of its own. Beyond the outermost the nearest line goes on, down to 0 at the minimum."""
    del axes
    out = np.empty_like(x)
    for sample, made in zip(x, out, strict=True):
        for channel, target in zip(sample, made, strict=True):
            target[...] = standardised(channel)
    return out


def standardised(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """One channel; a constant one becomes the lowest landmark."""
    foreground = values[values > values.mean(dtype=np.float64)]
    if not len(foreground):
        return np.full_like(values, STANDARD[0])
    found = np.percentile(foreground, PERCENTILES)
    low, high = float(values.min()), float(values.max())
    places = np.array([low, *found, high], dtype=np.float64)
    last = (STANDARD[-1] - STANDARD[-2]) / max(found[-1] - found[-2], 1e-12)
    standard = np.array([0.0, *STANDARD, min(STANDARD[-1] + last * max(high - found[-1], 0.0), 1.0)])
    keep = np.concatenate([[True], np.diff(places) > 0])  # equal percentiles would be a step
    return np.interp(values, places[keep], standard[keep]).astype(np.float32)
