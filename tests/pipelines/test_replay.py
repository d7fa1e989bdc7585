"""A folder in a disease's own format, answered sample by sample by a real server, and what the log then holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.dataset import Dataset
from components.core.errors import SpecError
from components.core.inference_log import read_log
from components.core.phantoms.chest_ct import generate
from components.core.pseudonym import Pseudonymiser
from components.ingest.step import ingest
from pipelines.replay import _instance, replay
from serving.queries import from_document
from tests.serving.small_package import build, lung_nodule, reference
from tests.serving.small_server import free_port, serving, started


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DXFLOW_KEY", "a key of the tests only")


@pytest.mark.usefixtures("key")
def test_every_sample_is_answered_under_its_own_keys(tmp_path: Path) -> None:
    generate(tmp_path / "source", patients=4, seed=3, workers=1)
    spec = lung_nodule(normalise={"method": "range", "missing_profile": "pooled"})
    ingest(spec, str(tmp_path / "source"), dataset=tmp_path / "dataset", features=tmp_path / "features")
    manifest = Dataset(tmp_path / "dataset").manifest
    package = build(tmp_path / "package", spec, reference({"a" * 16: ("SIEMENS", "SOMATOM FORCE")}), synthetic=True)
    port = free_port()
    code = serving([package.folder], tmp_path / "log", port=port, allow_synthetic=True)
    with started(code, tmp_path, port=port, ready="/v2/health/ready") as server:
        found = replay(server.url, "lung-nodule", tmp_path / "source", 60)
    assert found["samples"] == len(manifest) == sum(found["devices"].values())
    assert found["abstained"] + sum(found["decisions"].values()) == len(manifest)
    assert found["devices"] == manifest["device_key"].value_counts().to_dict()
    log = read_log(tmp_path / "log")
    same = {"patient": "patient_id", "device_model": "model"} | {name: name for name in ("device_key", "software", "manufacturer")}
    same |= {name: name for name in ("acq_kvp", "acq_kernel", "acq_photometric", "acq_transfer_syntax", "acq_modality")}
    for logged, own in same.items():
        assert sorted(log[logged].tolist()) == sorted(manifest[own].tolist()), logged
    assert list((tmp_path / "home" / "scratch").iterdir()) == []


@pytest.mark.usefixtures("key")
def test_an_unknown_disease_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="lungs"):
        replay("http://127.0.0.1:1", "lungs", tmp_path, 1)


def test_what_is_known_of_a_patient_goes_with_the_sample() -> None:
    """As the server reads it: what the feature store says, and nothing for whom it knows nothing."""
    spec = lung_nodule(covariates=["age_years", "body_site"])
    told: list[dict[str, Any]] = [{"age_years": 63.0, "body_site": "back"}, {}]
    row = {"device_key": "a" * 16, "patient_id": "b" * 16, "software": None, "acq_kvp": 120.0}
    body = {"instances": [_instance(np.zeros(spec.input.shape), row, one) for one in told]}
    queries = from_document(json.loads(json.dumps(body)), spec, Pseudonymiser(b"a key of the tests only"))
    assert [dict(q.covariates) for q in queries] == told
