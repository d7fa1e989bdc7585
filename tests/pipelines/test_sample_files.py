"""Which file a sample came from, by ingest's own ids, for formats of several kinds; and folders that are none of the disease's."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.core.dataset import Dataset
from components.core.errors import DataError
from components.core.pseudonym import Pseudonymiser
from components.ingest.step import ingest
from pipelines import catalog
from pipelines.phantom import write
from pipelines.sample_files import WANTED, files_of, fitting
from tests.serving import small_bodies

KEY = "a key of the tests only"


def manifest_of(name: str, source: Path, folder: Path):
    spec = catalog.load(name)
    ingest(spec, str(source), dataset=folder / "dataset", features=folder / "features")
    return Dataset(folder / "dataset").manifest


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DXFLOW_KEY", KEY)


def test_a_photograph_is_its_file(tmp_path: Path):
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    lines = ["image,label,patient,device"]
    for n in range(12):
        (source / "images" / f"Eye {n}.png").write_bytes(small_bodies.picture(seed=n))
        lines.append(f"images/Eye {n}.png,{n % 2},p{n},SITE-2")
    (source / "labels.csv").write_text("\n".join(lines) + "\n")
    manifest = manifest_of("retinopathy-screening", source, tmp_path)
    found = files_of(catalog.load("retinopathy-screening"), source, manifest, Pseudonymiser(KEY.encode()))
    assert sorted(found.values()) == sorted(f"images/Eye {n}.png" for n in range(12))
    assert set(found) == set(manifest["sample_id"])


@pytest.mark.parametrize("name", ["retinopathy-screening", "alzheimer-smri"])
def test_a_file_of_an_external_set_is_named_too(name: str, tmp_path: Path):
    """Its samples have ids of their own, and its files may be called as those of the main part are."""
    spec = catalog.load(name)
    write(spec, tmp_path / "source", patients=6, seed=5)
    manifest = manifest_of(name, tmp_path / "source", tmp_path)
    found = files_of(spec, tmp_path / "source", manifest, Pseudonymiser(KEY.encode()))
    assert set(found) == set(manifest["sample_id"])
    assert len(set(found.values())) == len(manifest)
    folder = manifest["sample_id"].map(found).str.split("/").str[0]
    for external in spec.external:
        own = manifest["split"] == external.split
        assert set(folder[own]) == {external.source}
        assert external.source not in set(folder[~own])


def test_a_row_of_a_table_is_its_file_and_line(tmp_path: Path):
    from components.core.package_data import local_path

    source = tmp_path / "source"
    source.mkdir()
    text = local_path(catalog_source()).read_text()
    (source / "table.csv").write_text(text)
    manifest = manifest_of("breast-cytology", source, tmp_path)
    found = files_of(catalog.load("breast-cytology"), source, manifest, Pseudonymiser(KEY.encode()))
    assert set(found) == set(manifest["sample_id"])
    assert len(set(found.values())) == len(manifest) == 569
    assert all(value.startswith("table.csv:") for value in found.values())


def catalog_source() -> str:
    return "package:sklearn/datasets/data/breast_cancer.csv"


@pytest.mark.parametrize("name", [name for name in catalog.names() if catalog.load(name).input.reader in WANTED])
def test_a_folder_of_something_else_is_refused_before_it_is_read(name: str, tmp_path: Path):
    for n in range(30):
        (tmp_path / f"{n}.jpg").write_bytes(small_bodies.picture("JPEG", seed=n))
    spec = catalog.load(name)
    with pytest.raises(DataError, match=r"FILE: another folder; got none of 30 files in it"):
        fitting(spec, tmp_path)
    (tmp_path / "deep").mkdir()
    own = small_bodies.nifti() if spec.input.reader == "nifti-bids" else small_bodies.photograph_dicom()
    (tmp_path / "deep" / "one").write_bytes(own)
    fitting(spec, tmp_path)
