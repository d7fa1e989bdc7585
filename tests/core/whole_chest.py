"""A whole simulated chest on any grid, with everything known: body, two lungs, trachea, vessels, nodules inside and at the wall.

The phantom's own series are slabs; this puts its parenchyma, vessels and scanner into a body, for what needs a whole chest: the lungs'
outline, the airway, and the time and memory of 300 slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.core.phantoms import anatomy
from components.core.phantoms.anatomy import Grid
from components.core.phantoms.ct_series import Study, write_series
from components.core.phantoms.scanners import scanner

SCANNER = "alpha"


@dataclass(frozen=True)
class Chest:
    """`hu` (slices, size, size); masks of the same shape; nodules as centre (z, y, x) in mm from the first voxel, and radius."""

    hu: NDArray[np.int16]
    grid: Grid
    lungs: NDArray[np.bool_]
    trachea: NDArray[np.bool_]
    nodules: list[tuple[tuple[float, float, float], float]]
    touching: int


def chest(*, size: int, slices: int, pixel_mm: float, spacing_mm: float, seed: int, vessels: int) -> Chest:
    """Nodules are solid balls; the last one touches the chest wall (number `touching`)."""
    rng = np.random.default_rng(seed)
    grid = Grid(size=size, slices=slices, pixel_mm=pixel_mm, spacing_mm=spacing_mm, thickness_mm=spacing_mm)
    wide, tall = size * pixel_mm, slices * spacing_mm
    y = ((np.arange(size) + 0.5) * pixel_mm / wide - 0.5).astype(np.float32)[:, None]
    x = y.T
    z = ((np.arange(slices) + 0.5) / slices - 0.5).astype(np.float32)
    lungs, trachea = np.zeros((slices, size, size), dtype=bool), np.zeros((slices, size, size), dtype=bool)
    body = (x / 0.46) ** 2 + (y / 0.34) ** 2 < 1
    table = np.broadcast_to((np.abs(y - 0.40) < 0.008) & (np.abs(x) < 0.4), (size, size))
    for k, height in enumerate(z):
        share = np.sqrt(max(0.0, 1 - (height / 0.52) ** 2))
        for side in (-1, 1):
            lungs[k] |= ((x - side * 0.20) / (0.155 * share + 1e-6)) ** 2 + (y / (0.25 * share + 1e-6)) ** 2 < 1
        if height > 0.1:
            trachea[k] = np.hypot(x * wide, (y - 0.02) * wide) < 8.0
    nodules = _nodules(wide, tall)
    hu = anatomy.lung(grid, rng)
    opacity, _ = anatomy.vessels(grid, rng, count=vessels)
    hu += (np.float32(anatomy.VESSEL_HU) - hu) * opacity
    del opacity
    for centre, radius in nodules:
        box = grid.box(np.array(centre, dtype=np.float32), radius + 2)
        away = np.sqrt((grid.points(box, np.array(centre, dtype=np.float32), 0.0) ** 2).sum(-1))
        hu[box] += (np.float32(40) - hu[box]) * np.clip(radius - away + np.float32(0.5), 0, 1)
    device = scanner(SCANNER)
    out = np.empty(hu.shape, dtype=np.int16)
    for k in range(slices):
        plane = np.where(lungs[k], hu[k], np.where(body, np.float32(45), np.float32(-1000)))
        plane = np.where(trachea[k], np.float32(-995), plane)
        plane = np.where(table & ~body, np.float32(-200), plane).astype(np.float32)
        made = device.image(plane[None], None, pixel_mm=pixel_mm, mas=120.0, software=device.software[0], rng=rng)
        out[k] = np.clip(np.rint(made[0]), -1024, 3000)
    return Chest(out, grid, lungs, trachea, nodules, len(nodules) - 1)


def _nodules(wide: float, tall: float) -> list[tuple[tuple[float, float, float], float]]:
    """Four, away from each other; the last one's middle lies 5.5 mm inside the outer surface of the left lung."""
    at = [((0.30, 0.45, 0.33), 5.0), ((0.55, 0.60, 0.72), 4.0), ((0.65, 0.40, 0.27), 3.5)]
    edge = 0.5 + 0.20 + 0.155 * float(np.sqrt(1 - (0.05 / 0.52) ** 2)) - 5.5 / wide
    return [((a * tall, b * wide, c * wide), r) for (a, b, c), r in at] + [((0.45 * tall, 0.5 * wide, edge * wide), 8.0)]


def write(folder: Path, made: Chest) -> None:
    """As the DICOM series of one simulated scanner."""
    half = made.grid.size * made.grid.pixel_mm / 2
    study = Study("SYN-CHEST", "dxflow-tests/whole-chest", "20200101", "080000", "A1.0", 120.0, made.grid.pixel_mm, (-half, -half, -200.0))
    from dataclasses import replace

    device = replace(scanner(SCANNER), slices=made.grid.slices, spacing_mm=made.grid.spacing_mm, thickness_mm=made.grid.spacing_mm)
    write_series(folder, made.hu.astype(np.float32), device, study)
