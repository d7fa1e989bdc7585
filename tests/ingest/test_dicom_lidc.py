"""From series and marks to a dataset: order, places, labels, quarantine, grouping, profiles."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.core.dataset import MANIFEST, SPLITS, Dataset
from components.core.errors import DataError
from components.core.spec import DiseaseSpec
from components.ingest.journal import Outcome
from components.ingest.readers.dicom_lidc import order
from components.ingest.step import ingest
from tests.core.test_dicom_image import as_bytes, enhanced
from tests.ingest.made import JPEG_2000, PSEUDONYMISER, collection, dataset, hidden, lung_nodule, marks, plane, save


def run(source: Path, out: Path, spec: DiseaseSpec | None = None, *, workers: int = 1) -> Dataset:
    ingest(spec or lung_nodule(), str(source), dataset=out / "dataset", features=out / "features", workers=workers)
    return Dataset(out / "dataset")


def one_series(folder: Path, *, nodules: list | None = None, slices: int = 9, extent: int = 1, **changes: object) -> Path:
    for k in range(slices):
        save(dataset("1.2.3", k, **changes), folder / f"{k}.dcm")
    (folder / "marks.xml").write_text(marks("1.2.3", nodules or [(4, 30, 34, 6, [4, 5, 5])], extent=extent))
    return folder


def reasons(found: Dataset) -> dict[str, str]:
    return dict(zip(found.quarantine["file"], found.quarantine["reason"], strict=True))


def test_a_sample_is_cut_where_the_readers_marked(tmp_path: Path):
    """The middle of the patch shows the slice and the place: -900 + 10 k + row + 2 column."""
    found = run(one_series(tmp_path / "in", nodules=[(4, 30, 34, 6, [4, 5, 5]), (6, 20, 12, 4, [1, 2, 1])]), tmp_path)
    rows = found.manifest
    assert sorted(rows["label"]) == [0, 1]
    patches = {label: found.read([i])[0, 0] for i, label in enumerate(rows["label"])}
    for label, (k, row, column) in {1: (4, 30, 34), 0: (6, 20, 12)}.items():
        middle = patches[label][25:27, 25:27]
        assert middle.mean() == pytest.approx(-900 + 10 * k + row + 2 * column, abs=0.5)
    assert patches[0][0, 0] == -1000  # the second nodule lies 12 pixels from the border: beyond it is air


def test_slices_are_ordered_by_position_whatever_numbers_and_names_say(tmp_path: Path):
    """Instance numbers are shuffled, names too; the marked image is found by its id and its neighbours by their place."""
    numbers = list(range(9))
    random.Random(1).shuffle(numbers)
    images = []
    for k in range(9):
        data = as_bytes(dataset("1.2.3", k, InstanceNumber=numbers[k]))
        images.append((numbers[k], header(data)))
    random.Random(2).shuffle(images)
    ordered = order(images, set(), 100, Outcome())
    assert [s.along for s in ordered] == [2.0 * k for k in range(9)]


def test_order_follows_the_normal_of_tilted_slices():
    """A gantry tilt: positions move in y and z; the normal decides."""
    turn = [1, 0, 0, 0, 0.8, 0.6]
    images = [
        (k, header(as_bytes(dataset("1.2.3", k, ImageOrientationPatient=turn, ImagePositionPatient=[0, 0.6 * k, 2.0 * k])))) for k in (3, 0, 2, 1)
    ]
    ordered = order(images, set(), 100, Outcome())
    assert [s.file for s in ordered] == [0, 1, 2, 3]
    assert np.allclose(np.diff([s.along for s in ordered]), 2.0 * 0.8 - 0.6 * 0.6)


def header(data: bytes):
    import io

    from components.core.imaging.header import read_header

    return read_header(io.BytesIO(data), size=len(data), spec=lung_nodule(), pseudonymiser=PSEUDONYMISER)


def test_the_slice_with_the_largest_mean_area_is_taken(tmp_path: Path):
    """Outlines shrink away from slice 4."""
    found = run(one_series(tmp_path / "in", extent=3), tmp_path)
    assert found.read([0])[0, 0, 25:27, 25:27].mean() == pytest.approx(-900 + 40 + 30 + 68, abs=0.5)


def test_repeats_gaps_and_other_orientations_go_to_quarantine(tmp_path: Path):
    source = one_series(tmp_path / "in", slices=12)
    (source / "8.dcm").unlink()
    again = dataset("1.2.3", 2, SOPInstanceUID="1.2.3.99")
    save(again, source / "again.dcm")
    save(dataset("1.2.3", 0, SOPInstanceUID="1.2.3.98", ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), source / "scout.dcm")
    save(dataset("1.2.3", 0, SOPInstanceUID="1.2.3.97", ImagePositionPatient=None), source / "nowhere.dcm")
    save(dataset("1.2.3", 0, hu=plane(0, 32), SOPInstanceUID="1.2.3.96", ImagePositionPatient=[0, 0, -2]), source / "small.dcm")
    found = run(source, tmp_path, lung_nodule(limits={"quarantine_share": 1}))
    assert reasons(found) == {
        hidden("9.dcm"): "slices missing before this one",
        hidden("again.dcm"): "a second slice at one position",
        hidden("scout.dcm"): "another orientation than its series",
        hidden("nowhere.dcm"): "no position or orientation",
        hidden("small.dcm"): "another size or spacing than its series",
    }
    assert len(found) == 1


def test_an_export_with_every_file_twice_is_no_damage(tmp_path: Path):
    """The samples of the files once; copies are listed, counted and no damage. Another file under one UID is damage, and both are."""
    spec = lung_nodule(limits={"quarantine_share": 0.0})
    plain = run(one_series(tmp_path / "in"), tmp_path / "a", spec)
    for path in sorted((tmp_path / "in").iterdir()):
        (tmp_path / "in" / "again").mkdir(exist_ok=True)
        (tmp_path / "in" / "again" / path.name).write_bytes(path.read_bytes())
    twice = run(tmp_path / "in", tmp_path / "b", spec)
    np.testing.assert_array_equal(twice.read([0]), plain.read([0]))
    assert list(twice.manifest["content_hash"]) == list(plain.manifest["content_hash"])
    assert set(reasons(twice).values()) == {"a byte-equal copy of another file"}
    assert len(reasons(twice)) == twice.info["provenance"]["notes"]["byte-equal copies"] == 10
    assert (twice.info["counts"]["quarantined"], twice.info["counts"]["skipped"]) == (0, 10)
    save(dataset("1.2.3", 1, hu=plane(1) + 1), tmp_path / "in" / "again" / "1.dcm")
    found = reasons(run(tmp_path / "in", tmp_path / "c", lung_nodule(limits={"quarantine_share": 1})))
    assert {file for file, reason in found.items() if reason == "two images under one SOP instance UID"} == {hidden("1.dcm"), hidden("again/1.dcm")}
    with pytest.raises(DataError, match="two images under one SOP instance UID"):
        run(tmp_path / "in", tmp_path / "d", spec)


def test_a_nodule_at_a_gap_is_left_out(tmp_path: Path):
    source = one_series(tmp_path / "in", nodules=[(4, 30, 34, 6, [4, 5, 5]), (7, 30, 34, 6, [1, 1, 1])], slices=12)
    (source / "8.dcm").unlink()
    found = run(source, tmp_path, lung_nodule(limits={"quarantine_share": 1}))
    assert found.manifest["label"].tolist() == [1]
    assert found.info["provenance"]["notes"]["nodules left out: at a gap"] == 1


def test_marks_without_their_slice_or_series_are_reported(tmp_path: Path):
    source = one_series(tmp_path / "in", nodules=[(4, 30, 34, 6, [4, 5, 5]), (11, 30, 34, 6, [1, 1, 1])])
    (source / "lost.xml").write_text(marks("9.9.9", [(1, 30, 34, 6, [4, 5, 5])]))
    found = run(source, tmp_path, lung_nodule(limits={"quarantine_share": 1}))
    assert reasons(found) == {
        hidden("marks.xml"): "marks on a slice that is missing",
        hidden("lost.xml"): "marks of a series that is not in the source",
    }
    assert len(found) == 1


def test_enhanced_ct_is_a_series_of_frames(tmp_path: Path):
    """One object, z from 0 downwards in steps of 5: the marks find their frame by z."""
    d = enhanced(5)
    source = tmp_path / "in"
    save(d, source / "multi.dcm")
    text = marks("1.2.3", [(0, 30, 34, 6, [4, 5, 5])]).replace("<imageZposition>0", "<imageZposition>-15")
    (source / "marks.xml").write_text(text)
    found = run(source, tmp_path)
    assert found.read([0])[0, 0, 25:27, 25:27].mean() == pytest.approx(-900 + 30 + 30 + 68 + 3, abs=3)


def test_manifest_is_whole_and_pseudonymous(tmp_path: Path):
    found = run(collection(tmp_path / "in", InstitutionName="General Hospital"), tmp_path)
    rows = found.manifest
    assert list(rows.columns) == list(MANIFEST)
    assert len(rows) == 10
    assert rows["group_id"].equals(rows["patient_id"])
    assert rows["patient_id"].nunique() == 10
    assert set(rows["split"]) == set(SPLITS)
    assert rows["device_key"].unique().tolist() == [PSEUDONYMISER.id("device", "SIEMENS", "Sensation 16", "123", "")]
    assert not rows["synthetic"].any()
    assert not found.info["synthetic"]
    assert found.info["provenance"]["deidentification"]["methods"].keys() == {"113100", "113107", "113109"}
    needed = ["sample_id", "series_id", "device_key", "label", "content_hash", "near_hash", "acquired_at", "acq_pixel_mm", "acq_rows"]
    assert not rows[needed].isna().any().any()


def test_profiles_come_from_train_and_val_and_begin_with_the_first_acquisition(tmp_path: Path):
    source = tmp_path / "in"
    collection(source / "old", patients=10, SoftwareVersions="A", StudyDate="20200101")
    for p in range(10, 20):
        series = f"1.2.3.{p + 1}"
        for k in range(5):
            save(dataset(series, k, SoftwareVersions="B", StudyDate="20210101"), source / f"p{p}" / f"{k}.dcm")
        (source / f"p{p}" / "marks.xml").write_text(marks(series, [(2, 30, 34, 6, [[1, 1, 1], [5, 5, 5]][p % 2])]))
    rows = run(source, tmp_path).manifest
    profiles = pd.read_parquet(tmp_path / "features" / "device_profile.parquet").set_index("software")
    assert len(profiles) == 2
    for software, part in rows.groupby("software"):
        assert profiles.loc[software, "n"] == (part["split"] != "test").sum()
        assert profiles.loc[software, "event_timestamp"] == part["acquired_at"].min()


@pytest.mark.parametrize("compress", [None, JPEG_2000])
def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path, compress: str | None):
    source = collection(tmp_path / "in", patients=6, compress=compress)
    for workers in (1, 2, 3):
        run(source, tmp_path / str(workers), workers=workers)
    first = contents(tmp_path / "1")
    assert len(first) >= 5
    assert contents(tmp_path / "2") == first
    assert contents(tmp_path / "3") == first


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_copy_elsewhere_with_other_times_gives_the_same_bytes(tmp_path: Path):
    """Neither the place nor the age of files is in a dataset."""
    for name in ("a", "b/deeper"):
        run(collection(tmp_path / name / "in", patients=4), tmp_path / name / "out")
    assert contents(tmp_path / "a" / "out") == contents(tmp_path / "b/deeper" / "out")


def test_no_patient_id_is_refused_where_patients_are_the_groups(tmp_path: Path):
    with pytest.raises(DataError, match=r"no patient id, which grouping by patient needs \(9\)"):
        run(one_series(tmp_path / "in", PatientID=""), tmp_path)


def test_patient_ids_that_differ_in_padding_alone_are_one_patient(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """DICOM pads with blanks, which mean nothing; case and blanks within do, and it is told where ids differ in no more than these."""
    source = tmp_path / "in"
    for n, name in enumerate(("ABC 1", " ABC 1 ", "abc  1")):
        series = f"1.2.{n + 3}"
        for k in range(3):
            save(dataset(series, k, PatientID=name), source / str(n) / f"{k}.dcm")
        (source / str(n) / "m.xml").write_text(marks(series, [(1, 30, 34, 6, [4, 4, 4])]))
    assert run(source, tmp_path).manifest["patient_id"].nunique() == 2
    assert "1 ids of persons that differ from another's in case or blanks alone" in capfd.readouterr().out


def test_synthetic_series_make_a_synthetic_dataset(tmp_path: Path):
    found = run(collection(tmp_path / "in", patients=4, SyntheticData="YES"), tmp_path)
    assert found.info["synthetic"]
    assert found.manifest["synthetic"].all()


def test_work_is_gone_when_ingest_ends(tmp_path: Path, own_home: Path):
    run(collection(tmp_path / "in", patients=4), tmp_path)
    assert list((own_home / "work").iterdir()) == []
    text = json.loads((tmp_path / "dataset" / "dataset.json").read_text())
    assert text["counts"]["samples"] == 4
