"""NIfTI volumes with a BIDS tree or a table: geometry with known values, who they belong to, and what is refused in which words."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image
from nibabel.testing import data_path
from numpy.typing import NDArray

from components.core.dataset import Dataset
from components.core.errors import DataError
from components.core.imaging.errors import NotUsable
from components.core.imaging.nifti import Volume, read_volume
from components.core.imaging.orientation import canonical, codes
from components.core.imaging.resample import head_on_grid
from components.core.spec import DiseaseSpec
from components.ingest.readers.nifti_bids import read_person  # noqa: F401  (the reader must import)
from components.ingest.step import ingest
from tests.ingest.made import PSEUDONYMISER, ROOT

SHAPE, MM = (12, 14, 12), 8.0
CENTRE = np.array([5.0, -9.0, 13.0])
MOST = 10**7
SHIPPED = Path(str(data_path))


def spec(**changes: dict[str, Any]) -> DiseaseSpec:
    """The catalogue's alzheimer-smri on a coarser grid, split once, all damage tolerated."""
    raw = DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / "alzheimer-smri.toml").model_dump(mode="json")
    raw["input"] |= {"shape": [1, *SHAPE], "spacing_mm": [MM] * 3}
    raw["limits"] |= {"quarantine_share": 1}
    raw["split"] |= {"folds": 1}
    for part, values in changes.items():
        raw[part] = {**raw[part], **values} if isinstance(values, dict) else values
    return DiseaseSpec.model_validate(raw)


