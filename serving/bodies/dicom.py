"""A DICOM image (a slice, a photograph, a patch around a point), or a DICOM volume (a multi-frame object, or a series by reference)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError
from components.core.imaging import laterality
from components.core.imaging.deidentify import SCANNER
from components.core.imaging.header import ImageHeader
from components.core.imaging.inflate import UNPACKED_FREELY
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec
from serving.bodies.body import MOST_EXPANSION, Body, device_or
from serving.predictor import Query
from serving.records import loggable

TYPES = ("application/dicom",)
PHOTOGRAPHS = {"fundus": ("OP", "OT", "SC"), "dermoscopy": ("XC", "OT", "SC")}
"""Modalities of DICOM that hold a photograph of each of ours (ophthalmic photography, external-camera photography, and what wraps a JPEG)."""

BIDS = {"ManufacturersModelName": "ManufacturerModelName"}


def fits(spec: DiseaseSpec) -> bool:
    """Images of a modality that DICOM has, and MR volumes."""
    if spec.input.layout == "volume":
        return spec.input.modality == "MR" and spec.input.spacing_mm is not None and spec.input.dtype == "float32"
    if spec.input.modality in PHOTOGRAPHS:
        return spec.input.layout == "image" and spec.input.shape[0] == 3 and spec.input.dtype == "uint8"
    return spec.input.layout == "image" and spec.input.modality in ("CT", "MR", "MG", "DX")


def warm() -> None:
    """Import what the first request would wait for."""
    from components.core.imaging import dicom, fit, mr_series, patches, resample  # noqa: F401


def read(body: Body, spec: DiseaseSpec, pseudonymiser: Pseudonymiser) -> list[Query]:
    """One sample."""
    spec = _unpacking_at_most(in_dicom_words(spec), body)
    if spec.input.layout == "volume":
        return [volume(body.content, spec, pseudonymiser, device=body.device)[0]]
    from components.core.imaging.dicom import read_dicom

    image = read_dicom(body.file(), spec=spec, pseudonymiser=pseudonymiser, most_expansion=MOST_EXPANSION, one_frame=True)
    header = image.header
    size = (header.rows, header.columns)
    if spec.input.modality in PHOTOGRAPHS:
        array = _photograph(image.frames[0], header.facts, spec)
    elif spec.input.spacing_mm is None and size == tuple(spec.input.shape[1:]):
        array = image.frames
    else:
        row, column = (_inside(value, length, name) for value, length, name in zip((body.row, body.column), size, body.names, strict=False))
        array = image.patch((row, column))
    return [query_of(array, header, header.covariates, told_device=body.device)]


def in_dicom_words(spec: DiseaseSpec) -> DiseaseSpec:
    """The spec with a device key that DICOM knows: BIDS spells one name otherwise; where tables name devices, the scanner's own names stand in."""
    from pydicom.datadict import tag_for_keyword

    names = tuple(BIDS.get(name, name) for name in spec.device.key)
    if not all(tag_for_keyword(name) for name in names):
        names = SCANNER
    return spec.model_copy(update={"device": spec.device.model_copy(update={"key": names})})


def _unpacking_at_most(spec: DiseaseSpec, body: Body) -> DiseaseSpec:
    """The spec with a limit to what a deflated file of this length may unpack to."""
    most = max(UNPACKED_FREELY, MOST_EXPANSION * body.size()) / 1e6
    return spec.model_copy(update={"limits": spec.limits.model_copy(update={"file_mb": min(spec.limits.file_mb, most)})})


def _photograph(frame: NDArray[Any], facts: dict[str, Any], spec: DiseaseSpec) -> NDArray[Any]:
    from components.core.imaging.fit import fit

    wanted = PHOTOGRAPHS[spec.input.modality]
    if facts["acq_modality"] not in wanted:
        raise DataError("another modality than the spec's", allowed=", ".join(wanted))
    if facts["acq_bits"] != 8:
        raise DataError("pixels of another depth", got=f"{facts['acq_bits']} bits", allowed="8 bits")
    return fit(frame if frame.dtype == np.uint8 else np.clip(np.rint(frame), 0, 255).astype(np.uint8), spec.input)


def volume(
    content: bytes | Path | Sequence[bytes], spec: DiseaseSpec, pseudonymiser: Pseudonymiser, *, device: str | None = None
) -> tuple[Query, bool]:
    """A head, and whether it is synthetic.

    Args:
        content: As `read_series` takes it.
        spec: In words of DICOM.
        device: What the client says it came from, where the file names none.
    """
    from components.core.imaging.mr_series import read_series
    from components.core.imaging.resample import head_on_grid

    shape, spacing = spec.input.shape, spec.input.spacing_mm
    assert spacing is not None
    series = read_series(content, spec=spec, pseudonymiser=pseudonymiser, most_expansion=MOST_EXPANSION)
    grid = head_on_grid(series.volume, shape=(shape[1], shape[2], shape[3]), spacing_mm=(spacing[0], spacing[1], spacing[2]))
    return query_of(grid[None], series.image, series.covariates, told_device=device), bool(series.volume.description)


def query_of(array: NDArray[Any], header: ImageHeader, covariates: dict[str, Any], *, told_device: str | None = None) -> Query:
    """The sample of an image or a series.

    Args:
        covariates: What its headers tell.
        told_device: What the client says it came from, where the file names none.
    """
    device, plane = header.device, header.frames[0] if header.frames else None
    along = (*plane.rows_along, *plane.columns_along) if plane and plane.rows_along and plane.columns_along else None
    return Query(
        array=array, device_key=device_or(device.key, told_device), manufacturer=device.manufacturer, device_model=device.model,
        software=device.software or None, patient=header.patient, study=header.study, series=header.series, acquisition=loggable(header.facts),
        source="dicom", covariates=covariates, edges=laterality.edges(along) if array.ndim == 3 else None,
    )  # fmt: skip


def _inside(value: float | None, size: int, name: str) -> float:
    if value is None:
        raise DataError("missing: this model looks at a patch around a point", where=name, allowed="pixels")
    if not -0.5 <= value <= size - 0.5:
        raise DataError("outside the image", where=name, allowed=f"0 to {size - 1}")
    return value
