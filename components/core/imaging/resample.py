"""A head on the grid that a model takes: found, centred, resampled in millimetres, and scaled to its own brightness.

The grid is (D, H, W) = (foot to head, back to front, left to right), aligned with the scanner's axes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.core.imaging.errors import NotUsable
from components.core.imaging.nifti import Volume
from components.core.imaging.orientation import canonical

BRIGHT = 99.0  # percentile of the head that becomes 1
COVER = 0.5  # share of the grid's extent that a volume must have along each axis
BINS = 256  # of the histogram that the threshold is sought in
MOST_COVER = 6.0  # times the grid's extent; a head with neck and chest is three, one in another unit ten or a thousand
COARSEST = 3.0  # times the grid's step that a voxel may be; linear interpolation beyond draws ramps where the model knows folds
SAMPLE = 1 << 18  # voxels that thresholds are taken from
TOP_MM = 180.0  # what lies further below the crown is neck and shoulders, and must not pull the centre
Floats = NDArray[np.float32]


def head_on_grid(volume: Volume, *, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Floats:
    """One head as a model takes it.

    Args:
        shape, spacing_mm: Of the grid, (D, H, W).

    Returns:
        `shape`; 0 is the darkest of the air, 1 the 99th percentile of the head (above it up to 2, then cut). Outside the volume 0.

    Raises:
        NotUsable: No head in it, less than half of the grid covered along an axis, far more than it, or voxels far larger than its step.
    """
    volume = canonical(volume)
    wanted = tuple(n * s for n, s in zip(shape[::-1], spacing_mm[::-1], strict=True))
    extent = tuple(n * s for n, s in zip(volume.data.shape, volume.spacing_mm, strict=True))
    if any(have < COVER * want for have, want in zip(extent, wanted, strict=True)):
        raise NotUsable("covers less than half of the grid along an axis")
    if any(have > MOST_COVER * want for have, want in zip(extent, wanted, strict=True)):
        raise NotUsable("over six times as long as the grid along an axis")
    if any(have > COARSEST * want for have, want in zip(volume.spacing_mm, spacing_mm[::-1], strict=True)):
        raise NotUsable("voxels over three times as large as input.spacing_mm")
    dark, threshold, bright = levels(volume.data)
    scaled = np.clip((volume.data - np.float32(dark)) / np.float32(bright - dark), 0, 2)
    centre = _centre_mm(volume, threshold)
    return to_grid(Volume(scaled, volume.affine, volume.bits, ""), centre_mm=centre, shape=shape, spacing_mm=spacing_mm)


def levels(data: Floats) -> tuple[float, float, float]:
    """Air (1st percentile), the threshold between air and head (Otsu 1979), and the 99th percentile of what lies above it.

    Raises:
        NotUsable: One value throughout, values too large to differ, or nothing to tell a head from air.
    """
    sample = data.ravel()[:: max(1, data.size // SAMPLE)]
    low, high = (float(v) for v in np.percentile(sample, (0.1, 99.9)))
    if high <= low:
        raise NotUsable("one value throughout")
    if high - low < BINS * float(np.spacing(np.float32(max(abs(low), abs(high))))):  # an offset of 10^9 leaves steps of 64 of a head's 1000
        raise NotUsable("values too large for their differences")
    counts, edges = np.histogram(sample, bins=BINS, range=(low, high))
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    total = np.cumsum(counts * middle)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    threshold = float(middle[int(np.nanargmax(between))])
    head = sample[sample > threshold]
    if not 0.02 * sample.size <= head.size <= 0.98 * sample.size:
        raise NotUsable("no head in the volume")
    return float(np.percentile(sample, 1)), threshold, float(np.percentile(head, BRIGHT))


def _centre_mm(volume: Volume, threshold: float) -> NDArray[np.float64]:
    """Centre of mass of the head, in mm RAS; of its largest connected part, from the crown down to `TOP_MM`."""
    from scipy.ndimage import center_of_mass, gaussian_filter, label

    step = [max(1, int(4 / s)) for s in volume.spacing_mm]
    small = gaussian_filter(volume.data, [s / 2 for s in step])[:: step[0], :: step[1], :: step[2]]
    parts, n = label(small > threshold)  # pyright: ignore[reportGeneralTypeIssues]
    if not n:
        raise NotUsable("no head in the volume")
    head = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    height = np.flatnonzero(head.any(axis=(0, 1)))
    head[:, :, : max(0, int(height[-1] - TOP_MM / (volume.spacing_mm[2] * step[2])))] = False
    index = np.array(center_of_mass(head)) * step
    return volume.affine[:3, :3] @ index + volume.affine[:3, 3]


def to_grid(volume: Volume, *, centre_mm: NDArray[np.float64], shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Floats:
    """Linear interpolation onto a grid around `centre_mm`; outside the volume 0.

    Where the grid is coarser than the voxels, a Gaussian takes out first what the grid cannot hold: sigma = (ratio - 1) / 2 voxels.

    Args:
        volume: With canonical axes.
        shape, spacing_mm: (D, H, W) = (z, y, x).
    """
    from scipy.ndimage import affine_transform, gaussian_filter

    sigma = [max(0.0, (want / have - 1) / 2) for want, have in zip(spacing_mm[::-1], volume.spacing_mm, strict=True)]
    data = gaussian_filter(volume.data, sigma, mode="constant") if max(sigma) > 0.05 else volume.data
    grid = np.zeros((4, 4))  # grid index (z, y, x) -> mm
    for row, (axis, n, step) in enumerate(zip((2, 1, 0), shape[::-1], spacing_mm[::-1], strict=True)):
        grid[row, axis] = step
        grid[row, 3] = centre_mm[row] - step * (n - 1) / 2
    grid[3, 3] = 1
    full = np.linalg.inv(volume.affine) @ grid
    out = affine_transform(data, full[:3], output_shape=shape, order=1, mode="constant", cval=0.0)
    return np.asarray(out, dtype=np.float32)
