"""28 hand-made features of an image patch around a lesion: size and shape, intensity, margin, texture.

Our own choice, of the number and the kinds that readers and earlier nodule work use; Sun et al. 2016 do not publish a list that could be
repeated. All of it is whole-array arithmetic over many patches at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError

NAMES = (
    # of the segmented lesion; lengths are shares of the side
    "area",
    "perimeter",
    "compactness",
    "elongation",
    "extent",
    "radius_variation",
    "off_centre",
    "on_border",
    # intensity, [0, 1]
    "mean_inside",
    "sd_inside",
    "skew_inside",
    "p10_inside",
    "p90_inside",
    "mean_around",
    "sd_around",
    "contrast",
    "mean_patch",
    "sd_patch",
    # margin
    "gradient_margin",
    "gradient_margin_sd",
    "gradient_patch",
    "gradient_inward",
    # texture: co-occurrence of 8 grey levels at distance 1, and local binary patterns
    "glcm_contrast",
    "glcm_correlation",
    "glcm_energy",
    "glcm_homogeneity",
    "lbp_uniform",
    "lbp_flat",
)
LEVELS = 8
CORE = 0.10  # radius, as a share of the side, of the disc that is taken for lesion at first
CHUNK = 256  # patches at a time: temporaries stay within the cache of one core


def features(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, C, H, W) in [0, 1] -> (N, 28) in the order of `NAMES`; all finite. Channels are averaged."""
    if x.ndim != 4 or min(x.shape[-2:]) < 8:
        raise DataError("hand-made features need images of at least 8 x 8 pixels", where="hand28", got=f"shape {x.shape[1:]}")
    planes = np.clip(np.asarray(x, dtype=np.float32).mean(axis=1), 0, 1)
    parts = [_features(planes[i : i + CHUNK]) for i in range(0, len(planes), CHUNK)]
    return np.concatenate(parts) if parts else np.empty((0, len(NAMES)), np.float32)


