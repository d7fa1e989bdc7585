"""A home that a server, a reader, a monitor and a PACS ledger have written in: erase while the server runs, and once more after it."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from components.core.home import home
from components.core.pseudonym import load_pseudonymiser
from pipelines.erase_rooms import rooms_of
from serving.access.verify import verify
from serving.pacs.ledger import Ledger
from tests.serving.small_package import build, lung_nodule, reference
from tests.serving.small_server import ROOT, Process, free_port, started

PATIENTS = ("HOSP 4711-Q", "HOSP 4712-R")


def dxflow(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False, cwd=ROOT)


def asked(server: Process, patient: str) -> None:
    x = np.full((52, 52), -700.0)
    x[20:30, 20:30] = 0
    key = load_pseudonymiser()[0].id("patient", patient)
    body = {"instances": [{"array": [x.tolist()], "device_key": "0" * 16, "patient_key": key}]}
    httpx.post(f"{server.url}/v1/models/lung-nodule:predict", json=body, timeout=60).raise_for_status()


def outside() -> list[str]:
    """Files of the home that are of no room, or of two."""
    paths = (path.relative_to(home()) for path in home().rglob("*") if path.is_file())
    return [str(path) for path in paths if len(rooms_of(path)) != 1]


def erasures() -> list[dict[str, object]]:
    lines = (line for path in (home() / "audit").glob("*.log") for line in path.read_text().splitlines())
    events = [json.loads(line.split(" ", 1)[1]) for line in lines]
    return [event for event in events if event["action"] == "erasure"]


def test_the_audit_log_survives_an_erasure_with_and_without_a_running_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DXFLOW_KEY", "a key of the tests only")
    monkeypatch.delenv("DXFLOW_STORE", raising=False)
    package = build(tmp_path / "package", lung_nodule(normalise={"method": "range"}), reference({"0" * 16: ("SIEMENS", "SOMATOM FORCE")}))
    port = free_port()
    command = (
        f"import sys; from pipelines.__main__ import main; sys.argv = ['dxflow', 'serve', {str(package.folder)!r}, '--port', '{port}', '--reading']"
    )
    with started(f"{command}; main()", tmp_path, port=port, ready="/v2/health/ready") as server:
        for patient in PATIENTS * 2:
            asked(server, patient)
        pages = httpx.get(f"{server.url}/read", timeout=60).text
        first = pages.partition("/read/case/")[2][:32]
        httpx.post(f"{server.url}/read/case/{first}", data={"verdict": "disagree", "label": "benign"}, timeout=60)
        with Ledger(home() / "pacs" / "ledger.db"):
            pass
        before = {path: path.read_bytes() for path in (home() / "audit").glob("*")}
        done = dxflow("erase", "--patient-file", "-", "--json", given=PATIENTS[0])
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["log"], told["deleted"], told["left"]) == ({str(home() / "inference-log"): {"000001.log": 2}}, [], [])
        assert all(path.read_bytes().startswith(content) for path, content in before.items())
        asked(server, PATIENTS[1])
        assert verify(home() / "audit", home() / "audit-heads").findings == ()
        assert outside() == []
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    done = dxflow("erase", PATIENTS[1])
    assert done.returncode == 0, done.stderr
    again = dxflow("erase", PATIENTS[1])
    assert again.stdout.startswith("0 records")
    checked = dxflow("audit", "verify")
    assert (checked.returncode, checked.stdout.rpartition(": ")[2]) == (0, "as they were written\n"), checked.stderr
    events, lines = erasures(), (home() / "erasures.jsonl").read_text().splitlines()
    assert len(events) == len(lines) == 2
    assert {e["record"] for e in events} == {hashlib.sha256(line.encode()).hexdigest() for line in lines}
    keys = [load_pseudonymiser()[0].id("patient", patient) for patient in PATIENTS]
    audit = b"".join(path.read_bytes() for path in (home() / "audit").iterdir()).decode()
    assert not any(word in audit for word in (*keys, *PATIENTS))
    assert outside() == []
    assert "cases" in events[0]


def test_heads_that_are_kept_elsewhere_are_asked_for_before_anything_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.core.errors import ServiceError, SpecError
    from pipelines.erase_record import ready
    from serving.access.audit import Audit, signing_key

    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DXFLOW_AUDIT_KEY_FILE", raising=False)
    Audit(home() / "audit", tmp_path / "heads", signing_key()).close()
    with pytest.raises(SpecError, match="heads of the audit log are kept elsewhere"):
        ready(home() / "audit-heads")
    ready(tmp_path / "heads")
    (home() / "audit.key").unlink()
    with pytest.raises(ServiceError, match="signed with another key"):
        ready(tmp_path / "heads")
