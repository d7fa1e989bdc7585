"""The Evidently workspace of a state folder: one project per disease, one snapshot per point in time, one dashboard.

Everything in it is derived, so it is made anew from the state: identifiers are hashes of what they name, files that would not change are not
touched, points that were rolled up disappear, and doing it twice is doing it once. That is why it is written as Evidently's own JSON and not through
`add_run` and `add_panel`, which give a new identifier to every call. `tests/monitor/test_dashboard_workspace.py` holds the files against Evidently.

Evidently's open-source server knows no tabs inside a project and refuses a dashboard with more than one, so a disease's tab is its project.
A value that is absent is not written at all: one NaN would lose a whole answer of the server.
"""

from __future__ import annotations

import collections
import functools
import itertools
import json
import math
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from components.core.atomic import write_text
from components.monitor.dashboard_series import SCORES, labels, roll_up
from components.monitor.dashboard_state import VERDICTS, Alarm, DiseaseState

SPACE = uuid.UUID("6b1f3c52-9a0e-4c8e-8d5b-0d7f0b1c9e11")  # namespace of every identifier below
METRIC = "evidently:metric_v2:"
DEVICE, COUNT = "DeviceScore", "DiseaseCount"  # the flat custom metrics: (score, device) and (panel, name)
ALARM_PANELS = 8
MANY_DEVICES = 12


@dataclass
class Changes:
    """What `build` wrote: project -> snapshots, and which projects and snapshots went."""

    written: dict[str, list[str]] = field(default_factory=dict)
    removed: dict[str, list[str]] = field(default_factory=dict)
    projects_removed: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.written or self.removed or self.projects_removed)


def project_id(disease: str) -> str:
    """Evidently's identifier of a disease's project."""
    return str(uuid.uuid5(SPACE, disease))


