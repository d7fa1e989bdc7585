"""Files of every format through the decoding layer: the same samples as ingest makes, and plain refusals."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.dataset import Dataset
from components.core.errors import DataError
from components.core.imaging.fit import fit
from components.core.spec import DiseaseSpec
from components.ingest.step import ingest
from serving import bodies
from serving.bodies.body import Body
from tests.ingest.test_tables import small
from tests.serving import small_bodies
from tests.serving.fuzzing import PSEUDONYMISER, mutants, outcome, seeds
from tests.serving.small_bodies import BRAIN, FUNDUS, GAIT, PIXELS, TABLE, TILES, disease
from tests.serving.small_package import CATALOGUE, lung_nodule

PICTURES = ("image/bmp", "image/jpeg", "image/png", "image/tiff", "image/webp", "image/x-portable-anymap")
TAKEN = {
    "alzheimer-slices": PICTURES,
    "alzheimer-smri": ("application/dicom", "application/x-nifti"),
    "breast-cytology": ("text/csv",),
    "breast-metastasis": ("application/dicom", *PICTURES),
    "lung-candidate": PICTURES,
    "lung-nodule": ("application/dicom",),
    "parkinson-fog": ("text/csv",),
    "retinopathy-grading": ("application/dicom", *PICTURES),
    "retinopathy-mnist": ("application/dicom", *PICTURES),
    "retinopathy-screening": ("application/dicom", *PICTURES),
    "skin-ham10000": (*PICTURES, "text/csv"),
    "skin-lesion": ("application/dicom", *PICTURES),
}


def read(kind: str | None, data: bytes | Path, spec: DiseaseSpec, **more: Any) -> list[Any]:
    return bodies.read(kind, Body(data, **more), spec, PSEUDONYMISER)


def test_every_disease_of_the_catalogue_takes_its_own_format():
    found = {path.stem: bodies.offered(DiseaseSpec.from_toml(path)) for path in CATALOGUE.glob("*.toml")}
    assert found == TAKEN


def ingested(spec: DiseaseSpec, files: dict[str, bytes], folder: Path) -> np.ndarray:
    """What ingest makes of some files: (n, *input.shape)."""
    for name, content in files.items():
        path = folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DXFLOW_KEY", "a key of the tests only")
        patch.setenv("DXFLOW_HOME", str(folder / "home"))
        ingest(spec, str(folder / "in"), dataset=folder / "dataset", features=folder / "features", workers=1)
    dataset = Dataset(folder / "dataset")
    return dataset.read(range(len(dataset)))


def fundus_files() -> tuple[dict[str, bytes], list[bytes]]:
    good = [small_bodies.picture(kind, height=h, width=w, seed=n) for n, (kind, h, w) in enumerate((("PNG", 96, 80), ("JPEG", 60, 66)))]
    lines = ["image,label,patient,split", "a.png,0,p1,train", "b.jpg,1,p2,test"]
    return {"a.png": good[0], "b.jpg": good[1], "labels.csv": "\n".join(lines).encode()}, good


CASES: dict[str, tuple[str, Callable[[], tuple[dict[str, bytes], list[bytes]]]]] = {
    FUNDUS: ("image/png", fundus_files),
    GAIT: ("text/csv", lambda: ({"S01R01.csv": small_bodies.recording(20)}, [small_bodies.recording(20)])),
    BRAIN: (
        "application/x-nifti",
        lambda: (
            {
                "participants.tsv": b"participant_id\tdiagnosis\nsub-01\tad\n",
                "sub-01/anat/sub-01_T1w.nii.gz": small_bodies.nifti(packed=True),
            },
            [small_bodies.nifti(packed=True)],
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_training_and_serving_see_the_same_numbers(name: str, tmp_path: Path):
    files, good = CASES[name][1]()
    raw = disease(name).model_dump(mode="json")
    raw["limits"] |= {"quarantine_share": 1}
    raw["external"] = []
    raw["split"] |= {"folds": 1}
    trained = ingested(DiseaseSpec.model_validate(raw), files, tmp_path)
    served = [query.array for content in good for query in read(None, content, disease(name))]
    assert len(served) == len(trained) > 0
    kept = sorted(a.tobytes() for a in trained)
    assert sorted(np.ascontiguousarray(a).tobytes() for a in served) == kept


def test_rows_of_the_wisconsin_table_are_its_features():
    import sklearn.datasets

    path = Path(sklearn.datasets.__file__).parent / "data" / "breast_cancer.csv"
    found = read("text/csv", path.read_bytes(), disease(TABLE))
    expected = np.array([row[:30] for row in list(csv.reader(io.StringIO(path.read_text())))[1:]], dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(np.stack([q.array for q in found]), expected)
    assert [q.part for q in found[:2]] == [{"row": 0}, {"row": 1}]
    bare = path.read_bytes().split(b"\n")[1]  # a row alone, and without its class
    np.testing.assert_array_equal(read("text/csv", bare, disease(TABLE))[0].array, expected[0])
    np.testing.assert_array_equal(read("text/csv", bare.rsplit(b",", 1)[0], disease(TABLE))[0].array, expected[0])


def test_a_row_of_pixels_is_the_image():
    found = read("text/csv", small_bodies.pixel_table(), disease(PIXELS))
    first = np.array(small_bodies.pixel_table().split(b"\n")[1].split(b",")[:64], dtype=np.uint8)
    np.testing.assert_array_equal(found[0].array, first.reshape(1, 8, 8))


@pytest.mark.parametrize(("name", "instead"), [(b"pixel0005", b"pixel0004"), (b"pixel0005", b"pixel4"), (b"pixel0063", b"pixel0100")])
def test_pixels_that_are_missing_or_there_twice_are_refused_though_their_number_is_right(name: bytes, instead: bytes):
    """Each was read as an image whose later pixels had moved by one."""
    with pytest.raises(DataError, match=r"pixels that are missing or there twice; allowed: 64 in a row"):
        read("text/csv", small_bodies.pixel_table().replace(name, instead, 1), disease(PIXELS))


def test_a_feature_that_two_columns_are_called_is_refused():
    """The first one was taken, whichever was meant."""
    spec = small(3)
    raw = spec.model_dump()
    raw["input"] |= {"columns": ["a", "b", "c"]}
    spec = DiseaseSpec.model_validate(raw)
    assert read("text/csv", b"a,b,c\n1,2,3\n", spec)[0].array.tolist() == [1, 2, 3]
    with pytest.raises(DataError, match="columns with one name; got 1 names; allowed: b: each of them once"):
        read("text/csv", b"a,b,B,c\n1,2,9,3\n", spec)


def test_a_tile_of_which_another_resolution_is_told_is_refused():
    spec = disease(TILES)
    side = spec.input.shape[-1]
    tile = small_bodies.picture(height=side, width=side)
    wanted = spec.input.microns_per_pixel
    assert wanted is not None
    assert len(read("image/png", tile, spec, mpp=wanted)) == len(read("image/png", tile, spec)) == 1
    with pytest.raises(DataError, match=r"a tile of another resolution; got 0.25 microns a pixel; allowed: 1"):
        read("image/png", tile, spec, mpp=0.25)


def test_the_camera_is_the_device_unless_the_client_names_one():
    exif = {0x10F: "Canon", 0x110: "CR-2"}
    one, same, other = (
        read("image/jpeg", small_bodies.picture("JPEG", exif=e), disease(FUNDUS))[0] for e in (exif, exif, {0x10F: "NIDEK", 0x110: "AFC-330"})
    )
    assert one.device_key == same.device_key != other.device_key
    assert (one.manufacturer, "unknown" in (one.device_key, other.device_key)) == ("CANON", False)
    assert read("image/png", small_bodies.picture(), disease(FUNDUS))[0].device_key == "unknown"
    named = read("image/jpeg", small_bodies.picture("JPEG", exif=exif), disease(FUNDUS), device="0123456789abcdef")[0]
    assert named.device_key == "0123456789abcdef"


def test_a_photograph_as_dicom_is_the_photograph():
    pixels = small_bodies.pixels(96, 80)
    found = read(None, small_bodies.photograph_dicom(pixels), disease(FUNDUS), device="0123456789abcdef")[0]
    np.testing.assert_array_equal(found.array, fit(pixels, disease(FUNDUS).input))
    assert found.device_key not in ("unknown", "0123456789abcdef"), "DICOM tells its device itself"
    with pytest.raises(DataError, match="another modality"):
        read(None, small_bodies.photograph_dicom(pixels, modality="US"), disease(FUNDUS))


def test_an_mr_series_gives_the_volume_that_its_nifti_gives(tmp_path: Path):
    """Orientation, spacing and order of slices: the head is noisy, so nothing but the right ones gives the same numbers."""
    for n, content in enumerate(small_bodies.mr_slices()):
        (tmp_path / f"{n:05d}").write_bytes(content)
    series = read(None, tmp_path, disease(BRAIN))[0]
    np.testing.assert_array_equal(series.array, read(None, small_bodies.nifti(), disease(BRAIN))[0].array)
    (tmp_path / "00007").unlink()
    with pytest.raises(DataError, match="slices missing, repeated or at uneven distances"):
        read(None, tmp_path, disease(BRAIN))


def test_a_recording_needs_no_labels_and_one_window_can_be_asked_for():
    spec = disease(GAIT)
    every, bare = (read(None, small_bodies.recording(12, label=label), spec) for label in (True, False))
    assert [q.part for q in every] == [q.part for q in bare]
    np.testing.assert_array_equal(np.stack([q.array for q in every]), np.stack([q.array for q in bare]))
    assert [q.part["window"] for q in every] == list(range(6))
    one = read(None, small_bodies.recording(12), spec, window=4)
    np.testing.assert_array_equal(one[0].array, every[4].array)
    with pytest.raises(DataError, match="no such window; allowed: 0 to 5"):
        read(None, small_bodies.recording(12), spec, window=6)
    named = read(None, small_bodies.recording(12, head_lines="# device: unit-7\n"), spec)
    assert named[0].device_key == PSEUDONYMISER.id("device", "unit-7")


def test_a_window_with_a_dead_channel_is_answered_by_an_abstention():
    """The model is not asked, and the reason is ingest's."""
    lines = small_bodies.recording(12).decode().splitlines()
    dead = [",".join([*line.split(",")[:3], "500.0", *line.split(",")[4:]]) if n else line for n, line in enumerate(lines)]
    found = read(None, "\n".join([*dead, ""]).encode(), disease(GAIT))
    assert {q.faults for q in found} == {("a channel that never changes",)}


