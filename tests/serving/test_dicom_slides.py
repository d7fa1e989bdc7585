"""Whole slides as DICOM series: the tiles of the same slide as TIFF, whose it is by keyed hashes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.errors import DataError
from serving import bodies, queries
from serving.bodies.body import Body
from serving.predictor import Predictor, Query
from tests.serving import small_bodies, small_wsi
from tests.serving.fuzzing import MARKS, PSEUDONYMISER, mutants
from tests.serving.small_bodies import TILES, disease
from tests.serving.small_package import build, reference
from tests.serving.small_wsi import JPEG, PLAIN
from tests.serving.test_slides import DEVICES, corner_heat, spec_of

IMAGE = small_bodies.corner()


def read(place: Path) -> Query:
    """As a request that names the series by reference."""
    (found,) = queries.from_document({"instances": [{"reference": "s3://b/k"}]}, disease(TILES), PSEUDONYMISER, {0: place})
    return found


@pytest.mark.parametrize(("syntax", "off"), [(PLAIN, 0), (JPEG, 6)])
def test_a_dicom_slide_gives_the_tiles_of_the_same_slide_as_tiff(tmp_path: Path, syntax: str, off: int):
    """Exactly, where it is not packed with loss."""
    found = read(small_wsi.folder(tmp_path / "series", small_wsi.files(IMAGE, syntax=syntax)))
    (same,) = bodies.read("image/tiff", Body(small_bodies.slide(tmp_path, image=IMAGE)), disease(TILES), PSEUDONYMISER)
    assert found.tiles is not None
    assert same.tiles is not None
    np.testing.assert_array_equal(found.tiles.places, same.tiles.places)
    assert np.abs(found.tiles.arrays.astype(int) - same.tiles.arrays.astype(int)).max() <= off
    assert found.acquisition == same.acquisition
    assert (found.source, found.part) == ("slide", {"tiles": 72})


def test_it_is_answered_and_explained_like_any_slide(tmp_path: Path):
    found = read(small_wsi.folder(tmp_path / "series", small_wsi.files(IMAGE)))
    explained = Predictor(build(tmp_path / "package", spec_of("mean"), reference(DEVICES, patients=2)), None).explain(found)
    assert explained is not None
    assert explained.heat is not None
    np.testing.assert_allclose(explained.heat, corner_heat(), atol=1e-4)


def test_whose_it_is_and_what_made_it_come_from_its_header_as_keyed_hashes(tmp_path: Path):
    found = read(small_wsi.folder(tmp_path / "series", small_wsi.files(IMAGE)))
    assert found.patient == PSEUDONYMISER.id("patient", "PID-4711-XYZ")
    assert found.series == PSEUDONYMISER.id("series", small_wsi.SERIES)
    assert found.device_key == PSEUDONYMISER.id("device", "Aperio", "AT2", "SN-12345", "")
    assert found.software == PSEUDONYMISER.id("software", "1.0")
    kept = repr({name: value for name, value in vars(found).items() if name not in ("array", "tiles")}).lower()
    assert not [mark for mark in MARKS if mark in kept]


def changed(**changes: Any) -> list[bytes]:
    return small_wsi.files(IMAGE, **changes)


REFUSED = {
    "several series": (lambda: [*changed()[:1], changed(SeriesInstanceUID="2.25.95")[1]], "images of several series"),
    "another person's level": (lambda: [*changed()[:1], changed(PatientID="OTHER")[1]], "images of several series"),
    "another kind of object": (lambda: changed(SOPClassUID="1.2.840.10008.5.1.4.1.1.7.4"), "another kind of object than a whole slide"),
    "several focal planes": (lambda: changed(TotalPixelMatrixFocalPlanes=3), "several focal planes or optical paths"),
    "several optical paths": (lambda: changed(NumberOfOpticalPaths=2), "several focal planes or optical paths"),
    "more files than a slide has": (lambda: changed()[1:] * 65, "more files than a slide has"),
    "no level": (lambda: [one for one in changed(ImageType=["ORIGINAL", "PRIMARY", "LABEL", "NONE"])], "no level of a slide"),
    "no resolution": (lambda: changed(SharedFunctionalGroupsSequence=[]), "no resolution"),
    "cut": (lambda: [one[: len(one) // 2] for one in changed()], "truncated: pixels end early"),
    "a matrix of 10^10 pixels": (
        lambda: changed(TotalPixelMatrixRows=100_000, TotalPixelMatrixColumns=100_000),
        "tiles that do not cover the slide in order",
    ),
    "a million tiles that are not there": (lambda: changed(NumberOfFrames=1_000_000), "truncated: pixels end early"),
    "more tiles than any slide": (lambda: changed(NumberOfFrames=2_000_000_000), "frames over limits.slices_per_series"),
    "tiles of 65535": (lambda: changed(Rows=65535, Columns=65535), "image over limits.pixels_per_image"),
    "tiles in no order": (lambda: changed(DimensionOrganizationType="TILED_SPARSE"), "tiles that do not cover the slide in order"),
    "a level of another form": (lambda: [changed()[0], small_wsi.level(IMAGE[:100], 2.0, 2)], "levels that do not fit together"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_series_that_is_no_slide_or_claims_too_much_is_refused_in_one_line(tmp_path: Path, name: str):
    make, says = REFUSED[name]
    with pytest.raises(DataError, match=says) as refused:
        read(small_wsi.folder(tmp_path / "series", make()))
    assert refused.value.where == "instances[0].reference"
    assert not [mark for mark in MARKS if mark in str(refused.value).lower()]


def test_one_level_is_enough_and_a_resolution_may_be_told_beside_it(tmp_path: Path):
    whole = read(small_wsi.folder(tmp_path / "series", small_wsi.files(IMAGE)))
    alone = read(small_wsi.folder(tmp_path / "alone", changed()[:1]))
    mute = small_wsi.folder(tmp_path / "mute", changed(SharedFunctionalGroupsSequence=[])[:1])
    told = bodies.read(None, Body(mute, mpp=1.0), disease(TILES), PSEUDONYMISER)[0]
    assert whole.tiles is not None
    for other in (alone, told):
        assert other.tiles is not None
        assert (other.part, other.acquisition) == (whole.part, whole.acquisition)
        np.testing.assert_array_equal(other.tiles.arrays, whole.tiles.arrays)


def test_one_file_of_a_slide_is_told_that_its_series_is_meant():
    with pytest.raises(DataError, match="its series is meant, by reference"):
        bodies.read("application/dicom", Body(small_wsi.files(IMAGE)[0]), disease(TILES), PSEUDONYMISER)


def test_a_label_in_the_series_is_left_alone(tmp_path: Path):
    label = small_wsi.level(IMAGE[:64, :64], 50.0, 3, ImageType=["ORIGINAL", "PRIMARY", "LABEL", "NONE"])
    found = read(small_wsi.folder(tmp_path / "series", [*small_wsi.files(IMAGE), label]))
    assert found.part == {"tiles": 72}


@pytest.mark.parametrize("syntax", [PLAIN, JPEG])
def test_damaged_slides_give_samples_or_one_line(tmp_path: Path, syntax: str):
    small = small_wsi.files(np.ascontiguousarray(IMAGE[:240, 432:]), syntax=syntax)
    place = small_wsi.folder(tmp_path / "series", small)
    said: list[str] = []
    for data in mutants([small[0]], 60, seed=5):
        (place / "00000").write_bytes(data)
        try:
            assert read(place).tiles is not None
        except DataError as error:
            said.append(str(error))
    assert 20 < len(said) < 60
    assert not [text for text in said if "\n" in text or any(mark in text.lower() for mark in MARKS)]