def build(workspace: Path, states: Sequence[DiseaseState], *, keep: Iterable[str] = ()) -> Changes:
    """Bring the workspace up to the state.

    Args:
        workspace: Its folder; made if absent.
        keep: Diseases whose state cannot be read now; their projects stay as they were.

    Returns:
        What changed; empty when nothing did.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    changes = Changes()
    for order, state in enumerate(states):
        _build_project(workspace, state, order, changes)
    wanted = {project_id(state.disease) for state in states} | {project_id(disease) for disease in keep}
    for folder in sorted(workspace.iterdir()):
        if folder.is_dir() and folder.name not in wanted and (folder / "metadata.json").exists():
            shutil.rmtree(folder)
            changes.projects_removed.append(folder.name)
    return changes


def _build_project(workspace: Path, state: DiseaseState, order: int, changes: Changes) -> None:
    project = project_id(state.disease)
    folder = workspace / project
    touched: list[str] = []
    points = roll_up(state.history).to_dict("records")  # ordered by `at`; as dicts, because a frame for each point is slow
    newest = max((row["until"] for row in points), default=None)
    wanted = set()
    for start, group in itertools.groupby(points, key=lambda row: row["at"]):
        rows = list(group)
        end = max(row["until"] for row in rows)
        at, until = start.to_pydatetime(), end.to_pydatetime()
        snapshot = str(uuid.uuid5(SPACE, f"{state.disease} {at.isoformat()} {until.isoformat()}"))
        wanted.add(snapshot)
        if _write(folder / "snapshots" / f"{snapshot}.json", _snapshot(state, at, until, rows, newest=end == newest)):
            touched.append(snapshot)
    gone = [path for path in sorted((folder / "snapshots").glob("*.json")) if path.stem not in wanted]
    for path in gone:
        path.unlink()
    _write(folder / "dashboard.json", dashboard(state))
    # The list of projects is ordered by this date, the newest first: it only keeps the diseases in the order of their names.
    described = {
        "id": project, "name": state.title + (" (SYNTHETIC DATA)" if state.synthetic else ""), "description": _facts(state), "org_id": None,
        "version": "2", "team_id": None, "date_from": None, "date_to": None,
        "created_at": (datetime(2000, 1, 2) - timedelta(minutes=order)).isoformat(),
    }  # fmt: skip
    if _write(folder / "metadata.json", described) or touched:
        changes.written[project] = touched
    if gone:
        changes.removed[project] = [path.stem for path in gone]


def _write(path: Path, value: Mapping[str, Any]) -> bool:
    text = json.dumps(value, allow_nan=False)
    try:
        if path.read_text(encoding="utf-8") == text:
            return False
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    write_text(path, text)
    return True


def _facts(state: DiseaseState) -> str:
    coverage = "no labels yet" if state.coverage is None else f"{state.coverage:.0%} of the answers have a label"
    return (
        f"{'SYNTHETIC DATA: says nothing about patients. ' if state.synthetic else ''}{state.disease}, model {state.model} version {state.version}; "
        f"{state.counts['devices']} devices, {coverage}; monitor ran {state.updated:%d %b %Y %H:%M} UTC."
    )


# Snapshots --------------------------------------------------------------------------------------------------------------------------------


def _snapshot(state: DiseaseState, at: datetime, until: datetime, rows: Sequence[Mapping[Any, Any]], *, newest: bool) -> dict[str, Any]:
    """One point of all charts, from the rows of `roll_up` that have it."""
    values: dict[str, dict[str, Any]] = {}
    for name in (*SCORES, "n"):
        for row in rows:
            value = row["n"] / row["windows"] if name == "n" else row[name]  # a week must not look seven times as busy as a day
            _add(values, f"{name} {row['device_key']}", DEVICE, ("score", name), ("device", row["label"]), value)
    for panel, named in counts(state, at, until, rows, newest=newest).items():
        for name, value in named.items():
            _add(values, f"{panel} {name}", COUNT, ("panel", panel), ("name", name), value)
    windows = max(row["windows"] for row in rows)
    span = f"{at:%d %b %Y}" if windows == 1 else f"{at:%d %b} to {until:%d %b %Y}, {windows} windows"
    return {
        "report": {"items": []}, "name": f"{state.disease}, {span}", "timestamp": at.replace(tzinfo=None).isoformat(), "metadata": {}, "tags": [],
        "metric_results": values, "top_level_metrics": [], "widgets": _widgets(state, at, span, windows, rows), "tests_widgets": [],
    }  # fmt: skip


def _add(values: dict[str, dict[str, Any]], key: str, metric: str, one: tuple[str, str], other: tuple[str, str], value: float) -> None:
    if math.isfinite(value):
        identifier, result = _result(key, metric, one, other)
        values[identifier] = {**result, "value": round(float(value), 6)}


@functools.lru_cache(maxsize=10_000)  # a year asks a hundred times for each
def _result(key: str, metric: str, *params: tuple[str, str]) -> tuple[str, dict[str, Any]]:
    """Identifier and form of a result; what it returns is shared, so nothing may be written into it."""
    identifier = uuid.uuid5(SPACE, f"{metric} {key}").hex
    return identifier, {
        "type": "evidently:metric_result_v2:SingleValue", "display_name": " ".join(value for _, value in params), "value": math.nan, "widget": None,
        "tests": [], "metric_value_location": {"metric": {"metric_id": identifier, "params": {"type": METRIC + metric, **dict(params)}}, "param": {}},
    }  # fmt: skip


def counts(state: DiseaseState, at: datetime, until: datetime, rows: Sequence[Mapping[Any, Any]], *, newest: bool) -> dict[str, dict[str, float]]:
    """Figures of all devices together at one point: panel -> name -> value.

    `coverage` is a share (0 to 1), absent while nothing was answered; the others are numbers of devices or alarms.
    """
    alarms = [a for a in state.alarms if a.since < until and (a.open or a.last >= at)]
    status = collections.Counter(row["status"] for row in rows)
    judged = collections.Counter(row["verdict"] for row in rows if row["status"] != "silent")
    made: dict[str, dict[str, float]] = {
        "now": {"alarms": len(alarms), "unseen devices": status["unseen"], "silent devices": status["silent"]},
        "alarms": {"alarms": len(alarms)},
        "devices": {"unseen": status["unseen"], "silent": status["silent"]},
        "verdicts": {name: judged[name] for name in VERDICTS},
    }
    if state.coverage is not None and newest:
        made["now"]["% of all answers have a label"] = 100 * state.coverage
    answered = sum(row["answered"] for row in rows)
    if answered:
        made["coverage"] = {"all devices": sum(row["labelled"] for row in rows) / answered}
    return made


def _widgets(state: DiseaseState, at: datetime, span: str, windows: int, rows: Sequence[Mapping[Any, Any]]) -> list[dict[str, Any]]:
    note = "**SYNTHETIC DATA: says nothing about patients.** " if state.synthetic else ""
    page = state.report_of(at) if windows == 1 else None
    link = f" [The monitor's page of this window](/monitor/{page})." if page else ""
    text = f"{note}{state.title}, {span}, model {state.model} version {state.version}.{link}"

    def shown(value: float) -> str:
        return f"{value:.3f}" if math.isfinite(value) else "-"

    table = []
    for row in rows:
        figures = [str(row["n"]), *(shown(row[name]) for name in ("score_mean", "auc_estimated", "auc_true"))]
        table.append([row["label"], row["status"], row["verdict"], row["words"] or "", *figures, f"{row['labelled']} of {row['answered']}"])
    header = ["device", "status", "verdict", "what changed", "requests", "mean score", "estimated AUC", "true AUC", "labels"]
    identifiers = [uuid.uuid5(SPACE, f"{state.disease} {at.isoformat()} {part}").hex for part in ("text", "table")]
    return [
        {"id": identifiers[0], "type": "text", "title": "", "size": 2, "params": {"text": text}},
        {"id": identifiers[1], "type": "table", "title": "Devices", "size": 2, "params": {"header": header, "data": table}},
    ]


# Dashboard --------------------------------------------------------------------------------------------------------------------------------


def dashboard(state: DiseaseState) -> dict[str, Any]:
    """The one dashboard of a disease: alarms as text, counts, then one line per device for each score."""
    panels = [
        *_alarm_panels(state),
        _panel("now", "Now", "", "counter", "full", COUNT, {"panel": "now"}, "{{name}}"),
        *_alarmed(state),
        _panel("score_mean", "Mean score", "Mean predicted probability or grade, one line per device", "line", "full", DEVICE,
               {"score": "score_mean"}, "{{device}}"),
        _panel("auc_estimated", "Estimated AUC", "Without labels, one line per device; a gap where a device could not be judged", "line", "full",
               DEVICE, {"score": "auc_estimated"}, "{{device}}"),
        _panel("auc_true", "True AUC", "From late labels, one line per device; a gap where there are too few", "line", "full", DEVICE,
               {"score": "auc_true"}, "{{device}}"),
        _panel("coverage", "Label coverage", "Share of the answers that have a label by now", "line", "half", COUNT, {"panel": "coverage"},
               "{{name}}"),
        _panel("alarms", "Alarms", "Alarms that held at that time", "bar", "half", COUNT, {"panel": "alarms"}, "{{name}}"),
        _panel("verdicts", "Devices by verdict", "'cannot judge' is not 'no drift'", "bar", "half", COUNT, {"panel": "verdicts"}, "{{name}}",
               stacked=True),
        _panel("devices", "Unseen and silent devices", "Number of devices", "bar", "half", COUNT, {"panel": "devices"}, "{{name}}", stacked=True),
        _panel("n", "Requests", "Per window, one line per device; older points are means of a week", "line", "full", DEVICE, {"score": "n"},
               "{{device}}"),
        _panel("score_low", "Score, 10 % quantile", "Nine in ten answers lie above", "line", "full", DEVICE, {"score": "score_low"}, "{{device}}"),
        _panel("score_high", "Score, 90 % quantile", "Nine in ten answers lie below", "line", "full", DEVICE, {"score": "score_high"}, "{{device}}"),
    ]  # fmt: skip
    panels = [_said_empty(state, panel) for panel in panels]
    for panel in panels:
        panel["id"] = str(uuid.uuid5(SPACE, f"{state.disease} panel {panel['id']}"))
    tab = {"id": str(uuid.uuid5(SPACE, f"{state.disease} tab")), "title": state.disease, "panels": [panel["id"] for panel in panels]}
    return {"tabs": [tab], "panels": panels}


def _panel(
    name: str, title: str, subtitle: str, kind: str, size: str, metric: str, wanted: dict[str, str], legend: str, *, stacked: bool = False
) -> dict[str, Any]:
    # One filter gives all lines of a panel: with one for each device Evidently reads every snapshot once for each of them.
    value = {"legend": legend, "tags": [], "metadata": {}, "metric": METRIC + metric, "metric_labels": wanted, "view_params": {}}
    plot = {"plot_type": kind, **({"aggregation": "last"} if kind == "counter" else {}), **({"is_stacked": stacked} if kind == "bar" else {})}
    return {"id": name, "title": title, "subtitle": subtitle, "size": size, "values": [value], "plot_params": plot}


def _said_empty(state: DiseaseState, panel: dict[str, Any]) -> dict[str, Any]:
    """A chart that would have no point, as words: Evidently draws an empty box, which could mean anything."""
    said = {
        "score_mean": "No device has answered with a score yet.",
        "score_low": "No device has answered with a score yet.",
        "score_high": "No device has answered with a score yet.",
        "auc_estimated": "No device could be judged without labels yet: drifted or unseen devices, and those with too few answers, have no estimate.",
        "auc_true": "No device has enough late labels yet; `dxflow labels` takes them.",
        "coverage": "No request was answered with a decision yet, so there is nothing to label.",
    }.get(panel["id"])
    if said is None:
        return panel
    history = state.history
    there = (history["answered"] > 0) if panel["id"] == "coverage" else history[panel["id"]].notna()
    return panel if there.any() else _text(panel["id"], panel["title"], said, panel["size"])


def _alarmed(state: DiseaseState) -> list[dict[str, Any]]:
    """Where there are many devices, those with an open alarm once more, alone."""
    names = labels(state.history)
    alarmed = sorted({names[a.device_key] for a in state.open_alarms if a.device_key in names})[:ALARM_PANELS]
    if len(names) <= MANY_DEVICES or not alarmed:
        return []
    panel = _panel(
        "alarmed", "Mean score, devices with an open alarm", f"{len(alarmed)} of {len(names)} devices", "line", "full", DEVICE, {}, "{{device}}"
    )
    panel["values"] = [{**panel["values"][0], "metric_labels": {"score": "score_mean", "device": device}} for device in alarmed]
    return [panel]


def _alarm_panels(state: DiseaseState) -> list[dict[str, Any]]:
    found = state.open_alarms
    head = f"{len(found) or 'No'} open alarm{'' if len(found) == 1 else 's'}"
    more = f" The {ALARM_PANELS} newest are shown; all are on the alarm page." if len(found) > ALARM_PANELS else ""
    said = f"{_facts(state)}{more}" + ("" if found else f" {unjudged(state)}")
    return [_text("alarms-head", head, said, "full"), *(_alarm(alarm, len(found)) for alarm in found[:ALARM_PANELS])]


def unjudged(state: DiseaseState) -> str:
    """How many devices the newest window could not judge, in words: no alarm is not an all-clear then."""
    rows = state.latest()
    few = int((rows["verdict"] == "cannot judge").sum())
    if rows.empty:
        return "No window was judged yet."
    return f"{few} of {len(rows)} devices could not be judged in the newest window: nothing is known of them." if few else ""


def _alarm(alarm: Alarm, many: int) -> dict[str, Any]:
    return _text(
        f"alarm {alarm.id}", f"{alarm.title}: {alarm.where}", f"Since {alarm.since:%d %b %Y}. {alarm.evidence}", "full" if many == 1 else "half"
    )


def _text(name: str, title: str, subtitle: str, size: str) -> dict[str, Any]:
    return {"id": name, "title": title, "subtitle": subtitle, "size": size, "values": [], "plot_params": {"plot_type": "text"}}
