"""`chest-ct`: a synthetic collection of chest CT series with readers' marks, from simulated scanners that differ as scanners do.

    <folder>/phantom.json                              what was made: version, seed, counts; says that it is synthetic
    <folder>/<patient>/<series>/000.dcm ...            one file for each slice
    <folder>/<patient>/<series>/<series>.xml           readers' marks in the structure of LIDC-IDRI

Each patient has its own random generator, so any number of workers writes the same bytes. What a benign and a malignant nodule look like
is frozen (`PHANTOM_VERSION`, docs/decisions/0010-phantom-frozen.md): models are tuned on it, never it on models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.phantoms import anatomy, nodules
from components.core.phantoms.anatomy import Grid
from components.core.phantoms.collection import collection, devices_of, totals
from components.core.phantoms.ct_series import Study, write_series
from components.core.phantoms.lidc_xml import Outline, Session, lidc_xml
from components.core.phantoms.nodules import Nodule
from components.core.phantoms.scanners import KNOWN, SCANNERS, UNSEEN, Scanner, scanner

PHANTOM_VERSION = 1
SIZE = 256
CLEARANCE_MM = 27.0  # half the diagonal of a 52-pixel patch at 0.7 mm
FIRST_DAY, DAYS = date(2020, 1, 1), 730
Floats = NDArray[np.float32]


def generate(
    folder: Path, *, patients: int, seed: int, workers: int | None = None, unseen: bool = False, devices: Sequence[str] | None = None
) -> dict[str, Any]:
    """Write a collection; the folder appears whole or not at all.

    Args:
        folder: Absent, empty, or an earlier phantom: the same one is kept as it is, another is replaced.
        patients: One series each, with two or three nodules.
        seed: Same seed, same bytes.
        workers: Processes; None for one per core.
        unseen: Only the scanner that collections never contain, with patients of their own.
        devices: Keys of `scanners.SCANNERS` to draw from, instead of all known (or the unseen) ones.

    Returns:
        The summary, as in phantom.json.

    Raises:
        DataError: The folder holds something else. SpecError: No such scanner.
    """
    keys = devices_of(devices, UNSEEN if unseen else KNOWN, KNOWN + UNSEEN)
    request = {"phantom": "chest-ct", "version": PHANTOM_VERSION, "seed": seed, "patients": patients, "unseen": unseen, "devices": list(keys)}

    def finish(_: Path, rows: list[dict[str, int]]) -> dict[str, Any]:
        scanners = {s.key: {"manufacturer": s.manufacturer, "model": s.model, "kernel": s.kernel} for s in SCANNERS if s.key in keys}
        return {"counts": totals(rows), "scanners": scanners}

    jobs = [(seed, unseen, keys, number) for number in range(patients)]
    return collection(folder, request, _patient, jobs, finish, workers=workers, chunk=4)


@dataclass(frozen=True)
class Simulated:
    """One patient before anything is written: `volume_hu` as the scanner reports it, (slices, size, size), and what readers marked."""

    volume_hu: Floats
    grid: Grid
    study: Study
    scanner: Scanner
    found: list[Nodule]
    sessions: list[Session]


def simulate(*, seed: int, unseen: bool, keys: Sequence[str], number: int) -> Simulated:
    """Patient `number` (from 0) of a collection; depends on nothing but the arguments."""
    rng = np.random.default_rng([seed, int(unseen), number])
    device = scanner(keys[number % len(keys)])
    when = float(rng.random())
    software = device.software_at(when)
    mas = float(rng.uniform(*device.mas))
    pixel = round(float(rng.uniform(*device.pixel_mm)), 4)
    name = f"{'SYNU' if unseen else 'SYN'}-{number + 1:04d}"
    half = SIZE * pixel / 2
    study = Study(
        patient=name,
        uid_seed=f"dxflow-phantom-{PHANTOM_VERSION}/{seed}/{name}/{','.join(keys)}",
        date=(FIRST_DAY + timedelta(days=int(when * DAYS))).strftime("%Y%m%d"),
        time=f"{int(rng.integers(7, 19)):02d}{int(rng.integers(60)):02d}00",
        software=software.version,
        mas=mas,
        pixel_mm=pixel,
        origin_mm=(round(-half, 3), round(-half, 3), round(float(rng.uniform(-250, -80)), 1)),
    )
    grid = Grid(size=SIZE, slices=device.slices, pixel_mm=pixel, spacing_mm=device.spacing_mm, thickness_mm=device.thickness_mm)
    soft = anatomy.lung(grid, rng)
    calcium, pleura = anatomy.add_wall(soft, grid, rng)
    places = _places(grid, rng, pleura)
    fed = [centre for centre in places for _ in range(int(rng.choice((0, 1, 2), p=(0.45, 0.35, 0.2))))]
    opacity, lookalikes = anatomy.vessels(grid, rng, count=int(rng.integers(22, 34)), through=fed)
    soft += (np.float32(anatomy.VESSEL_HU) - soft) * opacity
    found = [nodules.draw_nodule(rng, centre_mm=centre) for centre in places]
    for nodule in found:
        _add_nodule(soft, calcium, grid, nodule)
    small = _small(soft, grid, rng, found) if rng.random() < 0.5 else None
    volume = device.image(soft, calcium, pixel_mm=pixel, mas=mas, software=software, rng=rng)
    sessions = [_read(grid, study, device, found, small, lookalikes, rng) for _ in range(nodules.READERS)]
    return Simulated(volume, grid, study, device, found, sessions)


def _patient(root: Path, job: tuple[int, bool, tuple[str, ...], int]) -> dict[str, int]:
    """Write one patient; returns counts."""
    seed, unseen, keys, number = job
    made = simulate(seed=seed, unseen=unseen, keys=keys, number=number)
    series = made.study.uid("series")
    folder = root / made.study.patient / series
    write_series(folder, made.volume_hu, made.scanner, made.study)
    text = lidc_xml(study_uid=made.study.uid("study"), series_uid=series, sessions=made.sessions)
    (folder / f"{series}.xml").write_text(text, encoding="utf-8")
    return {"patients": 1, "files": made.grid.slices, "nodules": len(made.found), f"series_{made.scanner.key}": 1}


def _places(grid: Grid, rng: np.random.Generator, pleura: tuple[float, float, float]) -> list[Floats]:
    """Centres of two or three nodules, apart from each other, inside the lung and a patch away from the reconstructed circle's edge."""
    middle, depth = grid.size * grid.pixel_mm / 2, (grid.slices - 1) * grid.spacing_mm
    wanted, out = int(rng.integers(2, 4)), []
    for _ in range(200):
        z, angle, r = rng.uniform(0.3, 0.7) * depth, rng.uniform(0, 2 * np.pi), (middle - CLEARANCE_MM) * np.sqrt(rng.random())
        y, x = middle + r * np.sin(angle), middle + r * np.cos(angle)
        if np.hypot(y - pleura[0], x - pleura[1]) < pleura[2] - 3 and all(np.hypot(y - o[1], x - o[2]) > 30 for o in out):
            out.append(np.array([z, y, x], dtype=np.float32))
        if len(out) == wanted:
            break
    return out


