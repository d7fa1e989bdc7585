"""A folder in a disease's own format, answered sample by sample by a real server, and what the log then holds."""

from __future__ import annotations

import csv
import json
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from components.core.dataset import Dataset
from components.core.errors import DataError, ServiceError, SpecError
from components.core.imaging.deidentify import device_identity
from components.core.inference_log import read_log
from components.core.phantoms.chest_ct import generate
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec
from components.ingest.step import ingest
from components.monitor.labelled import take
from pipelines import answer_rows
from pipelines.answer_rows import SUFFIXES, refused, write
from pipelines.answer_text import replay_text
from pipelines.replay import _asked, _instance, replay
from pipelines.serving_verbs import predict
from serving.client import Refused
from serving.queries import from_document
from tests.serving import small_bodies
from tests.serving.small_package import CATALOGUE, build, lung_nodule, reference
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
    out = {suffix: tmp_path / f"answers{suffix}" for suffix in SUFFIXES}
    with started(code, tmp_path, port=port, ready="/v2/health/ready") as server:
        found = replay(server.url, "lung-nodule", tmp_path / "source", 60)
        first = min((tmp_path / "source").rglob("*.dcm"))
        asked = [str(first), "--model", "lung-nodule", "--url", server.url, "--row", "60", "--column", "60"]
        one = CliRunner().invoke(predict, [*asked, "--out", str(out[".jsonl"])])
        with pytest.raises(SpecError, match=r"--model: no such model at the server; got 'lung-nodul'; allowed: lung-nodule"):
            replay(server.url, "lung-nodul", tmp_path / "source", 60, disease="lung-nodule")
        before = sorted((tmp_path / "home").rglob("*"))
        (tmp_path / "letters").mkdir()
        for n in range(50):
            (tmp_path / "letters" / f"{n}.txt").write_text("no image")
        with pytest.raises(DataError, match=r"FILE: another folder; got none of 50 files in it; allowed: lung-nodule: application/dicom"):
            replay(server.url, "lung-nodule", tmp_path / "letters", 60)
        assert sorted((tmp_path / "home").rglob("*")) == before, "ingest began"
    rows_are_answers(found, manifest, tmp_path / "source")
    in_eighty_columns(one.output, json.loads(out[".jsonl"].read_text()))
    assert max(map(len, replay_text(found).splitlines())) <= 80
    assert len(replay_text(found).splitlines()) > len(found["rows"])
    for path in out.values():
        write(path, found["rows"])
    labels_take_them(out[".csv"], tmp_path, found)
    assert pd.read_parquet(out[".parquet"])["request_id"].tolist() == [r["request_id"] for r in found["rows"]]
    assert [json.loads(line) for line in out[".jsonl"].read_text().splitlines()] == found["rows"]
    assert found["samples"] == len(manifest) == sum(found["devices"].values())
    assert found["abstained"] + sum(found["decisions"].values()) == len(manifest)
    assert found["devices"] == manifest["device_key"].value_counts().to_dict()
    log = read_log(tmp_path / "log")
    log = log[log["request_id"].isin([r["request_id"] for r in found["rows"]])]
    assert len(log) == len(manifest)
    same = {"patient": "patient_id", "device_model": "model"} | {name: name for name in ("device_key", "software", "manufacturer")}
    same |= {name: name for name in ("acq_kvp", "acq_kernel", "acq_photometric", "acq_transfer_syntax", "acq_modality")}
    for logged, own in same.items():
        assert sorted(log[logged].tolist()) == sorted(manifest[own].tolist()), logged
    assert list((tmp_path / "home" / "scratch").iterdir()) == []


@pytest.mark.usefixtures("key")
def test_what_ingest_cannot_use_of_a_folder_is_a_row_too(tmp_path: Path) -> None:
    """An empty file among slices, under the name that it has; a copy of a slice is none."""
    generate(tmp_path / "source", patients=2, seed=3, workers=1)
    first = min((tmp_path / "source").rglob("*.dcm"))
    (first.parent / "again.dcm").write_bytes(first.read_bytes())
    (first.parent / "Doe Jane.dcm").touch()
    spec = lung_nodule(normalise={"method": "range", "missing_profile": "pooled"})
    package = build(tmp_path / "package", spec, reference({"a" * 16: ("SIEMENS", "SOMATOM FORCE")}), synthetic=True)
    port = free_port()
    code = serving([package.folder], tmp_path / "log", port=port, allow_synthetic=True)
    with started(code, tmp_path, port=port, ready="/v2/health/ready") as server:
        found = replay(server.url, "lung-nodule", tmp_path / "source", 60)
    refused = [r for r in found["rows"] if r["request_id"] is None]
    assert [(tmp_path / "source" / r["file"], r["reasons"], r["abstain"]) for r in refused] == [(first.parent / "Doe Jane.dcm", ["empty file"], True)]
    assert (found["refused"], found["reasons"]["empty file"]) == (1, 1)
    assert found["samples"] == found["abstained"] + sum(found["decisions"].values()) + 1
    assert "empty file" in replay_text(found)


