"""Hand-made features of a head: how much of it is fluid, how wide its ventricles are, how bright each part is.

What a radiologist measures on a T1-weighted scan with a ruler and a threshold: fluid inside the skull, ventricles, the temporal regions left
and right, sulci near the surface, and the mean of each of 27 regions. Volumes are (D, H, W) = (foot to head, back to front, left to right).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError

REGIONS = tuple(f"{z}_{y}_{x}" for z in ("low", "mid", "high") for y in ("back", "centre", "front") for x in ("left", "middle", "right"))
NAMES = (
    "head_share",
    "inner_share",
    "inner_median",
    "inner_sd",
    "fluid_share",
    "grey_share",
    "ventricle_share",
    "ventricle_depth",
    "sulcus_share",
    "temporal_left",
    "temporal_right",
    "temporal_difference",
    "temporal_fluid",
    *(f"mean_{name}" for name in REGIONS),
)
SKULL = 0.17  # of the head's half width: scalp, skull and the fluid under it
FLUID, GREY = 0.55, 0.85  # of the median inside the skull


def features(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 1, D, H, W) in [0, 1] -> (N, 40) in the order of `NAMES`; all finite. Channels are averaged."""
    if x.ndim != 5 or min(x.shape[-3:]) < 8:
        raise DataError("features of a head need volumes of at least 8 voxels per axis", where="volume", got=f"shape {x.shape[1:]}")
    heads = np.asarray(x, dtype=np.float32).mean(axis=1)
    return np.stack([_features(head) for head in heads]) if len(heads) else np.empty((0, len(NAMES)), np.float32)


def _features(v: NDArray[np.float32]) -> NDArray[np.float32]:
    from scipy.ndimage import binary_fill_holes, distance_transform_edt, gaussian_filter

    smooth = gaussian_filter(v, 0.6)
    head = np.asarray(binary_fill_holes(smooth > 0.35 * np.percentile(smooth, 95)))
    depth = np.asarray(distance_transform_edt(head), dtype=np.float32)
    inner = depth > SKULL * max(1.0, float(depth.max()))
    if not inner.any():
        inner = np.ones_like(inner)
    median = max(float(np.median(smooth[inner])), 1e-6)
    level = np.asarray(smooth / median, dtype=np.float32)
    fluid = level < FLUID
    at = np.argwhere(inner)
    low, high = at.min(axis=0), at.max(axis=0) + 1

    def part(z: tuple[float, float], y: tuple[float, float], x: tuple[float, float]) -> tuple[slice, ...]:
        return tuple(
            slice(int(a + s * (b - a)), max(int(a + s * (b - a)) + 1, int(np.ceil(a + e * (b - a)))))
            for (s, e), a, b in zip((z, y, x), low, high, strict=True)
        )

    centre = part((0.45, 0.85), (0.2, 0.8), (0.3, 0.7))
    left, right = (part((0.2, 0.5), (0.25, 0.65), side) for side in ((0.1, 0.45), (0.55, 0.9)))
    rim = inner & (depth < (SKULL + 0.2) * float(depth.max()))
    temporal = [float(level[side].mean()) for side in (left, right)]
    thirds = [(0.0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1.0)]
    regions = [_mean(level, inner, part(z, y, x)) for z in thirds for y in thirds for x in thirds]
    values = [
        float(head.mean()),
        float(inner.mean()),
        median,
        float(level[inner].std()),
        float(fluid[inner].mean()),
        float(((level >= FLUID) & (level < GREY))[inner].mean()),
        float(fluid[centre].mean()),
        float(np.percentile(level[centre], 5)),
        float(fluid[rim].mean()) if rim.any() else 0.0,
        temporal[0],
        temporal[1],
        temporal[0] - temporal[1],
        float((fluid[left].mean() + fluid[right].mean()) / 2),
        *regions,
    ]
    return np.nan_to_num(np.array(values, dtype=np.float32), posinf=0.0, neginf=0.0)


def _mean(level: NDArray[np.float32], inner: NDArray[np.bool_], where: tuple[slice, ...]) -> float:
    chosen = inner[where]
    return float(level[where][chosen].mean()) if chosen.any() else 1.0