def _add_nodule(soft: Floats, calcium: Floats, grid: Grid, nodule: Nodule) -> None:
    box = grid.box(nodule.centre_mm, nodule.extent_mm)
    gained, added = np.zeros_like(soft[box]), np.zeros_like(soft[box])
    ground, subs = soft[box], grid.sub_mm
    for dz in subs:
        opacity, density, chalk = nodule.render(grid.points(box, nodule.centre_mm, float(dz)))
        gained += (density - ground) * opacity
        added += chalk * opacity
    soft[box] += gained / np.float32(len(subs))
    calcium[box] += added / np.float32(len(subs))


def _small(soft: Floats, grid: Grid, rng: np.random.Generator, found: list[Nodule]) -> Floats | None:
    """A nodule under 3 mm away from the others, drawn into `soft`; its centre, or None when there is no room."""
    middle, depth = grid.size * grid.pixel_mm / 2, (grid.slices - 1) * grid.spacing_mm
    centre = np.array([rng.uniform(0.3, 0.7) * depth, *(middle + rng.uniform(-35, 35, 2))], dtype=np.float32)
    if any(np.hypot(*(centre - n.centre_mm)[1:]) < 28 for n in found):
        return None
    box = grid.box(centre, 4.0)
    for dz in grid.sub_mm:
        distance = np.sqrt((grid.points(box, centre, float(dz)) ** 2).sum(-1))
        soft[box] += (np.float32(20) - soft[box]) * np.clip((np.float32(1.2) - distance) / np.float32(0.5) + np.float32(0.5), 0, 1) / len(grid.sub_mm)
    return centre


