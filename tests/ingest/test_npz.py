"""`.npz` archives in the MedMNIST layout."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from components.core.dataset import Dataset
from components.core.errors import DataError, SpecError
from components.core.spec import DiseaseSpec
from components.ingest.step import ingest
from tests.ingest.made import PSEUDONYMISER
from tests.ingest.test_image_csv import DATA, candidate

CLASSES = {"kind": "ordinal", "classes": ["0", "1", "2", "3", "4"], "positive": None}
GREY = candidate(input={"reader": "npz", "shape": [1, 28, 28]}, target=CLASSES)
COLOUR = candidate(input={"reader": "npz", "shape": [3, 28, 28]}, target=CLASSES)


def run(source: Path, out: Path, spec: DiseaseSpec) -> Dataset:
    ingest(spec, str(source), dataset=out / "dataset", features=out / "features", workers=2)
    return Dataset(out / "dataset")


def arrays(n: int = 20) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    out = {}
    for k, split in enumerate(("train", "val", "test")):
        out[f"{split}_images"] = rng.integers(0, 256, (n - 5 * k, 28, 28), dtype=np.uint8)
        out[f"{split}_labels"] = (np.arange(n - 5 * k) % 5)[:, None].astype(np.uint8)
    return out


def test_every_sample_keeps_its_split_label_and_pixels(tmp_path: Path):
    data = arrays()
    np.savez_compressed(tmp_path / "a.npz", **data)
    found = run(tmp_path / "a.npz", tmp_path, GREY)
    assert found.info["counts"]["train"] == 20
    assert found.info["counts"]["test"] == 10
    row_of = {sample: n for n, sample in enumerate(found.manifest["sample_id"])}
    for split in ("train", "val", "test"):
        for n, (image, label) in enumerate(zip(data[f"{split}_images"], data[f"{split}_labels"], strict=True)):
            row = row_of[PSEUDONYMISER.id("sample", "a.npz", split, str(n))]
            assert np.array_equal(found.read([row])[0, 0], image)
            assert found.manifest.loc[row, "label"] == label[0]
            assert found.manifest.loc[row, "split"] == split


def damaged(name: str) -> bytes:
    data = arrays()
    buffer = io.BytesIO()
    if name == "objects":
        data["train_images"] = np.array([{"a": 1}, None], dtype=object)
    if name == "short labels":
        data["train_labels"] = data["train_labels"][:-1]
    if name == "long labels":
        data["train_labels"] = np.repeat(data["train_labels"], 2, axis=0)
    if name == "label 9":
        data["train_labels"][3] = 9
    np.savez(buffer, **data)
    text = buffer.getvalue()
    if name == "cut":
        return text[: len(text) // 2]
    if name == "bomb":
        with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
            head = io.BytesIO()
            np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (1, 2**20, 2**20)})
            archive.writestr("train_images.npy", head.getvalue())
            archive.writestr("train_labels.npy", b"")
        return buffer.getvalue()
    return text


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cut", "not an .npz archive, or a damaged one"),
        ("objects", "an array of objects, of text, or not in C order"),
        ("short labels", "images and labels differ in number"),
        ("long labels", "images and labels differ in number"),
        ("label 9", "a label outside the spec's classes"),
        ("bomb", "an array with a damaged header"),
    ],
)
def test_damage_is_one_line(tmp_path: Path, name: str, reason: str):
    (tmp_path / "a.npz").write_bytes(damaged(name))
    with pytest.raises(DataError, match=reason):
        run(tmp_path / "a.npz", tmp_path, GREY)


def test_a_spec_with_groups_is_refused(tmp_path: Path):
    np.savez(tmp_path / "a.npz", **arrays())
    with pytest.raises(SpecError, match="images without groups"):
        run(tmp_path / "a.npz", tmp_path, candidate(input={"reader": "npz"}, split={"grouping": "patient"}))


@pytest.mark.skipif(not (DATA / "retinopathy-retinamnist").exists(), reason="RetinaMNIST is not on this machine (DXFLOW_DATA)")
def test_all_of_retinamnist(tmp_path: Path):
    found = run(DATA / "retinopathy-retinamnist", tmp_path, COLOUR)
    assert [found.info["counts"][split] for split in ("train", "val", "test")] == [1080, 120, 400]
    assert found.read([0]).shape == (1, 3, 28, 28)
