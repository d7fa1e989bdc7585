"""One DICOM image object, read, de-identified and decoded: the same code for training and for the server."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from components.core.imaging.deidentify import DeviceIdentity
from components.core.imaging.errors import NotUsable
from components.core.imaging.header import ImageHeader, read_header
from components.core.imaging.in_memory import InMemory
from components.core.imaging.inflate import UNPACKED_FREELY
from components.core.imaging.patches import cut_patch
from components.core.imaging.pixels import stored_frame, to_unit, whole_hu
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec

__all__ = ["DeviceIdentity", "DicomImage", "NotUsable", "read_dicom"]


@dataclass(frozen=True)
class DicomImage:
    """What one file gives.

    Args:
        header: Of the file.
        stored: Its frames as stored.
        spec: Whose unit is wanted.
    """

    header: ImageHeader
    stored: tuple[NDArray[Any], ...]
    spec: DiseaseSpec

    @cached_property
    def frames(self) -> NDArray[Any]:
        """(n, rows, columns) in `spec.input.unit` (int16 for HU, else float32), or (n, rows, columns, 3) uint8 RGB."""
        found = [_in_unit(stored, self.header, index, spec=self.spec) for index, stored in enumerate(self.stored)]
        return found[0][None] if len(found) == 1 else np.stack(found)

    def patch(self, centre_rc: tuple[float, float], index: int = 0) -> NDArray[Any]:
        """As `patch_in_unit` of one frame."""
        return patch_in_unit(self.stored[index], self.header, index, centre_rc=centre_rc, spec=self.spec)


def read_dicom(
    data: bytes | Path, *, spec: DiseaseSpec, pseudonymiser: Pseudonymiser, most_expansion: float | None = None, one_frame: bool = False
) -> DicomImage:
    """Read one file.

    Args:
        most_expansion: How many times its own length a file may unpack to beyond 8 MiB; None: any number of times.
        one_frame: Refuse several before any is decoded.

    Raises:
        NotUsable: (a DataError) Not an image that `spec` can use, damaged, or over its limits; the text holds no value of the file.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        return _read(InMemory(bytes(data)), len(data), spec, pseudonymiser, most_expansion, one_frame)
    with open(data, "rb") as handle:
        return _read(handle, os.fstat(handle.fileno()).st_size, spec, pseudonymiser, most_expansion, one_frame)


def _read(handle: BinaryIO, size: int, spec: DiseaseSpec, pseudonymiser: Pseudonymiser, most_expansion: float | None, one_frame: bool) -> DicomImage:
    image = read_header(handle, size=size, spec=spec, pseudonymiser=pseudonymiser)
    if one_frame and len(image.frames) != 1:
        raise NotUsable("several frames in one file")
    if image.rows * image.columns * len(image.frames) > 4 * spec.limits.pixels_per_image:
        raise NotUsable("frames together over four times limits.pixels_per_image")
    unpacked = image.rows * image.columns * len(image.frames) * image.samples * image.bits_allocated // 8
    if most_expansion is not None and unpacked > max(UNPACKED_FREELY, most_expansion * size):
        raise NotUsable("pixels that unpack to more than is believable")
    _refuse_colour(image, spec)
    return DicomImage(image, tuple(stored_frame(handle, image, index) for index in range(len(image.frames))), spec)


def frame_in_unit(handle: BinaryIO, image: ImageHeader, index: int, *, spec: DiseaseSpec) -> NDArray[Any]:
    """Frame `index`: (rows, columns) in the spec's unit, int16 for HU; or (rows, columns, 3) as stored."""
    _refuse_colour(image, spec)
    return _in_unit(stored_frame(handle, image, index), image, index, spec=spec)


def _refuse_colour(image: ImageHeader, spec: DiseaseSpec) -> None:
    if (image.samples == 3 or image.palette is not None) and spec.input.shape[0] != 3:
        raise NotUsable("colour where the spec has one channel")


def _in_unit(stored: NDArray[Any], image: ImageHeader, index: int, *, spec: DiseaseSpec) -> NDArray[Any]:
    if stored.ndim == 3:  # RGB, as stored or out of a palette
        return stored
    if spec.input.unit != "HU":
        return to_unit(stored, image, index, hu=False)
    whole = whole_hu(stored, image, index)
    return hu_int16(to_unit(stored, image, index, hu=True)) if whole is None else whole


def patch_in_unit(stored: NDArray[Any], image: ImageHeader, index: int, *, centre_rc: tuple[float, float], spec: DiseaseSpec) -> NDArray[Any]:
    """A patch around a point of one frame, (1, h, w) on the spec's grid and in its unit, by `cut_patch`.

    Only the neighbourhood is turned into the unit: a patch needs a hundredth of a slice.
    """
    lows, parts = [], []
    for axis in (0, 1):
        step = spec.input.spacing_mm[axis] / image.pixel_mm[axis] if spec.input.spacing_mm and image.pixel_mm else 1.0
        half = (spec.input.shape[1 + axis] / 2 + 2) * max(step, 1.0) + 2
        low = int(np.clip(math.floor(centre_rc[axis] - half), 0, stored.shape[axis]))
        high = int(np.clip(math.ceil(centre_rc[axis] + half), 0, stored.shape[axis]))
        lows.append(low)
        parts.append(slice(low, high))
    near = to_unit(stored[parts[0], parts[1]], image, index, hu=spec.input.unit == "HU")
    return cut_patch(near, centre_rc=(centre_rc[0] - lows[0], centre_rc[1] - lows[1]), pixel_mm=image.pixel_mm, spec_input=spec.input)


def hu_int16(values: NDArray[np.float32]) -> NDArray[np.int16]:
    """Rounded, and limited to what 16 bits hold."""
    whole = np.rint(values)
    return np.clip(whole, -32768, 32767, out=whole).astype(np.int16)
