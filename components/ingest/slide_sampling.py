"""Which tiles of a slide become samples.

Validation and test slides keep every tile over tissue: a heat-map has no holes. A training slide gives a draw: all kinds of slides have
thousands of normal tiles for each tumour tile, and a network that sees them in that mix learns to say normal.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

TUMOUR_TILES = 500  # most tumour tiles of one training slide: a few large metastases must not be the whole class
NORMAL_TILES = 250  # most normal tiles of one training slide
LEAST_NORMAL = 64  # normal tiles of a training slide with little or no tumour


def drawn(labels: NDArray[np.int64], split: str, group: str) -> NDArray[np.int64]:
    """Positions of the tiles to keep, ascending.

    In a training slide: at most `TUMOUR_TILES` tumour tiles; of the normal ones as many as there are tumour tiles, but at least
    `LEAST_NORMAL` and at most `NORMAL_TILES`.

    Args:
        labels: (n,), 1 for tumour.
        group: The slide's name; seeds the draw, so that the same slide gives the same tiles in every run, whatever key makes the pseudonyms.
    """
    if split != "train":
        return np.arange(len(labels))
    draw = np.random.default_rng(int.from_bytes(hashlib.sha256(group.encode("utf-8", "surrogatepass")).digest()[:8], "big"))
    tumour, normal = np.flatnonzero(labels == 1), np.flatnonzero(labels != 1)
    kept = draw.permutation(tumour)[:TUMOUR_TILES]
    wanted = min(NORMAL_TILES, max(LEAST_NORMAL, len(kept)))
    return np.sort(np.concatenate([kept, draw.permutation(normal)[:wanted]]))