def archive(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as one:
        one.writestr("x.npy", data)
    return out.getvalue()


REFUSED: dict[str, tuple[str | None, Callable[[], bytes], str, str]] = {
    "tile of another size": ("image/png", small_bodies.picture, TILES, "a tile of another size"),
    "BMP under PNG's name": ("image/png", lambda: b"BM" + bytes(100), FUNDUS, "not an image, or a damaged one"),
    "archive": ("application/zip", lambda: archive(bytes(1 << 20)), FUNDUS, "not a file that this model takes"),
    "archive without a type": (None, lambda: archive(bytes(1 << 20)), FUNDUS, "not a file that this model takes"),
    "picture where numbers are meant": (None, small_bodies.picture, TABLE, "not a file that this model takes"),
    "nothing": (None, lambda: b"", GAIT, "not a file that this model takes"),
    "columns short": ("text/csv", lambda: b"time,A0,A1\n1,2,3\n", GAIT, "a column of the spec is missing"),
    "another unit": ("text/csv", lambda: small_bodies.recording(12).replace(b"600", b"6").replace(b".", b"0000."), GAIT, "another unit"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_model_cannot_use_is_named(name: str):
    kind, make, model, reason = REFUSED[name]
    with pytest.raises(DataError, match=reason):
        read(kind, make(), disease(model))


def test_a_pictures_name_is_not_enough_for_a_model_of_slices():
    with pytest.raises(bodies.NotTaken, match="allowed: application/dicom"):
        read("image/png", small_bodies.picture(), lung_nodule())


@pytest.mark.parametrize("name", sorted(seeds()))
def test_damaged_files_give_samples_or_one_plain_line(name: str):
    """A few hundred of the damaged files of `make soak`, the same in every run."""
    kind, spec, good = seeds()[name]
    assert all(outcome(kind, spec, one) == "read" for one in good)
    reasons = {outcome(kind, spec, data) for data in mutants(good, 200, seed=7)}
    assert len(reasons) >= 2, "some damage must be found, and some survived or found otherwise"
