"""Uneven light and a lens's haze: each pixel is judged against the light around it, and what remains gets one strength.

The logarithm of a pixel over its surroundings' mean forgets every gain, each channel's own, and every slow change of light; a gamma multiplies it,
so dividing by its own spread inside the field forgets that too. What is wider than the surroundings fades: for small signs (fundus), not for
lesions that fill a picture.

Source:
    B. Graham, Kaggle diabetic retinopathy competition 2015 (report): subtraction of the local mean colour.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.core.harmonise.grey_world import field

AXES, CHANNELS = (2,), 0
SURROUNDINGS = 0.12  # standard deviation of the weights, as a share of the longer side
FLOOR = 0.02
STRENGTH = 0.16  # of one spread, about the middle of [0, 1]


def harmonise(x: NDArray[np.float32], axes: int) -> NDArray[np.float32]:
    """(n, C, H, W) in [0, 1] -> the same, 0.5 where a pixel is like its surroundings and outside the field."""
    from scipy.ndimage import gaussian_filter

    del axes
    inside = field(x)[:, None].astype(np.float32)
    sigma = (0, 0, *[SURROUNDINGS * max(x.shape[-2:])] * 2)
    # The mask's own blur is divided out, so the dark rim does not count as surroundings.
    weight = gaussian_filter(inside, sigma, mode="constant")
    light = np.maximum(x, FLOOR * np.quantile(x.reshape(len(x), -1), 0.99, axis=1)[:, None, None, None].astype(np.float32))
    light = np.log(np.maximum(light, np.float32(1e-6)))
    apart = (light - gaussian_filter(light * inside, sigma, mode="constant") / np.maximum(weight, 1e-3)) * inside
    spread = np.sqrt((apart**2).sum(axis=(1, 2, 3)) / np.maximum(inside.sum(axis=(1, 2, 3)) * x.shape[1], 1))
    return 0.5 + STRENGTH * apart / np.maximum(spread, 1e-6)[:, None, None, None].astype(np.float32)
