"""Where a slide shows tissue: Otsu's threshold on the saturation of a small view, then a grid of tiles over it.

Glass is nearly white, so its saturation is near zero; haematoxylin and eosin are colours. Saturation is that of HSV, (max - min) / max.
What is nearly black (a slide's border, a pen) is no tissue, and a threshold below `LOWEST` would call the glass of an empty slide tissue.

Source:
    Otsu, IEEE Trans. SMC 1979; on saturation: Wang et al. 2016, arXiv:1606.05718.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from components.core.imaging.slides import Slide

PER_TILE = 8  # pixels of the view along one tile
LOWEST = 0.05
BLACK = 0.1
SHARE = 0.25  # of a tile that must be tissue
BINS = 256
Mask = NDArray[np.bool_]


def saturation(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W, 3) -> (H, W) in [0, 1]; 0 for what is nearly black."""
    top, low = rgb.max(-1).astype(np.float32), rgb.min(-1).astype(np.float32)
    return np.where(top > 255 * BLACK, (top - low) / np.maximum(top, 1), 0).astype(np.float32)


def otsu(values: NDArray[np.float32]) -> float:
    """The threshold in [0, 1] that separates two classes with the largest variance between them; the lowest of several equal ones."""
    counts, edges = np.histogram(values, bins=BINS, range=(0, 1))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts).astype(np.float64)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    between = np.nan_to_num(between)
    return float(edges[1:][int(np.argmax(between))]) if between.max() > 0 else 1.0


def tissue(rgb: NDArray[np.uint8]) -> Mask:
    """(H, W, 3) -> (H, W)."""
    colour = saturation(rgb)
    return colour >= max(LOWEST, otsu(colour))


def view(slide: Slide, tile_um: float) -> NDArray[np.uint8]:
    """(H, W, 3): the whole slide, `PER_TILE` pixels along a tile of `tile_um` microns."""
    return slide.thumbnail(tile_um / PER_TILE)


def grid(slide: Slide, tile_um: float, seen: NDArray[np.uint8] | None = None) -> NDArray[np.int64]:
    """Upper left corners of the tiles to read.

    Tiles of `tile_um` microns lie side by side from the slide's corner, only whole ones; one is kept when at least `SHARE` of it is tissue.

    Args:
        seen: `view` of the same slide, where somebody has it already.

    Returns:
        (n, 2) level-0 pixels (x, y), row by row.
    """
    mask = tissue(view(slide, tile_um) if seen is None else seen).astype(np.float32)
    rows, columns = (math.floor(side * slide.mpp / tile_um + 1e-6) for side in (slide.height, slide.width))
    if not rows or not columns:
        return np.empty((0, 2), dtype=np.int64)
    mask = mask[: rows * PER_TILE, : columns * PER_TILE]
    mask = np.pad(mask, ((0, rows * PER_TILE - mask.shape[0]), (0, columns * PER_TILE - mask.shape[1])))
    share = mask.reshape(rows, PER_TILE, columns, PER_TILE).mean((1, 3))
    places = np.argwhere(share >= SHARE)[:, ::-1]  # (column, row)
    return np.rint(places * (tile_um / slide.mpp)).astype(np.int64)
