"""`lymph-slides`: synthetic whole slides of lymph nodes, some with metastases, laid out as CAMELYON16 is.

    <folder>/phantom.json                                   what was made: version, seed, counts; says that it is synthetic
    <folder>/training/{normal,tumor}/*.tif|svs              pyramidal tiled TIFF with JPEG, one scanner's in Aperio's SVS
    <folder>/training/lesion_annotations/tumor_*.xml        outlines in ASAP's XML; testing/lesion_annotations/ as well
    <folder>/testing/images/test_*.tif|svs  testing/reference.csv
    <folder>/reader.csv                                     what a simulated pathologist says of each slide, in [0, 1]

Each slide has its own random generator, so any number of workers writes the same bytes. Frozen (docs/decisions/0140-lymph-slides-frozen.md):
models are tuned on it, never it on models.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.imaging.camelyon_xml import Polygon, render
from components.core.phantoms.collection import collection, devices_of
from components.core.phantoms.lymph_slides_scanners import KNOWN, SCANNERS, UNSEEN, Scanner, scanner
from components.core.phantoms.lymph_slides_tissue import Section, section, stained

PHANTOM_VERSION = 1
FOLDERS = ("training/normal", "training/tumor", "training/lesion_annotations", "testing/images", "testing/lesion_annotations")
LEVELS = 3
TILE = 256
SAYS = "SYNTHETIC dxflow phantom lymph-slides"
FIRST_DAY, DAYS = datetime(2020, 1, 1, 8), 730


def generate(
    folder: Path, *, patients: int, seed: int, workers: int | None = None, unseen: bool = False, devices: Sequence[str] | None = None
) -> dict[str, Any]:
    """Write a collection; the folder appears whole or not at all.

    Args:
        folder: Absent, empty, or an earlier phantom: the same one is kept as it is, another is replaced.
        patients: One slide each; half hold metastases, a third are test slides.
        seed: Same seed, same bytes.
        workers: Processes; None for one per core.
        unseen: Only the scanner that collections never contain, with nodes of their own.
        devices: Keys of `SCANNERS` to draw from, instead of all known (or the unseen) ones.

    Returns:
        The summary, as in phantom.json.

    Raises:
        DataError: The folder holds something else. SpecError: No such scanner.
    """
    keys = devices_of(devices, UNSEEN if unseen else KNOWN, KNOWN + UNSEEN)
    request = {
        "phantom": "lymph-slides",
        "version": PHANTOM_VERSION,
        "seed": seed,
        "patients": patients,
        "unseen": unseen,
        "devices": list(keys),
    }

    def finish(root: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
        _tables(root, rows)
        counts = {
            "patients": patients,
            "files": patients,
            "tumour_slides": sum(r["tumour"] for r in rows),
            "lesions": sum(r["lesions"] for r in rows),
        }
        return {"counts": counts, "scanners": {s.key: {"manufacturer": s.manufacturer, "model": s.model} for s in SCANNERS if s.key in keys}}

    jobs = [(seed, unseen, keys, number) for number in range(patients)]
    return collection(folder, request, _slide, jobs, finish, workers=workers, chunk=2)


def place(number: int, scanners: int) -> tuple[int, bool, bool]:
    """(scanner, tumour, test) of slide `number`: every scanner has both kinds in every part of the collection."""
    return number % scanners, (number // scanners) % 2 == 1, (number // (2 * scanners)) % 3 == 2


def simulate(*, seed: int, unseen: bool, number: int, tumour: bool, device: Scanner) -> tuple[NDArray[np.uint8], Section]:
    """One slide's level 0, (H, W, 3), and what lies on it; depends on nothing but the arguments."""
    draw = np.random.default_rng([seed, int(unseen), number])
    made = section(draw, tumour=tumour)
    return scan(made, device, draw), made


def scan(made: Section, device: Scanner, draw: np.random.Generator) -> NDArray[np.uint8]:
    """Stain, light and camera: (H, W, 3)."""
    from scipy.ndimage import gaussian_filter

    nuclei, cytoplasm = stained(made, device.mpp)
    amount = np.clip(draw.normal(1, 0.12, 2), 0.7, 1.35)  # of each stain on this slide
    sigma = device.blur_um / device.mpp
    planes = (gaussian_filter(nuclei, sigma) * np.float32(amount[0]), gaussian_filter(cytoplasm, sigma) * np.float32(amount[1]))
    out = np.empty((*nuclei.shape, 3), dtype=np.uint8)
    grain = draw.standard_normal(nuclei.shape, dtype=np.float32) * np.float32(device.noise)
    for c in range(3):
        density = planes[0] * np.float32(device.haematoxylin[c]) + planes[1] * np.float32(device.eosin[c])
        light = np.float32(device.white[c]) * np.exp(density * np.float32(-np.log(10) * device.gamma)) + grain
        out[..., c] = np.clip(light * 255 + 0.5, 0, 255).astype(np.uint8)
    return out


