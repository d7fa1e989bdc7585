"""An MR volume out of DICOM: one multi-frame object, or the slices of one series, in a folder or in memory. Anything irregular is refused.

DICOM counts x to the patient's left and y to the back (PS3.3 C.7.6.2.1.1), NIfTI to the right and to the front; so the affine turns both.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from components.core.covariates import agreed
from components.core.imaging.copies import TWO_IN_ONE, sorted_out
from components.core.imaging.dicom import frame_in_unit
from components.core.imaging.errors import NotUsable
from components.core.imaging.header import Frame, ImageHeader, read_header
from components.core.imaging.inflate import UNPACKED_FREELY
from components.core.imaging.nifti import ANISOTROPY, VOXEL_MM, Volume
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec

UNEVEN = 0.1  # share of the usual distance of slices by which another may differ
ALIGNED = 0.999  # cosine between directions that count as one
FEWEST_SLICES = 2
Content = bytes | Path
"""Of one file."""


@dataclass(frozen=True)
class Series:
    """A volume, the header of its first slice, and what all slices tell of the patient's covariates."""

    volume: Volume
    image: ImageHeader
    covariates: dict[str, Any]


@dataclass(frozen=True)
class _Slice:
    file: int
    content: Content
    image: ImageHeader
    number: int
    frame: Frame


def read_series(content: Content | Sequence[bytes], *, spec: DiseaseSpec, pseudonymiser: Pseudonymiser, most_expansion: float) -> Series:
    """Read one volume.

    Args:
        content: One file, or the files of one series and nothing else (byte-equal copies are read once): in a folder, or in memory.
        most_expansion: As in `read_dicom`, for each file.

    Raises:
        NotUsable: Not the images of one regular stack of one series, over the spec's limits, or damaged.
    """
    files: Sequence[Content]
    if isinstance(content, Path):
        files = sorted(p for p in content.iterdir() if p.is_file()) if content.is_dir() else [content]
    else:
        files = [content] if isinstance(content, bytes) else content
    slices: list[_Slice] = []
    for place, file in enumerate(files):
        slices.extend(_slices(place, file, spec, pseudonymiser, most_expansion))
        if len(slices) > 2 * spec.limits.slices_per_series:
            raise NotUsable("slices over limits.slices_per_series")
    slices = _once(slices, pseudonymiser)
    if len(slices) > spec.limits.slices_per_series:
        raise NotUsable("slices over limits.slices_per_series")
    if len(slices) < FEWEST_SLICES:
        raise NotUsable("no volume: fewer than two slices")
    first = slices[0]
    rows, columns = first.image.rows, first.image.columns
    if len({s.image.series for s in slices}) > 1:
        raise NotUsable("images of several series")
    if any((s.image.rows, s.image.columns, s.image.pixel_mm) != (rows, columns, first.image.pixel_mm) for s in slices):
        raise NotUsable("slices of several sizes")
    if rows * columns * len(slices) > spec.limits.pixels_per_image:
        raise NotUsable("more voxels than limits.pixels_per_image")
    slices, affine = _ordered(slices)
    data = np.empty((columns, rows, len(slices)), dtype=np.float32)
    for k, one in enumerate(slices):
        with _open(one.content) as handle:
            data[:, :, k] = frame_in_unit(handle, one.image, one.number, spec=spec).T
    volume = Volume(data, affine, first.image.bits_stored, "SYNTHETIC" if first.image.synthetic else "")
    return Series(volume, first.image, agreed(s.image.covariates for s in slices))


def _once(slices: list[_Slice], pseudonymiser: Pseudonymiser) -> list[_Slice]:
    """Without the slices of files that are copies of another."""
    files = {one.file: one for one in slices}
    copies, contradicting = sorted_out(
        ((place, one.image.sop) for place, one in files.items()), pseudonymiser.id("sop", ""), lambda place: _open(files[place].content)
    )
    if contradicting:
        raise NotUsable(TWO_IN_ONE)
    return [one for one in slices if one.file not in copies]


def _slices(place: int, file: Content, spec: DiseaseSpec, pseudonymiser: Pseudonymiser, most_expansion: float) -> Iterator[_Slice]:
    size = len(file) if isinstance(file, bytes) else os.stat(file).st_size
    with _open(file) as handle:
        image = read_header(handle, size=size, spec=spec, pseudonymiser=pseudonymiser)
    if image.samples != 1:
        raise NotUsable("colour where the spec has one channel")
    if image.rows * image.columns * len(image.frames) * image.bits_allocated // 8 > max(UNPACKED_FREELY, most_expansion * size):
        raise NotUsable("pixels that unpack to more than is believable")
    for number, frame in enumerate(image.frames):
        yield _Slice(place, file, image, number, frame)


def _open(content: Content) -> AbstractContextManager[BinaryIO]:
    return io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb")


def _ordered(slices: list[_Slice]) -> tuple[list[_Slice], NDArray[np.float64]]:
    """Slices along their normal, and voxel indices (column, row, slice) to mm RAS+."""
    places, along, down = [], [], []
    for one in slices:
        frame = one.frame
        if frame.position is None or frame.rows_along is None or frame.columns_along is None:
            raise NotUsable("no position or orientation")
        places.append(frame.position)
        along.append(frame.rows_along)
        down.append(frame.columns_along)
    position, right, below = np.array(places), np.array(along), np.array(down)
    if (right @ right[0] < ALIGNED).any() or (below @ below[0] < ALIGNED).any():
        raise NotUsable("slices of several orientations")
    if slices[0].image.pixel_mm is None:
        raise NotUsable("no pixel spacing")
    normal = np.cross(right[0], below[0])
    depth = position @ normal
    order = np.argsort(depth, kind="stable")
    steps = np.diff(depth[order])
    step = float(np.median(steps))
    if step <= 0 or (np.abs(steps - step) > UNEVEN * step).any():
        raise NotUsable("slices missing, repeated or at uneven distances")
    rows_mm, columns_mm = slices[0].image.pixel_mm
    sizes = np.array([columns_mm, rows_mm, step])
    if sizes.min() < VOXEL_MM[0] or sizes.max() > VOXEL_MM[1] or sizes.max() / sizes.min() > ANISOTROPY:
        raise NotUsable("missing or impossible voxel size")
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = right[0] * columns_mm, below[0] * rows_mm
    lps[:3, 2] = (position[order[-1]] - position[order[0]]) / (len(slices) - 1)
    lps[:3, 3] = position[order[0]]
    return [slices[n] for n in order], np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
