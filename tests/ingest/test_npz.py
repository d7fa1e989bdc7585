"""`.npz` archives in the MedMNIST layout."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.dataset import Dataset
from components.core.errors import DataError, SpecError
from components.core.imaging.errors import NotUsable
from components.core.spec import DiseaseSpec
from components.ingest.job import Context, Task
from components.ingest.journal import arrays_path
from components.ingest.readers.npz import read_split
from components.ingest.source import open_source
from components.ingest.step import ingest
from tests.core.flips import REFUSED, outcomes
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
    if name == "header":
        with zipfile.ZipFile(io.BytesIO(text)) as whole, zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
            for member in whole.namelist():
                archive.writestr(member, whole.read(member).replace(b"'fortran_order'", b"#fortran_order'"))
        return buffer.getvalue()
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


def reading(folder: Path) -> Callable[[bytes], Any]:
    """What is read of an archive: each split's rows and arrays. Raises NotUsable where a split is refused or missing."""
    (folder / "arrays").mkdir()
    path = folder / "a.npz"

    def read(data: bytes) -> Any:
        path.write_bytes(data)
        context = Context(GREY, open_source(str(path)), PSEUDONYMISER, folder)
        found = []
        for split in ("train", "val", "test"):
            task = Task(split, (0, split))
            outcome = read_split(context, task)
            if outcome.rejected:
                assert outcome.samples == []
                raise NotUsable(outcome.rejected[0].reason)
            found.append((outcome.samples, arrays_path(folder, split).read_bytes()))
        return found

    return read


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path, save: Callable[..., None]):
    buffer = io.BytesIO()
    save(buffer, **arrays(11))
    found, wrong = outcomes(buffer.getvalue(), reading(tmp_path), 150)
    assert wrong == []
    assert found[REFUSED] > 100


def test_an_array_with_bytes_behind_it_is_refused_with_its_checksum_asked_for(tmp_path: Path):
    """A smaller shape would leave images unread, and the member's end with its CRC-32 too."""
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        for name, array in arrays(11).items():
            np.lib.format.write_array(member := io.BytesIO(), array)
            archive.writestr(f"{name}.npy", member.getvalue() + (b"\0" if name == "val_images" else b""))
    with pytest.raises(NotUsable, match="an array of more bytes than its header says"):
        reading(tmp_path)(buffer.getvalue())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cut", "not an .npz archive, or a damaged one"),
        ("header", "an array with a damaged header"),
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
