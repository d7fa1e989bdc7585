"""How much later the dashboard starts with a year of daily runs on 50 devices than with nothing, and what a chart then costs."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from components.monitor.dashboard_workspace import project_id
from tests.monitor.dashboard_process import ROOT, dashboard
from tests.monitor.synthetic_state import write

DAYS, DEVICES, DISEASE = 365, 50, "lung-nodule"
REPEATS = 3


def run() -> list[dict[str, Any]]:
    """Seconds from the start of the command until it answers; empty and full in turns, so that other load falls on both."""
    with tempfile.TemporaryDirectory() as folder:
        empty, full, fresh = (Path(folder) / name for name in ("empty", "full", "fresh"))
        for home in (empty, full):
            (home / "monitor").mkdir(parents=True)
        write(full / "monitor", days=DAYS, devices=DEVICES, diseases=(DISEASE,))
        started = time.perf_counter()
        _once(full)
        first_build = time.perf_counter() - started
        snapshots = len(list((full / "dashboard" / project_id(DISEASE) / "snapshots").glob("*.json")))
        times: dict[str, list[float]] = {"empty": [], "full": []}
        charts: list[float] = []
        slowest: list[float] = []
        for _ in range(REPEATS):
            for name, home in (("empty", empty), ("full", full)):
                started = time.perf_counter()
                with dashboard(home) as found:
                    httpx.get(f"{found.url}/api/v2/projects", timeout=60).raise_for_status()
                    times[name].append(time.perf_counter() - started)
                    if name == "full":
                        each = _charts(found.url)
                        charts.append(sum(each))
                        slowest.append(max(each))
        started = time.perf_counter()
        _once(fresh)
        nothing = time.perf_counter() - started
    middle = {name: statistics.median(values) for name, values in times.items()}
    later = statistics.median(f - e for e, f in zip(times["empty"], times["full"], strict=True))
    year = f"{DAYS} daily runs on {DEVICES} devices ({snapshots} points)"
    return [
        _row(f"start later with {year} than empty", later, "s", "<= 3", later <= 3),
        _row("start of an empty dashboard until it answers", middle["empty"], "s"),
        _row("start with the year until it answers", middle["full"], "s"),
        _row("all charts of the year, answered one after the other", statistics.median(charts), "s"),
        _row("slowest chart of the year", statistics.median(slowest), "s"),
        _row("first build of the year's workspace (dashboard --once), more than of nothing", first_build - nothing, "s"),
    ]


def _once(home: Path) -> None:
    environment = {"DXFLOW_HOME": str(home), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-m", "pipelines", "dashboard", "--once"], cwd=ROOT, env=environment, check=True, capture_output=True)


def _charts(url: str) -> list[float]:
    """Seconds for each chart, asked as the browser asks."""
    project = project_id(DISEASE)
    times = []
    for panel in httpx.get(f"{url}/api/v2/dashboards/{project}", timeout=60).json()["panels"]:
        if not panel["values"]:
            continue
        started = time.perf_counter()
        answer = httpx.post(f"{url}/api/v2/snapshots/{project}/data_series_batch", json={"series_filter": panel["values"]}, timeout=60)
        times.append(time.perf_counter() - started)
        assert answer.json()["series"], panel["title"]
    return times


def _row(name: str, value: float, unit: str, bound: str = "", holds: bool | None = None) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "bound": bound, "holds": holds}
