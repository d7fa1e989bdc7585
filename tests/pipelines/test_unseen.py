"""`dxflow unseen` and `dxflow run --unseen` over a small synthetic collection of three scanners, in processes of their own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.core.step import parse
from tests.pipelines.conftest import command, environment

pytestmark = pytest.mark.pipeline


def answered(words: list[str], home: Path) -> dict[str, Any]:
    done = subprocess.run(words, env=environment(home), capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def alone(whole: dict[str, Any], collection: Path) -> dict[str, Any]:
    """What `dxflow unseen` says."""
    words = command(collection, "--family", "svm")
    words[words.index("run")] = "unseen"
    return answered(words, whole["home"])


def test_each_scanner_is_left_out_once_and_the_data_steps_are_those_of_the_run(whole: dict[str, Any], alone: dict[str, Any]) -> None:
    result = alone
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


def test_a_run_can_leave_each_scanner_out_behind_its_steps(whole: dict[str, Any], alone: dict[str, Any], collection: Path) -> None:
    """The same branches, from the cache where they were trained before; the run's own result stands beside them."""
    result = answered(command(collection, "--family", "svm", "--unseen"), whole["home"])
    found = result["unseen_devices"]
    assert {name: found[name] for name in ("devices", "seen", "unseen", "gap", "none_left_out")} == {
        name: alone[name] for name in ("devices", "seen", "unseen", "gap", "none_left_out")
    }
    assert Path(found["report"]).exists()
    assert result["model"].startswith("synthetic/lung-nodule:")
    assert Path(result["package"], "package.json").exists()
    trained = [path.parent.name for path in whole["home"].glob("runs/*/log.txt") for line in path.read_text().splitlines() if starts_training(line)]
    assert trained.count(result["run"]) == 1, "the three branches come from the cache"


def starts_training(line: str) -> bool:
    event = parse(line)
    return event is not None and (event["event"], event.get("step")) == ("step-start", "train")


def test_a_run_over_too_few_devices_says_so_in_a_line_and_trains_nothing_twice(collection: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    words = command(collection, "--family", "svm", "--unseen")
    spec = tmp_path / "lung-nodule.toml"
    text = Path(words[words.index("run") + 1]).read_text()
    spec.write_text(text.replace("min_n = 5\nprofile_max", "min_n = 1000\nprofile_max"))
    assert spec.read_text() != text
    words[words.index("run") + 1] = str(spec)
    result = answered(words, home)
    found = result["unseen_devices"]
    assert (found["devices"], found["gap"]) == ([], None)
    assert found["none_left_out"] == "the data do not have 3 devices with 1000 samples and both sides of the question each"
    assert found["none_left_out"] in Path(found["report"]).read_text()
    log = (home / "runs" / result["run"] / "log.txt").read_text()
    assert [starts_training(line) for line in log.splitlines()].count(True) == 1
    words[words.index("run")] = "unseen"
    words.remove("--unseen")
    done = subprocess.run(words, env=environment(home), capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 2
    assert "too few devices to leave one out" in done.stderr