def segment(planes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(N, H, W) -> the lesion: what is connected to the centre and nearer to the centre's brightness than to the patch's.

    The threshold lies half-way between the median of a disc at the centre and the median of the patch. A centre no brighter than its
    surroundings gives the disc itself.
    """
    from scipy import ndimage

    n, height, width = planes.shape
    rows, columns = np.indices((height, width))
    distance = np.hypot(rows - (height - 1) / 2, columns - (width - 1) / 2)
    core = distance <= max(1.5, CORE * min(height, width))
    bright, usual = np.median(planes[:, core], axis=1), np.median(planes.reshape(n, -1), axis=1)
    mask = planes >= ((bright + usual) / 2)[:, None, None]
    mask[bright <= usual + 1e-3] = core
    # One labelling of the whole stack; the structure links nothing between patches.
    links = np.zeros((3, 3, 3), dtype=bool)
    links[1] = [[False, True, False], [True, True, True], [False, True, False]]
    labels = np.zeros(mask.shape, dtype=np.int32)
    ndimage.label(mask, structure=links, output=labels)
    seeds = np.where(core & mask, labels, 0)
    size = np.bincount(labels.ravel())
    size[0] = 0
    flat = seeds.reshape(n, -1)
    chosen = np.take_along_axis(flat, size[flat].argmax(axis=1)[:, None], axis=1)  # the largest component that touches the core
    found = (labels == chosen[:, :, None]) & mask
    found[~found.any(axis=(1, 2))] = core
    return found


def _features(p: NDArray[np.float32]) -> NDArray[np.float32]:
    n, height, width = p.shape
    side, pixels = min(height, width), height * width
    mask = segment(p)
    area = mask.sum(axis=(1, 2)).astype(np.float64)
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    neighbours = [padded[:, 1:-1, 2:], padded[:, 1:-1, :-2], padded[:, 2:, 1:-1], padded[:, :-2, 1:-1]]
    edge = mask & ~np.logical_and.reduce(neighbours)
    perimeter = np.sum([(mask & ~other).sum(axis=(1, 2)) for other in neighbours], axis=0, dtype=np.float64)  # sides of pixels

    rows, columns = np.indices((height, width), dtype=np.float64)
    weight = mask.reshape(n, -1).astype(np.float64)
    y, x = weight @ rows.ravel() / area, weight @ columns.ravel() / area
    yy, xx = weight @ (rows**2).ravel() / area - y**2, weight @ (columns**2).ravel() / area - x**2
    xy = weight @ (rows * columns).ravel() / area - x * y
    spread = np.sqrt(np.maximum((yy - xx) ** 2 + 4 * xy**2, 0))
    major, minor = (yy + xx + spread) / 2 + 1 / 12, np.maximum((yy + xx - spread) / 2, 0) + 1 / 12  # a pixel alone has variance 1/12
    box = (mask.any(axis=2).sum(axis=1) * mask.any(axis=1).sum(axis=1)).astype(np.float64)
    dy, dx = rows[None] - y[:, None, None], columns[None] - x[:, None, None]
    radius = np.hypot(dy, dx)
    radius_mean, radius_sd = _moments(radius, edge)
    rim = np.zeros((height, width), dtype=bool)
    rim[[0, -1]] = rim[:, [0, -1]] = True

    inside_mean, inside_sd = _moments(p, mask)
    skew = np.where(mask, p - inside_mean[:, None, None], 0.0).astype(np.float64)
    skew = (skew**3).sum(axis=(1, 2)) / area / np.maximum(inside_sd, 1e-3) ** 3
    p10, p90 = _quantiles(p, mask, (0.1, 0.9))
    around = _dilated(mask, 3) & ~mask
    around[~around.any(axis=(1, 2))] = True
    around_mean, around_sd = _moments(p, around)

    gy, gx = np.gradient(p, axis=1), np.gradient(p, axis=2)
    slope = np.hypot(gy, gx)
    margin = _dilated(edge, 1)
    margin_mean, margin_sd = _moments(slope, margin)
    inward = -(gy * dy + gx * dx) / np.maximum(slope * radius, 1e-6)  # cosine between gradient and the way to the centre
    sloping = margin & (slope > 1e-4)  # flat pixels point nowhere
    inward_mean = np.where(sloping, inward, 0).sum(axis=(1, 2)) / np.maximum(sloping.sum(axis=(1, 2)), 1)

    columns28 = [
        area / pixels,
        perimeter / (4 * side),
        4 * np.pi * area / perimeter**2,
        1 - np.sqrt(minor / major),
        area / box,
        radius_sd / np.maximum(radius_mean, 0.5),
        np.hypot(y - (height - 1) / 2, x - (width - 1) / 2) / side,
        (mask & rim).sum(axis=(1, 2)) / rim.sum(),
        inside_mean,
        inside_sd,
        skew,
        p10,
        p90,
        around_mean,
        around_sd,
        inside_mean - around_mean,
        p.mean(axis=(1, 2)),
        p.std(axis=(1, 2)),
        margin_mean,
        margin_sd,
        slope.mean(axis=(1, 2)),
        inward_mean,
        *_cooccurrence(p),
        *_binary_patterns(p),
    ]
    return np.stack(columns28, axis=1).astype(np.float32)


def _moments(values: NDArray[np.floating], where: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation over the chosen pixels of each patch; every patch has some."""
    count = where.sum(axis=(1, 2)).astype(np.float64)
    chosen = np.where(where, values, 0).astype(np.float64)
    mean = chosen.sum(axis=(1, 2)) / count
    square = np.einsum("nij,nij->n", chosen, chosen) / count
    return mean, np.sqrt(np.maximum(square - mean**2, 0))


def _quantiles(values: NDArray[np.float32], where: NDArray[np.bool_], levels: tuple[float, ...]) -> list[NDArray[np.float64]]:
    """Lower empirical quantiles over the chosen pixels of each patch."""
    n = len(values)
    ranked = np.sort(np.where(where, values, np.inf).reshape(n, -1), axis=1)
    count = where.sum(axis=(1, 2))
    return [ranked[np.arange(n), np.floor(level * (count - 1)).astype(int)].astype(np.float64) for level in levels]


def _dilated(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """Grown by `steps` pixels along rows and columns."""
    for _ in range(steps):
        padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
        mask = mask | padded[:, 1:-1, 2:] | padded[:, 1:-1, :-2] | padded[:, 2:, 1:-1] | padded[:, :-2, 1:-1]
    return mask


def _cooccurrence(p: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    """Contrast, correlation, energy and homogeneity of the symmetric co-occurrence matrix over four directions (Haralick 1973)."""
    n = len(p)
    level = np.minimum((p * LEVELS).astype(np.int64), LEVELS - 1)
    patch = np.arange(n)[:, None, None] * LEVELS * LEVELS
    counts = np.zeros(n * LEVELS * LEVELS)
    for first, second in (
        (level[:, :, :-1], level[:, :, 1:]),
        (level[:, :-1], level[:, 1:]),
        (level[:, :-1, :-1], level[:, 1:, 1:]),
        (level[:, :-1, 1:], level[:, 1:, :-1]),
    ):
        counts += np.bincount((patch + first * LEVELS + second).ravel(), minlength=len(counts))
    matrix = counts.reshape(n, LEVELS, LEVELS)
    matrix = matrix + matrix.transpose(0, 2, 1)
    matrix /= matrix.sum(axis=(1, 2), keepdims=True)
    i, j = np.indices((LEVELS, LEVELS))
    mean = (matrix * i).sum(axis=(1, 2))
    variance = (matrix * i**2).sum(axis=(1, 2)) - mean**2
    covariance = (matrix * i * j).sum(axis=(1, 2)) - mean**2
    correlation = np.where(variance > 1e-9, covariance / np.maximum(variance, 1e-9), 1.0)  # one grey level agrees with itself
    return [(matrix * (i - j) ** 2).sum(axis=(1, 2)), correlation, (matrix**2).sum(axis=(1, 2)), (matrix / (1 + np.abs(i - j))).sum(axis=(1, 2))]


def _binary_patterns(p: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    """Share of pixels whose 8 neighbours change side at most twice around the circle (edges, corners), and of those that see no change."""
    height, width = p.shape[1:]
    ring = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
    centre = p[:, 1:-1, 1:-1]
    brighter = [p[:, r : r + height - 2, c : c + width - 2] > centre for r, c in ring]
    changes = np.sum([a ^ b for a, b in zip(brighter, [*brighter[1:], brighter[0]], strict=True)], axis=0, dtype=np.int8)
    return [(changes == 2).mean(axis=(1, 2)), (changes == 0).mean(axis=(1, 2))]
