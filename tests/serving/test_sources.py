"""Where a served model may come from: names, folders, file:// and s3:// URIs, a mount of KServe's storage initialiser."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.core import registry
from components.core.errors import DataError, GateError, SpecError
from components.core.package import ModelPackage
from components.core.storage import open_store
from pipelines import models
from serving.options import Options
from serving.places import Places, load
from serving.sources import from_folder
from tests.s3_server import S3Server
from tests.serving.small_package import build, lung_nodule, reference

TABLE = reference({"0123456789abcdef": ("SIEMENS", "SOMATOM FORCE")}, patients=3)


def made(folder: Path) -> ModelPackage:
    return build(folder, lung_nodule(normalise={"method": "range", "missing_profile": "abstain"}), TABLE)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DXFLOW_STORE", raising=False)


@pytest.mark.parametrize("text", ["{}", "file://{}", "{}/..", "file://{}/.."])
def test_a_folder_its_uri_and_the_folder_above_it_are_one_package(tmp_path: Path, text: str) -> None:
    package = made(tmp_path / "mount" / "the model")
    source = models.source(text.format(package.folder).replace("the model", "the%20model" if "file:" in text else "the model"), allow_synthetic=False)
    assert source.name == "lung-nodule"
    assert source.current() == package.digest
    assert load(source, allow_synthetic=False).package.digest == package.digest


def test_a_folder_of_two_packages_and_one_of_none_are_no_model(tmp_path: Path) -> None:
    for name in ("one", "two"):
        made(tmp_path / "mount" / name)
    for folder, text in ((tmp_path / "mount", "several packages"), (tmp_path / "absent", "no package.json")):
        with pytest.raises(DataError, match=text):
            from_folder(folder).current()


def test_an_s3_uri_outside_the_store_is_fetched_and_verified(tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_server.environment(monkeypatch)
    package = made(tmp_path / "package")
    uri = open_store("s3://models/elsewhere").put_folder(package.folder, f"lung-nodule/{package.digest}")
    source = models.source(uri, allow_synthetic=False)
    assert (source.name, source.current()) == ("lung-nodule", None)
    assert load(source, allow_synthetic=False).package.digest == package.digest
    with pytest.raises(DataError, match="no such folder in the store"):
        load(models.source(f"{uri}0", allow_synthetic=False), allow_synthetic=False)


def test_when_no_model_loads_the_reasons_of_all_are_told(tmp_path: Path) -> None:
    sources = [models.source(text, allow_synthetic=False) for text in (str(tmp_path), "skin-lesion:7", "no-disease")]
    with pytest.raises(SpecError, match=r"no model loads; got .*: not a model package.*; skin-lesion:7: .*; no-disease: MODEL: no such model"):
        Places(sources, allow_synthetic=False)


def test_one_model_that_does_not_load_is_said_once_and_beside_others_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    absent = models.source("no-disease", allow_synthetic=False)
    with pytest.raises(SpecError, match="no such model"):
        Places([absent], allow_synthetic=False)
    assert caplog.messages == []
    made(tmp_path / "p")
    Places([from_folder(tmp_path / "p"), absent], allow_synthetic=False)
    (line,) = caplog.messages
    assert "not ready: MODEL: no such model" in line


def test_a_disease_with_a_synthetic_model_only_names_the_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    registry.client().create_registered_model(registry.mlflow_name("synthetic/lung-nodule"))
    with pytest.raises(GateError, match=r"model lung-nodule: trained on synthetic data only; allowed: --allow-synthetic"):
        models.fetch("lung-nodule", allow_synthetic=False)


def test_a_package_of_another_disease_does_not_take_a_place(tmp_path: Path) -> None:
    made(tmp_path / "p")
    (place,) = Places([from_folder(tmp_path / "p")], allow_synthetic=False)
    before = place.holder()
    (tmp_path / "p").rename(tmp_path / "old")
    build(tmp_path / "p", lung_nodule(name="lung-other", normalise={"method": "range", "missing_profile": "abstain"}), TABLE)
    assert not place.renew()
    assert place.holder() is before
    assert "the package of another disease; got lung-other; allowed: lung-nodule" in (place.reason or "")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"queue": 0}, "--queue: out of range; got 0"),
        ({"deadline_s": 0}, "--deadline"),
        ({"poll_s": -1}, "--poll"),
        ({"grpc_port": 8080}, "--grpc-port"),
    ],
)
def test_options_out_of_range_are_named(tmp_path: Path, changes: dict[str, float], text: str) -> None:
    with pytest.raises(SpecError, match=text):
        Options(log=tmp_path, **changes)  # pyright: ignore[reportArgumentType]
