"""One CT series from a folder of DICOM files, as one volume whose geometry is known and regular; anything else is an error, never a guess.

Axes are (slice, row, column); slices go along the normal of the planes, which for an axial series means from foot to head. Patient
coordinates are DICOM's: x to the patient's left, y to the back, z to the head, in mm (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from components.core.covariates import agreed
from components.core.errors import DataError
from components.core.imaging.copies import COPY, TWO_IN_ONE, sorted_out
from components.core.imaging.deidentify import DeviceIdentity
from components.core.imaging.dicom import frame_in_unit
from components.core.imaging.errors import NotUsable
from components.core.imaging.header import ImageHeader, read_header
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec

GAP = 1.5  # times the usual distance of slices
UNEVEN = 0.1  # share of the usual distance by which another may differ
SAME_MM = 1e-3
SHEAR = 0.05  # mm that a slice may stand aside of its neighbour, for each mm between them
AXIAL = 0.9  # cosine between the planes' normal and the body's axis
LARGEST_STEP_MM = 3.0
SMALLEST_STEP_MM = 0.1  # scanners end at .2 mm; below, positions are in another unit, or a series was written twice with a shift
FEWEST_SLICES = 4
NOT_DICOM = "not a DICOM file"

Triple = tuple[float, float, float]
Source = Path | bytes
"""A DICOM file: where it lies, or its bytes."""


@dataclass(frozen=True)
class CtVolume:
    """A series.

    Args:
        hu: (slices, rows, columns) int16; padding is air.
        step_mm: Distance of slices, rows and columns.
        origin_mm: Patient coordinates of the centre of voxel (0, 0, 0).
        axes: Unit vectors in patient coordinates along which slices, rows and columns are counted.
        files: File of each slice, relative to the folder that was read.
        sops: Pseudonym of each slice's image.
        study, patient, series: Pseudonyms.
        facts: `acq_*` of the first slice's header.
        ignored: Files that are no CT image, by reason.
        covariates: What all slices tell of the patient, as in `ImageHeader`.
    """

    hu: NDArray[np.int16]
    step_mm: Triple
    origin_mm: Triple
    axes: tuple[Triple, Triple, Triple]
    files: tuple[str, ...]
    sops: tuple[str, ...]
    study: str
    series: str
    patient: str | None
    device: DeviceIdentity
    facts: dict[str, Any]
    synthetic: bool
    ignored: dict[str, int]
    covariates: dict[str, Any] = field(default_factory=dict)

    def place_mm(self, voxel: Sequence[float] | NDArray[np.floating]) -> Triple:
        """Patient coordinates of a point given in voxels (slice, row, column)."""
        along = np.asarray(voxel, dtype=np.float64) * np.array(self.step_mm)
        x, y, z = np.array(self.origin_mm) + along @ np.array(self.axes)
        return float(x), float(y), float(z)


@dataclass(frozen=True)
class _Plane:
    file: str
    source: Source
    image: ImageHeader
    frame: int
    position: Triple
    rows_along: Triple
    columns_along: Triple


def read_volume(folder: Path, *, spec: DiseaseSpec, pseudonymiser: Pseudonymiser, workers: int = 1) -> CtVolume:
    """Read the one CT series of a folder, with its subfolders.

    Files that are no DICOM, localizers and other modalities are left out and counted; a damaged image is not.

    Args:
        workers: Threads that decode.

    Raises:
        DataError: No CT images, more than one series, a damaged image, a missing or repeated slice, mixed sizes, spacings or
            orientations, no pixel spacing, planes that are not axial, or slices too far apart. Names the file, quotes no header value.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("not a folder", where=str(folder), allowed="a folder with one CT series")
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    sources = {str(path.relative_to(folder)): path for path in files}
    return volume_of(sources, where=str(folder), spec=spec, pseudonymiser=pseudonymiser, workers=workers)


def volume_of(sources: Mapping[str, Source], *, where: str, spec: DiseaseSpec, pseudonymiser: Pseudonymiser, workers: int = 1) -> CtVolume:
    """As `read_volume`, from files by name; `where` says in messages what they are together."""
    planes, ignored = _headers(sources, where, spec, pseudonymiser)
    uids = {p.file: p.image.sop for p in planes}
    copies, contradicting = sorted_out(uids.items(), pseudonymiser.id("sop", ""), lambda name: _opened(sources[name]))
    if contradicting:
        raise DataError(TWO_IN_ONE, where=f"{where}: {min(contradicting)}")
    if copies:
        planes = [p for p in planes if p.file not in copies]
        ignored[COPY] = len(copies)
    if not planes:
        found = "; ".join(f"{n} of {reason}" for reason, n in sorted(ignored.items())) or "no files"
        raise DataError("no CT images", where=where, got=found)
    series = sorted({p.image.series for p in planes})
    if len(series) > 1:
        raise DataError("several CT series in one folder", where=where, got=len(series), allowed="one: name its folder")
    planes, normal, step = _ordered(planes, where)
    image = planes[0].image
    assert image.pixel_mm is not None
    rows_mm, columns_mm = image.pixel_mm
    hu = np.empty((len(planes), image.rows, image.columns), dtype=np.int16)

    def decode(k: int) -> None:
        plane = planes[k]
        try:
            with _opened(plane.source) as handle:
                hu[k] = frame_in_unit(handle, plane.image, plane.frame, spec=spec)
        except NotUsable as reason:
            raise DataError(reason.reason, where=f"{where}: {plane.file}") from None

    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(decode, range(len(planes))):
            pass
    # `columns_along` of the header is the direction in which the row number grows (PS3.3 C.7.6.2.1.1: direction of the column).
    axes = (normal, planes[0].columns_along, planes[0].rows_along)
    return CtVolume(
        hu=hu, step_mm=(step, rows_mm, columns_mm), origin_mm=planes[0].position, axes=axes, files=tuple(p.file for p in planes),
        sops=tuple(p.image.sop for p in planes), study=image.study, series=series[0], patient=image.patient, device=image.device,
        facts=image.facts, synthetic=any(p.image.synthetic for p in planes), ignored=ignored,
        covariates=agreed(p.image.covariates for p in planes),
    )  # fmt: skip


