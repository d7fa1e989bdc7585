"""A real Orthanc with its DICOMweb plug-in, behind a password, on a free loopback port and in a folder of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.s3_server import die_with_us
from tests.serving.small_server import free_port

PROGRAM = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin:/usr/local/sbin")
PLUGIN = next(
    (p for p in map(Path, ("/usr/share/orthanc/plugins/libOrthancDicomWeb.so", "/usr/lib/orthanc/libOrthancDicomWeb.so")) if p.exists()), None
)
USER, PASSWORD = "a-user", "a-password-of-the-tests"

needs_orthanc = pytest.mark.skipif(
    PROGRAM is None or PLUGIN is None, reason="Orthanc with its DICOMweb plug-in is not installed (Debian: orthanc, orthanc-dicomweb)"
)
needs_dciodvfy = pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")


@dataclass
class Orthanc:
    """`url` is that of DICOMweb; `root` Orthanc's own, which tests use to look behind."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.root}/dicom-web"

    def start(self) -> None:
        config = {
            "Name": "tests", "StorageDirectory": str(self.folder), "IndexDirectory": str(self.folder), "HttpPort": self.port,
            "DicomServerEnabled": False, "RemoteAccessAllowed": False, "HttpBindAddresses": ["127.0.0.1"], "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD}, "Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }  # fmt: skip
        file = self.folder / "orthanc.json"
        file.write_text(json.dumps(config), encoding="utf-8")
        with open(self.folder / "output.txt", "ab") as output:
            self.process = subprocess.Popen([str(PROGRAM), str(file)], stdout=output, stderr=subprocess.STDOUT, preexec_fn=die_with_us)
        for _ in range(600):
            assert self.process.poll() is None, (self.folder / "output.txt").read_text()
            try:
                if httpx.get(f"{self.root}/system", auth=(USER, PASSWORD), timeout=30).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError("Orthanc did not come up")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def send(self, files: Iterable[bytes | Path]) -> None:
        with httpx.Client(auth=(USER, PASSWORD), timeout=60) as client:
            for file in files:
                client.post(f"{self.root}/instances", content=file if isinstance(file, bytes) else file.read_bytes()).raise_for_status()

    def objects(self, modality: str) -> list[bytes]:
        """The files of all objects of a modality."""
        with httpx.Client(auth=(USER, PASSWORD), timeout=60, base_url=self.root) as client:
            query = {"Level": "Instance", "Query": {"Modality": modality}}
            found = client.post("/tools/find", json=query).json()
            return [client.get(f"/instances/{name}/file").content for name in found]

    def clear(self) -> None:
        with httpx.Client(auth=(USER, PASSWORD), timeout=60, base_url=self.root) as client:
            for name in client.get("/studies").json():
                client.delete(f"/studies/{name}")


@contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    """Started, and ended whatever happens."""
    folder.mkdir(parents=True, exist_ok=True)
    server = Orthanc(folder, free_port())
    try:
        server.start()
        yield server
    finally:
        server.stop()
