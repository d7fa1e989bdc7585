"""A run is one record, one log, one process group: it resumes, it repeats from the cache, and it leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.core.atomic import PARTIAL
from pipelines.sources import STEPS
from tests.benchmarks.bench_overhead import STEP_LIBRARIES
from tests.pipelines.conftest import command, environment

pytestmark = pytest.mark.pipeline


def sha(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def processes_of(home: Path) -> list[psutil.Process]:
    """Every process whose environment names this home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DXFLOW_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(what: Any, timeout_s: float) -> Any:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        value = what()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {timeout_s} s in vain")


def ended(home: Path, patience_s: float = 30.0) -> bool:
    """Whether every process of this home ends by itself."""
    end = time.monotonic() + patience_s
    while processes_of(home) and time.monotonic() < end:
        time.sleep(0.05)
    return not processes_of(home)


def newest(home: Path) -> dict[str, Any]:
    records = sorted((home / "runs").glob("*/run.json"))
    return json.loads(records[-1].read_text()) if records else {"steps": {}}


def test_the_json_object_has_what_scripts_read(whole: dict[str, Any]) -> None:
    result = whole["result"]
    for key in ("run", "disease", "verdict", "seconds", "synthetic", "metrics", "devices", "report", "predictions"):
        assert key in result
    assert result["disease"] == "lung-nodule"
    assert result["synthetic"] is True
    assert {"value", "low", "high", "n"} <= set(result["metrics"]["auc"])
    assert Path(result["report"]).stat().st_size > 10_000


def test_pixels_of_patients_are_their_owners_alone_and_scratch_is_empty(whole: dict[str, Any]) -> None:
    """Shards, tables and packages lie in folders that others may enter only through this one."""
    assert (whole["home"] / "pipeline_root").stat().st_mode & 0o777 == 0o700
    assert list((whole["home"] / "scratch").iterdir()) == []


def test_only_the_step_that_needs_a_heavy_library_loads_it(whole: dict[str, Any]) -> None:
    loaded = {name: sorted(facts["imports"]) for name, facts in whole["result"]["steps"].items()}
    assert loaded == STEP_LIBRARIES


def test_every_figure_can_be_recomputed_from_the_predictions(whole: dict[str, Any]) -> None:
    """By anybody: scikit-learn on the published columns gives the published AUC."""
    import pandas as pd
    from sklearn.metrics import roc_auc_score

    table = pd.read_parquet(whole["result"]["predictions"])
    assert {"sample_id", "group_id", "device_key", "split", "label", "score_benign", "score_malignant"} <= set(table.columns)
    test = table[table["split"] == "test"]
    assert len(test) == whole["result"]["metrics"]["auc"]["n"]
    assert roc_auc_score(test["label"], test["score_malignant"]) == pytest.approx(whole["result"]["metrics"]["auc"]["value"], abs=1e-9)


def test_an_unchanged_input_comes_from_the_cache_and_a_changed_seed_does_not(whole: dict[str, Any], collection: Path) -> None:
    again = subprocess.run(command(collection), env=environment(whole["home"]), capture_output=True, text=True, timeout=300, check=False)
    result = json.loads(again.stdout.strip().splitlines()[-1])
    assert {step["state"] for step in result["steps"].values()} == {"cached"}
    assert sha(result["predictions"]) == sha(whole["result"]["predictions"])
    other = subprocess.run(
        command(collection, "--seed", "1"), env=environment(whole["home"]), capture_output=True, text=True, timeout=300, check=False
    )
    states = {name: step["state"] for name, step in json.loads(other.stdout.strip().splitlines()[-1])["steps"].items()}
    assert states == {"ingest": "cached", "validate": "cached", "train": "ok", "evaluate": "ok", "register": "ok"}


# Who dies, at each step: the command, the process that runs the pipeline, or the step itself.
MARK = {"command": None, "pipeline": "pipelines.execute", "step": "kfp.dsl.executor_main"}
VICTIM = {"ingest": "command", "validate": "step", "train": "command", "evaluate": "pipeline", "register": "command"}


def test_kill_9_at_each_step_then_the_same_command_gives_the_same_result(whole: dict[str, Any], collection: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    for step in STEPS:
        parent = subprocess.Popen(command(collection), env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for(lambda name=step, child=parent: newest(home)["steps"].get(name, {}).get("state") == "running" or child.poll() is not None, 180)
        assert parent.poll() is None, f"ended before {step}: {parent.communicate()[1]}"
        if step == "train":  # not before there is something to resume from
            wait_for(lambda: list((home / "work").glob("train-*/*")), 60)
        chosen = [p for p in processes_of(home) if (p.pid == parent.pid if MARK[VICTIM[step]] is None else MARK[VICTIM[step]] in p.cmdline())]
        assert chosen, f"{VICTIM[step]} runs while {step} does"
        for process in chosen:
            process.send_signal(signal.SIGKILL)
        _, stderr = parent.communicate(timeout=60)
        assert parent.returncode != 0
        if VICTIM[step] != "command":
            assert stderr.strip().splitlines()[-1].startswith(f"dxflow: step {step}: ended without a word")
            assert "Traceback" not in stderr
        assert ended(home), f"left after {VICTIM[step]} died in {step}: {[(p.pid, p.status(), p.cmdline()) for p in processes_of(home)]}"
        assert not [
            p for p in (home / "pipeline_root").rglob("dataset.json") if PARTIAL not in str(p) and not (p.parent / "manifest.parquet").exists()
        ]
    done = subprocess.run(command(collection), env=environment(home), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert sha(result["predictions"]) == sha(whole["result"]["predictions"])
    assert result["metrics"] == whole["result"]["metrics"]
    assert result["model"] == whole["result"]["model"], "a register that was killed registers once"
    assert {step["state"] for name, step in result["steps"].items() if name != "register"} == {"cached"}
    assert not list(home.rglob(f"*{PARTIAL}"))
    assert not [p for p in (home / "work").glob("*") if any(p.iterdir())]
    states = [json.loads(p.read_text())["state"] for p in sorted((home / "runs").glob("*/run.json"))]
    assert sorted(states) == ["failed", "failed", "killed", "killed", "killed", "succeeded"]


def test_ctrl_c_ends_every_process_and_says_so_in_one_line(collection: Path, tmp_path: Path) -> None:
    parent = subprocess.Popen(command(collection), env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: newest(tmp_path)["steps"].get("ingest", {}).get("state") == "running", 60)
    parent.send_signal(signal.SIGINT)
    _, stderr = parent.communicate(timeout=20)
    assert parent.returncode == 130
    assert stderr.strip().splitlines()[-1] == "dxflow: stopped"
    assert not processes_of(tmp_path)
    assert newest(tmp_path)["state"] == "killed"


def test_a_second_run_of_the_same_input_is_refused_while_the_first_goes_on(collection: Path, tmp_path: Path) -> None:
    first = subprocess.Popen(command(collection), env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: newest(tmp_path)["steps"], 60)
    second = subprocess.run(command(collection), env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False)
    os.kill(first.pid, signal.SIGTERM)
    first.wait(20)
    assert second.returncode == 2
    assert "under way" in second.stderr


def test_a_failed_step_is_one_line_and_exit_2(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    done = subprocess.run(command(source), env=environment(tmp_path / "home"), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "the source holds no file" in done.stderr
    assert "state" not in newest(tmp_path / "home")  # nothing was begun
    (source / "notes.txt").write_text("nothing of use")
    done = subprocess.run(command(source), env=environment(tmp_path / "home"), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr + done.stdout
    assert newest(tmp_path / "home")["state"] == "failed"
