"""One CT slice as DICOM bytes, with a person in every field that a careless server would repeat."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

PERSON, PATIENT_ID, FREE_TEXT = "Miller^Jonathan", "PID-4711-XYZ", "fell from a ladder"
MARKS = ("miller", "jonathan", "pid-4711", "4711-xyz", "ladder", "19610203", "sn-12345")
"""Lower-case pieces of what the header plants; none may come back or be kept. Each is longer or has other letters than digits of chance can make:
a log of many figures and hashes holds every number of four digits sooner or later."""


def ct_slice(
    hu: NDArray[np.int16], *, serial: str = "SN-12345", maker: str = "SIEMENS", model: str = "SOMATOM Force", pixel_mm: float = 0.7, **changes: Any
) -> bytes:
    """A CT Image Storage object with `hu` as rescaled 16-bit pixels; `changes` set or (None) delete attributes."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = CTImageStorage
    d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID = "2.25.1"
    d.StudyInstanceUID, d.SeriesInstanceUID = "2.25.2", "2.25.3"
    d.PatientName, d.PatientID, d.PatientBirthDate, d.ImageComments = PERSON, PATIENT_ID, "19610203", FREE_TEXT
    d.Modality, d.Manufacturer, d.ManufacturerModelName, d.DeviceSerialNumber, d.StationName = "CT", maker, model, serial, "CT1"
    d.StudyDate = d.AcquisitionDate = "20240102"
    d.AcquisitionTime, d.KVP, d.SliceThickness = "101112", "120", "1.25"
    d.ImagePositionPatient, d.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    d.PixelSpacing, d.InstanceNumber = [pixel_mm, pixel_mm], "1"
    d.Rows, d.Columns = hu.shape
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
    d.RescaleSlope, d.RescaleIntercept, d.RescaleType = "1", "-1024", "HU"
    d.PixelData = (hu.astype(np.int32) + 1024).astype("<u2").tobytes()
    d["PixelData"].VR = "OW"
    for name, value in changes.items():
        if value is None:
            delattr(d, name)
        else:
            setattr(d, name, value)
    out = io.BytesIO()
    d.save_as(out, enforce_file_format=True)
    return out.getvalue()


def image(seed: int = 0, *, size: int = 200) -> NDArray[np.int16]:
    """Lung-like noise with a brighter disc in the middle, in HU; nowhere outside the spec's range."""
    rng = np.random.default_rng(seed)
    rows, columns = np.ogrid[:size, :size]
    hu = rng.normal(-700, 60, (size, size)) + 500.0 * (np.hypot(rows - size / 2, columns - size / 2) < 12)
    return np.clip(np.rint(hu), -940, 340).astype(np.int16)