def _slide(root: Path, job: tuple[int, bool, tuple[str, ...], int]) -> dict[str, Any]:
    """Write one slide and its outlines; returns its row of the tables."""
    seed, unseen, keys, number = job
    which, tumour, test = place(number, len(keys))
    device = scanner(keys[which])
    pixels, made = simulate(seed=seed, unseen=unseen, number=number, tumour=tumour, device=device)
    name = f"{'test' if test else 'tumor' if tumour else 'normal'}_{number + 1:03d}"
    part = "testing" if test else "training"
    home = root / part / ("images" if test else "tumor" if tumour else "normal")
    for below in FOLDERS:
        (root / below).mkdir(parents=True, exist_ok=True)
    write_slide(home / f"{name}.{'svs' if device.aperio else 'tif'}", pixels, device, when=FIRST_DAY + timedelta(days=number * 7 % DAYS))
    if tumour:
        outlines = [Polygon(o / device.mpp) for o in made.outlines] + [Polygon(h / device.mpp, excluded=True) for h in made.holes]
        text = render(outlines, comment=SAYS)
        (root / part / "lesion_annotations" / f"{name}.xml").write_text(text, encoding="utf-8")
    draw = np.random.default_rng([seed, int(unseen), number, 1])
    evidence = 1.1 + 0.9 * np.log10(max(made.tumour_um2, 1000.0) / 4000.0) if tumour else -1.2
    score = 1 / (1 + np.exp(-1.6 * (evidence + 1.15 * draw.normal())))
    return {"name": name, "tumour": tumour, "test": test, "lesions": len(made.outlines), "reader": round(float(score), 3)}


def write_slide(path: Path, pixels: NDArray[np.uint8], device: Scanner, *, when: datetime) -> None:
    """A pyramid of `LEVELS` levels, each half as wide as the one before, in tiles of JPEG."""
    import tifffile

    height, width = pixels.shape[:2]
    shared: dict[str, Any] = {
        "tile": (TILE, TILE), "photometric": "rgb", "compression": "jpeg", "compressionargs": {"level": device.quality}, "metadata": None,
        "software": False,
    }  # fmt: skip
    if device.aperio:
        size = f"{width}x{height}"
        facts = {"AppMag": "20", "MPP": f"{device.mpp:g}", "ScanScope ID": device.serial, "Date": when.strftime("%m/%d/%y"), "Time": "10:11:12"}
        head = f"Aperio Image Library v0.0.0 {SAYS}\r\n{size} [0,0 {size}] ({TILE}x{TILE}) JPEG/RGB Q={device.quality}"
        says = "|".join([head, *(f"{key} = {value}" for key, value in facts.items())])
    else:
        says = SAYS
    tags = [(271, "s", 0, device.manufacturer, True), (272, "s", 0, device.model, True), (305, "s", 0, f"SYNTHETIC {device.serial} 1.0", True)]
    level = pixels
    with tifffile.TiffWriter(path) as tiff:
        for n in range(LEVELS):
            per_cm = 1e4 / (device.mpp * 2**n)
            own: dict[str, Any] = {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER", "subfiletype": 1 if n else 0}
            if n == 0:
                own |= {"extratags": tags, "description": says, "datetime": when}
            elif device.aperio:
                own["description"] = says
            tiff.write(level, **shared, **own)
            level = halved(level)


def halved(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) -> (H // 2, W // 2, 3), the mean of four pixels."""
    height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    four = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    return ((four.sum((1, 3), dtype=np.uint16) + 2) // 4).astype(np.uint8)


def _tables(folder: Path, rows: list[dict[str, Any]]) -> None:
    with open(folder / "testing" / "reference.csv", "w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        for row in rows:
            if row["test"]:
                table.writerow([row["name"], "Tumor" if row["tumour"] else "Normal", "SYNTHETIC", "Macro" if row["tumour"] else "None"])
    with open(folder / "reader.csv", "w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(["image", "score", "synthetic"])
        table.writerows([row["name"], row["reader"], 1] for row in rows)
