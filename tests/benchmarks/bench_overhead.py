"""What the platform adds to a step: the time of an empty task, and what each step's imports cost."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TASKS = 12
REPEATS = 3
EMPTY = """
from kfp import compiler, dsl

def empty(n: int, spec: str):
    from components.core.step import step
    with step("empty"):
        pass

task = dsl.component(empty, base_image="dxflow-python-empty:1", install_kfp_package=False)

@dsl.pipeline(name="chain")
def pipeline(spec: str):
    last = None
    for n in range({tasks}):
        made = task(n=n, spec=spec)
        if last is not None:
            made.after(last)
        last = made

compiler.Compiler().compile(pipeline, "{path}")
"""
STEP_LIBRARIES = {  # what each step of a lung-nodule run loads; `tests/pipelines/test_run.py` holds it against a real run's record
    "ingest": ["pandas", "pyarrow"],
    "validate": ["great_expectations", "pandas", "pyarrow", "scipy"],
    "train": ["duckdb", "feast", "mlflow", "pandas", "pyarrow", "scipy", "torch"],
    "evaluate": ["duckdb", "feast", "pandas", "pyarrow", "scipy", "torch"],
    "register": ["duckdb", "feast", "mlflow", "onnxruntime", "openvino", "pandas", "pyarrow", "scipy", "torch"],
}


def run() -> list[dict[str, Any]]:
    """Seconds per empty task through the same executor that runs pipelines, and import seconds by step."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        script = Path(folder) / "empty.py"  # kfp reads the source of a component from its file
        script.write_text(EMPTY.format(tasks=TASKS, path=path), encoding="utf-8")
        subprocess.run([sys.executable, "-W", "ignore", str(script)], check=True, capture_output=True)
        request = {
            "runner": "subprocess",
            "arguments": {"spec": "{}"},
            "pipeline_root": folder,
            "cache": False,
            "cache_root": folder,
            "environment": {},
        }
        (Path(folder) / "request.json").write_text(json.dumps(request))
        times = []
        for _ in range(REPEATS):
            done = subprocess.run([sys.executable, "-m", "pipelines.execute", folder], capture_output=True, text=True, check=True)
            stamps = [_seconds(line) for line in done.stdout.splitlines() if "Executing task" in line or ("Pipeline" in line and "finished" in line)]
            times.append((stamps[-1] - stamps[0]) / TASKS)
    value = statistics.median(times)
    rows.append(_row("an empty task, from its start to the next one's", value, "s", "<= 0.2", value <= 0.2))
    for step, libraries in STEP_LIBRARIES.items():
        measured = min(_import_s(libraries) for _ in range(2))
        rows.append(_row(f"imports of {step}: {', '.join(libraries)}", measured, "s", "", None))
    return rows


def _seconds(line: str) -> float:
    clock = line.strip().split(" ", 1)[0]
    hours, minutes, seconds = clock.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _import_s(libraries: list[str]) -> float:
    ours = [name for name in libraries if name != "feast"]
    code = f"import {', '.join(ours)}"
    if "feast" in libraries:  # as the steps do it: without what Feast would pull in and nobody uses
        code += "; from feature_store.feast_import import feast; feast()"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
    return time.perf_counter() - started


def _row(name: str, value: float, unit: str, bound: str, holds: bool | None) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "bound": bound, "holds": holds}
