"""A volume in HU as the DICOM series that one simulated scanner would send: its header conventions, storage and transfer syntax.

Every object says that it is synthetic: Synthetic Data (0008,001C) = YES, and makers, names and ids that start with SYN.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.phantoms.scanners import JPEG_2000, JPEG_LS, RLE, Scanner

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
ENCODER = {RLE: "pylibjpeg", JPEG_2000: "pylibjpeg", JPEG_LS: "pyjpegls"}
FLOOR_HU = -1800


@dataclass(frozen=True)
class Study:
    """Who and when: `patient` and `uid_seed` decide all identifiers, `date` and `time` are DA and TM strings."""

    patient: str
    uid_seed: str
    date: str
    time: str
    software: str
    mas: float
    pixel_mm: float
    origin_mm: tuple[float, float, float]

    def uid(self, *parts: object) -> str:
        """A UID under 2.25 made from the study's seed (PS3.5 B.2 allows any 128-bit integer there)."""
        text = "/".join((self.uid_seed, *(str(p) for p in parts)))
        return f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], 'big')}"

    def sop_uid(self, k: int) -> str:
        """SOP instance of slice `k`, counted from the lowest z."""
        return self.uid("image", k)


def write_series(folder: Path, volume_hu: NDArray[np.float32], scanner: Scanner, study: Study) -> None:
    """Write one file for each slice, `000.dcm` being instance number 1.

    Args:
        volume_hu: (slices, size, size), slice 0 at the lowest z.
    """
    folder.mkdir(parents=True, exist_ok=True)
    slices, size, _ = volume_hu.shape
    stored = store(volume_hu, scanner)
    if scanner.padding is not None:
        middle = (size - 1) / 2
        outside = np.hypot(*np.ogrid[-middle : middle + 1, -middle : middle + 1]) > size / 2
        stored[:, outside] = scanner.padding
    dataset = _header(scanner, study, size=size)
    for number in range(slices):
        k = number if scanner.numbering == "feet-first" else slices - 1 - number
        z = f"{study.origin_mm[2] + k * scanner.spacing_mm:g}"
        dataset.InstanceNumber, dataset.SliceLocation = str(number + 1), z
        dataset.ImagePositionPatient = [f"{study.origin_mm[0]:g}", f"{study.origin_mm[1]:g}", z]
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = study.sop_uid(k)
        if scanner.transfer_syntax == EXPLICIT:
            dataset.PixelData = stored[k].tobytes()
            dataset["PixelData"].VR = "OW"
        else:
            dataset.file_meta.TransferSyntaxUID = EXPLICIT
            dataset.compress(scanner.transfer_syntax, stored[k], encoding_plugin=ENCODER[scanner.transfer_syntax], generate_instance_uid=False)
        dataset.save_as(folder / f"{number:03d}.dcm", enforce_file_format=True)


def store(volume_hu: NDArray[np.float32], scanner: Scanner) -> NDArray[Any]:
    """HU -> what the scanner stores: rescaled, rounded, limited to its bits; nothing below -1800 HU."""
    values = (np.maximum(volume_hu, np.float32(FLOOR_HU)) - np.float32(scanner.intercept)) / np.float32(scanner.slope)
    np.rint(values, out=values)
    low, high = (-(2 ** (scanner.bits_stored - 1)), 2 ** (scanner.bits_stored - 1) - 1) if scanner.signed else (0, 2**scanner.bits_stored - 1)
    return np.clip(values, low, high, out=values).astype("<i2" if scanner.signed else "<u2")


def _header(scanner: Scanner, study: Study, *, size: int) -> Any:
    """What all slices of a series share."""
    from pydicom.dataset import Dataset, FileMetaDataset

    meta: Any = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CT_IMAGE
    meta.TransferSyntaxUID = EXPLICIT
    d = Dataset()
    d.file_meta = meta
    d.SpecificCharacterSet = "ISO_IR 100"
    d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    d.SyntheticData = "YES"
    d.SOPClassUID = CT_IMAGE
    d.StudyDate = d.SeriesDate = d.AcquisitionDate = d.ContentDate = study.date
    d.StudyTime = d.SeriesTime = d.AcquisitionTime = d.ContentTime = study.time
    d.AccessionNumber = ""
    d.Modality = "CT"
    d.Manufacturer, d.ManufacturerModelName = scanner.manufacturer, scanner.model
    d.InstitutionName = "SYNTHETIC"
    d.ReferringPhysicianName = ""
    d.StationName = scanner.station
    d.SeriesDescription = "SYNTHETIC chest"
    d.PatientName, d.PatientID = f"SYNTHETIC^{study.patient}", study.patient
    d.PatientBirthDate, d.PatientSex = "", ""
    d.BodyPartExamined = "CHEST"
    d.SliceThickness = f"{scanner.thickness_mm:g}"
    d.KVP = str(scanner.kvp)
    d.SpacingBetweenSlices = f"{scanner.spacing_mm:g}"
    d.DeviceSerialNumber, d.SoftwareVersions = scanner.serial, study.software
    d.Exposure = str(round(study.mas))
    d.ConvolutionKernel = scanner.kernel
    d.PatientPosition = "HFS"
    d.StudyInstanceUID, d.SeriesInstanceUID = study.uid("study"), study.uid("series")
    d.StudyID, d.SeriesNumber, d.AcquisitionNumber = "1", "2", "1"
    d.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    d.FrameOfReferenceUID = study.uid("frame")
    d.PositionReferenceIndicator = ""
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.Rows = d.Columns = size
    d.PixelSpacing = [f"{study.pixel_mm:g}"] * 2
    d.BitsAllocated, d.BitsStored, d.HighBit = 16, scanner.bits_stored, scanner.bits_stored - 1
    d.PixelRepresentation = int(scanner.signed)
    if scanner.padding is not None:
        d.PixelPaddingValue = scanner.padding
    d.WindowCenter, d.WindowWidth = "-600", "1500"
    d.RescaleIntercept, d.RescaleSlope, d.RescaleType = f"{scanner.intercept:g}", f"{scanner.slope:g}", "HU"
    return d
