"""Class folders: which folder means what, validation taken from train by content, and the real MRI slices."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.core.dataset import Dataset
from components.core.errors import DataError, SpecError
from components.core.spec import DiseaseSpec
from components.ingest.step import ingest
from tests.ingest.made import ROOT, hidden

DATA = Path(os.environ.get("DXFLOW_DATA") or ROOT.parent / "shared" / "data") / "alzheimer-mri-slices"
CLASSES = ("NonDemented", "Very Mild_Demented", "mild-demented", "ModerateDemented")


def slices(**changes: dict[str, Any]) -> DiseaseSpec:
    raw = DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / "alzheimer-slices.toml").model_dump(mode="json")
    for part, values in changes.items():
        raw[part] = {**raw[part], **values}
    return DiseaseSpec.model_validate(raw)


def make(folder: Path, counts: dict[str, int]) -> Path:
    """`counts` {split folder: images of each class}; every image is noise of its own."""
    rng = np.random.default_rng(0)
    for split, n in counts.items():
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(0, 255, (52, 44), dtype=np.uint8)).save(folder / split / name / f"{name[:3]} ({i}).png")
    return folder


def run(source: Path, out: Path, spec: DiseaseSpec | None = None) -> Dataset:
    ingest(spec or slices(), str(source), dataset=out / "dataset", features=out / "features", workers=1)
    return Dataset(out / "dataset")


def test_folders_name_split_and_class_in_any_spelling(tmp_path: Path):
    m = run(make(tmp_path / "in", {"Training": 3, "VALID": 2, "test": 1}), tmp_path).manifest
    assert m.groupby("split")["label"].value_counts().to_dict() == {(s, k): n for s, n in (("train", 3), ("val", 2), ("test", 1)) for k in range(4)}


def test_validation_comes_out_of_train_by_content_and_test_stays(tmp_path: Path):
    """A fifth of train; renaming and reordering the files changes nothing."""
    source = make(tmp_path / "in", {"train": 100, "test": 5})
    first = run(source, tmp_path / "a").manifest
    assert first["split"].value_counts()["test"] == 20
    assert 50 <= first["split"].value_counts()["val"] <= 110
    for path in sorted(source.rglob("*.png")):
        path.rename(path.with_name(f"z{hash(path.stem) % 1000:03d} {path.name}"))
    second = run(source, tmp_path / "b").manifest
    splits = [dict(zip(m["content_hash"], m["split"], strict=True)) for m in (first, second)]
    assert splits[0] == splits[1]


def test_what_does_not_fit_is_named(tmp_path: Path):
    source = make(tmp_path / "in", {"train": 5, "test": 5})
    (source / "train" / "Unknown").mkdir()
    (source / "train" / "Unknown" / "a.png").write_bytes((source / "train" / "NonDemented" / "Non (0).png").read_bytes())
    (source / "train" / "NonDemented" / "b.png").write_bytes(b"no image")
    (source / "c.png").write_bytes(b"")
    (source / "test" / "NonDemented" / "Thumbs.db").write_bytes(b"side file")
    q = run(source, tmp_path, slices(limits={"quarantine_share": 1})).quarantine
    assert {tuple(row)[:2] for row in q.itertuples(index=False)} == {
        (hidden("c.png"), "no split, which the spec takes as given"),
        ("train/NonDemented/" + hidden("b.png"), "not an image, or a damaged one"),
        (hidden("train/Unknown/a.png"), "a label outside the spec's classes"),
    }


def test_a_tree_without_a_test_folder_or_a_spec_with_groups_is_one_line(tmp_path: Path):
    source = make(tmp_path / "in", {"train": 2})
    with pytest.raises(DataError, match="no folder for a split; got no 'test'"):
        run(source, tmp_path)
    with pytest.raises(SpecError, match="neither groups nor several labels"):
        run(source, tmp_path, slices(split={"grouping": "patient", "given": False}))


@pytest.mark.skipif(not DATA.exists(), reason="the MRI slices are not on this machine (DXFLOW_DATA)")
def test_the_real_slices_are_listed_with_the_published_split(tmp_path: Path):
    """The rarest class only, linked into a tree of its own: 52 and 12 slices."""
    for split in ("train", "test"):
        (tmp_path / "in" / split).mkdir(parents=True)
        for path in sorted((DATA / split / "ModerateDemented").glob("*.jpg")):
            place = tmp_path / "in" / split / "ModerateDemented" / path.name
            place.parent.mkdir(exist_ok=True)
            place.symlink_to(path)
    m = run(tmp_path / "in", tmp_path).manifest
    assert ((m["split"] == "test").sum(), (m["split"] != "test").sum()) == (12, 52)
    assert set(zip(m["acq_rows"], m["acq_columns"], strict=True)) == {(208, 176)}
    assert set(m["label"]) == {3}