def head(axes: str = "RAS", mm: tuple[float, float, float] = (4, 4, 4), *, dtype: str = "int16", oblique: float = 0.0) -> Nifti1Image:
    """A ball of 40 mm around `CENTRE`, brighter to the right (+200), the front (+100) and the top (+50), stored along `axes`."""
    size = [int(160 / v) for v in mm]
    affine = np.diag([*mm, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * v for n, v in zip(size, mm, strict=True)]
    if oblique:
        turn = np.array([[np.cos(oblique), -np.sin(oblique), 0], [np.sin(oblique), np.cos(oblique), 0], [0, 0, 1]])
        affine[:3] = turn @ affine[:3]
    world = affine[:3, :3] @ np.indices(size).reshape(3, -1) + affine[:3, 3:]
    from_centre = world - CENTRE[:, None]
    ball = np.hypot(np.hypot(*from_centre[:2]), from_centre[2]) < 40
    values = ball * (1000 + (from_centre > 0).T @ np.array([200, 100, 50]))
    plain = Nifti1Image(values.reshape(size).astype(dtype), affine)
    turn: Any = nib.orientations.ornt_transform(nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
    plain = plain.as_reoriented(turn)
    plain.set_sform(plain.affine, 1)
    plain.set_qform(plain.affine, 1)
    plain.header.set_xyzt_units("mm")
    return plain


def volume(image: Any, **options: Any) -> Volume:
    return read_volume(BytesIO(image if isinstance(image, bytes) else image.to_bytes()), most_voxels=MOST, **options)


def on_grid(v: Volume) -> NDArray[np.float32]:
    return head_on_grid(v, shape=SHAPE, spacing_mm=(MM, MM, MM))


def tree(folder: Path, people: dict[str, str], image: Callable[[str], Any] = lambda person: head()) -> Path:
    """A BIDS tree: {participant: diagnosis}."""
    for person in people:
        save(folder, f"sub-{person}/anat/sub-{person}_T1w.nii.gz", image(person))
    rows = "".join(f"sub-{person}\t{n + 60}\t{word}\n" for n, (person, word) in enumerate(people.items()))
    (folder / "participants.tsv").write_text(f"participant_id\tage\tdiagnosis\n{rows}")
    return folder


def save(folder: Path, path: str, image: Any) -> Path:
    place = folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    data = image if isinstance(image, bytes) else image.to_bytes()
    place.write_bytes(gzip.compress(data) if path.endswith(".gz") else data)
    return place


def run(source: Path, out: Path, wanted: DiseaseSpec | None = None) -> Dataset:
    ingest(wanted or spec(), str(source), dataset=out / "dataset", features=out / "features", workers=1)
    return Dataset(out / "dataset")


PEOPLE = {"anna01": "control", "bert02": "AD", "cora03": "MCI", "dirk04": "cn"}


# Geometry


def test_the_grid_runs_from_foot_to_head_back_to_front_left_to_right():
    """Each half of the ball is brighter by what it was painted with, and its centre of mass lies in the middle."""
    grid = on_grid(volume(head()))
    assert grid.shape == SHAPE
    inside = grid > 0.5
    assert np.allclose(np.argwhere(inside).mean(axis=0), (np.array(SHAPE) - 1) / 2, atol=0.25)
    z, y, x = (np.array(SHAPE) // 2).tolist()
    top, front, right = (np.median(grid[at]) for at in (np.s_[z + 1 : z + 3, y, x], np.s_[z, y + 1 : y + 3, x], np.s_[z, y, x + 1 : x + 3]))
    low, back, left = (np.median(grid[at]) for at in (np.s_[z - 3 : z - 1, y, x], np.s_[z, y - 3 : y - 1, x], np.s_[z, y, x - 3 : x - 1]))
    assert right - left > front - back > top - low > 0.01


@pytest.mark.parametrize("axes", ["LAS", "PSR", "AIL", "LPI"])
@pytest.mark.parametrize("mm", [(4, 4, 4), (2, 4, 5)])
def test_stored_axes_do_not_matter(axes: str, mm: tuple[float, float, float]):
    v = volume(head(axes, mm))
    assert codes(v.affine) == axes
    assert codes(canonical(v).affine) == "RAS"
    assert np.abs(on_grid(v) - on_grid(volume(head("RAS", mm)))).max() < 1e-5


def test_an_oblique_volume_is_turned_to_the_room():
    straight, turned = on_grid(volume(head())), on_grid(volume(head(oblique=0.3)))
    assert np.corrcoef(straight.ravel(), turned.ravel())[0, 1] > 0.97


def test_brightness_is_the_heads_own_whatever_the_gain():
    """Air is 0 and the 99th percentile of the head is 1, at gain 3 with an offset, as at gain 1."""
    image = head(dtype="float32")
    loud = Nifti1Image(np.asarray(image.dataobj) * 3 + 50, image.affine, image.header)
    assert np.abs(on_grid(volume(image)) - on_grid(volume(loud))).max() < 1e-4
    assert 0.85 < on_grid(volume(image)).max() <= 1.05


def test_fine_noise_does_not_alias_into_a_coarse_grid():
    """Voxels of 2 mm in a checkerboard of +-100 vanish on a grid of 8 mm."""
    image = head(mm=(2, 2, 2), dtype="float32")
    data = np.asarray(image.dataobj)
    board = 100 * (np.indices(data.shape).sum(axis=0) % 2 * 2 - 1) * (data > 0)
    noisy = Nifti1Image((data + board).astype(np.float32), image.affine, image.header)
    inner = np.s_[4:8, 5:9, 4:8]
    assert np.abs(on_grid(volume(noisy)) - on_grid(volume(image)))[inner].std() < 0.02


def test_slope_intercept_metres_and_big_endian_are_read():
    image = head()
    plain = volume(image)
    image.header.set_slope_inter(0.5, 10)
    raw = bytearray(image.to_bytes())  # nibabel writes slope and intercept for the bytes as they are
    assert np.allclose(volume(bytes(raw)).data.max(), float(np.asarray(Nifti1Image.from_bytes(bytes(raw)).dataobj).max()))
    big = Nifti1Image(np.asarray(head().dataobj).astype(">i2"), head().affine, header=head().header.as_byteswapped(">"))
    assert np.array_equal(volume(big).data, plain.data)
    metres = head()
    small = np.diag([0.001, 0.001, 0.001, 1]) @ metres.affine
    metres.set_sform(small, 1)
    metres.set_qform(small, 1)  # and the sizes in pixdim
    metres.header.set_xyzt_units("meter")
    assert np.allclose(volume(metres).spacing_mm, 4, atol=1e-3)


# Refused


def corrupt(**fields: Any) -> bytes:
    """A head whose header fields are overwritten; "pixdim" and "dim" take {index: value}."""
    image = head()
    data, header = image.to_bytes(), image.header.copy()
    for name, value in fields.items():
        if isinstance(value, dict):
            for index, one in value.items():
                header[name][index] = one
        else:
            header[name] = value
    return header.binaryblock + data[348:]


def not_finite() -> bytes:
    image = head(dtype="float32")
    data = np.asarray(image.dataobj).copy()
    data[3, 3, 3] = np.nan
    return Nifti1Image(data, image.affine, image.header).to_bytes()


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "text": (lambda: b"sub-01 is not here" * 40, "not NIfTI"),
    "short": (lambda: head().to_bytes()[:200], "not NIfTI"),
    "cut": (lambda: head().to_bytes()[:-1000], "fewer voxels than the header says"),
    "cut gzip": (lambda: gzip.compress(head().to_bytes())[:-900], "damaged gzip"),
    "bad gzip": (lambda: b"\x1f\x8b" + b"\0" * 900, "damaged gzip"),
    "no place": (lambda: corrupt(sform_code=0, qform_code=0), "no orientation"),
    "no size": (lambda: corrupt(pixdim={2: 0}), "voxel size"),
    "NaN size": (lambda: corrupt(pixdim={2: np.nan}), "voxel size"),
    "two sizes": (lambda: corrupt(pixdim={1: 6.0}), "disagree"),
    "singular": (lambda: corrupt(srow_y=[4, 0, 0, 0]), "singular affine"),
    "NaN place": (lambda: corrupt(srow_z=[0, 0, np.nan, 0]), "singular affine"),
    "huge": (lambda: corrupt(dim={1: 32000, 2: 32000}), "more voxels than limits"),
    "flat": (lambda: corrupt(dim={0: 2}), "fewer than three axes"),
    "empty axis": (lambda: corrupt(dim={3: 0}), "an axis without length"),
    "colour": (lambda: corrupt(datatype=128, bitpix=24), "no grey volume"),
    "unknown type": (lambda: corrupt(datatype=77), "unknown type"),
    "not finite": (not_finite, "not finite"),
    "unknown unit": (lambda: corrupt(xyzt_units=7), "unknown unit of length"),
    "thick": (lambda: head(mm=(2, 2, 16)).to_bytes(), "too anisotropic"),
    "series": (lambda: Nifti1Image(np.ones((8, 8, 8, 5), np.int16), head().affine).to_bytes(), "several volumes over time"),
}


@pytest.mark.parametrize("fault", BAD)
def test_what_is_damaged_or_unclear_is_refused_with_its_reason(fault: str):
    make, reason = BAD[fault]
    with pytest.raises(NotUsable, match=reason):
        volume(make())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (np.zeros((40, 40, 40)), "one value"),
        (np.random.default_rng(0).random((40, 40, 8)), "covers less than half"),
    ],
)
def test_a_volume_without_a_head_is_refused(data: NDArray[Any], reason: str):
    with pytest.raises(NotUsable, match=reason):
        on_grid(Volume(data.astype(np.float32), np.diag([4.0, 4, 4, 1]), 16, ""))


