"""Small studies for the loop's tests: a chest series whose nodule is known without searching, photographs of an eye, and any number of oddities."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.chain.ct_volume import volume_of
from components.core.chain.findings import Finding
from components.core.pseudonym import Pseudonymiser
from serving import nodules
from serving.pacs.answer import Item, Place, StudyAnswer, source
from serving.predictor import Predictor
from tests.serving import small_bodies
from tests.serving.small_dicom import PATIENT_ID, PERSON

SIZE, MIDDLE, RADIUS = 96, (4, 48, 48), 8
KEY = "pacs-tests-pacs-tests"


def chest(
    study: str = "2.25.71", series: str = "2.25.72", *, slices: int = 9, step_mm: float = 2.0, leave_out: Sequence[int] = (), **changes: Any
) -> list[bytes]:
    """CT slices with a ball of 40 HU in lung; `changes` set attributes of all of them."""
    z, y, x = np.ogrid[:slices, :SIZE, :SIZE]
    ball = (z - MIDDLE[0]) ** 2 * step_mm**2 + ((y - MIDDLE[1]) * 0.7) ** 2 + ((x - MIDDLE[2]) * 0.7) ** 2 < (RADIUS * 0.7) ** 2
    noise = np.random.default_rng(1).normal(-850, 30, (slices, SIZE, SIZE))
    hu = np.where(ball, 40, noise).astype(np.int16)
    return [written(ct(study, series, k, step_mm, hu[k], changes)) for k in range(slices) if k not in leave_out]


def ct(study: str, series: str, k: int, step_mm: float, hu: NDArray[np.int16], changes: dict[str, Any]) -> Any:
    d = common(study, series, f"{series}.{k + 1}", "1.2.840.10008.5.1.4.1.1.2", "CT")
    d.ImageType, d.BodyPartExamined, d.KVP, d.SliceThickness = ["ORIGINAL", "PRIMARY", "AXIAL"], "CHEST", "120", "2"
    d.ImagePositionPatient, d.ImageOrientationPatient = [0, 0, k * step_mm], [1, 0, 0, 0, 1, 0]
    d.FrameOfReferenceUID, d.PositionReferenceIndicator = f"{study}.9", ""
    d.PixelSpacing, d.InstanceNumber, d.AcquisitionNumber = [0.7, 0.7], str(k + 1), "1"
    d.RescaleSlope, d.RescaleIntercept, d.RescaleType = "1", "-1024", "HU"
    pixels(d, (hu.astype(np.int32) + 1024).astype("<u2"), bits=16)
    return changed(d, changes)


def head(
    study: str = "2.25.61", series: str = "2.25.62", *, slices: int = 104, step_mm: float = 1.6, leave_out: Sequence[int] = (), **changes: Any
) -> list[bytes]:
    """A sagittal 3D T1 series of `small_bodies.head`: slices from the patient's right to the left, rows from head to foot."""
    volume = small_bodies.head(shape=(slices, 72, 60), mm=2.5)  # (right to left, back to front, foot to head)
    return [written(mr(study, series, k, step_mm, volume[k, ::-1, ::-1].T, changes)) for k in range(slices) if k not in leave_out]


def mr(study: str, series: str, k: int, step_mm: float, values: NDArray[np.int16], changes: dict[str, Any]) -> Any:
    d = common(study, series, f"{series}.{k + 1}", "1.2.840.10008.5.1.4.1.1.4", "MR")
    d.ImageType, d.BodyPartExamined, d.SeriesDescription = ["ORIGINAL", "PRIMARY", "M", "ND"], "HEAD", "t1_mprage_sag_p2_iso"
    d.ScanningSequence, d.SequenceVariant, d.ScanOptions, d.MRAcquisitionType = ["GR", "IR"], ["SP", "MP"], "IR", "3D"
    d.RepetitionTime, d.EchoTime, d.EchoTrainLength, d.InversionTime, d.SliceThickness = "2300", "2.98", "1", "900", str(step_mm)
    d.ImagePositionPatient, d.ImageOrientationPatient = [k * step_mm, -90, 75], [0, 1, 0, 0, 0, -1]
    d.FrameOfReferenceUID, d.PositionReferenceIndicator = f"{study}.9", ""
    d.PixelSpacing, d.InstanceNumber, d.PixelRepresentation = [2.5, 2.5], str(k + 1), 0
    pixels(d, np.ascontiguousarray(values).astype("<u2"), bits=16)
    return changed(d, changes)


