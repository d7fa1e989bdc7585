"""`make run`: one disease all the way, on synthetic chest CT.

A collection is written, the pipeline runs on it, a KServe server loads what was registered, studies of a scanner that it knows and of one that
it does not are sent to it as DICOM, and the log of its answers becomes a drift report by device. Everything is marked synthetic.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from components.core.atomic import write_text
from components.core.errors import ServiceError
from components.core.home import home
from components.core.spec import DiseaseSpec
from pipelines import catalog, phantom
from pipelines.run import Options, run
from pipelines.terminal import Bars, estimate_text, events_to, table

DISEASE = "lung-nodule"
INCOMING_PATIENTS = 20  # a scanner: enough nodules for a judgement (at least 30), few enough to send in seconds
INCOMING_SEED = 77
START_S = 90.0


def demo(*, patients: int | None = None, as_json: bool = False) -> None:
    """Run everything and print a short table; nothing is left running."""
    spec = catalog.load(DISEASE)
    assert spec.phantom is not None
    size = patients or spec.phantom.patients
    times: list[tuple[str, float, str]] = []
    with Bars(quiet=as_json) as bars:
        folder = home() / "demo" / f"{DISEASE}-{size}-{spec.phantom.seed}"
        with _timed(times, "phantom") as note:
            sources = {
                "collection": {"patients": size},
                "known": {"patients": 3 * INCOMING_PATIENTS, "seed": INCOMING_SEED},
                "unseen": {"patients": INCOMING_PATIENTS, "seed": INCOMING_SEED, "unseen": True},
            }
            facts = {}
            for name, options in sources.items():
                facts[name] = _write_once(spec, folder / name, bars, **options)
            note.append(f"{facts['collection']['counts']['patients']} synthetic patients, {facts['collection']['counts']['files']} DICOM files")
        with _timed(times, "pipeline") as note:
            result = run(spec, Options(source=str(folder / "collection")), bars.event)
            note.append(", ".join(f"{n} {s['seconds']:.0f} s" if s["state"] == "ok" else f"{n} {s['state']}" for n, s in result["steps"].items()))
        log = home() / "demo" / "inference-log"
        with _timed(times, "serve") as note:
            shutil.rmtree(log, ignore_errors=True)
            with _server(result["package"], log, home() / "demo" / "server.txt") as url:
                answers = {name: _send(url, spec, folder / name) for name in ("known", "unseen")}
            note.append("; ".join(f"{name}: {len(a)} answers, {sum(x['abstain'] for x in a)} abstained" for name, a in answers.items()))
        with _timed(times, "drift") as note:
            from components.monitor.step import drift

            with events_to(bars.event):
                found = drift(package=Path(result["package"]), log=log, out=home() / "demo" / "drift")
            note.append(f"{len(found['unseen'])} unseen scanner, {len(found['alarms'])} alarms")
    summary = {**result, "drift": str(home() / "demo" / "drift" / "drift.html"), "unseen": found["unseen"]}
    if as_json:
        click.echo(json.dumps(summary))
        return
    _print(times, result, summary)


def _print(times: list[tuple[str, float, str]], result: dict[str, Any], summary: dict[str, Any]) -> None:
    table(
        ["what ran", "seconds", "result"],
        [[name, f"{seconds:.1f}", note] for name, seconds, note in times],
        title="SYNTHETIC DATA: figures say that the platform works, not that a model does",
    )
    worst = result.get("worst_device") or {}
    auc = result["metrics"]["auc"]
    lines = {
        "AUC, test split": f"{estimate_text(auc)}, n={auc['n']}",
        "worst device": f"(lowest lower end) {worst.get('name', '-')}: {estimate_text(worst.get('auc'))}",
        "unseen scanner": ", ".join(summary["unseen"]) or "none",
        "verdict": f"{result['verdict']}{': ' + '; '.join(result['reasons']) if result['reasons'] else ''}",
        "model": f"{result['model']} (loads only with --allow-synthetic, which this run passes)",
        "report": result["report"],
        "validation": result["validation"],
        "drift": summary["drift"],
        "predictions": result["predictions"],
    }
    for name, text in lines.items():
        click.echo(f"{name:<16} {text}")


@contextlib.contextmanager
def _timed(times: list[tuple[str, float, str]], name: str) -> Iterator[list[str]]:
    started, notes = time.monotonic(), []
    yield notes
    times.append((name, time.monotonic() - started, "; ".join(notes)))


def _write_once(spec: DiseaseSpec, folder: Path, bars: Bars, **options: Any) -> dict[str, Any]:
    """The phantom's summary; written only if this very phantom is not there yet."""
    done = folder.with_name(f"{folder.name}.json")
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    shutil.rmtree(folder, ignore_errors=True)  # a phantom that was cut short has no summary
    facts = phantom.write(spec, folder, on_event=bars.event, **options)
    write_text(done, json.dumps(facts))
    return facts


@contextlib.contextmanager
def _server(package: str, log: Path, output: Path) -> Iterator[str]:
    """A real KServe server in its own session, ready; ended on the way out whatever happens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "pipelines", "serve", package, "--port", str(port), "--log", str(log), "--allow-synthetic"]
    environment = {**os.environ, "DXFLOW_RUN_PID": str(os.getpid())}  # the server goes when this process does, however it goes
    with open(output, "w", encoding="utf-8") as text:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=text, stderr=subprocess.STDOUT, start_new_session=True, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_ready(child, url, output)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _wait_ready(child: subprocess.Popen[bytes], url: str, output: Path) -> None:
    end = time.monotonic() + START_S
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine is asked without the environment's proxy
    while time.monotonic() < end:
        if child.poll() is not None:
            last = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise ServiceError("the server stopped while starting", where="dxflow serve", got=last[0] if last else f"exit {child.returncode}")
        with contextlib.suppress(OSError), direct.open(f"{url}/v2/health/ready", timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise ServiceError("the server was not ready in time", where="dxflow serve", got=f"{START_S:.0f} s", allowed=f"see {output}")


def _send(url: str, spec: DiseaseSpec, folder: Path) -> list[dict[str, Any]]:
    """Send the slice of every nodule with the nodule's position, as a viewer would that a radiologist clicked in."""
    from components.core.pseudonym import load_pseudonymiser
    from pipelines.clicks import clicks
    from serving.client import predict

    points = clicks(folder, spec, load_pseudonymiser()[0])
    return [answer for file, row, column in points for answer in predict(url, spec.name, file, row, column, 30.0)]
