"""Alert rules and routing: with promtool, and in a real Prometheus and a real Alertmanager between a real dashboard and a receiver of ours.

`apt-get install prometheus prometheus-alertmanager` gives the programs; without them these tests are skipped. All data is synthetic.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from components.monitor.dashboard_state import KINDS
from tests.monitor.dashboard_process import dashboard
from tests.monitor.synthetic_state import keys, write
from tests.serving.small_server import free_ports

MONITORING = Path(__file__).resolve().parents[2] / "infra" / "monitoring"
INSTALL = "apt-get install prometheus prometheus-alertmanager"


def program(*names: str) -> str:
    """The first that is installed; Debian calls Alertmanager `prometheus-alertmanager`."""
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    return pytest.skip(f"no {names[-1]}: {INSTALL}")


def said(*command: str) -> str:
    done = subprocess.run(command, cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_hold_their_own_tests():
    assert "SUCCESS" in said(program("promtool"), "test", "rules", "alerts_test.yml")


def test_prometheus_and_alertmanager_accept_the_configurations():
    assert "SUCCESS" in said(program("promtool"), "check", "config", "prometheus.yml")
    assert "SUCCESS" in said(program("amtool"), "check-config", "alertmanager.yml")


@pytest.mark.parametrize(("labels", "receiver"), [("severity=critical", "platform"), ("severity=warning", "operator"), ("severity=info", "operator")])
def test_routes_lead_to_the_receiver(labels: str, receiver: str):
    assert said(program("amtool"), "config", "routes", "test", "--config.file=alertmanager.yml", labels).strip() == receiver


def test_every_kind_of_alarm_has_a_rule_that_names_device_evidence_since_and_report():
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    rules = {rule["expr"]: rule for group in groups for rule in group["rules"]}
    for kind in KINDS:
        rule = rules[f'last_over_time(dxflow_drift_alarm{{kind="{kind}"}}[20m]) == 1']
        assert set(rule["annotations"]) == {"summary", "evidence", "since", "report"}
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


@contextmanager
def running(*command: str, folder: Path) -> Iterator[None]:
    """A server process for the time of the block."""
    with open(folder / f"{Path(command[0]).name}.log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=20)


@contextmanager
def receiver() -> Iterator[tuple[int, list[tuple[str, dict[str, Any]]]]]:
    """What a hospital would put at the end: takes Alertmanager's webhooks and keeps (path, alert)."""
    got: list[tuple[str, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            got.extend((self.path, alert) for alert in body["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1], got
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def until(found: Callable[[], Any], *, what: str, seconds: float = 240) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = found()
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError(f"{what} did not come in {seconds} s")


def test_an_alarm_in_the_state_reaches_the_receiver_and_ends_when_it_is_closed(tmp_path: Path):
    """The files of infra/monitoring as they are; only addresses and the seconds of waiting are changed."""
    prometheus, alertmanager = program("prometheus"), program("alertmanager", "prometheus-alertmanager")
    write(tmp_path / "monitor", diseases=("lung-nodule",))
    device = keys("lung-nodule")
    ports = free_ports(2)
    with receiver() as (port, got), dashboard(tmp_path) as board:
        routing = yaml.safe_load((MONITORING / "alertmanager.yml").read_text())
        routing["route"] |= {"group_wait": "0s", "group_interval": "1s"}
        for entry in routing["receivers"]:
            hook = entry["webhook_configs"][0]
            hook["url"] = hook["url"].replace("127.0.0.1:9095", f"127.0.0.1:{port}")
        (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(routing))
        scraping = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
        scraping["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        scraping["rule_files"] = [str(MONITORING / "alerts.yml")]
        scraping["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{ports[1]}"]
        scraping["scrape_configs"] = [job for job in scraping["scrape_configs"] if job["job_name"] == "dxflow"]  # no model server here
        scraping["scrape_configs"][0]["static_configs"][0]["targets"] = [board.url.removeprefix("http://")]
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(scraping))
        at = f"127.0.0.1:{ports[0]}"
        with (
            running(alertmanager, "--config.file=alertmanager.yml", f"--web.listen-address=127.0.0.1:{ports[1]}", "--cluster.listen-address=",
                    f"--storage.path={tmp_path / 'alerts'}", folder=tmp_path),
            running(prometheus, "--config.file=prometheus.yml", f"--web.listen-address={at}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                    folder=tmp_path),
        ):  # fmt: skip

            def came(name: str, status: str) -> tuple[str, dict[str, Any]] | None:
                return next(((path, a) for path, a in list(got) if a["labels"]["alertname"] == name and a["status"] == status), None)

            path, alert = until(lambda: came("DxflowDrift", "firing"), what="the drift alarm")
            assert path == "/operator"
            assert {k: alert["labels"][k] for k in ("disease", "device", "kind")} == {"disease": "lung-nodule", "device": device[2], "kind": "drift"}
            notes = alert["annotations"]
            assert notes["summary"] == f"SYNTHETIC DATA: Drift: lung-nodule, Philips Brilliance 16 ({device[2][:8]})"
            assert notes["evidence"] == "Noise +38 %, kernel B70 instead of B30 in 91 of 140 studies; mean score +0.18."
            assert notes["since"] == "12 Nov 2026 00:00 UTC"
            assert "SYNTHETIC report of 2026-11-12" in httpx.get(notes["report"]).text  # the link leads to the page
            for name, index in (("DxflowSilentDevice", 5), ("DxflowUnseenDevice", 7)):
                path, alert = until(lambda name=name: came(name, "firing"), what=name)
                assert (path, alert["labels"]["device"]) == ("/operator", device[index])
            path, alert = until(lambda: came("DxflowLogLoss", "firing"), what="the loss of the log")
            assert path == "/platform"
            assert "device" not in alert["labels"]
            firing = {a["labels"]["alertname"] for a in httpx.get(f"http://127.0.0.1:{ports[1]}/api/v2/alerts").json()}
            assert {"DxflowDrift", "DxflowSilentDevice", "DxflowUnseenDevice", "DxflowLogLoss"} <= firing

            alarms = tmp_path / "monitor" / "lung-nodule" / "alarms.json"
            found = json.loads(alarms.read_text())
            for entry in found["alarms"]:
                entry["open"] = False
            alarms.write_text(json.dumps(found))
            _, alert = until(lambda: came("DxflowDrift", "resolved"), what="the end of the drift alarm")
            assert alert["labels"]["device"] == device[2]
