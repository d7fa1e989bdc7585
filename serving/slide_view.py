"""A slide as one picture: its tiles, made smaller, each where it lies on the glass; and what the network says of each, on the same grid.

That is what a reader can look at: the slide itself has gigapixels and stays where it is, one tile of thousands says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from serving.predictor import Tiles

METHOD = "probability of each tile"
GLASS = 245
MOST_SIDE = 768  # pixels of the picture


@dataclass(frozen=True)
class View:
    """Args: picture: (3, h, w), glass where no tile was read. heat: (h, w) in [0, 1], 0 there."""

    picture: NDArray[np.uint8]
    heat: NDArray[np.float32]


def view(tiles: Tiles, p: NDArray[np.floating[Any]] | None, tile_um: float) -> View:
    """The slide, at most `MOST_SIDE` pixels a side as long as it has no more tiles than that.

    Args:
        p: (n,) of what is looked for; None: nobody was asked.
        tile_um: Side of a tile in microns.
    """
    small = _smaller(tiles.arrays, tiles.places, tile_um)
    side = small.shape[-1]
    at = np.rint((tiles.places - tiles.places.min(0)) / tile_um).astype(int)  # (n, 2) column, row
    columns, rows = at.max(0) + 1
    picture = np.full((3, rows * side, columns * side), GLASS, np.uint8)
    heat = np.zeros((rows * side, columns * side), np.float32)
    for n, (column, row) in enumerate(at.tolist()):
        place = slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
        picture[:, *place] = small[n]
        if p is not None:
            heat[place] = p[n]
    return View(picture, heat)


def _smaller(arrays: NDArray[Any], places: NDArray[np.float64], tile_um: float) -> NDArray[np.uint8]:
    """(n, 3, s, s): means of blocks of pixels, so large that all of it fits."""
    across = float(np.ptp(places, axis=0).max()) / tile_um + 1
    whole = arrays.shape[-1]
    block = min(whole, max(1, int(np.ceil(whole * across / MOST_SIDE))))
    side = whole // block
    cut = arrays[:, :, : side * block, : side * block].reshape(*arrays.shape[:2], side, block, side, block)
    return np.rint(cut.mean(axis=(3, 5), dtype=np.float32)).astype(np.uint8)
