"""What the server says that it serves can be asked for at that moment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx

from tests.serving.small_package import build, lung_nodule, reference
from tests.serving.small_server import ROOT, free_ports, serving


def test_who_asks_as_soon_as_the_line_is_there_is_answered(tmp_path: Path) -> None:
    package = build(tmp_path / "package", lung_nodule(), reference({"device": ("SIEMENS", "SOMATOM FORCE")}))
    (port,) = free_ports(1)
    own = os.environ | {"DXFLOW_HOME": str(tmp_path / "home"), "DXFLOW_KEY": "a key of the tests only"}
    with open(tmp_path / "errors.txt", "w") as errors:
        code = serving([package.folder], tmp_path / "log", port=port)
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, env=own, text=True)
    try:
        assert process.stdout is not None
        said = next((line for line in process.stdout if line.startswith("serving ")), None)
        assert said == f"serving {package.name} at http://127.0.0.1:{port}\n", (tmp_path / "errors.txt").read_text()
        assert httpx.get(f"http://127.0.0.1:{port}/v2/health/live", timeout=60).status_code == 200
    finally:
        process.kill()
        process.communicate()
