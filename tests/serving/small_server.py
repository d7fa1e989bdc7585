"""A server process of its own over real HTTP, for tests that starve or kill it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(n: int) -> list[int]:
    """Different ones: a port that was just let go may be given again at once."""
    probes = [socket.socket() for _ in range(n)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def serving(folders: Sequence[Path], log: Path, **options: Any) -> str:
    """Python code that serves package folders with these options."""
    told = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return (
        "from pathlib import Path; from serving.options import Options; from serving.server import serve; from serving.sources import from_folder; "
        f"serve([from_folder(p) for p in {[str(f) for f in folders]}], Options(log=Path({str(log)!r}), {told}))"
    )


@dataclass
class Process:
    url: str
    process: subprocess.Popen[bytes]
    log: Path
    output: Path

    def metrics(self) -> dict[str, float]:
        """Prometheus' samples, by name and labels as they are written."""
        lines = httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line and line[0] != "#")}


@contextmanager
def started(code: str, root: Path, *, port: int, ready: str, environment: dict[str, str] | None = None) -> Iterator[Process]:
    """Run Python `code`, which serves on `port` and logs to `root/log`, until `ready` answers; killed at the end."""
    own = {"DXFLOW_HOME": str(root / "home"), "DXFLOW_KEY": "a key of the tests only"}
    own["PYTHONDONTWRITEBYTECODE"] = "1"  # a limit of file sizes would also cut bytecode short, for everybody
    with open(root / "output.txt", "wb") as output:
        arguments: list[Any] = [sys.executable, "-c", code]
        process = subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=os.environ | own | (environment or {}))
    server = Process(f"http://127.0.0.1:{port}", process, root / "log", root / "output.txt")
    try:
        for _ in range(600):
            assert process.poll() is None, server.output.read_text()
            try:
                if httpx.get(server.url + ready, timeout=30).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.05)
        else:
            raise AssertionError("the server did not come up")
        yield server
    finally:
        process.kill()
        process.wait()
