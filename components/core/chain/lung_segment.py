"""Step two: where the lungs are, with the nodules that touch the chest wall, without the large airways.

Air against tissue is one threshold between the means of both (iterated), on blocks of 2 mm. Air outside the body is what is connected to the
rim of the image; where the field of view lies inside the chest, so that lung itself reaches the rim, only air that is emptier than lung
counts as outside. The trachea is what is that empty, narrow and long at the upper end. The rest is closed with a ball, so that nodules and
vessels at the pleura belong to it, and small holes are filled.

Source:
    Hu, Hoffman and Reinhardt, IEEE Transactions on Medical Imaging 2001 (optimal threshold, components, airways, closing); a ball for
    juxtapleural nodules as in Armato and Sensakovic, Academic Radiology 2004.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.core.chain import morphology as m
from components.core.chain.morphology import Floats, Mask
from components.core.errors import DataError

BLOCK = 2  # voxels of the 1 mm grid along each edge of a block
EMPTY_HU = -940.0  # lung seldom lies below, room air and airways do
START_HU = -500.0
CLOSING_MM = 10.0
HOLE_CM2 = 12.0  # a filled hole is a nodule or a vessel; larger ones are the heart
SMALLEST_CM3 = 20.0
AIRWAY_CM3, AIRWAY_MM = (3.0, 150.0), 30.0
SKIN_BLOCKS = 2  # blocks at the rim of outside air that are half air, half body


@dataclass(frozen=True)
class Lungs:
    """`mask` on the working grid; `tissue_hu` is the threshold between air and tissue, `lung_hu` the median of the lung."""

    mask: Mask
    tissue_hu: float
    lung_hu: float
    litres: float


def segment(volume: Floats) -> Lungs:
    """Find the lungs.

    Args:
        volume: (z, y, x) HU on the 1 mm grid.

    Raises:
        DataError: There is no lung: nothing of its density, or too little of it.
    """
    blocks = _blocks(volume)
    threshold = optimal_threshold(blocks)
    air = blocks < threshold
    beyond = outside(blocks, air)
    beyond |= airways(blocks, air & ~beyond)
    label, n = m.labels(air & ~beyond)
    cm3 = np.bincount(label.ravel(), minlength=n + 1)[1:] * (BLOCK**3 / 1000)
    kept = [k + 1 for k in np.argsort(cm3)[::-1][:6] if cm3[k] >= max(SMALLEST_CM3, 0.05 * cm3.max())]
    if not kept:
        raise DataError("no lung in the series", where="lung segmentation", got="no region of its density", allowed=f"at least {SMALLEST_CM3:g} cm3")
    raw = np.isin(label, kept)
    closed = np.zeros_like(raw)
    for k in kept:
        closed |= closing(label == k, CLOSING_MM / BLOCK)
    closed |= _small_holes(closed)
    added = closed & ~air  # what closing brings in is tissue; air that it meets is an airway's or the outside's
    # Blocks decide what belongs to the lung; at its surface the fine grid's own values draw the line.
    whole = raw | added
    inner = m.eroded(whole)
    near = m.dilated(whole) & ~beyond
    fine = _spread(inner | added, volume.shape) | (_spread(near, volume.shape) & (volume < threshold))
    return Lungs(fine, threshold, float(np.median(blocks[raw])), float(fine.sum()) / 1e6)


def optimal_threshold(values: Floats) -> float:
    """Half-way between the mean below and the mean above, iterated to rest; HU. Without tissue it stays at -500."""
    threshold = START_HU
    flat = values.ravel()
    for _ in range(50):
        below, above = flat[flat < threshold], flat[flat >= threshold]
        if not len(below) or len(above) < 0.01 * len(flat):
            return START_HU
        new = float((below.mean(dtype=np.float64) + above.mean(dtype=np.float64)) / 2)
        if abs(new - threshold) < 0.5:
            break
        threshold = new
    return float(np.clip(threshold, -600.0, -350.0))


def outside(blocks: Floats, air: Mask) -> Mask:
    """Air around the body, and what lies outside the reconstructed circle."""
    label, _ = m.labels(air)
    rim = _at_rim(label)
    found = np.zeros_like(air)
    if not len(rim):
        return found
    typical = m.medians(blocks, label, rim)
    around = [k for k, hu in zip(rim, typical, strict=True) if hu < EMPTY_HU]
    found |= np.isin(label, around)
    inside_view = np.setdiff1d(rim, around)
    if len(inside_view):  # lung reaches the rim: only the emptier part there is outside
        empty, _ = m.labels((blocks < EMPTY_HU) & np.isin(label, inside_view))
        corner = np.isin(empty, _at_rim(empty))
        if corner.any():
            corner = m.dilated(corner, SKIN_BLOCKS) & air
        found |= corner
    return found


def airways(blocks: Floats, air: Mask) -> Mask:
    """Trachea and main bronchi: emptier than lung, long along the body, and at the upper end of what is in view.

    A bulla is as empty but neither as long nor in the middle.

    Args:
        air: Blocks of air that are not outside.
    """
    label, _ = m.labels(m.opened((blocks < EMPTY_HU) & air))
    found = np.zeros_like(air)
    width = blocks.shape[2]
    for k, box in enumerate(m.boxes(label), 1):
        cm3 = float((label[box] == k).sum()) * BLOCK**3 / 1000
        long_mm = (box[0].stop - box[0].start) * BLOCK
        middle = (box[2].start + box[2].stop) / 2 / width
        if AIRWAY_CM3[0] <= cm3 <= AIRWAY_CM3[1] and long_mm >= AIRWAY_MM and 0.3 < middle < 0.7:
            found |= label == k
    return m.dilated(found, 2) & (blocks < -800) if found.any() else found


def closing(mask: Mask, radius: float) -> Mask:
    """Morphological closing with a ball of `radius` voxels; what lies beyond the edge of the volume is like the edge itself."""
    reach = int(np.ceil(radius)) + 1
    box = m.box_of(mask, reach)
    padded = np.pad(mask[box], reach, mode="edge")
    shrunk = m.distance(m.distance(~padded) <= radius) > radius
    out = mask.copy()
    out[box] |= shrunk[reach:-reach, reach:-reach, reach:-reach]
    return out


def _blocks(volume: Floats) -> Floats:
    """Means of 2 x 2 x 2 voxels; an odd end is repeated."""
    padded = np.pad(volume, [(0, -n % BLOCK) for n in volume.shape], mode="edge")
    d, h, w = (n // BLOCK for n in padded.shape)
    return padded.reshape(d, BLOCK, h, BLOCK, w, BLOCK).mean(axis=(1, 3, 5), dtype=np.float32)


def _spread(blocks: Mask, shape: tuple[int, ...]) -> Mask:
    """Blocks back to voxels."""
    fine = blocks.repeat(BLOCK, 0).repeat(BLOCK, 1).repeat(BLOCK, 2)
    return fine[: shape[0], : shape[1], : shape[2]]


def _small_holes(mask: Mask) -> Mask:
    """Holes of each slice that are smaller than `HOLE_CM2`."""
    out = np.zeros_like(mask)
    for k, plane in enumerate(mask):
        label, n = m.labels(m.filled(plane) & ~plane)
        if n:
            area = np.bincount(label.ravel()) * (BLOCK**2 / 100)
            area[0] = np.inf
            out[k] = (area < HOLE_CM2)[label]
    return out


def _at_rim(label: NDArray[np.int32]) -> NDArray[np.int32]:
    """Labels that touch the four sides of any slice."""
    sides = (label[:, 0], label[:, -1], label[:, :, 0], label[:, :, -1])
    found = np.unique(np.concatenate([side.ravel() for side in sides]))
    return found[found > 0]
