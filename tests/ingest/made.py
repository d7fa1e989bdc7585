"""DICOM series and readers' marks for the tests of ingest: small, written by pydicom, everything about them known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.phantoms.lidc_xml import Outline, Session, lidc_xml
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec
from components.ingest.deidentify import safe_path

EXPLICIT, JPEG_2000 = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90"
ROOT = Path(__file__).parents[2]
KEY = "a key that only the tests know"
PSEUDONYMISER = Pseudonymiser(KEY.encode())


def hidden(path: str) -> str:
    """A path of a source as it stands in quarantine: words of the vocabulary, keyed hashes for all else."""
    return safe_path(path, set(), PSEUDONYMISER)


def lung_nodule(**changes: dict[str, Any]) -> DiseaseSpec:
    """The catalogue's lung-nodule, parts of it changed: `lung_nodule(limits={"quarantine_share": 1})`."""
    raw = DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / "lung-nodule.toml").model_dump(mode="json")
    for part, values in changes.items():
        raw[part] = {**raw[part], **values}
    return DiseaseSpec.model_validate(raw)


def plane(k: int, size: int = 64) -> NDArray[np.int16]:
    """Slice k in HU: row and column can be read off the values, k too."""
    rows, columns = np.mgrid[:size, :size]
    return (-900 + 10 * k + rows + 2 * columns).astype(np.int16)


def dataset(series: str = "1.2.3", k: int = 0, hu: NDArray[Any] | None = None, **changes: Any) -> Any:
    """One CT slice at z = 2 k mm; `changes` are keywords of DICOM and their values, None to leave one out."""
    from pydicom.dataset import Dataset, FileMetaDataset

    hu = plane(k) if hu is None else hu
    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = EXPLICIT
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = f"{series}.{k + 1}"
    d.StudyInstanceUID, d.SeriesInstanceUID = f"{series}.0", series
    d.Modality, d.PatientID, d.PatientName = "CT", f"P{series}", "Doe^Jane"
    d.Manufacturer, d.ManufacturerModelName, d.DeviceSerialNumber = "SIEMENS", "Sensation 16", "123"
    d.StudyDate, d.StudyTime = "20240229", "101112"
    d.ImagePositionPatient, d.ImageOrientationPatient = [0, 0, 2 * k], [1, 0, 0, 0, 1, 0]
    d.PixelSpacing, d.InstanceNumber = [0.7, 0.7], k + 1
    d.Rows, d.Columns = hu.shape
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
    d.RescaleSlope, d.RescaleIntercept = 1, -1024
    d.PixelData = (hu.astype(np.int32) + 1024).astype("<u2").tobytes()
    for keyword, value in changes.items():
        if value is None:
            delattr(d, keyword)
        else:
            setattr(d, keyword, value)
    return d


def save(d: Any, path: Path, *, compress: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if compress:
        d.compress(compress, generate_instance_uid=False)
    d.save_as(path, enforce_file_format=True)
    return path


def square(row: int, column: int, half: int) -> list[tuple[int, int]]:
    """A closed square outline in (x, y), its centre at (row, column)."""
    corners = [(-half, -half), (half, -half), (half, half), (-half, half), (-half, -half)]
    return [(column + x, row + y) for x, y in corners]


def marks(series: str, nodules: list[tuple[int, int, int, int, list[int]]], *, extent: int = 1) -> str:
    """XML of readers who all see all nodules: (slice, row, column, half side, malignancy of each reader)."""
    sessions = [Session() for _ in range(max(len(n[4]) for n in nodules))]
    for number, (k, row, column, half, ratings) in enumerate(nodules):
        for session, rating in zip(sessions, ratings, strict=False):
            outlines = [
                Outline(z_mm=2.0 * j, sop_uid=f"{series}.{j + 1}", edge=square(row, column, half - abs(j - k)))
                for j in range(max(0, k - extent + 1), k + extent)
            ]
            session.nodules.append((f"N{number}", {"malignancy": rating}, outlines))
    return lidc_xml(study_uid=f"{series}.0", series_uid=series, sessions=sessions)


def collection(folder: Path, patients: int = 10, slices: int = 5, *, compress: str | None = None, **changes: Any) -> Path:
    """Patients with one series each and one nodule in its middle, benign and malignant in turns."""
    for p in range(patients):
        series = f"1.2.3.{p + 1}"
        for k in range(slices):
            save(dataset(series, k, **changes), folder / f"p{p:03d}" / f"{k:03d}.dcm", compress=compress)
        rating = [1, 2, 1, 2] if p % 2 else [4, 5, 5, 4]
        (folder / f"p{p:03d}" / "marks.xml").write_text(marks(series, [(slices // 2, 30, 34, 6, rating)]))
    return folder