def test_several_volumes_are_taken_only_as_the_spec_says():
    data = np.stack([np.asarray(head().dataobj) * (1 + t) for t in range(3)], axis=3)
    series = Nifti1Image(data.astype(np.int16), head().affine)
    assert volume(series, frames="first").data.max() == data[..., 0].max()
    assert volume(series, frames="mean").data.max() == pytest.approx(data.mean(axis=3).max())


# The library's own files


def test_nibabels_volumes_are_read_as_nibabel_reads_them():
    for name, frames in (("anatomical.nii", "refuse"), ("functional.nii", "mean"), ("example4d.nii.gz", "first"), ("example_nifti2.nii.gz", "mean")):
        raw = (SHIPPED / name).read_bytes()
        theirs: Any = nib.load(SHIPPED / name)
        expected = np.asarray(theirs.dataobj, dtype=np.float32)
        expected = expected.mean(axis=3) if frames == "mean" else expected[..., 0] if frames == "first" else expected
        got = volume(raw, frames=frames)
        assert np.allclose(got.data, expected, rtol=1e-5)
        assert np.allclose(got.affine, theirs.affine)
    with pytest.raises(NotUsable, match="several volumes"):
        volume((SHIPPED / "functional.nii").read_bytes())


# Trees and tables


def test_a_tree_becomes_a_manifest_without_names(tmp_path: Path):
    source = tree(tmp_path / "in", PEOPLE)
    (source / "T1w.json").write_text(json.dumps({"Manufacturer": "Siemens", "MagneticFieldStrength": 3}))
    own = {"ManufacturersModelName": "Prisma", "DeviceSerialNumber": 77, "SoftwareVersions": ["E11", "x"], "MagneticFieldStrength": 1.5}
    (source / "sub-bert02/anat/sub-bert02_T1w.json").write_text(json.dumps(own))
    found = run(source, tmp_path)
    m: Any = found.manifest.set_index("patient_id")
    assert {int(m.loc[PSEUDONYMISER.id("patient", p), "label"]) for p in ("anna01", "dirk04")} == {0}
    bert, cora = (m.loc[PSEUDONYMISER.id("patient", p)] for p in ("bert02", "cora03"))
    assert (bert["label"], cora["label"]) == (2, 1)
    assert (bert["manufacturer"], bert["model"], bert["acq_field_strength_t"], cora["acq_field_strength_t"]) == ("SIEMENS", "PRISMA", 1.5, 3.0)
    assert bert["device_key"] == PSEUDONYMISER.id("device", "Siemens", "Prisma", "77", "")
    assert bert["software"] == PSEUDONYMISER.id("software", "E11 x")
    assert (bert["acq_modality"], bert["acq_pixel_mm"], bert["acq_bits"]) == ("MR", 4.0, 16)
    assert (found.manifest["group_id"] == found.manifest["patient_id"]).all()
    text = (tmp_path / "dataset" / "manifest.parquet").read_bytes() + (tmp_path / "dataset" / "dataset.json").read_bytes()
    assert not any(name.encode() in text for name in PEOPLE)


