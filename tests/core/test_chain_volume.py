"""A CT series as one volume: order and place come from the headers, and what is no regular axial stack is an error that names the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from components.core.chain.ct_volume import read_volume
from components.core.errors import DataError
from components.core.phantoms.ct_series import Study, write_series
from components.core.phantoms.scanners import scanner
from components.core.pseudonym import Pseudonymiser
from tests.ingest.made import lung_nodule

SLICES, SIZE = 6, 16
KEY = Pseudonymiser(b"chain-tests-chain-tests")


def series(folder: Path, *, key: str = "alpha", name: str = "SYN-1") -> Path:
    """Slice k holds -800 + 10 k everywhere; 2 mm apart, pixels of 0.7 mm, first voxel at (-100, -90, -200)."""
    study = Study(name, f"chain/{name}", "20200101", "080000", "1", 100.0, 0.7, (-100.0, -90.0, -200.0))
    hu = np.broadcast_to((-800 + 10 * np.arange(SLICES, dtype=np.float32))[:, None, None], (SLICES, SIZE, SIZE))
    write_series(folder, hu, replace(scanner(key), spacing_mm=2.0), study)
    return folder


def read(folder: Path):
    return read_volume(folder, spec=lung_nodule(), pseudonymiser=KEY, workers=2)


@pytest.mark.parametrize("key", ["alpha", "gamma"])  # files from head to foot, and from foot to head
def test_slices_lie_in_the_order_of_their_position(tmp_path: Path, key: str):
    volume = read(series(tmp_path / "s", key=key))
    assert volume.hu[:, 8, 8].tolist() == [-800, -790, -780, -770, -760, -750]
    assert volume.step_mm == pytest.approx((2.0, 0.7, 0.7))
    assert volume.synthetic
    assert volume.files[0] == ("000.dcm" if key == "gamma" else "005.dcm")


def test_a_voxel_has_its_place_in_the_patient(tmp_path: Path):
    volume = read(series(tmp_path / "s"))
    assert volume.place_mm((0, 0, 0)) == pytest.approx((-100.0, -90.0, -200.0))
    assert volume.place_mm((3, 10, 5)) == pytest.approx((-100.0 + 5 * 0.7, -90.0 + 10 * 0.7, -200.0 + 3 * 2.0))


def test_an_image_turned_by_half_is_placed_by_its_directions(tmp_path: Path):
    """Rows run to the patient's right, columns to the front: the normal still points to the head."""
    folder = series(tmp_path / "s")
    for path in folder.glob("*.dcm"):
        change(path, lambda d: setattr(d, "ImageOrientationPatient", ["-1", "0", "0", "0", "-1", "0"]))
    assert read(folder).place_mm((1, 10, 5)) == pytest.approx((-100.0 - 5 * 0.7, -90.0 - 10 * 0.7, -198.0))


def change(path: Path, how: Callable[[Any], Any]) -> None:
    dataset = pydicom.dcmread(path)
    how(dataset)
    dataset.save_as(path, enforce_file_format=True)


def moved(z: str) -> Callable[[Any], Any]:
    return lambda d: setattr(d, "ImagePositionPatient", ["-100", "-90", z])


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "second slice": (moved("-200"), "a second slice at one position"),
    "uneven": (moved("-195.5"), "slices at uneven distances"),
    "orientation": (lambda d: setattr(d, "ImageOrientationPatient", ["1", "0", "0", "0", "0", "-1"]), "another orientation than its series"),
    "mirrored": (lambda d: setattr(d, "ImageOrientationPatient", ["0", "1", "0", "-1", "0", "0"]), "another orientation than its series"),
    "spacing": (lambda d: setattr(d, "PixelSpacing", ["0.7", "0.9"]), "another size or spacing than its series"),
    "no spacing": (lambda d: d.__delattr__("PixelSpacing"), "no pixel spacing"),
    "no place": (lambda d: d.__delattr__("ImagePositionPatient"), "no position or orientation"),
    "aside": (lambda d: setattr(d, "ImagePositionPatient", ["-95", "-90", "-196"]), "slices stand aside of one another"),
    "damaged": (lambda d: setattr(d, "PixelData", d.PixelData[:20]), "truncated: pixels end early"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_one_wrong_slice_is_an_error_that_names_a_file(tmp_path: Path, name: str):
    how, reason = WRONG[name]
    folder = series(tmp_path / "s")
    change(folder / "003.dcm", how)
    with pytest.raises(DataError, match=reason) as error:
        read(folder)
    assert ".dcm" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_series_whose_files_lie_there_twice_is_read_once(tmp_path: Path):
    folder = series(tmp_path / "s")
    plain = read(folder)
    for path in sorted(folder.glob("*.dcm")):
        (folder / f"again-{path.name}").write_bytes(path.read_bytes())
    twice = read(folder)
    np.testing.assert_array_equal(twice.hu, plain.hu)
    assert twice.files == plain.files
    assert twice.ignored == {**plain.ignored, "a byte-equal copy of another file": len(plain.files)}
    change(folder / "again-003.dcm", lambda d: setattr(d, "RescaleIntercept", "-1000"))
    with pytest.raises(DataError, match="two images under one SOP instance UID"):
        read(folder)


def test_a_missing_slice_is_an_error_that_names_the_one_after_it(tmp_path: Path):
    folder = series(tmp_path / "s", key="gamma")
    (folder / "002.dcm").unlink()
    with pytest.raises(DataError, match=r"003\.dcm: slices missing before this one; got 4\.00 mm; allowed: 2\.00 mm"):
        read(folder)


def test_wholly_other_series_are_refused(tmp_path: Path):
    folder = series(tmp_path / "two" / "a")
    series(tmp_path / "two" / "b", name="SYN-2")
    with pytest.raises(DataError, match="several CT series in one folder; got 2"):
        read(tmp_path / "two")
    for path in folder.glob("*.dcm"):
        change(path, lambda d: setattr(d, "ImageOrientationPatient", ["1", "0", "0", "0", "0", "-1"]))
    with pytest.raises(DataError, match="slices are not axial"):
        read(folder)
    for path in folder.glob("*.dcm"):
        change(path, lambda d: setattr(d, "Modality", "MR"))
    with pytest.raises(DataError, match="no CT images; got 6 of another modality than the spec's"):
        read(folder)


def test_slices_too_far_apart_are_refused(tmp_path: Path):
    folder = series(tmp_path / "s", key="gamma")
    for k, path in enumerate(sorted(folder.glob("*.dcm"))):
        change(path, moved(str(-200 + 5 * k)))
    with pytest.raises(DataError, match=r"too far apart to find nodules; got 5\.00 mm"):
        read(folder)


def test_files_that_are_no_images_are_counted_and_left_out(tmp_path: Path):
    folder = series(tmp_path / "s")
    (folder / "notes.txt").write_text("nothing to see here, and long enough to be read as a header of something else" * 4)
    assert read(folder).ignored == {"not a DICOM file": 1}
