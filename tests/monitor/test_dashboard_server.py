"""`dxflow dashboard` as a process, asked over HTTP and looked at in a headless browser. All data is synthetic."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from components.monitor.dashboard_workspace import project_id
from tests.monitor.dashboard_process import ROOT, Served, dashboard
from tests.monitor.synthetic_state import keys, write


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("home")
    write(home / "monitor")
    with dashboard(home) as found:
        yield found


def test_the_projects_are_the_diseases_in_order(served: Served):
    found = httpx.get(f"{served.url}/api/v2/projects", timeout=60).json()
    assert [p["id"] for p in found] == [project_id(d) for d in ("lung-nodule", "parkinson-fog", "retinopathy-screening")]


def test_charts_are_answered_as_the_browser_asks(served: Served):
    project = project_id("lung-nodule")
    panels = httpx.get(f"{served.url}/api/v2/dashboards/{project}", timeout=60).json()["panels"]
    panel = next(p for p in panels if p["title"] == "Mean score")
    answer = httpx.post(f"{served.url}/api/v2/snapshots/{project}/data_series_batch", json={"series_filter": panel["values"]}, timeout=60).json()
    assert {s["params"]["device"].split("(")[1][:8] for s in answer["series"]} == {key[:8] for key in keys("lung-nodule")}
    assert len(answer["sources"]) == 40


def test_metrics_and_reports_are_served_and_nothing_else_of_the_state(served: Served):
    metrics = httpx.get(f"{served.url}/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert f"{served.url}/monitor/lung-nodule/reports/2026-11-12T0000.html" in metrics.text  # the link of the drift alarm
    assert "SYNTHETIC report" in httpx.get(f"{served.url}/monitor/lung-nodule/reports/2026-11-12T0000.html").text
    for path in (
        "lung-nodule/history.parquet",
        "lung-nodule/alarms.json",
        "lung-nodule/reports/..%2f..%2fx.html",
        "%2e%2e/dashboard/x.html",
        "lung-nodule/reports/no.html",
    ):
        assert httpx.get(f"{served.url}/monitor/{path}").status_code == 404, path


def test_the_api_changes_nothing_and_answers_this_machine_only(served: Served):
    project = project_id("lung-nodule")
    assert httpx.delete(f"{served.url}/api/v2/projects/{project}").status_code in (401, 403)
    assert httpx.post(f"{served.url}/api/v2/projects", json={"name": "x"}).status_code in (401, 403)
    assert httpx.post(f"{served.url}/api/v2/dashboards/{project}", json={"tabs": [], "panels": []}).status_code in (401, 403)
    assert httpx.get(f"{served.url}/api/v2/projects", headers={"Host": "evil.example"}).status_code == 400
    addresses = {c.laddr.ip for c in psutil.Process(served.process.pid).connections() if c.status == psutil.CONN_LISTEN}
    assert addresses == {"127.0.0.1"}


def test_the_browsers_colours_are_still_where_we_replace_them():
    """Another version of Evidently: six colours again for fifty lines, until `dashboard_look.py` is looked at."""
    from evidently.ui.service.api.static import BASE_PATH

    from components.monitor.dashboard_look import PALETTE, scripts

    found = scripts(Path(BASE_PATH))
    assert len(found) == 2
    assert sum(PALETTE[-1] in text for text in found.values()) == 1
    assert sum("dxflowColours" in text for text in found.values()) == 1
    assert sum(text.count("return r!=null?Number.parseFloat(") for text in found.values()) == 1


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page whose requests and errors are kept in `page.asked` and `page.errors`."""
    made = browser.new_page(viewport={"width": 1400, "height": 1000})
    made.asked, made.errors = [], []
    made.on("request", lambda r: made.asked.append(r.url))
    made.on("pageerror", lambda e: made.errors.append(str(e)))
    made.on("console", lambda m: made.errors.append(m.text) if m.type == "error" else None)
    yield made
    made.close()


def test_the_operators_path_alarm_to_report_and_to_the_charts(served: Served, page: Any):
    page.goto(f"{served.url}/monitor/alarms.html")
    row = page.locator("#lung-nodule .alarm tr", has_text="Drift")
    assert "kernel B70 instead of B30" in row.inner_text()
    assert "12 Nov 2026" in row.inner_text()
    row.get_by_text("Report").click()
    assert "SYNTHETIC report of 2026-11-12" in page.locator("body").inner_text()
    page.go_back()
    page.locator("nav a", has_text="parkinson-fog").click()
    page.get_by_text("Mean score", exact=True).wait_for(timeout=60_000)
    assert page.url.endswith(project_id("parkinson-fog"))
    assert page.locator("#dxflow-tabs a.here").inner_text().startswith("parkinson-fog")
    assert page.errors == []
    assert all(address.startswith(served.url) for address in page.asked)