def test_a_volume_with_one_flipped_bit_is_quarantined_with_its_reason_and_the_others_are_read(tmp_path: Path):
    source = tree(tmp_path / "in", PEOPLE | {f"more{n:02d}": "ad" for n in range(20)})
    path = source / "sub-cora03/anat/sub-cora03_T1w.nii.gz"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1  # in the checksum: the voxels are read before anybody comes there
    path.write_bytes(data)
    found = run(source, tmp_path)
    assert len(found) == 23
    assert found.quarantine["reason"].tolist() == ["damaged gzip stream"]


def test_every_fault_of_a_tree_is_named(tmp_path: Path):
    source = tree(tmp_path / "in", PEOPLE | {"eve05": "unsure", "finn06": "ad"})
    save(source, "sub-gina07/anat/sub-gina07_T1w.nii", head())
    save(source, "sub-anna01/anat/sub-anna01_T2w.nii", head())
    save(source, "sub-anna01/func/sub-anna01_task-rest_bold.nii", head())
    (source / "sub-finn06/anat/sub-finn06_T1w.nii.gz").unlink()
    (source / "sub-cora03/anat/sub-cora03_T1w.json").write_text("{not json")
    (source / "sub-dirk04/anat/sub-dirk04_T1w.nii.gz").write_bytes(b"")
    found = run(source, tmp_path)
    assert len(found) == 2
    assert sorted(found.quarantine["reason"]) == [
        "a label outside the spec's classes",
        "a participant without a T1w image",
        "a participant without a row in participants.tsv",
        "a sidecar that is no JSON object",
        "another sequence than T1w",
        "another sequence than T1w",
        "empty file",
    ]
    named: Any = found.quarantine.set_index("reason")
    assert (named.loc["a participant without a T1w image", "file"], named.loc["a participant without a T1w image", "offset"]) == (
        "participants.tsv",
        7,
    )
    assert not found.quarantine["file"].str.contains("anna|cora|dirk|eve|gina").any()