def photograph(study: str = "2.25.81", side: str = "R", *, seed: int = 0, number: int = 1, **changes: Any) -> bytes:
    """An Ophthalmic Photography 8 Bit image: a disc with dots."""
    rng = np.random.default_rng(seed)
    y, x = np.ogrid[:120, :160]
    image = np.zeros((120, 160, 3), np.uint8)
    image[(y - 60) ** 2 + (x - 80) ** 2 < 55**2] = (180, 90, 40)
    for row, column in rng.integers(30, 90, (12, 2)):
        image[row : row + 3, column + 20 : column + 23] = (90, 20, 10)
    d = common(study, f"{study}.1", f"{study}.1.{number}", "1.2.840.10008.5.1.4.1.1.77.1.5.1", "OP")
    d.ImageType, d.ImageLaterality, d.InstanceNumber, d.PatientOrientation = ["ORIGINAL", "PRIMARY"], side, str(number), ["L", "F"]
    d.BurnedInAnnotation = "NO"
    pixels(d, image, bits=8)
    return written(changed(d, changes))


def common(study: str, series: str, sop: str, sop_class: str, modality: str) -> Any:
    from pydicom.dataset import Dataset, FileMetaDataset

    d: Any = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = sop_class
    d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID = sop
    d.StudyInstanceUID, d.SeriesInstanceUID, d.StudyID, d.SeriesNumber = study, series, "7", "1"
    d.PatientName, d.PatientID, d.PatientBirthDate, d.PatientSex = PERSON, PATIENT_ID, "19610203", "M"
    d.StudyDate = d.SeriesDate = d.AcquisitionDate = d.ContentDate = "20240102"
    d.StudyTime = d.SeriesTime = d.AcquisitionTime = d.ContentTime = "101112"
    d.AccessionNumber, d.ReferringPhysicianName = "ACC-0815", "Referrer^Rita"
    d.Modality, d.Manufacturer, d.ManufacturerModelName, d.DeviceSerialNumber, d.StationName = modality, "SIEMENS", "Force", "SN-12345", "CT1"
    return d


def pixels(d: Any, values: NDArray[Any], *, bits: int) -> None:
    d.Rows, d.Columns = values.shape[:2]
    d.SamplesPerPixel = 1 if values.ndim == 2 else 3
    d.PhotometricInterpretation = "MONOCHROME2" if values.ndim == 2 else "RGB"
    if values.ndim == 3:
        d.PlanarConfiguration = 0
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = bits, bits, bits - 1, 0
    d.PixelData = values.tobytes()
    d["PixelData"].VR = "OW" if bits == 16 else "OB"


def changed(d: Any, changes: dict[str, Any]) -> Any:
    for name, value in changes.items():
        setattr(d, name, value)
    if "SOPClassUID" in changes:
        d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID
    return d


def written(d: Any) -> bytes:
    out = io.BytesIO()
    d.save_as(out, enforce_file_format=True)
    return out.getvalue()


@dataclass(frozen=True)
class KnownNodule:
    """Stands where the chain stands, and finds the ball where it was drawn: everything else on the way is the real thing."""

    model: Predictor
    pseudonymiser: Pseudonymiser
    blind: bool = False

    def answer(self, files: Sequence[bytes]) -> StudyAnswer:
        named = {f"image {n}": data for n, data in enumerate(files, 1)}
        volume = volume_of(named, where="series", spec=self.model.spec, pseudonymiser=self.pseudonymiser)
        if self.blind:
            images = tuple(source(named[n]) for n in volume.files)
            return StudyAnswer(items=(), sources=images, about="series", synthetic=False, tools=(("known nodule", "1", "nothing"),))
        k, i, j = MIDDLE
        mask = volume.hu[k - 2 : k + 3, i - 10 : i + 11, j - 10 : j + 11] > -200
        place = Place(volume.place_mm(MIDDLE), 2 * RADIUS * 0.7, 700.0, 0.9, (k - 2, i - 10, j - 10), mask)
        found: Any = Finding(place.position_mm, (k, float(i), float(j)), place.diameter_mm, place.volume_mm3, 0.9, None, np.zeros(0))  # type: ignore[arg-type]
        queries = nodules.queries(volume, [found], self.model.spec)
        answered = self.model.work(queries)
        items = (Item(answered[0].answer, tuple(range(k - 2, k + 3)), place),)
        return StudyAnswer(
            items=items, sources=tuple(source(named[n]) for n in volume.files), about="series", synthetic=self.model.package.synthetic,
            tools=(("known nodule", "1", "where it was drawn"),), queries=tuple(queries),
            answered=tuple(answered),
        )  # fmt: skip
