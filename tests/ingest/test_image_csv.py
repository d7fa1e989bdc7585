"""Images with a table of labels: which column means what, what goes to quarantine, and the real LUNA16 candidates."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.core.dataset import Dataset
from components.core.errors import DataError
from components.core.imaging.errors import NotUsable
from components.core.imaging.fit import fit
from components.core.spec import DiseaseSpec
from components.ingest.step import ingest
from tests.ingest.made import PSEUDONYMISER, ROOT, hidden

DATA = Path(os.environ.get("DXFLOW_DATA") or ROOT.parent / "shared" / "data")


def candidate(**changes: dict[str, Any]) -> DiseaseSpec:
    raw = DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / "lung-candidate.toml").model_dump(mode="json")
    for part, values in changes.items():
        raw[part] = {**raw[part], **values}
    return DiseaseSpec.model_validate(raw)


BY_PATIENT = candidate(split={"grouping": "patient", "given": False}, limits={"quarantine_share": 1})


def make(folder: Path, header: list[str], rows: list[list[object]], *, size: int = 50) -> Path:
    """A table, and for each row a PNG whose pixels all hold the row's number."""
    (folder / "images").mkdir(parents=True)
    for n, row in enumerate(rows):
        if row and row[0]:
            Image.fromarray(np.full((size, size), n, np.uint8)).save(folder / str(row[0]))
    with open(folder / "labels.csv", "w", newline="") as handle:
        csv.writer(handle).writerows([header, *rows])
    return folder


def run(source: Path, out: Path, spec: DiseaseSpec) -> Dataset:
    ingest(spec, str(source), dataset=out / "dataset", features=out / "features", workers=2)
    return Dataset(out / "dataset")


def test_columns_become_the_manifest(tmp_path: Path):
    header = ["image", "label", "patient_id", "scanner", "Manufacturer", "acquired_at", "synthetic", "note"]
    rows = [
        [f"images/{n}.png", ["nodule", "non-nodule"][n % 2], f"Jane{n // 2}", f"S{n % 3}", "Siemens", "2024-02-29T10:00", n % 2, "free text"]
        for n in range(12)
    ]
    found = run(make(tmp_path / "in", header, rows), tmp_path, BY_PATIENT)
    by_id = found.manifest.set_index("sample_id")
    for n in range(12):
        row = by_id.loc[PSEUDONYMISER.id("sample", f"images/{n}.png")]
        assert row["label"] == 1 - n % 2
        assert row["patient_id"] == row["group_id"] == PSEUDONYMISER.id("patient", f"Jane{n // 2}")
        assert row["device_key"] == PSEUDONYMISER.id("device", f"S{n % 3}")
        assert row["manufacturer"] == "SIEMENS"
        assert row["synthetic"] == bool(n % 2)
        assert row["acquired_at"].year < 2025
    position = found.manifest.index[found.manifest["sample_id"] == PSEUDONYMISER.id("sample", "images/7.png")]
    assert (found.read(position.to_numpy()) == 7).all()
    assert (found.manifest.groupby("group_id")["split"].nunique() == 1).all()


def test_a_column_named_like_the_positive_class_is_the_label(tmp_path: Path):
    rows = [[f"images/{n}.png", n % 2, ["train", "valid", "test"][n % 3]] for n in range(6)]
    found = run(make(tmp_path / "in", ["image", "nodule", "split"], rows), tmp_path, candidate())
    by_id = found.manifest.set_index("sample_id")
    for n in range(6):
        assert by_id.loc[PSEUDONYMISER.id("sample", f"images/{n}.png"), "label"] == n % 2
    assert found.manifest["split"].value_counts().to_dict() == {"train": 2, "val": 2, "test": 2}


def test_other_words_for_a_class_merge_labels(tmp_path: Path):
    """Five grades become two classes; a number that is an alias is a word, not the place of a class."""
    aliases = {"None": "non-nodule", "0": "non-nodule", "1": "nodule", "mild": "nodule", "4": "nodule"}
    words = ["none", "MILD", "4", "0", "1", "3", "nodule"]
    rows = [[f"images/{n}.png", word, "train"] for n, word in enumerate(words)]
    spec = candidate(target={"aliases": aliases}, limits={"quarantine_share": 1})
    found = run(make(tmp_path / "in", ["image", "label", "split"], rows), tmp_path, spec)
    by_id = found.manifest.set_index("sample_id")["label"]
    labels = {n: int(by_id[PSEUDONYMISER.id("sample", f"images/{n}.png")]) for n in (0, 1, 2, 3, 4, 6)}
    assert labels == {0: 0, 1: 1, 2: 1, 3: 0, 4: 1, 6: 1}
    assert found.quarantine["reason"].tolist() == ["a label outside the spec's classes"]


def test_multilabel_takes_one_column_for_each_class(tmp_path: Path):
    target = {"kind": "multilabel", "classes": ["edema", "effusion", "mass"], "positive": None}
    rows = [[f"images/{n}.png", n % 2, 1, 0, "train"] for n in range(4)]
    found = run(make(tmp_path / "in", ["image", "Effusion", "edema", "mass", "split"], rows), tmp_path, candidate(target=target))
    assert sorted(map(tuple, found.manifest["labels"])) == [(1, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 0)]
    assert found.manifest["label"].isna().all()


