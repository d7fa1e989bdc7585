"""A real `dxflow dashboard` in a process of its own, for tests and benchmarks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 120


@dataclass
class Served:
    """A running dashboard; `url` ends without a slash."""

    process: subprocess.Popen[str]
    url: str
    home: Path


@contextmanager
def dashboard(home: Path, *options: str) -> Iterator[Served]:
    """Start it on a free port with `home` as DXFLOW_HOME; at the end it gets the signal of Ctrl-C, and is killed only if that does not end it."""
    environment = {**os.environ, "DXFLOW_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipelines", "dashboard", "--port", "0", *options]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("dashboard at "):
            process.kill()
            raise AssertionError(f"no dashboard: {line} {process.communicate(timeout=WAIT_S)[1]}")
        yield Served(process, line.split()[2].removesuffix("/monitor/alarms.html"), home)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            deadline = time.monotonic() + 30
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            process.kill()
        process.wait(timeout=WAIT_S)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