def test_names_that_are_no_utf_8_are_in_every_table(tmp_path: Path) -> None:
    """As Linux keeps them: any bytes."""
    odd = os.fsdecode(b"caf\xe9\x1b.png")
    rows = [refused("r", file=odd), refused("r", file="plain é.png")]
    for suffix in SUFFIXES:
        write(tmp_path / f"t{suffix}", rows)
    assert pd.read_parquet(tmp_path / "t.parquet")["file"].tolist() == ["caf\\udce9\\x1b.png", "plain é.png"]
    assert rows[0]["file"].encode().isascii()


def rows_are_answers(found: dict[str, Any], manifest: pd.DataFrame, source: Path) -> None:
    rows = found["rows"]
    assert [r["sample"] for r in rows] == manifest["sample_id"].tolist()
    assert len({r["request_id"] for r in rows}) == len(rows)
    for row in rows:
        assert row["model"].startswith("synthetic/lung-nodule:")
        assert (source / row["file"]).is_dir(), "the series' folder"
        assert bool(row["probabilities"]) == (not row["abstain"])
        assert row["device_status"] == "unseen"
    assert sum(r["decision"] == "malignant" for r in rows) == found["decisions"].get("malignant", 0)


def in_eighty_columns(text: str, row: dict[str, Any]) -> None:
    """One answer as the reading page says it, with its request."""
    lines = text.splitlines()
    assert all(len(line) <= 80 for line in lines if not line.startswith("answers")), text
    assert f"request    {row['request_id']}" in lines
    assert "never tested on it" in text
    if not row["abstain"]:
        assert "Probability of malignant: " in text
        assert not re.search(r"\b1\.00|\b100 %", text.replace("scores", ""))


def labels_take_them(file: Path, folder: Path, found: dict[str, Any]) -> None:
    """With two columns more the table is what `dxflow labels` wants."""
    with file.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert all(name in rows[0] for name in ("request_id", "sample", "set", "reasons", "probability_malignant", "device", "digest"))
    at = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    labels = folder / "labels.csv"
    with labels.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, [*rows[0], "label", "at"])
        writer.writeheader()
        writer.writerows(row | {"label": "benign", "at": at} for row in rows)
    taken = take(package=folder / "package", log=folder / "log", state=folder / "state", file=labels, now=datetime.now(UTC) + timedelta(hours=1))
    assert (taken.counts["new"], taken.counts["refused"]) == (len(found["rows"]), 0)


@pytest.mark.usefixtures("key")
def test_recordings_go_as_a_file_each_and_a_damaged_one_loses_no_other(tmp_path: Path) -> None:
    """Under a name of its own, by its own .toml; the patient is the one that ingest would have had from the file's name."""
    source = tmp_path / "visits"
    source.mkdir()
    for n, name in enumerate(("S01R01.csv", "S01R02.csv", "S02R01.csv", "notes.txt")):
        (source / name).write_bytes(small_bodies.recording(12.0 + 6 * n))
    (source / "S03R01.csv").write_bytes(b"time,A0\n1,2\n")
    text = (CATALOGUE / "parkinson-fog.toml").read_text().replace('name = "parkinson-fog"', 'name = "my-gait"')
    own = tmp_path / "my-gait.toml"
    own.write_text(text)
    spec = DiseaseSpec.from_toml(str(own))
    spec = DiseaseSpec.model_validate(spec.model_dump() | {"abstain": {"outside": 0}})
    table = reference({"a" * 16: ("A", "B")}).rename(columns={"score_benign": "score_no-freeze", "score_malignant": "score_freeze"})
    package = build(tmp_path / "package", spec, table, synthetic=True)
    port = free_port()
    code = serving([package.folder], tmp_path / "log", port=port, allow_synthetic=True)
    with started(code, tmp_path, port=port, ready="/v2/health/ready") as server:
        asked = [str(source), "--model", "my-gait", "--url", server.url]
        unknown = CliRunner().invoke(predict, asked)
        done = CliRunner().invoke(predict, [*asked, "--disease", str(own), "--device", "Unit 7", "--out", str(tmp_path / "o.csv"), "--json"])
        told = CliRunner().invoke(predict, [*asked, "--disease", str(own)])
    assert "--disease path/my-gait.toml" in str(unknown.exception)
    found = json.loads(done.output)
    assert [(r["file"], r["windows"]) for r in found["recordings"]] == [("S01R01.csv", 6), ("S01R02.csv", 11), ("S02R01.csv", 15)]
    refused = [r for r in found["rows"] if r["request_id"] is None]
    assert [(r["file"], len(r["reasons"])) for r in refused] == [("S03R01.csv", 1)]
    assert (found["refused"], found["samples"]) == (1, 33)
    assert found["rows"][1]["part"].startswith("window 1, start_s ")
    key = Pseudonymiser(b"a key of the tests only")
    assert found["rows"][1]["sample"] == key.id("sample", "S01R01.csv", "1")
    log = read_log(tmp_path / "log")
    assert set(log["patient"].dropna()) == {key.id("patient", "S01"), key.id("patient", "S02")}
    assert set(found["devices"]) == {device_identity(key, key=("Unit 7",)).key}
    assert "S03R01.csv" in told.output
    assert max(map(len, told.output.splitlines())) <= 80
    with (tmp_path / "o.csv").open(newline="") as handle:
        assert len(list(csv.DictReader(handle))) == 33