def test_rows_that_cannot_be_used_are_named_by_their_line(tmp_path: Path):
    rows = [["images/0.png", "nodule", "p0"], ["images/1.png", "maybe", "p1"], ["images/2.png", "nodule", ""], ["images/3.png", "nodule"]]
    source = make(tmp_path / "in", ["image", "label", "patient"], [*rows, ["images/4.png", "nodule", "p4"], ["images/5.png", "nodule", "p5"]])
    (source / "images/4.png").unlink()
    (source / "images/5.png").write_bytes((source / "images/5.png").read_bytes()[:60])
    with open(source / "labels.csv", "a") as handle:
        handle.write("../../etc/passwd,nodule,p6\n")
    found = run(source, tmp_path, BY_PATIENT)
    assert len(found) == 1
    assert [tuple(row) for row in found.quarantine.drop(columns="skipped").fillna(-1).itertuples(index=False)] == [
        (hidden("images/5.png"), "damaged PNG: it ends early", 33),
        ("labels.csv", "a label outside the spec's classes", 3),
        ("labels.csv", "a row without its image", 6),
        ("labels.csv", "a row without its image", 8),
        ("labels.csv", "fewer values than columns", 5),
        ("labels.csv", "no patient, which the grouping needs", 4),
    ]


def test_names_in_paths_are_hashed_in_quarantine(tmp_path: Path):
    rows = [["images/scan_JONES_1.png", "nodule", "Jones"], ["images/2.png", "nodule", "Smith"]]
    source = make(tmp_path / "in", ["image", "label", "patient"], rows)
    (source / "images/scan_JONES_1.png").write_bytes(b"")
    assert run(source, tmp_path, BY_PATIENT).quarantine["file"].str.fullmatch(r"images/path-[0-9a-f]{16}\.png").all()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (["image", "diagnosis"], "no column of labels"),
        (["image"], "not a table of labels"),
        (["image", "label", "Label"], "not a table of labels"),
    ],
)
def test_a_table_without_labels_is_one_line(tmp_path: Path, header: list[str], message: str):
    source = make(tmp_path / "in", header, [["images/0.png", "nodule", "x"][: len(header)]])
    with pytest.raises(DataError, match=message):
        run(source, tmp_path, candidate())


def test_no_table_or_two_are_one_line(tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()
    with pytest.raises(DataError, match="no single table of labels; got 0"):
        run(tmp_path / "in", tmp_path, candidate())


def test_a_given_split_that_cuts_a_group_is_refused(tmp_path: Path):
    rows = [[f"images/{n}.png", "nodule", "p", ["train", "test"][n]] for n in range(2)]
    source = make(tmp_path / "in", ["image", "label", "patient", "split"], rows)
    with pytest.raises(DataError, match="cuts through groups; got 1 groups"):
        run(source, tmp_path, candidate(split={"grouping": "patient", "given": True}))


def test_image_over_the_limit_is_refused_before_decoding(tmp_path: Path):
    """A PNG of 20000 x 20000 in 50 kB."""
    source = make(tmp_path / "in", ["image", "nodule", "split"], [["images/0.png", 1, "train"], ["images/1.png", 0, "train"]])
    Image.new("1", (20_000, 20_000)).save(source / "images/1.png")
    found = run(source, tmp_path, candidate(limits={"quarantine_share": 1}))
    assert found.quarantine["reason"].tolist() == ["image over limits.pixels_per_image"]


def test_a_side_that_is_a_little_short_is_padded_with_its_edge_not_stretched():
    spec_input = candidate().input
    image = np.arange(50 * 47, dtype=np.uint16).reshape(50, 47).astype(np.uint8)
    fitted = fit(image, spec_input)
    assert fitted.shape == (1, 50, 50)
    assert np.array_equal(fitted[0, :, 1:48], image)
    assert np.array_equal(fitted[0, :, 0], image[:, 0])
    assert np.array_equal(fitted[0, :, 49], image[:, 46])


def test_other_sizes_are_resized_and_channels_converted():
    spec_input = candidate().input
    flat = fit(np.full((100, 200, 3), 77, np.uint8), spec_input)
    assert flat.shape == (1, 50, 50)
    assert (flat == 77).all()
    assert (fit(np.dstack([np.full((50, 50), v, np.uint8) for v in (255, 0, 0)]), spec_input) == 76).all()
    colour = candidate(input={"shape": [3, 50, 50]}).input
    assert fit(np.full((50, 50), 9, np.uint8), colour).shape == (3, 50, 50)


@pytest.mark.parametrize("image", [np.full((50, 50), 300, np.uint16), np.full((50, 50), 0.5, np.float32), np.zeros((50, 50, 4), np.uint8)])
def test_values_that_do_not_fit_are_refused(image: np.ndarray):
    with pytest.raises(NotUsable):
        fit(image, candidate().input)


@pytest.mark.skipif(not (DATA / "lung-nodule-luna16").exists(), reason="the LUNA16 patches are not on this machine (DXFLOW_DATA)")
def test_all_luna16_patches_are_used(tmp_path: Path):
    """8,106 patches, one of them 47 pixels high; the published split."""
    found = run(DATA / "lung-nodule-luna16", tmp_path, candidate())
    assert len(found) == 8106
    assert found.info["counts"]["quarantined"] == 0
    assert int(found.manifest["label"].sum()) == 1351
    assert (found.manifest["acq_rows"] == 47).sum() == 1
    with open(DATA / "lung-nodule-luna16" / "labels.csv") as handle:
        given = {
            PSEUDONYMISER.id("sample", row["image"]): (int(row["nodule"]), row["split"].replace("valid", "val")) for row in csv.DictReader(handle)
        }
    rows = found.manifest
    assert {s: (label, split) for s, label, split in zip(rows["sample_id"], rows["label"], rows["split"], strict=True)} == given
