"""Hand-made features of a skin lesion after the ABCD rule: asymmetry, border, colours, diameter, and structure.

The lesion is what differs most in colour from the skin at the picture's rim (Otsu's threshold, the largest piece near the middle). Colours
are counted as shares of the six of the rule, taken relative to that skin so that the light matters less.

Source:
    Nachbar et al., J Am Acad Dermatol 1994 (ABCD rule); Otsu, IEEE SMC 1979.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError

COLOURS = {
    "white": (1.05, 1.12, 1.15),
    "red": (0.85, 0.45, 0.45),
    "light_brown": (0.72, 0.62, 0.52),
    "dark_brown": (0.40, 0.32, 0.28),
    "blue_grey": (0.42, 0.52, 0.68),
    "black": (0.16, 0.15, 0.16),
}
NAMES = (
    "asymmetry_long",
    "asymmetry_short",
    "colour_asymmetry",
    "elongation",
    "compactness",
    "radius_variation",
    "solidity",
    "border_gradient",
    "border_gradient_sd",
    *(f"share_{name}" for name in COLOURS),
    "colours",
    "colour_sd",
    "diameter",
    "off_centre",
    "lesion_red",
    "lesion_green",
    "lesion_blue",
    "contrast",
    "redness",
    "texture",
    "dark_dots",
    "bright_dots",
    "inner_gradient",
    "centre_less_rim",
)
CHUNK = 128
SECTORS = 24
Floats = NDArray[np.float32]


def features(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 3, H, W) in [0, 1] -> (N, len(NAMES)) in the order of `NAMES`; all finite."""
    if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[-2:]) < 16:
        raise DataError("these features need colour images of at least 16 x 16 pixels", where="lesion_abcd", got=f"shape {x.shape[1:]}")
    parts = [_features(np.clip(np.asarray(x[i : i + CHUNK], dtype=np.float32), 0, 1)) for i in range(0, len(x), CHUNK)]
    return np.concatenate(parts) if parts else np.empty((0, len(NAMES)), np.float32)


def segment(x: Floats) -> tuple[NDArray[np.bool_], Floats]:
    """(N, 3, H, W) -> the lesion (N, H, W), and each picture relative to its own skin (N, 3, H, W), 1 where it is skin."""
    from scipy import ndimage

    n, _, height, width = x.shape
    rows, columns = np.indices((height, width))
    distance = np.hypot((rows - (height - 1) / 2) / height, (columns - (width - 1) / 2) / width)
    rim = (distance > 0.36) & (distance < 0.5)
    skin = np.median(x[:, :, rim], axis=2)
    relative = x / np.maximum(skin, 0.05)[:, :, None, None]
    away = ndimage.gaussian_filter(np.sqrt(((relative - 1) ** 2).mean(axis=1)), (0, 1, 1)) * (distance < 0.5)
    mask = away > _otsu(away, distance < 0.5)[:, None, None]
    mask = ndimage.binary_opening(mask, np.ones((1, 3, 3), dtype=bool))
    links = np.zeros((3, 3, 3), dtype=bool)
    links[1] = True
    labels = np.zeros(mask.shape, dtype=np.int32)
    ndimage.label(mask, structure=links, output=labels)
    weight = np.exp(-((distance / 0.2) ** 2))
    score = np.bincount(labels.ravel(), weights=np.broadcast_to(weight, mask.shape).ravel())
    score[0] = 0
    flat = labels.reshape(n, -1)
    best = np.take_along_axis(flat, score[flat].argmax(axis=1)[:, None], axis=1)
    found = (labels == best[:, :, None]) & mask
    found[~found.any(axis=(1, 2))] = distance < 0.15
    return ndimage.binary_closing(found, np.ones((1, 5, 5), dtype=bool)) | found, relative.astype(np.float32)


def _otsu(values: Floats, where: NDArray[np.bool_]) -> Floats:
    """For each picture the threshold that parts its values best in two."""
    out = np.empty(len(values), dtype=np.float32)
    for i, plane in enumerate(values):
        counts, edges = np.histogram(plane[where], bins=48)
        middle = (edges[1:] + edges[:-1]) / 2
        below = np.cumsum(counts)
        total, mass = below[-1], np.cumsum(counts * middle)
        with np.errstate(divide="ignore", invalid="ignore"):
            between = (mass[-1] * below / total - mass) ** 2 / (below * (total - below))
        out[i] = middle[int(np.nanargmax(np.where(np.isfinite(between), between, -1)))]
    return out


