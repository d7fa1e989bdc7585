"""One small file of each format, and small packages of catalogue diseases that take them."""

from __future__ import annotations

import gzip
import io
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.package import ModelPackage
from components.core.spec import DiseaseSpec
from tests.serving.small_package import CATALOGUE, build, reference

FUNDUS, BRAIN, GAIT, TABLE, PIXELS, TILES = (
    "retinopathy-screening", "alzheimer-smri", "parkinson-fog", "breast-cytology", "skin-ham10000", "breast-metastasis",
)  # fmt: skip
TWO = {"kind": "binary", "classes": ("control", "ad"), "positive": "ad", "source": "tests"}


@cache
def disease(name: str) -> DiseaseSpec:
    """A spec of the catalogue; where it has more than two classes, with two. Nothing lies outside, as in `lung_nodule`, and nothing is
    harmonised or fused: answers are computed by hand."""
    spec = DiseaseSpec.from_toml(CATALOGUE / f"{name}.toml")
    changes: dict[str, Any] = {} if len(spec.target.classes) == 2 else {"target": TWO, "metrics": ("auc",), "operating_point": {}}
    return DiseaseSpec.model_validate(spec.model_dump() | {"abstain": {"outside": 0}, "covariates": (), "normalise": {"method": "range"}} | changes)


def package(folder: Path, name: str) -> ModelPackage:
    """A package of the disease."""
    return build(folder, disease(name), reference({"0123456789abcdef": ("MAKER", "MODEL")}, patients=2))


def pixels(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth colours with some noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    base = 90 + 60 * np.sin(rows / 9)[..., None] + 40 * np.cos(columns / 7)[..., None] * np.array([1, 0.5, 0.2])[:channels]
    return np.clip(base + rng.normal(0, 8, base.shape), 0, 255).astype(np.uint8)


def picture(kind: str = "PNG", *, height: int = 96, width: int = 80, exif: dict[int, str] | None = None, seed: int = 0) -> bytes:
    """A photograph."""
    from PIL import Image

    out = io.BytesIO()
    marks = Image.Exif()
    for tag, value in (exif or {}).items():
        marks[tag] = value
    Image.fromarray(pixels(height, width, seed=seed)).save(out, kind, exif=marks)
    return out.getvalue()


def head(*, shape: tuple[int, int, int] = (40, 48, 40), mm: float = 4.0) -> NDArray[np.int16]:
    """(i, j, k): a bright ball in air."""
    grid = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in grid)) * mm
    rng = np.random.default_rng(1)
    return np.clip(np.where(radius < 70, 700 + 100 * np.sin(radius / 9), 20) + rng.normal(0, 8, shape), 0, 2000).astype(np.int16)


def nifti(*, packed: bool = False, shape: tuple[int, int, int] = (40, 48, 40), mm: float = 4.0) -> bytes:
    """A head."""
    import nibabel

    affine = np.diag([mm, mm, mm, 1.0])
    affine[:3, 3] = -mm * (np.array(shape) - 1) / 2
    raw = nibabel.Nifti1Image(head(shape=shape, mm=mm), affine).to_bytes()
    return gzip.compress(raw, 1) if packed else raw


def nifti_claim(shape: tuple[int, int, int], data: bytes, *, datatype: int = 64, bits: int = 64) -> bytes:
    """A NIfTI-1 header that claims `shape`, and `data` behind it."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *shape, 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, datatype, bits)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<f", header, 108, 352)
    header[123] = 2
    struct.pack_into("<hh", header, 252, 0, 1)
    for row in range(3):
        struct.pack_into("<4f", header, 280 + 16 * row, *(1.0 if column == row else 0.0 for column in range(4)))
    header[344:348] = b"n+1\0"
    return bytes(header) + data


def recording(seconds: float = 12.0, *, label: bool = True, head_lines: str = "", rate: float = 64.0) -> bytes:
    """A walk: nine channels of a sine on gravity."""
    t = np.arange(1, int(seconds * rate) + 1) / rate
    values = 600 + 500 * np.sin(2 * np.pi * 2 * t[:, None] - np.deg2rad(20 * np.arange(9)))
    names = "time,A0,A1,A2,U0,U1,U2,T1,T2,T3" + (",N" if label else "")
    lines = [",".join([f"{1000 * now:.0f}", *(f"{v:.1f}" for v in row), *(["1"] if label else [])]) for now, row in zip(t, values, strict=True)]
    return (head_lines + "\n".join([names, *lines]) + "\n").encode()


def table(rows: int = 3) -> bytes:
    """As scikit-learn ships it."""
    rng = np.random.default_rng(2)
    lines = [",".join([*(f"{v:.4f}" for v in rng.uniform(0, 100, 30)), str(n % 2)]) for n in range(rows)]
    return "\n".join([f"{rows},30,malignant,benign", *lines]).encode() + b"\n"


def pixel_table(rows: int = 2) -> bytes:
    """As HAM10000's."""
    rng = np.random.default_rng(3)
    lines = [",".join(map(str, rng.integers(0, 256, 64))) + ",6" for _ in range(rows)]
    return "\n".join([",".join([*(f"pixel{n:04d}" for n in range(64)), "label"]), *lines]).encode() + b"\n"


