"""Erasing from an object store, and from a store that somebody left half-done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.core import registry
from components.core.erasure import Ids
from components.core.errors import DataError
from components.core.package import ModelPackage
from components.core.storage import open_store
from components.register.erasure import changes, drop_incomplete, erase_from_store, package_keys
from pipelines.erase import erase
from tests.s3_server import S3Server
from tests.serving.small_package import build, lung_nodule, reference

PATIENT = "d" * 16 + "-3"
IDS = Ids(keys=frozenset({PATIENT}))
DEVICES = {"d" * 16: ("SIEMENS", "SOMATOM")}


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return build(tmp_path / "package", lung_nodule(), reference(DEVICES))


def test_a_package_in_a_bucket_moves_to_its_new_digest(s3_server: S3Server, package: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    s3_server.environment(monkeypatch)
    monkeypatch.setenv("DXFLOW_STORE", "s3://models/erase")
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")  # MLflow sets it itself, for whoever comes next
    store = open_store()
    key = f"models/lung-nodule/{package.digest}"
    uri = store.put_folder(package.folder, key)
    (tmp_path / "registration.json").write_text(json.dumps({"digest": package.digest, "uri": uri, "version": "1"}))
    store.put_file(tmp_path / "registration.json", f"{key}/registration.json")
    registry.register("lung-nodule", uri=uri, digest=package.digest, verdict="pass", reasons=[], synthetic=False, tags={}, alias="champion")
    (changed,) = erase_from_store(store, registry.versions("lung-nodule"), IDS, dry=False, scratch=tmp_path / "scratch")
    assert (changed.rows, changed.versions) == ({"reference.parquet": 2}, ["lung-nodule:1"])
    found = registry.find("lung-nodule")
    assert (found.digest, found.uri) == (changed.new, changed.uri)
    store.get_folder(found.uri, tmp_path / "fetched")
    opened = ModelPackage.open(tmp_path / "fetched", digest=found.digest)
    assert PATIENT not in set(opened.reference["group_id"])
    assert {e.key.split("/")[2] for e in store.list("models/")} == {changed.new}
    assert list((tmp_path / "scratch").iterdir()) == []
    assert erase(None, "f" * 16, logs=[], state=tmp_path / "state", dry=False)["records"] == 0


def test_leftovers_without_a_manifest_go(package: ModelPackage, tmp_path: Path):
    """A removal that was killed: no reader sees the folder, its bytes are still there."""
    store = open_store(str(tmp_path / "store"))
    store.put_folder(package.folder, "models/lung-nodule/old")
    store.put_folder(package.folder, "models/lung-nodule/whole")
    store._delete("models/lung-nodule/old/.dxflow.json")
    assert package_keys(store) == ["models/lung-nodule/whole"]
    assert drop_incomplete(store, IDS, dry=False) == ["models/lung-nodule/old"]
    assert {e.key.split("/")[2] for e in store.list("models/")} == {"whole"}


def test_a_name_where_no_table_is_stops_before_anything_changes(tmp_path: Path):
    spec, table = lung_nodule(), reference(DEVICES)
    package = build(tmp_path / "p", spec, table, facts={"worst": PATIENT})
    with pytest.raises(DataError, match=r"model.json: names the patient"):
        changes(package, IDS)
