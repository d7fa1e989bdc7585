"""24 features of a stained tile's colour and grain: what a program without any notion of a nucleus sees. The baseline of tile networks.

Stains are told apart by optical density with Ruifrok and Johnston's vectors for haematoxylin and eosin (Analytical and Quantitative
Cytology and Histology 2001), the same for all scanners.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CHANNELS = ("red", "green", "blue", "haematoxylin", "eosin", "saturation")
NAMES = tuple(f"{name}_{figure}" for name in CHANNELS for figure in ("mean", "sd", "p10", "grain"))
HAEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)
FLOOR = 1 / 255


def features(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 3, H, W) in [0, 1] -> (N, 24): of each channel mean, standard deviation, tenth percentile, and mean step between neighbours."""
    density = -np.log10(np.maximum(x, FLOOR))
    stains = np.einsum("sc,nchw->nshw", np.linalg.pinv(np.array([HAEMATOXYLIN, EOSIN]).T).astype(np.float32), density)
    top = x.max(1)
    saturation = (top - x.min(1)) / np.maximum(top, FLOOR)
    planes = np.concatenate([x, stains, saturation[:, None]], axis=1).astype(np.float32)
    flat = planes.reshape(*planes.shape[:2], -1)
    grain = np.abs(np.diff(planes, axis=-1)).mean((2, 3)) + np.abs(np.diff(planes, axis=-2)).mean((2, 3))
    figures = np.stack([flat.mean(-1), flat.std(-1), np.quantile(flat, 0.1, axis=-1).astype(np.float32), grain / 2], axis=-1)
    return figures.reshape(len(x), -1).astype(np.float32)
