"""`dxflow pacs` as a user runs it, on a synthetic chest series, with the whole lung chain and an Orthanc behind a password."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest

from components.core.phantoms.chest_ct import generate
from tests.orthanc import PASSWORD, USER, Orthanc, needs_orthanc, orthanc
from tests.pacs.studies import KEY, chest, photograph
from tests.serving.small_bodies import package
from tests.serving.small_package import CATALOGUE, DiseaseSpec, build, lung_nodule, reference
from tests.serving.small_server import free_port

pytestmark = needs_orthanc
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("command")
    build(
        folder / "package",
        lung_nodule(normalise={"method": "device", "missing_profile": "pooled"}),
        reference({"a" * 16: ("A", "B")}),
        synthetic=True,
    )
    eye = DiseaseSpec.from_toml(CATALOGUE / "retinopathy-screening.toml")
    build(folder / "eye", eye, reference({"a" * 16: ("A", "B")}), synthetic=True)
    generate(folder / "phantom", patients=1, seed=20161, workers=1)
    with orthanc(folder / "orthanc") as server:
        server.send(sorted((folder / "phantom").rglob("*.dcm")))
        server.send(chest("2.25.73", "2.25.74", BurnedInAnnotation="YES"))
        yield server


def command(archive: Orthanc, *arguments: str, password: str = PASSWORD) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DXFLOW_")}
    environment |= {"DXFLOW_HOME": str(archive.folder.parent / "home"), "DXFLOW_KEY": KEY, "DXFLOW_PACS_USER": USER, "DXFLOW_PACS_PASSWORD": password}
    whole = [sys.executable, "-m", "pipelines", "pacs", *arguments, "--url", archive.url]
    return subprocess.Popen(whole, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def watching(archive: Orthanc, *more: str, **options: Any) -> subprocess.Popen[str]:
    package = str(archive.folder.parent / "package")
    return command(archive, package, "--stable-s", "0", "--days", "0", "--allow-synthetic", *more, **options)


def test_a_whole_series_is_found_outlined_answered_and_stored(archive: Orthanc, tmp_path: Path):
    done = watching(archive, "--once")
    out, err = done.communicate()
    assert done.returncode == 0, err
    events = [json.loads(line) for line in out.splitlines()]
    (answered,) = (e for e in events if e["event"] == "answered")
    (found,) = (pydicom.dcmread(io.BytesIO(data)) for data in archive.objects("SR"))
    (outlines,) = (pydicom.dcmread(io.BytesIO(data)) for data in archive.objects("SEG"))
    assert len(outlines.SegmentSequence) == answered["findings"] >= 2
    assert found.PatientID == outlines.PatientID == "SYN-0001"
    if shutil.which("dcentvfy"):
        files = [*sorted((archive.folder.parent / "phantom").rglob("*.dcm"))]
        for kind in ("SR", "SEG"):
            files.append(tmp_path / f"{kind}.dcm")
            files[-1].write_bytes(archive.objects(kind)[0])
        said = subprocess.run(["dcentvfy", *map(str, files)], capture_output=True, text=True, check=False)
        assert [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")] == []
    listed = json.loads(command(archive, "--failed", "--json").communicate()[0].splitlines()[-1])["failed"]
    assert [(row["study"], row["reasons"]) for row in listed] == [("2.25.73", ["burned-in annotation (1 series)"])]


def test_photographs_of_both_eyes_get_a_report_and_pictures(archive: Orthanc):
    """By the command: a loop that the tests put together by hand says nothing about who builds it."""
    archive.send([photograph("2.25.91", "R"), photograph("2.25.91", "L", seed=1, number=2)])
    done = command(archive, str(archive.folder.parent / "eye"), "--stable-s", "0", "--days", "0", "--allow-synthetic", "--once")
    out, err = done.communicate()
    assert done.returncode == 0, err
    (answered,) = (e for e in map(json.loads, out.splitlines()) if e["event"] == "answered")
    assert (answered["model"], answered["findings"]) == ("synthetic/retinopathy-screening", 2)
    pictures = [pydicom.dcmread(io.BytesIO(data)) for data in archive.objects("OT")]
    assert [(p.StudyInstanceUID, p.SeriesDescription) for p in pictures] == [("2.25.91", "SYNTHETIC dxflow overlay")] * 2


@pytest.mark.parametrize("name", ["parkinson-fog", "breast-metastasis"])
def test_a_disease_without_a_loop_is_one_line(archive: Orthanc, name: str, tmp_path: Path):
    package(tmp_path / name, name)
    done = command(archive, str(tmp_path / name), "--once")
    out, err = done.communicate()
    assert (done.returncode, out) == (2, "")
    assert err == (f"dxflow: disease {name}: no PACS loop: no [pacs] part says which images of an archive are meant; allowed: a disease with one\n")


def test_a_wrong_password_is_one_line_and_no_study_is_touched(archive: Orthanc):
    done = watching(archive, "--once", password="wrong")
    out, err = done.communicate()
    assert (done.returncode, out) == (2, "")
    assert err == "dxflow: PACS 127.0.0.1: refuses the credentials; got HTTP 401; allowed: DXFLOW_PACS_USER and _PASSWORD, or _TOKEN\n"


def test_watching_goes_on_until_a_signal_and_shows_its_figures(archive: Orthanc):
    port = free_port()
    process = watching(archive, "--poll-s", "0.2", "--metrics-port", str(port))
    try:
        assert process.stdout is not None
        archive.send(chest("2.25.75", "2.25.76", BurnedInAnnotation="YES"))
        events = (json.loads(line) for line in process.stdout)
        next(e for e in events if e["event"] == "declined")
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
        assert 'dxflow_pacs_studies{model="synthetic/lung-nodule",state="declined"}' in text
    finally:
        process.terminate()
        _, err = process.communicate()
    assert (process.returncode, err.strip()) == (130, "dxflow: stopped")
