"""The monitor's state as Prometheus metrics: text exposition, for a textfile collector (`<state>/metrics.prom`) or `/metrics` of the dashboard.

Device keys are pseudonyms, labels are makers and models from a vocabulary, evidence is the monitor's own sentence: nothing of a patient is in it.
Figures that do not exist (an AUC that was not judged) have no line, so that a rule cannot take them for a number.

Source:
    prometheus.io/docs/instrumenting/exposition_formats, text format 0.0.4.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.core.atomic import write_text
from components.core.errors import DataError
from components.monitor.dashboard_state import KINDS, VERDICTS, Alarm, DiseaseState, read_all

FILE = "metrics.prom"
BASE_URL = "http://127.0.0.1:8000"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METRICS = {
    "dxflow_monitor_state_readable": ("gauge", "0 when the state of a disease is damaged, absent or of another schema."),
    "dxflow_monitor_info": ("gauge", "1; the labels say what is monitored."),
    "dxflow_monitor_last_run_seconds": ("gauge", "When the monitor last ran, Unix time."),
    "dxflow_monitor_window_seconds": ("gauge", "Length of a window."),
    "dxflow_drift_alarm": ("gauge", "1 while an alarm of this kind is open for the device, 0 after it was closed."),
    "dxflow_drift_alarm_since_seconds": ("gauge", "First window of an open alarm, Unix time."),
    "dxflow_drift_alarm_info": ("gauge", "1 for an open alarm; the labels hold its evidence and its report."),
    "dxflow_window_end_seconds": ("gauge", "End of the newest window, Unix time."),
    "dxflow_window_events": ("gauge", "Requests of the device in the newest window."),
    "dxflow_window_abstained": ("gauge", "Requests without a decision in the newest window."),
    "dxflow_window_errors": ("gauge", "Requests that failed in the newest window."),
    "dxflow_device_silent": ("gauge", "1 when the device sent nothing in the newest window."),
    "dxflow_device_unseen": ("gauge", "1 when the model's reference does not hold the device."),
    "dxflow_device_verdict": ("gauge", "1 for the device's verdict in the newest window, 0 for the others."),
    "dxflow_score_mean": ("gauge", "Mean predicted probability or grade in the newest window."),
    "dxflow_auc_estimated": ("gauge", "AUC estimated without labels; absent where it was not judged."),
    "dxflow_auc_estimated_low": ("gauge", "Lower end of the interval of dxflow_auc_estimated."),
    "dxflow_auc_estimated_high": ("gauge", "Upper end of the interval of dxflow_auc_estimated."),
    "dxflow_auc_true": ("gauge", "AUC from late labels; absent where there are too few."),
    "dxflow_label_coverage": ("gauge", "Share of all answers that have a label, 0 to 1."),
    "dxflow_inference_log_events_total": ("counter", "Records of the inference log."),
    "dxflow_inference_log_lost_total": ("counter", "Requests that were answered and not logged."),
    "dxflow_inference_log_damaged_total": ("counter", "Records that could not be read."),
    "dxflow_inference_log_late_total": ("counter", "Records that came after their window was closed."),
    "dxflow_inference_log_duplicates_total": ("counter", "Records that came twice."),
}
Sample = tuple[str, dict[str, str], float]


def base_url() -> str:
    """Address under which people reach the dashboard: `DXFLOW_DASHBOARD_URL`, else the default port on this machine."""
    return os.environ.get("DXFLOW_DASHBOARD_URL", BASE_URL).rstrip("/")


def write(state: Path, *, url: str | None = None) -> Path:
    """Write `<state>/metrics.prom` atomically, so that a collector reads the old or the new one, whole.

    Args:
        url: Where the dashboard is reached, for the links of alarms. Default: `base_url()`.
    """
    good, bad = read_all(state)
    path = state / FILE
    write_text(path, exposition(good, bad, url=url))
    path.chmod(0o644)  # the collector runs as somebody else
    return path


def exposition(states: Sequence[DiseaseState], unreadable: Mapping[str, DataError], *, url: str | None = None) -> str:
    """The text of all metrics, grouped by name, ordered by labels."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {name: [] for name in METRICS}
    for disease in unreadable:
        found["dxflow_monitor_state_readable"].append(({"disease": disease}, 0))
    for state in states:
        for name, labels, value in _samples(state, (url or base_url()).rstrip("/")):
            if math.isfinite(value):
                found[name].append((labels, value))
    lines = []
    for name, samples in found.items():
        kind, text = METRICS[name]
        if samples:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            lines += sorted(f"{name}{_braces(labels)} {_number(value)}" for labels, value in samples)
    return "\n".join(lines) + "\n"


