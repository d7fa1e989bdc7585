"""`dxflow unseen` over a small synthetic collection of three scanners, in processes of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.conftest import command, environment

pytestmark = pytest.mark.pipeline


def test_each_scanner_is_left_out_once_and_the_data_steps_are_those_of_the_run(whole: dict[str, Any], collection: Path) -> None:
    words = command(collection, "--family", "svm")
    words[words.index("run")] = "unseen"
    done = subprocess.run(words, env=environment(whole["home"]), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert {name: step["state"] for name, step in result["steps"].items() if name in ("ingest", "validate")} == dict.fromkeys(
        ("ingest", "validate"), "cached"
    )
    whole_devices = whole["result"]["devices"]
    assert {row["key"] for row in result["devices"]} == set(whole_devices)
    # Left out, a scanner is tested on all its nodules and not on its test split alone.
    assert all(row["n"] > 2 * whole_devices[row["key"]]["n"] for row in result["devices"])
    assert all(0 <= row["unseen"]["value"] <= 1 for row in result["devices"])
    assert result["synthetic"] is True
    assert "SYNTHETIC DATA" in Path(result["report"]).read_text()
