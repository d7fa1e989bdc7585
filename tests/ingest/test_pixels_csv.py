"""Tables of pixels: which column is which, rows that cannot be used, and the real HAM10000."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.dataset import Dataset
from components.core.errors import DataError
from components.core.spec import DiseaseSpec
from components.ingest.step import ingest
from tests.ingest.made import PSEUDONYMISER, ROOT

DATA = Path(os.environ.get("DXFLOW_DATA") or ROOT.parent / "shared" / "data")


def spec(shape: tuple[int, int, int] = (1, 2, 3)) -> DiseaseSpec:
    raw = DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / "skin-ham10000.toml").model_dump(mode="json")
    raw["input"]["shape"] = list(shape)
    raw["split"].update(folds=1)
    raw["limits"]["quarantine_share"] = 1
    return DiseaseSpec.model_validate(raw)


def make(folder: Path, rows: list[list[Any]], about: list[list[Any]] | None, *, pixels: int = 6) -> Path:
    """Both tables; `about` holds lesion and device of each row."""
    folder.mkdir()
    with open(folder / "pixels.csv", "w", newline="") as handle:
        csv.writer(handle).writerows([[*(f"pixel{n:04d}" for n in range(pixels)), "label"], *rows])
    if about is not None:
        with open(folder / "metadata.csv", "w", newline="") as handle:
            csv.writer(handle).writerows([["lesion_id", "dataset"], *about])
    return folder


def run(source: Path, out: Path, disease: DiseaseSpec) -> Dataset:
    ingest(disease, str(source), dataset=out / "dataset", features=out / "features", workers=1)
    return Dataset(out / "dataset")


def test_a_row_becomes_an_image_with_its_lesion_and_device(tmp_path: Path):
    """Pixels run row by row; the other table's rows stand in the same order."""
    rows = [[*range(10 * n, 10 * n + 6), n % 7] for n in range(20)]
    about = [[f"L{n // 2}", f"D{n % 4}"] for n in range(20)]
    found = run(make(tmp_path / "in", rows, about), tmp_path, spec())
    assert len(found) == 20
    images = {int(image[0, 0, 0]) // 10: image for image in found.read(np.arange(20))}
    assert images[3].tolist() == [[[30, 31, 32], [33, 34, 35]]]
    by_first = {int(found.read(np.array([i]))[0, 0, 0, 0]) // 10: row for i, row in enumerate(found.manifest.to_dict("records"))}
    for n in range(20):
        assert by_first[n]["group_id"] == PSEUDONYMISER.id("lesion", f"L{n // 2}")
        assert by_first[n]["device_key"] == PSEUDONYMISER.id("device", f"D{n % 4}")
    # HAM10000's codes: 0 actinic keratosis, 1 basal cell carcinoma, 2 benign keratosis, 3 dermatofibroma, 4 nevus, 5 vascular, 6 melanoma
    names = spec().target.classes
    assert [names[by_first[n]["label"]] for n in range(7)] == [
        "actinic keratosis", "basal cell carcinoma", "benign keratosis", "dermatofibroma", "nevus", "vascular lesion", "melanoma",
    ]  # fmt: skip


def test_colours_of_a_pixel_stand_side_by_side(tmp_path: Path):
    source = make(tmp_path / "in", [[*range(12), 4] for _ in range(8)], [[f"L{n}", "D"] for n in range(8)], pixels=12)
    image = run(source, tmp_path, spec((3, 2, 2))).read(np.array([0]))[0]
    assert image[0].tolist() == [[0, 3], [6, 9]]
    assert image[2].tolist() == [[2, 5], [8, 11]]


def test_rows_that_cannot_be_used_are_named_by_their_line(tmp_path: Path):
    good = [1, 2, 3, 4, 5, 6, 4]
    rows = [
        good,
        [1, 2, 3, 4, 5, 256, 4],
        [1, 2, 3, 4, "x", 6, 4],
        [1, 2, 3, 4, 5.5, 6, 4],
        [1, 2, 3, 4, "nan", 6, 4],
        [*good[:6], 9],
        good,
        good[:5],
    ]
    about = [[f"L{n}" if n != 6 else "", "D"] for n in range(len(rows))]
    found = run(make(tmp_path / "in", rows, about), tmp_path, spec())
    assert len(found) == 1
    assert sorted(zip(found.quarantine["offset"], found.quarantine["reason"], strict=True)) == [
        (3, "a pixel that is no whole number from 0 to 255"),
        (4, "a pixel that is no number"),
        (5, "a pixel that is no whole number from 0 to 255"),
        (6, "a pixel that is no whole number from 0 to 255"),
        (7, "a label outside the spec's classes"),
        (8, "no lesion, which the grouping needs"),
        (9, "fewer values than columns"),
    ]


@pytest.mark.parametrize(
    ("pixels", "about", "message"),
    [
        (6, [["L", "D"]], "tables of different length; got 2 rows of pixels, 1 rows about them"),
        (4, [["L", "D"]] * 2, "images of another size; got 4; allowed: 6"),
    ],
)
def test_tables_that_do_not_fit_are_one_line(tmp_path: Path, pixels: int, about: list[list[Any]], message: str):
    with pytest.raises(DataError) as caught:
        run(make(tmp_path / "in", [[*range(pixels), 4]] * 2, about, pixels=pixels), tmp_path, spec())
    for part in message.split("; "):
        assert part in str(caught.value)


def test_a_table_without_pixels_is_one_line(tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("lesion_id,label\nL,4\n")
    with pytest.raises(DataError, match="no single table of pixels"):
        run(tmp_path / "in", tmp_path, spec())


@pytest.mark.skipif(not (DATA / "skin-ham10000").exists(), reason="HAM10000 is not on this machine (DXFLOW_DATA)")
def test_all_of_ham10000_is_used_and_its_tables_stand_in_the_same_order(tmp_path: Path):
    """10,015 images of 7,470 lesions from 4 devices; every code of one table is one diagnosis of the other."""
    found = run(DATA / "skin-ham10000", tmp_path, spec((1, 8, 8)))
    assert found.info["counts"]["samples"] == 10015
    assert found.info["counts"]["quarantined"] == 0
    assert found.info["counts"]["groups"] == 7470
    assert found.info["counts"]["devices"] == 4
    with open(DATA / "skin-ham10000" / "HAM10000_metadata.csv") as handle:
        words = [row["dx"] for row in csv.DictReader(handle)]
    with open(DATA / "skin-ham10000" / "hmnist_8_8_L.csv") as handle:
        codes = [row["label"] for row in csv.DictReader(handle)]
    pairs = set(zip(words, codes, strict=True))
    assert pairs == {("akiec", "0"), ("bcc", "1"), ("bkl", "2"), ("df", "3"), ("nv", "4"), ("vasc", "5"), ("mel", "6")}
    melanomas = found.manifest["label"] == spec().target.classes.index("melanoma")
    assert int(melanomas.sum()) == words.count("mel") == 1113