def _read(
    grid: Grid, study: Study, device: Scanner, found: list[Nodule], small: Floats | None, lookalikes: list[Floats], rng: np.random.Generator
) -> Session:
    """What one reader marks: most nodules with an outline of their own, a few look-alikes as non-nodules."""
    session = Session()
    for n, nodule in enumerate(found):
        if rng.random() < nodule.seen:
            outlines = _outlines(grid, study, device, nodule, rng)
            if outlines:
                session.nodules.append((f"Nodule {n + 1:03d}", nodules.ratings(nodule, rng), outlines))
    if small is not None and rng.random() < 0.7:
        session.nodules.append((f"Nodule {len(found) + 1:03d}", None, [_point(grid, study, device, small)]))
    for n, centre in enumerate(lookalikes[:3]):
        inside = all(8 < value / grid.pixel_mm < grid.size - 8 for value in centre[1:])
        if inside and 0 <= round(float(centre[0]) / grid.spacing_mm) < grid.slices and rng.random() < 0.6:
            session.others.append((f"Non {n + 1:03d}", _point(grid, study, device, centre)))
    return session


def _point(grid: Grid, study: Study, device: Scanner, centre: Floats) -> Outline:
    k = int(np.clip(round(float(centre[0]) / grid.spacing_mm), 0, grid.slices - 1))
    place = (round(float(centre[2]) / grid.pixel_mm), round(float(centre[1]) / grid.pixel_mm))
    return Outline(z_mm=study.origin_mm[2] + k * device.spacing_mm, sop_uid=study.sop_uid(k), edge=[place])


def _outlines(grid: Grid, study: Study, device: Scanner, nodule: Nodule, rng: np.random.Generator) -> list[Outline]:
    """One reader's outlines: the surface, larger or smaller by his habit, shifted by his hand."""
    habit, hand = np.float32(np.clip(rng.normal(1.05, 0.08), 0.85, 1.3)), rng.normal(0, 0.35, 2).astype(np.float32)
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False, dtype=np.float32)
    radii = np.arange(0, nodule.radius_mm * 2.2, 0.2, dtype=np.float32)
    ks = [k for k in range(grid.slices) if abs(k * grid.spacing_mm - float(nodule.centre_mm[0])) < nodule.radius_mm * 2]
    p = np.zeros((len(ks), len(angles), len(radii), 3), dtype=np.float32)
    p[..., 0] = (np.array(ks, dtype=np.float32) * np.float32(grid.spacing_mm) - nodule.centre_mm[0])[:, None, None]
    p[..., 1] = np.sin(angles)[None, :, None] * radii
    p[..., 2] = np.cos(angles)[None, :, None] * radii
    inside = nodule.depth(p) < habit
    edge = np.where(inside, radii, 0).max(-1)  # (slices, angles), 0 where the slice misses the nodule
    out: list[Outline] = []
    for k, surface in zip(ks, edge, strict=True):
        if (surface > 0.4).mean() < 0.7:
            continue
        reach = surface + np.float32(grid.pixel_mm)  # the first pixel outside
        rows = np.rint((nodule.centre_mm[1] + hand[0] + np.sin(angles) * reach) / grid.pixel_mm).astype(int)
        columns = np.rint((nodule.centre_mm[2] + hand[1] + np.cos(angles) * reach) / grid.pixel_mm).astype(int)
        points = list(dict.fromkeys(zip(columns.tolist(), rows.tolist(), strict=True)))
        if len(points) >= 4:
            out.append(Outline(z_mm=study.origin_mm[2] + k * device.spacing_mm, sop_uid=study.sop_uid(k), edge=[*points, points[0]]))
    return out
