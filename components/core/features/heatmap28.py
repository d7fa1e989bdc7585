"""28 geometric features of a slide's heat-map, after Wang et al. 2016 (arXiv:1606.05718), who name some of theirs and count 28.

A heat-map holds the tumour probability of each tile, (H, W), NaN where no tissue is. A region is a set of tiles of at least `threshold`
that touch by sides or corners. Lengths are in tiles, areas in tiles, so a feature means the same for every slide read at one resolution.

    region_count              regions
    tumour_share              tiles in regions / tiles with tissue
    largest_area              of the largest region
    largest_axis              long axis of the ellipse with the largest region's second moments (one tile: 1.15)
    above_90                  tiles of at least 0.9
    mean_prediction           over tissue
    top_prediction            the highest
    region_prediction         mean over all regions, 0 without one
    {area, perimeter, eccentricity, extent, solidity}_{max, mean, variance, skew}
                              over regions, 0 without one: perimeter counts the sides of tiles that face outward; eccentricity is that of the
                              ellipse, 0 for a circle and a single tile; extent = area / bounding box; solidity = area / convex hull; the
                              skew is the third standardised moment, 0 where all are equal
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

PROPERTIES = ("area", "perimeter", "eccentricity", "extent", "solidity")
GLOBAL = ("region_count", "tumour_share", "largest_area", "largest_axis", "above_90", "mean_prediction", "top_prediction", "region_prediction")
NAMES = (*GLOBAL, *(f"{name}_{moment}" for name in PROPERTIES for moment in ("max", "mean", "variance", "skew")))
HIGH = 0.9
Floats = NDArray[np.float64]


def heatmap(places: ArrayLike, p: ArrayLike) -> Floats:
    """Tiles back onto their grid.

    Args:
        places: (n, 2) centres (x, y) of tiles that lie side by side, any unit; p: (n,).

    Returns:
        (H, W), NaN where no tile lies; just large enough for all tiles.
    """
    at, values = np.asarray(places, dtype=np.float64).reshape(-1, 2), np.asarray(p, dtype=np.float64)
    if not len(at):
        return np.full((1, 1), np.nan)
    step = pitch(at)
    cells = np.rint((at - at.min(0)) / step).astype(np.int64)
    out = np.full(tuple(cells.max(0)[::-1] + 1), np.nan)
    out[cells[:, 1], cells[:, 0]] = values
    return out


def pitch(places: Floats) -> float:
    """Distance of neighbouring tiles: the smallest step between columns or rows that is more than rounding."""
    steps = np.concatenate([np.diff(np.unique(places[:, axis])) for axis in (0, 1)])
    steps = steps[steps > 0.01 * max(1e-9, steps.max(initial=0))]
    return float(steps.min()) if len(steps) else 1.0


def features(maps: Sequence[NDArray[np.floating]] | NDArray[np.floating], *, threshold: float = 0.5) -> NDArray[np.float32]:
    """(n, 28) of n heat-maps, each (H, W) in [0, 1] with NaN outside tissue."""
    return np.stack([_one(np.asarray(one, dtype=np.float64), threshold) for one in maps]).astype(np.float32) if len(maps) else np.zeros((0, 28), "f4")


def _one(p: Floats, threshold: float) -> Floats:
    from scipy.ndimage import find_objects, label

    tissue = ~np.isnan(p)
    filled = np.where(tissue, p, 0)
    found, count = label(filled >= threshold, structure=np.ones((3, 3)))  # type: ignore[misc]
    regions = [_region(found[box] == n + 1) for n, box in enumerate(find_objects(found))]
    n = int(tissue.sum())
    inside = found > 0
    largest = max(regions, key=lambda r: r[0], default=None)
    out = [
        float(count),
        inside.sum() / max(1, n),
        largest[0] if largest else 0.0,
        largest[5] if largest else 0.0,
        float((filled >= HIGH).sum()),
        filled.sum() / max(1, n),
        filled.max(initial=0.0),
        filled[inside].mean() if count else 0.0,
    ]
    for k in range(len(PROPERTIES)):
        out += _moments(np.array([r[k] for r in regions]))
    return np.array(out)


def _moments(values: Floats) -> list[float]:
    """max, mean, variance, skew."""
    if not len(values):
        return [0.0] * 4
    spread = values.std()
    skew = float((((values - values.mean()) / spread) ** 3).mean()) if spread > 1e-9 else 0.0
    return [float(values.max()), float(values.mean()), float(values.var()), skew]


def _region(mask: NDArray[np.bool_]) -> tuple[float, float, float, float, float, float]:
    """Area, perimeter, eccentricity, extent, solidity, long axis of one region in its bounding box."""
    area = float(mask.sum())
    edged = np.pad(mask, 1)
    perimeter = float(np.abs(np.diff(edged.astype(np.int8), axis=0)).sum() + np.abs(np.diff(edged.astype(np.int8), axis=1)).sum())
    y, x = np.nonzero(mask)
    # A tile is a square and not a point: its own second moment is 1/12.
    xx, yy, xy = x.var() + 1 / 12, y.var() + 1 / 12, float(((x - x.mean()) * (y - y.mean())).mean())
    middle, half = (xx + yy) / 2, float(np.sqrt(((xx - yy) / 2) ** 2 + xy**2))
    eccentricity = float(np.sqrt(max(0.0, 1 - (middle - half) / (middle + half))))
    return area, perimeter, eccentricity, area / mask.size, area / _hull(x, y), 4 * float(np.sqrt(middle + half))


def _hull(x: NDArray[np.int64], y: NDArray[np.int64]) -> float:
    """Area of the convex hull of tiles, their corners included."""
    from scipy.spatial import ConvexHull

    corners = np.unique(np.concatenate([np.stack([x + dx, y + dy], axis=1) for dx in (0, 1) for dy in (0, 1)]), axis=0)
    return float(ConvexHull(corners).volume)  # in a plane the "volume" is the area