def test_the_charts_have_one_line_per_device_in_its_own_colour(served: Served, page: Any):
    page.goto(f"{served.url}/projects/{project_id('lung-nodule')}")
    page.get_by_text("Score, 90 % quantile").wait_for(timeout=60_000)
    page.wait_for_function("document.querySelectorAll('.MuiChartsLegend-root').length >= 10", timeout=60_000)
    text = page.locator("body").inner_text()
    for words in ("4 open alarms", "Drift: Philips Brilliance 16", "Silent device: Topcon NW400", "Unseen device: Shimmer3", "SYNTHETIC DATA",
                  "% of all answers have a label", "'cannot judge' is not 'no drift'"):  # fmt: skip
        assert words in text, words
    for words in ("Datasets", "Traces", "Prompts", "Support"):  # stores that stay empty, and what is not on this machine
        page.wait_for_function("w => !document.body.innerText.split('\\n').includes(w)", arg=words, timeout=60_000)
    found = page.evaluate(
        """() => [...document.querySelectorAll('.MuiChartsLegend-root')].map(l => Object.fromEntries([...l.querySelectorAll('li')].map(
            i => [i.innerText, i.querySelector('rect').getAttribute('fill')])))"""
    )
    mean = next(legend for legend in found if len(legend) == 8)
    assert len(set(mean.values())) == 8
    for legend in found:
        assert all(legend[device] == colour for device, colour in mean.items() if device in legend)
    assert next(legend for legend in found if "drift" in legend)["drift"] == "#b3261e"
    assert page.errors == []
    assert all(address.startswith(served.url) for address in page.asked)


def test_a_count_of_nothing_is_0(page: Any, tmp_path: Path):
    """Evidently writes "no value" for it; that no device is silent is known."""
    write(tmp_path / "monitor", days=3, devices=4, diseases=("lung-nodule",))
    with dashboard(tmp_path) as found:
        page.goto(f"{found.url}/projects/{project_id('lung-nodule')}")
        page.get_by_text("silent devices", exact=True).wait_for(timeout=60_000)
        assert "0\nsilent devices" in page.locator("body").inner_text().replace("\n\n", "\n")
        assert "no value" not in page.locator("body").inner_text()


def test_a_point_opens_its_window(served: Served, page: Any):
    project = project_id("lung-nodule")
    snapshots = httpx.get(f"{served.url}/api/v2/projects/{project}/snapshots", timeout=60)
    if snapshots.status_code != 200:
        snapshots = httpx.get(f"{served.url}/api/projects/{project}/snapshots", timeout=60)
    snapshot = next(s["id"] for s in snapshots.json() if s["name"] == "lung-nodule, 12 Nov 2026")
    page.goto(f"{served.url}/projects/{project}/reports/{snapshot}")
    page.get_by_text("The monitor's page of this window").wait_for(timeout=60_000)
    text = page.locator("body").inner_text()
    assert "noise +38 %, kernel B70 instead of B30 in 91 of 140" in text
    page.get_by_text("The monitor's page of this window").click()
    assert "SYNTHETIC report of 2026-11-12" in page.locator("body").inner_text()


def test_it_follows_the_monitor_while_it_runs(served: Served):
    """A closed alarm, a corrected window and a new disease appear without a restart."""
    state = served.home / "monitor"
    path = state / "parkinson-fog" / "alarms.json"
    alarms = json.loads(path.read_text())
    for entry in alarms["alarms"]:
        entry["open"] = False
    path.write_text(json.dumps(alarms))
    write(state, days=12, diseases=("zz-new",))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        page = httpx.get(f"{served.url}/monitor/alarms.html").text
        projects = [p["id"] for p in httpx.get(f"{served.url}/api/v2/projects", timeout=60).json()]
        if project_id("zz-new") in projects and 'id="zz-new"' in page:
            break
        time.sleep(0.5)
    assert projects[-1] == project_id("zz-new")
    section = page[page.index('id="parkinson-fog"') : page.index('id="retinopathy-screening"')]
    assert "4 closed alarms" in section
    panels = httpx.get(f"{served.url}/api/v2/dashboards/{project_id('zz-new')}", timeout=60).json()["panels"]
    panel = next(p for p in panels if p["title"] == "Requests")
    answer = httpx.post(
        f"{served.url}/api/v2/snapshots/{project_id('zz-new')}/data_series_batch", json={"series_filter": panel["values"]}, timeout=60
    ).json()
    assert len(answer["sources"]) == 12


def test_ctrl_c_ends_it_and_leaves_nothing_running(tmp_path: Path):
    write(tmp_path / "monitor", days=3)
    with dashboard(tmp_path) as found:
        process = psutil.Process(found.process.pid)
        children = process.children(recursive=True)
        port = int(found.url.rsplit(":", 1)[1])
        found.process.send_signal(signal.SIGINT)
        assert found.process.wait(timeout=30) in (0, 130)
        assert not any(child.is_running() for child in children)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
        assert found.process.stderr is not None
        assert "Traceback" not in found.process.stderr.read()


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DXFLOW_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipelines", "dashboard", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_once_builds_without_serving_and_without_evidently(tmp_path: Path):
    write(tmp_path / "monitor", days=3)
    (tmp_path / "monitor" / "parkinson-fog" / "history.parquet").unlink()
    done = run(tmp_path, "--once", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["diseases"] == ["lung-nodule", "retinopathy-screening"]
    assert "absent" in facts["unreadable"]["parkinson-fog"]
    assert len(list((tmp_path / "dashboard").glob("*/snapshots/*.json"))) == 6
    assert (tmp_path / "monitor" / "metrics.prom").stat().st_mode & 0o444 == 0o444
    assert "lung-nodule/reports/" in (tmp_path / "monitor" / "alarms.html").read_text()


def test_a_taken_port_is_one_line(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run(tmp_path, "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot listen" in done.stderr
