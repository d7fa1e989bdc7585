"""Stain normalisation: the two dyes of a tile are found, and the same amounts of them are drawn in standard colours.

Light is absorbed by Beer and Lambert's law, so in optical density a tile lies in the plane of its two dyes; the extreme directions of its pixels in
that plane are the dyes. Their amounts are scaled to a standard 99th percentile. The lamp's colour is taken from the tile's brightest pixels.
Background stays what it is; a tile with hardly any dye is only given white glass.

Source:
    Macenko et al., ISBI 2009, with its constants (beta 0.15, alpha 1 %) and the standard dyes of its reference implementation, which
    MONAI's `NormalizeHEStains` shares; there `tests/core/test_harmonise.py` looks for the answer. MONAI itself would bring torch to the server.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

AXES, CHANNELS = (2,), 3
LEAST = 0.15  # mean optical density (natural logarithm) of a pixel that counts as stained; asked of each channel it would lose thin eosin
TIP = 1.0  # percentile of the angles at either end
DYES = np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]])  # haematoxylin, eosin; optical density of red, green, blue
AMOUNTS = np.array([1.9705, 1.0308])  # 99th percentiles
FEWEST = 50  # stained pixels


def harmonise(x: NDArray[np.float32], axes: int) -> NDArray[np.float32]:
    """(n, 3, H, W) transmission in [0, 1] -> the same in standard colours."""
    del axes
    return np.stack([normalised(tile) for tile in x])


def normalised(tile: NDArray[np.float32]) -> NDArray[np.float32]:
    """One tile (3, H, W)."""
    pixels = tile.reshape(3, -1).astype(np.float64)
    density = -np.log(np.clip(pixels / glass(pixels)[:, None], 1 / 255, 1))
    dyes = found(density)
    if dyes is None:
        return np.exp(-density).reshape(tile.shape).astype(np.float32)
    amount = np.maximum(np.linalg.lstsq(dyes, density, rcond=None)[0], 0)
    most = np.percentile(amount, 99, axis=1)
    amount *= np.divide(AMOUNTS, most, out=np.ones(2), where=most > 0.05)[:, None]
    return np.exp(-DYES @ amount).reshape(tile.shape).astype(np.float32)


def glass(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3,) the light that passes where nothing is: the 99th percentile of each channel, at least 0.6, since a tile may show no bare glass."""
    return np.clip(np.percentile(pixels, 99, axis=1), 0.6, 1)


def found(density: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """(3, pixels) optical densities -> (3, 2) unit vectors, haematoxylin (more red) first; None where too little is stained."""
    stained = density[:, density.mean(axis=0) > LEAST]
    if stained.shape[1] < FEWEST:
        return None
    plane = np.linalg.eigh(np.cov(stained))[1][:, 1:]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)
    across = stained.T @ plane
    angle = np.percentile(np.arctan2(across[:, 1], across[:, 0]), (TIP, 100 - TIP))
    ends = plane @ np.stack([np.cos(angle), np.sin(angle)])
    ends = ends[:, ::-1] if ends[0, 0] < ends[0, 1] else ends
    return ends if abs(np.linalg.det(ends.T @ ends)) > 1e-6 else None
