"""A small whole slide as DICOM, made file by file: each level of the pyramid is one object of tiles (TILED_FULL), with a person in its header."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PLAIN, JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"
SERIES = "2.25.94"


def level(image: NDArray[np.uint8], mpp: float, number: int, *, syntax: str = PLAIN, tile: int = 64, **changes: Any) -> bytes:
    """One level.

    Args:
        image: (H, W, 3).
        mpp: Microns of a pixel.
        number: From 1; the first is the original.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.sequence import Sequence

    height, width = image.shape[:2]
    rows, columns = -(-height // tile), -(-width // tile)
    whole = np.full((rows * tile, columns * tile, 3), 255, np.uint8)
    whole[:height, :width] = image
    frames = [whole[r * tile : (r + 1) * tile, c * tile : (c + 1) * tile] for r in range(rows) for c in range(columns)]
    d: Any = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = syntax
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID = f"{SERIES}.{number}"
    d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = "2.25.91", SERIES, "2.25.92"
    d.PatientName, d.PatientID = "Miller^Jonathan", "PID-4711-XYZ"
    d.Modality, d.Manufacturer, d.ManufacturerModelName, d.DeviceSerialNumber, d.SoftwareVersions = "SM", "Aperio", "AT2", "SN-12345", "1.0"
    d.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"] if number == 1 else ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
    d.InstanceNumber, d.DimensionOrganizationType, d.NumberOfFrames = str(number), "TILED_FULL", len(frames)
    d.Rows = d.Columns = tile
    d.TotalPixelMatrixRows, d.TotalPixelMatrixColumns, d.TotalPixelMatrixFocalPlanes, d.NumberOfOpticalPaths = height, width, 1, 1
    d.ImagedVolumeWidth, d.ImagedVolumeHeight = width * mpp / 1000, height * mpp / 1000
    d.SamplesPerPixel, d.PlanarConfiguration, d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 3, 0, 8, 8, 7, 0
    measures, shared, path = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [mpp / 1000, mpp / 1000], "0.001"
    shared.PixelMeasuresSequence, path.OpticalPathIdentifier = Sequence([measures]), "1"
    d.SharedFunctionalGroupsSequence, d.OpticalPathSequence = Sequence([shared]), Sequence([path])
    if syntax == JPEG:
        d.PhotometricInterpretation, d.PixelData = "YBR_FULL_422", encapsulate([_jpeg(frame) for frame in frames])
        d["PixelData"].is_undefined_length = True
    else:
        d.PhotometricInterpretation, d.PixelData = "RGB", b"".join(frame.tobytes() for frame in frames)
    d["PixelData"].VR = "OB"
    for name, value in changes.items():
        setattr(d, name, value)
    out = io.BytesIO()
    d.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _jpeg(frame: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(frame).save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


def files(image: NDArray[np.uint8], *, syntax: str = PLAIN, **changes: Any) -> list[bytes]:
    """Two levels at 1 and 2 microns."""
    return [level(image[:: 2**n, :: 2**n], 1.0 * 2**n, n + 1, syntax=syntax, **changes) for n in range(2)]


def folder(place: Path, content: list[bytes]) -> Path:
    """As a reference's files lie: numbered, without an ending."""
    place.mkdir()
    for n, data in enumerate(content):
        (place / f"{n:05d}").write_bytes(data)
    return place