def _samples(state: DiseaseState, url: str) -> Iterable[Sample]:
    of = {"disease": state.disease}
    yield "dxflow_monitor_state_readable", of, 1
    facts = {"title": state.title, "model": state.model, "version": state.version, "synthetic": str(state.synthetic).lower()}
    yield "dxflow_monitor_info", {**of, **facts}, 1
    yield "dxflow_monitor_last_run_seconds", of, state.updated.timestamp()
    yield "dxflow_monitor_window_seconds", of, state.window_s
    if state.coverage is not None:
        yield "dxflow_label_coverage", of, state.coverage
    for name in ("events", "lost", "damaged", "late", "duplicates"):
        yield f"dxflow_inference_log_{name}_total", of, state.counts[name]
    rows = state.latest()
    if not rows.empty:
        yield "dxflow_window_end_seconds", of, rows["window_end"].max().timestamp()
    for row in rows.to_dict("records"):
        yield from _device({**of, "device": str(row["device_key"])}, row)
    for (device, kind), alarms in _by_device(state.alarms).items():
        yield from _alarm({**of, "device": device, "kind": kind}, alarms, state, url)


def _device(of: dict[str, str], row: Mapping[Any, Any]) -> Iterable[Sample]:
    for metric, column in (("window_events", "n"), ("window_abstained", "abstained"), ("window_errors", "errors")):
        yield f"dxflow_{metric}", of, int(row[column])
    yield "dxflow_device_silent", of, int(row["status"] == "silent")
    yield "dxflow_device_unseen", of, int(row["status"] == "unseen")
    for verdict in VERDICTS:
        yield "dxflow_device_verdict", {**of, "verdict": verdict}, int(row["verdict"] == verdict)
    for name in ("score_mean", "auc_estimated", "auc_estimated_low", "auc_estimated_high", "auc_true"):
        yield f"dxflow_{name}", of, math.nan if row[name] is None else float(row[name])


def _by_device(alarms: Iterable[Alarm]) -> dict[tuple[str, str], list[Alarm]]:
    found: dict[tuple[str, str], list[Alarm]] = {}
    for alarm in alarms:
        found.setdefault((alarm.device_key, alarm.kind), []).append(alarm)
    return found


def _alarm(of: dict[str, str], alarms: list[Alarm], state: DiseaseState, url: str) -> Iterable[Sample]:
    """Alarms of one kind on one device are one series: a series per alarm would change its labels and resolve what is still wrong."""
    held = sorted((alarm for alarm in alarms if alarm.open), key=lambda a: (a.since, a.id))
    yield "dxflow_drift_alarm", of, int(bool(held))
    if not held:
        return
    newest = held[-1]
    more = f" (and {len(held) - 1} more)" if len(held) > 1 else ""
    facts = {
        "device_label": newest.where, "what": KINDS.get(newest.kind, newest.title), "evidence": newest.evidence + more,
        "since": f"{held[0].since:%d %b %Y %H:%M} UTC",
        "report": f"{url}/monitor/{newest.report or 'alarms.html'}", "synthetic": str(state.synthetic).lower(),
    }  # fmt: skip
    yield "dxflow_drift_alarm_since_seconds", of, held[0].since.timestamp()
    yield "dxflow_drift_alarm_info", {**of, **facts}, 1


def _braces(labels: Mapping[str, str]) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in labels.items()) + "}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
