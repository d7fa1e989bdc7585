"""One DICOM image object, read, de-identified and decoded: the same code for training and for the server."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from components.core.imaging.deidentify import DeviceIdentity
from components.core.imaging.errors import NotUsable
from components.core.imaging.header import ImageHeader, read_header
from components.core.imaging.inflate import UNPACKED_FREELY
from components.core.imaging.pixels import stored_frame, to_unit, whole_hu
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec

__all__ = ["DeviceIdentity", "DicomImage", "NotUsable", "read_dicom"]


@dataclass(frozen=True)
class DicomImage:
    """What one file gives.

    Args:
        frames: (n, rows, columns) in `spec.input.unit` (int16 for HU, else float32), or (n, rows, columns, 3) uint8 RGB.
        pixel_mm: Distance of rows and of columns, or None.
        facts: `acq_*` columns of the manifest.
        acquired_at: Shifted by the key's offset, UTC.
        patient, study, series, sop: Pseudonyms.
        covariates: As in `ImageHeader`.
    """

    frames: NDArray[Any]
    pixel_mm: tuple[float, float] | None
    device: DeviceIdentity
    facts: dict[str, Any]
    acquired_at: datetime | None
    synthetic: bool
    patient: str | None
    study: str
    series: str
    sop: str
    covariates: dict[str, Any] = field(default_factory=dict)


def read_dicom(data: bytes | Path, *, spec: DiseaseSpec, pseudonymiser: Pseudonymiser, most_expansion: float | None = None) -> DicomImage:
    """Read one file.

    Args:
        most_expansion: How many times its own length a file may unpack to beyond 8 MiB; None: any number of times.

    Raises:
        NotUsable: (a DataError) Not an image that `spec` can use, damaged, or over its limits; the text holds no value of the file.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        return _read(io.BytesIO(data), len(data), spec, pseudonymiser, most_expansion)
    with open(data, "rb") as handle:
        return _read(handle, os.fstat(handle.fileno()).st_size, spec, pseudonymiser, most_expansion)


def _read(handle: BinaryIO, size: int, spec: DiseaseSpec, pseudonymiser: Pseudonymiser, most_expansion: float | None) -> DicomImage:
    image = read_header(handle, size=size, spec=spec, pseudonymiser=pseudonymiser)
    if image.rows * image.columns * len(image.frames) > 4 * spec.limits.pixels_per_image:
        raise NotUsable("frames together over four times limits.pixels_per_image")
    unpacked = image.rows * image.columns * len(image.frames) * image.samples * image.bits_allocated // 8
    if most_expansion is not None and unpacked > max(UNPACKED_FREELY, most_expansion * size):
        raise NotUsable("pixels that unpack to more than is believable")
    found = [frame_in_unit(handle, image, i, spec=spec) for i in range(len(image.frames))]
    frames = found[0][None] if len(found) == 1 else np.stack(found)
    return DicomImage(
        frames=frames, pixel_mm=image.pixel_mm, device=image.device, facts=image.facts, acquired_at=image.acquired, synthetic=image.synthetic,
        patient=image.patient, study=image.study, series=image.series, sop=image.sop, covariates=image.covariates,
    )  # fmt: skip


def frame_in_unit(handle: BinaryIO, image: ImageHeader, index: int, *, spec: DiseaseSpec) -> NDArray[Any]:
    """Frame `index`: (rows, columns) in the spec's unit, int16 for HU; or (rows, columns, 3) as stored."""
    stored = stored_frame(handle, image, index)
    if image.samples == 3:
        if spec.input.shape[0] != 3:
            raise NotUsable("colour where the spec has one channel")
        return stored
    if spec.input.unit != "HU":
        return to_unit(stored, image, index, hu=False)
    whole = whole_hu(stored, image, index)
    return hu_int16(to_unit(stored, image, index, hu=True)) if whole is None else whole


def hu_int16(values: NDArray[np.float32]) -> NDArray[np.int16]:
    """Rounded, and limited to what 16 bits hold."""
    whole = np.rint(values)
    return np.clip(whole, -32768, 32767, out=whole).astype(np.int16)