def _opened(source: Source) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


def _headers(sources: Mapping[str, Source], where: str, spec: DiseaseSpec, pseudonymiser: Pseudonymiser) -> tuple[list[_Plane], dict[str, int]]:
    planes: list[_Plane] = []
    ignored: dict[str, int] = {}
    for name, source in sources.items():
        try:
            with _opened(source) as handle:
                size = len(source) if isinstance(source, bytes) else source.stat().st_size
                image = read_header(handle, size=size, spec=spec, pseudonymiser=pseudonymiser)
            if image.samples != 1:
                raise NotUsable("colour where the spec has one channel")
        except NotUsable as reason:
            if not reason.skipped and reason.reason != NOT_DICOM:
                raise DataError(reason.reason, where=f"{where}: {name}") from None
            ignored[reason.reason] = ignored.get(reason.reason, 0) + 1
            continue
        planes.extend(_placed(image, source, name, where))
        if len(planes) > spec.limits.slices_per_series:
            raise DataError("series over limits.slices_per_series", where=where, allowed=spec.limits.slices_per_series)
    return planes, ignored


def _placed(image: ImageHeader, source: Source, name: str, folder: str) -> Iterator[_Plane]:
    where = f"{folder}: {name}"
    if image.pixel_mm is None:
        raise DataError("no pixel spacing", where=where)
    for number, frame in enumerate(image.frames):
        if frame.position is None or frame.rows_along is None or frame.columns_along is None:
            raise DataError("no position or orientation", where=where)
        # `rows_along` is the header's first direction cosine: along a row, in which the column number grows.
        yield _Plane(name, source, image, number, frame.position, frame.rows_along, frame.columns_along)


def _ordered(planes: list[_Plane], folder: str) -> tuple[list[_Plane], Triple, float]:
    """Planes along their normal, the normal, and their distance; DataError where they are no regular stack of axial slices."""
    first = planes[0]
    normal = _cross(first.rows_along, first.columns_along)
    size = (first.image.rows, first.image.columns, first.image.pixel_mm)
    for p in planes:
        where = f"{folder}: {p.file}"
        if _dot(_cross(p.rows_along, p.columns_along), normal) < 0.999 or _dot(p.rows_along, first.rows_along) < 0.999:
            raise DataError("another orientation than its series", where=where, allowed="one orientation")
        if (p.image.rows, p.image.columns, p.image.pixel_mm) != size:
            raise DataError("another size or spacing than its series", where=where, allowed="one size")
    if abs(normal[2]) < AXIAL:
        raise DataError("slices are not axial", where=folder, allowed="axial slices")
    if len(planes) < FEWEST_SLICES:
        raise DataError("too few slices", where=folder, got=len(planes), allowed=f"at least {FEWEST_SLICES}")
    planes = sorted(planes, key=lambda p: (_dot(p.position, normal), p.file, p.frame))
    along = np.array([_dot(p.position, normal) for p in planes])
    steps = np.diff(along)
    step = float(np.median(steps))
    for k, gap in enumerate(steps, 1):
        where = f"{folder}: {planes[k].file}"
        if gap < SAME_MM:
            raise DataError("a second slice at one position", where=where)
        if gap > GAP * step:
            raise DataError("slices missing before this one", where=where, got=f"{gap:.2f} mm", allowed=f"{step:.2f} mm")
        if abs(gap - step) > UNEVEN * step:
            raise DataError("slices at uneven distances", where=where, got=f"{gap:.2f} mm", allowed=f"{step:.2f} mm")
        aside = math.dist(planes[k].position, planes[k - 1].position) ** 2 - gap**2
        if aside > (SHEAR * gap) ** 2 + SAME_MM:
            raise DataError("slices stand aside of one another (a tilted gantry?)", where=where)
    if step < SMALLEST_STEP_MM:
        raise DataError("slices closer than scanners take them", where=folder, got=f"{step:.3f} mm", allowed=f"at least {SMALLEST_STEP_MM:g} mm")
    if step > LARGEST_STEP_MM:
        raise DataError("slices too far apart to find nodules", where=folder, got=f"{step:.2f} mm", allowed=f"at most {LARGEST_STEP_MM:g} mm")
    return planes, normal, float(along[-1] - along[0]) / (len(planes) - 1)


def _cross(a: Triple, b: Triple) -> Triple:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _dot(a: Triple, b: Triple) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
