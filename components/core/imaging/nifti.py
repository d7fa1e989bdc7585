"""NIfTI-1 and NIfTI-2 volumes, plain or gzipped, from a stream of any source; every claim of the header is checked before memory is taken.

Nothing is guessed: a file that does not say where its voxels lie, or how large they are, is not used. A gzip stream says at its end whether it
arrived whole (RFC 1952, 2.3.1: CRC-32 and length), so it is read to that end, of every member that it has. A plain file has no checksum: its header
must fit its length, and its voxels are believed.
"""

from __future__ import annotations

import gzip
import io
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from components.core.imaging.errors import NotUsable
from components.core.imaging.inflate import UNPACKED_FREELY

MAGIC_GZIP = b"\x1f\x8b"
NIFTI1, NIFTI2 = 348, 540
MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # NIfTI's codes of unknown, metre, millimetre, micron
APART_VOXELS = 0.5  # by which a corner may lie elsewhere by sform than by qform: what rounding does to a quaternion is a hundredth
TURNED = 0.7  # cosine between an axis by sform and by qform; 45 degrees
NO_GREY = {*range(2, 25), *range(1002, 1012), 2003, 2004}  # intents: statistics, labels, vectors, points, colours
DISAGREE = 0.05  # share by which pixdim and the affine may differ in a voxel's size
VOXEL_MM = (0.05, 50.0)
FINE = 1 << 20  # up to here float32 keeps a sixteenth
ANISOTROPY = 5.0  # longest side of a voxel over its shortest
BEHIND = 4096  # bytes that may follow the voxels: padding to a block of a disk; more means that the header tells of fewer voxels than there are
Floats = NDArray[np.float32]
Frames = Literal["refuse", "first", "mean"]


@dataclass(frozen=True)
class Volume:
    """One volume.

    Args:
        data: (i, j, k) as stored, scaled by slope and intercept.
        affine: 4 x 4, voxel indices to mm in RAS+ (x to the right, y to the front, z to the head of the patient).
        bits: Of a stored value.
        description: The header's free text, for marks of synthetic data only; never copied.
    """

    data: Floats
    affine: NDArray[np.float64]
    bits: int
    description: str

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Size of a voxel along i, j, k."""
        i, j, k = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(i), float(j), float(k)


def read_volume(handle: BinaryIO, *, most_voxels: int, frames: Frames = "refuse", most_expansion: float | None = None) -> Volume:
    """Read one volume.

    Args:
        handle: Seekable, at its start.
        most_voxels: Over all frames; checked on the header.
        frames: What becomes of a file with several volumes over time.
        most_expansion: How many times its own length a gzipped file may unpack to beyond 8 MiB; checked on the header. None: any number of times.

    Raises:
        NotUsable: Not NIfTI, damaged, without a place in space, with impossible voxels, or with values that are not finite.
    """
    packed = handle.read(2) == MAGIC_GZIP
    length = handle.seek(0, io.SEEK_END)
    handle.seek(0)
    stream: Any = gzip.GzipFile(fileobj=handle, mode="rb") if packed else handle
    try:
        header, size = _header(stream)
        shape = _shape(header, frames)
        if int(np.prod(shape, dtype=np.float64)) > most_voxels:
            raise NotUsable("more voxels than limits.pixels_per_image")
        affine = _affine(header)
        data = _data(stream, header, shape, size, most=max(UNPACKED_FREELY, length * most_expansion) if packed and most_expansion else np.inf)
        if len(stream.read(BEHIND + 1)) > BEHIND:  # nothing was there to read on for: at the end of a gzip stream its checksum is asked for
            raise NotUsable("more voxels than the header says")
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise NotUsable("damaged gzip stream") from None
    if not np.isfinite(data).all():
        raise NotUsable("values that are not finite")
    if data.ndim == 4:
        data = data[..., 0] if frames == "first" else data.mean(axis=3)
    description = bytes(header["descrip"].tobytes()).split(b"\0")[0].decode("latin-1")
    return Volume(np.ascontiguousarray(data, dtype=np.float32), affine, int(header["bitpix"]), description)


def _header(stream: Any) -> tuple[Any, int]:
    """The header as it stands, unchecked by the library, and its length."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    start = stream.read(NIFTI1)
    if len(start) < NIFTI1:
        raise NotUsable("not NIfTI, or cut short", offset=len(start))
    order: Literal["little", "big"]
    for order in ("little", "big"):
        length = int.from_bytes(start[:4], order)
        if length == NIFTI1 and start[344:348] == b"n+1\0":
            return _parsed(Nifti1Header, start, order), NIFTI1
        if length == NIFTI2 and start[4:8] == b"n+2\0":
            return _parsed(Nifti2Header, start + stream.read(NIFTI2 - NIFTI1), order), NIFTI2
        if length == NIFTI1 and start[344:348] in (b"ni1\0", b"\0\0\0\0"):
            raise NotUsable("a header without its image (ANALYZE, or a pair of .hdr and .img)")
    raise NotUsable("not NIfTI, or cut short", offset=0)


def _parsed(kind: Any, start: bytes, order: str) -> Any:
    return kind.from_fileobj(io.BytesIO(start), endianness="<" if order == "little" else ">", check=False)


