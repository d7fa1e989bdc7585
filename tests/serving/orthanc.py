"""A real Orthanc with DICOMweb on a loopback port, behind a password, with a database of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.s3_server import die_with_us, free_port

BINARY = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
needs_orthanc = pytest.mark.skipif(
    BINARY is None or not PLUGIN.exists(), reason="Orthanc with DICOMweb not found (Debian: orthanc, orthanc-dicomweb)"
)


@dataclass(frozen=True)
class Orthanc:
    port: int
    user: str = "reader"
    password: str = "s3cret-word"

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}/dicom-web"

    def store(self, files: list[bytes]) -> None:
        """Put instances into it."""
        with httpx.Client(auth=(self.user, self.password), timeout=60) as client:
            for content in files:
                reply = client.post(f"http://127.0.0.1:{self.port}/instances", content=content)
                assert reply.status_code == 200, reply.text


@contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    """Started, and killed at the end."""
    assert BINARY is not None
    server = Orthanc(free_port())
    settings = {
        "Name": "tests", "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "Plugins": [str(PLUGIN)],
        "RemoteAccessAllowed": False, "HttpBindAddresses": ["127.0.0.1"], "HttpPort": server.port, "DicomServerEnabled": False,
        "AuthenticationEnabled": True, "RegisteredUsers": {server.user: server.password}, "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with open(folder / "orthanc.log", "wb") as log:
        process = subprocess.Popen([BINARY, str(folder / "orthanc.json")], stdout=log, stderr=log, preexec_fn=die_with_us)
    try:
        for _ in range(600):
            assert process.poll() is None, (folder / "orthanc.log").read_text(errors="replace")[-800:]
            try:
                if httpx.get(f"{server.root}/studies", auth=(server.user, server.password), timeout=30).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        else:
            raise AssertionError("Orthanc did not come up")
        yield server
    finally:
        process.kill()
        process.wait()
