"""Lamp and exposure of a photograph: each channel is scaled until its typical value inside the picture's field is `TYPICAL`.

A lamp's colour and an exposure are one gain for each channel; what a photograph shows most of (skin, retina) is taken to have one colour.
The median stands for the mean of the original, since a lesion must not decide. Gains are undone exactly as long as nothing saturates.

Source:
    Buchsbaum, Journal of the Franklin Institute 1980: the grey-world assumption.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

AXES, CHANNELS = (2,), 0
TYPICAL = 0.6
DARK = 0.1  # of the photograph's brightest: below it is the mask around the field


def harmonise(x: NDArray[np.float32], axes: int) -> NDArray[np.float32]:
    """(n, C, H, W) in [0, 1] -> the same; pixels of the mask are scaled like the others."""
    del axes
    values = np.where(field(x)[:, None], x, np.nan).reshape(*x.shape[:2], -1)
    typical = np.nanmedian(values, axis=2)
    gain = np.divide(TYPICAL, typical, out=np.ones_like(typical), where=typical > 1e-3)
    return x * gain[:, :, None, None].astype(np.float32)


def field(x: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(n, H, W): where a photograph shows something; everywhere, where it would be nowhere. Does not change with a gain of all channels."""
    light = x.max(axis=1)
    inside = light > DARK * np.quantile(light.reshape(len(x), -1), 0.99, axis=1)[:, None, None]
    inside[~inside.any(axis=(1, 2))] = True
    return inside