def photograph_dicom(image: NDArray[np.uint8] | None = None, *, modality: str = "OP", **changes: Any) -> bytes:
    """An ophthalmic photograph as DICOM."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, OphthalmicPhotography8BitImageStorage

    image = pixels(96, 80) if image is None else image
    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = OphthalmicPhotography8BitImageStorage
    d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID = "2.25.11"
    d.StudyInstanceUID, d.SeriesInstanceUID = "2.25.12", "2.25.13"
    d.PatientName, d.PatientID = "Miller^Jonathan", "PID-4711-XYZ"
    d.Modality, d.Manufacturer, d.ManufacturerModelName, d.DeviceSerialNumber = modality, "TOPCON", "NW400", "SN-12345"
    d.Rows, d.Columns = image.shape[:2]
    d.SamplesPerPixel, d.PhotometricInterpretation, d.PlanarConfiguration = 3, "RGB", 0
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 8, 8, 7, 0
    d.PixelData = image.tobytes()
    for name, value in changes.items():
        setattr(d, name, value)
    out = io.BytesIO()
    d.save_as(out, enforce_file_format=True)
    return out.getvalue()


def mr_slices(*, shape: tuple[int, int, int] = (40, 48, 40), mm: float = 4.0) -> list[bytes]:
    """The same head as `nifti`, as single-frame MR images, last slice first. NIfTI's x and y are DICOM's, negated."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    volume = head(shape=shape, mm=mm)
    found = []
    for k in reversed(range(shape[2])):
        d = Dataset()
        d.file_meta = FileMetaDataset()
        d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = MRImageStorage
        d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID = f"2.25.2{k:03d}"
        d.StudyInstanceUID, d.SeriesInstanceUID = "2.25.21", "2.25.22"
        d.PatientName, d.PatientID, d.Modality, d.Manufacturer = "Miller^Jonathan", "PID-4711-XYZ", "MR", "SIEMENS"
        d.ManufacturerModelName, d.DeviceSerialNumber = "Skyra", "SN-12345"
        d.PixelSpacing, d.SliceThickness, d.ImageOrientationPatient = [mm, mm], str(mm), [1, 0, 0, 0, 1, 0]
        first = -mm * (np.array(shape) - 1) / 2
        d.ImagePositionPatient = [float(first[0]), float(first[1]), float(first[2] + k * mm)]
        d.Rows, d.Columns = shape[1], shape[0]
        d.SamplesPerPixel, d.PhotometricInterpretation, d.InstanceNumber = 1, "MONOCHROME2", str(k + 1)
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
        # Columns run to the patient's left, rows to the back; i and j of the NIfTI head run to the right and to the front.
        d.PixelData = np.ascontiguousarray(volume[::-1, ::-1, k].T).astype("<u2").tobytes()
        d["PixelData"].VR = "OW"
        out = io.BytesIO()
        d.save_as(out, enforce_file_format=True)
        found.append(out.getvalue())
    return found


def corner() -> NDArray[np.uint8]:
    """(480, 672, 3) at 1 micron: tissue over tiles 2 to 7 from above and 1 to 12 from the left, brighter (tumour to the small network) in tiles
    2 to 3 from above and 10 to 12 from the left, in the upper right corner."""
    image = np.full((480, 672, 3), 245, dtype=np.uint8)
    image[96:384, 48:624] = (70, 30, 55)
    image[96:192, 480:624] = (120, 50, 95)
    return image


def slide(folder: Path, *, side: int = 480, claims: int | None = None, image: NDArray[np.uint8] | None = None) -> bytes:
    """A pyramidal TIFF of two levels at 1 and 2 microns: glass, and tissue from a fifth to four fifths of each side.

    Args:
        image: (H, W, 3) in place of that.
        claims: What level 0 says of its width and height, instead of the truth; all its tiles are then the same few bytes.
    """
    import tifffile

    if image is None:
        image = np.full((side, side, 3), 245, dtype=np.uint8)
        inner = slice(side // 5, side - side // 5)
        tissue = pixels(side, side, seed=5)[inner, inner].astype(np.int16)
        image[inner, inner] = np.clip(tissue * np.array([1.0, 0.4, 0.8]), 40, 220).astype(np.uint8)
    path = folder / "slide.tif"
    with tifffile.TiffWriter(path) as tiff:
        for n in range(2):
            resolution = (1e4 / 2**n, 1e4 / 2**n)
            tiff.write(
                image[:: 2**n, :: 2**n], tile=(64, 64), photometric="rgb", compression="deflate", metadata=None, software=False,
                subfiletype=1 if n else 0, resolution=resolution, resolutionunit="CENTIMETER",
            )  # fmt: skip
    if claims is not None:
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            tags: Any = tiff.pages[0].tags  # pyright: ignore[reportAttributeAccessIssue]
            count = (-(-claims // 64)) ** 2
            for name, value in (("ImageWidth", claims), ("ImageLength", claims), ("TileOffsets", None), ("TileByteCounts", None)):
                tags[name].overwrite(value or (tags[name].value[0],) * count)
    return path.read_bytes()