@pytest.mark.usefixtures("key")
def test_nothing_is_read_before_the_server_is_known(tmp_path: Path) -> None:
    """A folder that ingest would refuse: what is told is the server, and ingest did not begin."""
    (tmp_path / "source").mkdir()
    with pytest.raises(ServiceError, match="no answer from the server"):
        replay(f"http://127.0.0.1:{free_port()}", "lung-nodule", tmp_path / "source", 2)
    assert not (tmp_path / "home").exists()


@pytest.mark.usefixtures("key")
def test_a_sample_that_the_server_does_not_take_loses_no_other(tmp_path: Path) -> None:
    """One refused sample of a request of many cost the answers about all samples of the folder, which the server had given and logged."""
    spec = DiseaseSpec.from_toml(CATALOGUE / "lung-nodule.toml")
    generate(tmp_path / "source", patients=4, seed=3, workers=1)
    ingest(spec, str(tmp_path / "source"), dataset=tmp_path / "dataset", features=tmp_path / "features")
    manifest = Dataset(tmp_path / "dataset").manifest
    package = build(tmp_path / "package", lung_nodule(normalise={"method": "range"}), reference({"a" * 16: ("A", "B")}), synthetic=True)
    port = free_port()
    code = serving([package.folder], tmp_path / "log", port=port, allow_synthetic=True)
    good = [_instance(np.full(spec.input.shape, -500.0 + n), row, {}) for n, row in enumerate(manifest.to_dict("records"))]
    bad = {2, 3, len(good) - 1}
    sent = [one | ({"patient_key": "no hash"} if n in bad else {}) for n, one in enumerate(good)]
    with started(code, tmp_path, port=port, ready="/v2/health/ready") as server:
        answers = _asked(server.url, "lung-nodule", sent, 60)
        alone = [_asked(server.url, "lung-nodule", [one], 60)[0] for one in sent[:3]]
        with pytest.raises(SpecError, match="no such model"):
            _asked(server.url, "lungs", sent, 60)
    assert {n for n, one in enumerate(answers) if isinstance(one, Refused)} == bad
    assert str(answers[2]).startswith("instances[0].patient_key: not a keyed hash")
    for one, same in zip(answers[:2], alone[:2], strict=True):
        assert not isinstance(one, Refused)
        assert not isinstance(same, Refused)
        assert one["probabilities"] == same["probabilities"]
        assert one["request_id"] != same["request_id"]
    rows = [answer_rows.refused(str(one)) if isinstance(one, Refused) else answer_rows.row(one) for one in answers]
    assert [r["request_id"] is None for r in rows] == [n in bad for n in range(len(good))]


@pytest.mark.parametrize("name", ["answers.xlsx", "answers", "nowhere/answers.csv"])
def test_a_table_that_cannot_be_written_is_refused_before_anything_is_asked(name: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(predict, [str(tmp_path), "--model", "lung-nodule", "--url", "http://127.0.0.1:1", "--out", str(tmp_path / name)])
    assert isinstance(done.exception, SpecError)
    assert "--out: " in str(done.exception)


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
