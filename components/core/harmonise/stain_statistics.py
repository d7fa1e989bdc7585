"""Stain and lamp by two figures a channel: mean and spread of the optical density of the stained pixels become fixed ones.

A dye's strength, a lamp's colour and a gamma are each an affine change of optical density, which is undone exactly. Simpler than finding the
dyes, it also stands where a tile holds one dye only.

Source:
    Reinhard et al., IEEE Computer Graphics and Applications 2001, there in a space of opponent colours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

AXES, CHANNELS = (2,), 3
MEAN = (0.45, 0.75, 0.35)
SPREAD = (0.25, 0.30, 0.18)


def harmonise(x: NDArray[np.float32], axes: int) -> NDArray[np.float32]:
    """(n, 3, H, W) transmission in [0, 1] -> the same; a channel without any contrast becomes its mean."""
    del axes
    density = -np.log(np.clip(x, 1 / 255, 1)).reshape(len(x), 3, -1)
    middle = density.mean(axis=2, keepdims=True)
    spread = density.std(axis=2, keepdims=True)
    standard = (density - middle) * (np.array(SPREAD)[:, None] / np.maximum(spread, 1e-3)) + np.array(MEAN)[:, None]
    return np.exp(-standard).reshape(x.shape).astype(np.float32)
