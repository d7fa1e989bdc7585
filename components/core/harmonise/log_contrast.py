"""Gain and gamma of a picture: the logarithm of each channel gets a fixed middle and the picture a fixed spread.

A gain adds to the logarithm and a gamma multiplies it, so neither remains, whatever the lamp's colour. What does not remain either is how strong
a picture's contrast is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.core.harmonise.grey_world import field

AXES, CHANNELS = (2,), 0
FLOOR = 0.02
STRENGTH = 0.2


def harmonise(x: NDArray[np.float32], axes: int) -> NDArray[np.float32]:
    """(n, C, H, W) in [0, 1] -> the same, 0.5 at each channel's median; what lies outside the field is 0.5."""
    del axes
    inside = field(x)[:, None]
    top = np.quantile(x.reshape(*x.shape[:2], -1), 0.99, axis=2)[..., None, None]
    light = np.log(np.maximum(x, np.maximum(FLOOR * top, 1e-6)))
    values = np.where(inside, light, np.nan).reshape(*x.shape[:2], -1)
    apart = np.where(inside, light - np.nanmedian(values, axis=2)[..., None, None], 0)
    spread = np.sqrt((apart**2).sum(axis=(1, 2, 3)) / np.maximum(inside.sum(axis=(1, 2, 3)) * x.shape[1], 1))
    return (0.5 + STRENGTH * apart / np.maximum(spread, 1e-6)[:, None, None, None]).astype(np.float32)