def test_a_pair_of_classes_skips_the_third_and_counts_it(tmp_path: Path):
    """Names, aliases and the disease's own numbers (0 control, 1 mci, 2 ad) mean the same in the pair mci, ad; an unknown word stays damage."""
    from pipelines.pairs import pair

    people = {"a": "control", "b": "cn", "c": "0", "d": "MCI", "e": "1", "f": "emci", "g": "AD", "h": "2", "i": "dementia", "j": "unsure"}
    found = run(tree(tmp_path / "in", people), tmp_path, pair(spec(), "mci,ad"))
    labels = found.manifest.set_index("patient_id")["label"].to_dict()
    assert labels == {PSEUDONYMISER.id("patient", person): int(person in "ghi") for person in "defghi"}
    assert found.quarantine["reason"].value_counts().to_dict() == {"a class that is left out": 3, "a label outside the spec's classes": 1}


def test_left_out_volumes_are_no_damage(tmp_path: Path):
    """A third of all persons left out, no share of damage allowed."""
    from pipelines.pairs import pair

    source = tree(tmp_path / "in", {"a": "control", "b": "control", "c": "mci", "d": "ad", "e": "ad"})
    found = run(source, tmp_path, pair(spec(limits={"quarantine_share": 0}), "control,ad"))
    assert found.manifest["label"].value_counts().to_dict() == {0: 2, 1: 2}
    assert found.quarantine["reason"].tolist() == ["a class that is left out"]


def test_scans_of_one_session_that_point_differently_are_all_refused(tmp_path: Path):
    source = tree(tmp_path / "in", PEOPLE)
    save(source, "sub-anna01/ses-a/anat/sub-anna01_ses-a_run-1_T1w.nii", head("RAS"))
    save(source, "sub-anna01/ses-a/anat/sub-anna01_ses-a_run-2_T1w.nii", head("LAS"))
    save(source, "sub-anna01/ses-b/anat/sub-anna01_ses-b_T1w.nii", head("LAS"))
    found = run(source, tmp_path)
    assert found.quarantine["reason"].tolist() == ["another orientation than the other scans of its session"] * 2
    assert (found.manifest["group_id"] == PSEUDONYMISER.id("patient", "anna01")).sum() == 2
    assert (found.manifest.groupby("group_id")["split"].nunique() == 1).all()


def test_a_table_of_files_does_as_well(tmp_path: Path):
    rows = ["scan,dx,patient,manufacturer,scanner,field_strength"]
    for n in range(4):
        save(tmp_path / "in", f"scans/{n}.nii.gz", head())
        rows.append(f"scans/{n}.nii.gz,{('control', 'ad')[n % 2]},person{n // 2},GE,S{n % 2},3")
    (tmp_path / "in" / "labels.csv").write_text("\n".join([*rows, "scans/9.nii.gz,ad,x,GE,S1,3"]))
    found = run(tmp_path / "in", tmp_path)
    assert found.manifest["label"].value_counts().to_dict() == {0: 2, 2: 2}
    assert found.manifest["group_id"].nunique() == 2
    assert set(found.manifest["acq_field_strength_t"]) == {3.0}
    assert found.manifest["device_key"].nunique() == 2
    assert [tuple(row) for row in found.quarantine.drop(columns="skipped").itertuples(index=False)] == [("labels.csv", "a row without its volume", 6)]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "participants.tsv").unlink(), "no table of participants"),
        (lambda f: (f / "participants.tsv").write_text("participant_id\tage\nsub-anna01\t60\n"), "no column of labels"),
        (lambda f: [p.rename(p.with_name(p.name.replace("T1w", "bold"))) for p in f.rglob("*.nii.gz")], "no T1w image; got 4 bold"),
        (lambda f: [p.unlink() for p in f.rglob("*.nii.gz")], "no NIfTI volume"),
    ],
)
def test_a_tree_without_what_it_needs_is_one_line(tmp_path: Path, break_it: Callable[[Path], Any], message: str):
    source = tree(tmp_path / "in", PEOPLE)
    break_it(source)
    with pytest.raises(DataError, match=message):
        run(source, tmp_path)


def test_a_set_for_pretraining_needs_no_diagnosis(tmp_path: Path):
    source = tree(tmp_path / "in", PEOPLE)
    for person in ("x1", "x2"):
        save(source, f"source-domain/sub-{person}/anat/sub-{person}_T1w.nii.gz", head("LAS"))
    m: Any = run(source, tmp_path).manifest
    assert m["split"].value_counts()["pretrain-source-domain"] == 2
    assert m[m["split"] == "pretrain-source-domain"]["label"].isna().all()
