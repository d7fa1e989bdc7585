"""From the probabilities of a slide's tiles to the slide's, as evaluate makes them (aggregate, logarithm, calibration of groups), and to heat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.core import aggregates, calibration
from components.core.package import ModelPackage

if TYPE_CHECKING:
    from serving.predictor import Tiles

TINY = 1e-6  # a share of samples may be 0; its logarithm is then this one's (as components/evaluate/groups.py has it)
WEIGHTS = "aggregate.safetensors"
METHOD = "tile probabilities"


def aggregator(package: ModelPackage) -> aggregates.Aggregator | None:
    """What turns this model's tiles into one answer; None where the spec does not aggregate, or the package is older than its weights."""
    if package.spec.aggregate is None:
        return None
    one = aggregates.build(package.spec)
    if one.trained:
        if WEIGHTS not in package.info["files"]:
            return None
        one.load(package.folder)
    return one


def of_slide(package: ModelPackage, one: aggregates.Aggregator, p: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """(1, K) calibrated probabilities.

    Args:
        p: (n, K) calibrated probabilities of the tiles.
        places: (n, 2) microns.
    """
    import pandas as pd

    classes = package.spec.target.classes
    table = pd.DataFrame({"group_id": ["slide"] * len(p), "place": list(places)} | {f"score_{name}": p[:, k] for k, name in enumerate(classes)})
    found = one.apply(table)[[f"score_{name}" for name in classes]].to_numpy(dtype=np.float64)
    return calibration.apply(package.calibration, np.log(np.maximum(found, TINY)).astype(np.float32))


def heat(tiles: Tiles, values: NDArray[np.float64]) -> NDArray[np.float32]:
    """(h, w) on the grid of the slide's view.

    Args:
        values: (n,) in [0, 1], one for each tile. They are drawn as they are and not stretched: a slide without anything suspicious stays cold. Where
            no tile was looked at there is no heat; where a pixel holds several tiles, the hottest counts.
    """
    out = np.zeros(tiles.view.shape[:2], dtype=np.float32)
    corners = np.rint((tiles.places - tiles.side_um / 2) / tiles.side_um).astype(np.int64)  # (column, row), counted in tiles
    per_tile = tiles.side_um / tiles.view_um
    first, last = (np.floor((corners + end) * per_tile + 0.5).astype(np.int64) for end in (0, 1))
    last = np.maximum(last, first + 1)
    for (left, top), (right, bottom), value in zip(first.tolist(), last.tolist(), np.clip(values, 0, 1).tolist(), strict=True):
        square = out[top:bottom, left:right]
        np.maximum(square, value, out=square)
    return out