def _shape(header: Any, frames: Frames) -> tuple[int, ...]:
    dim = [int(n) for n in header["dim"]]
    if not 3 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise NotUsable("no volume: fewer than three axes, or an axis without length")
    shape = tuple(dim[1 : dim[0] + 1])
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if int(header["intent_code"]) in NO_GREY:
        raise NotUsable("no grey volume: labels, statistics or vectors")
    if len(shape) > 4 or int(header["datatype"]) in (128, 2304, 32, 1792, 2048):  # RGB, RGBA, complex
        raise NotUsable("no grey volume: vectors, colours or complex values")
    if len(shape) == 4 and frames == "refuse":
        raise NotUsable("several volumes over time where one is wanted (a functional series?)")
    if min(shape[:3]) < 2:
        raise NotUsable("a single plane")
    return shape


def _affine(header: Any) -> NDArray[np.float64]:
    """Voxels to mm. Raises NotUsable where the header does not say, or says two things."""
    sizes = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    if not np.isfinite(sizes).all() or (sizes == 0).any():
        raise NotUsable("missing or impossible voxel size")
    if int(header["sform_code"]) <= 0 and int(header["qform_code"]) <= 0:
        raise NotUsable("no orientation: neither sform nor qform")
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1  # qfac; 0 and whatever else stands for 1 (nifti1.h, method 2)
    try:
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    except (ValueError, ArithmeticError):  # a quaternion longer than 1
        raise NotUsable("impossible orientation") from None
    axes = affine[:3, :3]
    lengths = np.sqrt((axes**2).sum(axis=0))
    if not np.isfinite(affine).all() or (lengths == 0).any() or abs(np.linalg.det(axes / lengths)) < 1e-3:
        raise NotUsable("singular affine")
    if (np.abs(lengths / sizes - 1) > DISAGREE).any():
        raise NotUsable("voxel size and affine disagree")
    _check_forms(header, affine, sizes)
    units = MM.get(int(header["xyzt_units"]) & 7)  # the bits above are of time, which no single volume has
    if units is None:
        raise NotUsable("unknown unit of length")
    affine[:3] *= units
    lengths *= units
    if lengths.min() < VOXEL_MM[0] or lengths.max() > VOXEL_MM[1]:
        raise NotUsable("missing or impossible voxel size")
    if lengths.max() / lengths.min() > ANISOTROPY:
        raise NotUsable("voxels too anisotropic")
    return affine


def _check_forms(header: Any, affine: NDArray[np.float64], sizes: NDArray[np.float64]) -> None:
    """Where sform and qform both say where the voxels lie, they must not say two things.

    Of one space (one code) they are the same but for rounding. A sform of another space, another scan's or a template's, may turn and move a head,
    but not mirror it or lay it on its side.

    Raises:
        NotUsable: They contradict each other.
    """
    codes = int(header["sform_code"]), int(header["qform_code"])
    if min(codes) <= 0:
        return
    try:
        other = np.asarray(header.get_qform(), dtype=np.float64)
    except (ValueError, ArithmeticError):
        raise NotUsable("impossible orientation") from None
    one, two = (form[:3, :3] / np.sqrt((form[:3, :3] ** 2).sum(axis=0)) for form in (affine, other))
    alike = float((one * two).sum(axis=0).min()) > TURNED
    if codes[0] == codes[1]:
        last = [int(n) - 1 for n in header["dim"][1:4]]
        corners = np.array([[i, j, k, 1] for i in (0, last[0]) for j in (0, last[1]) for k in (0, last[2])], dtype=np.float64).T
        apart = float(np.sqrt((((affine - other) @ corners)[:3] ** 2).sum(axis=0)).max())
        alike &= apart <= APART_VOXELS * float(sizes.max())
    if not alike:
        raise NotUsable("sform and qform contradict each other")


def _data(stream: Any, header: Any, shape: tuple[int, ...], size: int, *, most: float) -> Floats:
    from nibabel.spatialimages import HeaderDataError

    try:
        dtype = header.get_data_dtype()
        slope, intercept = header.get_slope_inter()
    except (HeaderDataError, KeyError, ValueError):
        raise NotUsable("unknown type of values, or impossible scaling") from None
    if dtype.kind not in "iuf":
        raise NotUsable("unknown type of values, or impossible scaling")
    offset = float(header["vox_offset"])
    start = int(offset) if np.isfinite(offset) and size + 4 <= offset < 1 << 24 else size + 4
    wanted = int(np.prod(shape)) * dtype.itemsize
    if start + wanted > most:
        raise NotUsable("a gzip stream that unpacks to more than is believable")
    stream.read(start - size)
    raw = stream.read(wanted)
    if len(raw) < wanted:
        raise NotUsable("fewer voxels than the header says", offset=start + len(raw))
    return _scaled(np.frombuffer(raw, dtype=dtype).reshape(shape, order="F"), slope, intercept)


def _scaled(stored: NDArray[Any], slope: float | None, intercept: float | None) -> Floats:
    """slope * stored + intercept, plane by plane; values of over 16 bits at double precision, of which a large offset takes most away."""
    data = np.empty(stored.shape, dtype=np.float32, order="F")
    exact = np.float64 if stored.dtype.itemsize > 2 or abs(intercept or 0) > FINE else np.float32
    scaled = slope is not None and (slope != 1 or bool(intercept))
    for k in range(stored.shape[2]):
        plane = stored[:, :, k].astype(exact)
        if scaled:
            plane *= exact(slope)
            plane += exact(intercept or 0)
        data[:, :, k] = plane
    return data
