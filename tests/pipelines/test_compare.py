"""`dxflow compare` over a small synthetic collection, in processes of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.conftest import command, environment

pytestmark = pytest.mark.pipeline


def test_all_families_in_one_table_and_the_data_steps_are_those_of_the_run(whole: dict[str, Any], collection: Path) -> None:
    words = command(collection, "--epochs", "2", "--families", "cnn,svm")
    words[words.index("run")] = "compare"
    done = subprocess.run(words, env=environment(whole["home"]), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert {name: step["state"] for name, step in result["steps"].items() if name in ("ingest", "validate")} == dict.fromkeys(
        ("ingest", "validate"), "cached"
    )
    assert [row["family"] for row in result["families"]] == ["cnn", "svm"]
    assert all(row["seconds"] > 0 and row["peak_mb"] > 50 and row["parameters"] > 0 for row in result["families"])
    assert sum(row["chosen"] for row in result["families"]) == 1
    assert result["synthetic"] is True
    assert "SYNTHETIC DATA" in Path(result["report"]).read_text()
    assert len(Path(result["table"]).read_text().splitlines()) == 3


def test_one_family_is_no_comparison(collection: Path, tmp_path: Path) -> None:
    words = command(collection, "--families", "cnn")
    words[words.index("run")] = "compare"
    done = subprocess.run(words, env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.strip()) == (2, "dxflow: lung-nodule: --families: nothing to compare; got 1 family; allowed: at least 2")
