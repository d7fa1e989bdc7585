"""28 hand-made features of a fundus photograph: what is small and dark, what is small and bright, vessels, colour, sharpness.

Our own choice after the classical detectors of diabetic retinopathy: red lesions are what is darker than its surroundings and not
elongated (the image less its openings along lines), exudates are what is brighter and small. All relative to the local background, so that
illumination matters little. Whole-array arithmetic over many photographs at once.

Source:
    Spencer et al., Comput Biomed Res 1996 (line openings for microaneurysms); Walter et al., IEEE TMI 2002 (top-hats for exudates).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError

SPOTS = ("sum", "p99", "peak", "over_low", "over_high")
NAMES = (
    *(f"red_{what}" for what in SPOTS),
    *(f"blot_{what}" for what in SPOTS),
    *(f"bright_{what}" for what in SPOTS),
    "vessel_sum",
    "vessel_p95",
    "field",
    "mean_red",
    "mean_green",
    "mean_blue",
    "sd_red",
    "sd_green",
    "sd_blue",
    "ratio_sd",
    "dark_quarters",
    "local_sd",
    "gradient",
)
CHUNK = 128
INSIDE = 0.08  # of the brightest channel: below it lies the mask around the photographed field
Floats = NDArray[np.float32]


def features(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 3, H, W) in [0, 1] -> (N, 28) in the order of `NAMES`; all finite."""
    if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[-2:]) < 16:
        raise DataError("these features need colour images of at least 16 x 16 pixels", where="fundus28", got=f"shape {x.shape[1:]}")
    parts = [_features(np.clip(np.asarray(x[i : i + CHUNK], dtype=np.float32), 0, 1)) for i in range(0, len(x), CHUNK)]
    return np.concatenate(parts) if parts else np.empty((0, len(NAMES)), np.float32)


def red_spots(x: Floats) -> tuple[Floats, Floats]:
    """(N, 3, H, W) -> how much darker each pixel's green is than its surroundings, (N, H, W), as far as it is no line; and the field."""
    relative, field = _relative(x)
    return _without_lines(np.maximum(-relative, 0)) * field, field.astype(np.float32)


def _features(x: Floats) -> Floats:
    from scipy import ndimage

    relative, field = _relative(x)
    count = np.maximum(field.sum((1, 2)), 1)
    dark = np.maximum(-relative, 0)
    round_ = _without_lines(dark) * field
    blots = np.asarray(ndimage.grey_opening(round_, size=(1, 2, 2)), dtype=np.float32)
    bright = np.maximum(relative - ndimage.grey_opening(relative, size=(1, 5, 5)), 0) * field
    lines = np.maximum(dark - round_, 0) * field
    columns = [*_spots(round_, count), *_spots(blots, count), *_spots(bright, count)]
    columns += [lines.sum((1, 2)) / count, np.percentile(lines, 95, axis=(1, 2)), field.mean((1, 2))]
    means = [(x[:, c] * field).sum((1, 2)) / count for c in range(3)]
    sds = [np.sqrt((((x[:, c] - m[:, None, None]) * field) ** 2).sum((1, 2)) / count) for c, m in enumerate(means)]
    ratio = x[:, 0] / (x[:, 1] + np.float32(0.05))
    middle = (ratio * field).sum((1, 2)) / count
    height, width = x.shape[-2:]
    quarters = [round_[:, a : a + height // 2, b : b + width // 2] for a in (0, height // 2) for b in (0, width // 2)]
    gradient = np.hypot(np.diff(x[:, 1], axis=1)[:, :, :-1], np.diff(x[:, 1], axis=2)[:, :-1]) * field[:, :-1, :-1]
    columns += [
        *means,
        *sds,
        np.sqrt((((ratio - middle[:, None, None]) * field) ** 2).sum((1, 2)) / count),
        np.sum([(q > 0.12).any((1, 2)) for q in quarters], axis=0),
        np.sqrt((relative**2 * field).sum((1, 2)) / count),
        gradient.sum((1, 2)) / count,
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _spots(response: Floats, count: NDArray[np.int64]) -> list[NDArray[np.floating]]:
    flat = response.reshape(len(response), -1)
    return [flat.sum(1) / count, np.percentile(flat, 99, axis=1), flat.max(1), (flat > 0.08).sum(1) / count, (flat > 0.16).sum(1) / count]


def _relative(x: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Green over its local mean, less 1, and the field without its rim."""
    from scipy import ndimage

    inside = x.max(axis=1) > INSIDE
    field = np.asarray(ndimage.binary_erosion(inside, np.ones((1, 5, 5), dtype=bool)), dtype=np.bool_)
    sigma = (0, x.shape[-2] / 12, x.shape[-1] / 12)
    weight = ndimage.gaussian_filter(inside.astype(np.float32), sigma)
    mean = ndimage.gaussian_filter(x[:, 1] * inside, sigma) / np.maximum(weight, 1e-3)
    return ((x[:, 1] / np.maximum(mean, 0.02) - 1) * field).astype(np.float32), field


def _without_lines(dark: Floats) -> Floats:
    """What no opening along a line of 7 pixels keeps, in four directions."""
    from scipy import ndimage

    line = np.arange(7)
    kept = np.zeros_like(dark)
    for rows, columns in ((line * 0 + 3, line), (line, line * 0 + 3), (line, line), (line, line[::-1])):
        shape = np.zeros((1, 7, 7), dtype=bool)
        shape[0, rows, columns] = True
        kept = np.maximum(kept, ndimage.grey_opening(dark, footprint=shape))
    return dark - kept