def _features(x: Floats) -> Floats:
    from scipy import ndimage

    mask, relative = segment(x)
    grey = x.mean(axis=1)
    smooth = ndimage.gaussian_filter(grey, (0, 1, 1))
    steps = np.hypot(*(_sobel(smooth, along, across) for along, across in ((1, 2), (2, 1)))) / 8
    rough = grey - ndimage.gaussian_filter(grey, (0, 2, 2))
    dark = ndimage.grey_closing(grey, size=(1, 3, 3)) - grey
    bright = grey - ndimage.grey_opening(grey, size=(1, 3, 3))
    return np.stack([_one(*each) for each in zip(mask, relative, x, steps, rough, dark, bright, strict=True)]).astype(np.float32)


def _sobel(x: Any, along: int, across: int) -> Any:
    """Sobel's operator in the plane of each photograph: scipy's own smooths along every other axis, and so from one photograph to the next."""
    from scipy import ndimage

    return ndimage.correlate1d(ndimage.correlate1d(x, [-1, 0, 1], axis=along), [1, 2, 1], axis=across)


def _one(mask: NDArray[np.bool_], relative: Floats, rgb: Floats, steps: Floats, rough: Floats, dark: Floats, bright: Floats) -> list[float]:
    """The features of one picture."""
    from scipy import ndimage

    height, width = mask.shape
    points = np.argwhere(mask).astype(np.float64)
    centre, area = points.mean(0), len(points)
    values, vectors = np.linalg.eigh(np.cov(points.T) + 1e-3 * np.eye(2))
    inner = np.asarray(ndimage.binary_erosion(mask), dtype=np.bool_)
    border = mask & ~inner
    edge = np.argwhere(border)
    radii = np.hypot(*(edge - centre).T)
    turns = np.minimum(((np.arctan2(*(edge - centre).T) + np.pi) / (2 * np.pi) * SECTORS).astype(int), SECTORS - 1)
    around = np.array([radii[turns == s].max() for s in range(SECTORS) if (turns == s).any()])
    colour = relative[:, mask]  # (3, area)
    near = np.stack([((colour - np.array(c)[:, None]) ** 2).sum(0) for c in COLOURS.values()]).argmin(0)
    shares = np.bincount(near, minlength=len(COLOURS)) / area
    flips = []
    colour_flips = 0.0
    for axis in vectors.T[::-1]:
        across = (points - centre) - 2 * ((points - centre) @ axis)[:, None] * axis
        mirrored = np.rint(across + centre).astype(int)
        inside = ((mirrored >= 0) & (mirrored < (height, width))).all(1)
        hit = np.zeros(area, dtype=bool)
        hit[inside] = mask[tuple(mirrored[inside].T)]
        flips.append(1 - hit.mean())
        if hit.any():
            here, there = points[hit].astype(int), mirrored[hit]
            colour_flips += float(np.abs(relative[:, here[:, 0], here[:, 1]] - relative[:, there[:, 0], there[:, 1]]).mean())
    depth = np.asarray(ndimage.distance_transform_edt(mask))
    core = depth > 0.5 * depth.max()
    grey = rgb.mean(0)
    ring = np.asarray(ndimage.binary_dilation(mask, iterations=3), dtype=np.bool_) & ~mask
    mean = rgb[:, mask].mean(1)
    outside = float(grey[ring].mean()) if ring.any() else float(grey.mean())
    return [
        *flips,
        colour_flips,
        float(np.sqrt(values[1] / values[0])),
        len(edge) ** 2 / (4 * np.pi * area),
        float(around.std() / max(around.mean(), 1e-3)),
        area / (np.pi * max(float(around.max()), 1.0) ** 2),
        float(steps[border].mean()),
        float(steps[border].std()),
        *shares.tolist(),
        float((shares > 0.05).sum()),
        float(colour.std(1).mean()),
        2 * float(np.sqrt(area / np.pi)) / height,
        float(np.hypot(*((centre + 0.5) / (height, width) - 0.5))),
        *mean.tolist(),
        outside - float(mean.mean()),
        float(mean[0] / max(float(mean[1]), 0.02)),
        float(rough[mask].std()),
        float((dark[mask] > 0.06).mean()),
        float((bright[mask] > 0.06).mean()),
        float(steps[inner].mean()) if inner.any() else 0.0,
        float(grey[core].mean() - grey[mask & ~core].mean()) if (mask & ~core).any() else 0.0,
    ]
