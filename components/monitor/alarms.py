"""Alarms over time: one for each device and kind, open from the first window that shows it until the device has been judged and did not.

What is not judged neither opens nor closes anything. How many were usual before a device fell silent is told once: later windows only know silence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.core.atomic import atomic_file
from components.core.package import ModelPackage
from components.core.pseudonym import UNKNOWN_DEVICE
from components.monitor.dashboard_state import PAGE
from components.monitor.unknown_devices import OTHERS

if TYPE_CHECKING:
    from components.monitor.state import State

Kind = Literal["drift", "unseen", "silent", "software", "header", "abstention", "log_loss", "data_quality"]
CALM = 3
"""Judged windows without the finding after which an alarm is closed."""
LASTING = ("drift", "header", "abstention", "software", "data_quality")
"""Kinds that end when windows are judged without them. `silent` ends when the device answers; `unseen` stays until a model knows the device, or
as long as others come in its place where there are too many to follow (`unknown_devices.py`)."""


@dataclass(frozen=True)
class Window:
    """[start, end), Unix seconds."""

    start: int
    end: int


@dataclass(frozen=True)
class Found:
    """Something to tell about a device in a window. `since`: Unix seconds; `changes`: all of what `evidence` begins to tell."""

    kind: str
    device: str
    label: str
    evidence: str
    since: int
    changes: tuple[str, ...] = ()


def update(memory: State, disease: str, found: Iterable[Found], when: Window, settled: set[str]) -> None:
    """Open, keep and close alarms.

    Args:
        settled: Devices that were judged in this window.
    """
    kept = {(a["kind"], a["device_key"]): a for a in memory.alarms() if a["open"]}
    seen: set[tuple[str, str]] = set()
    for item in found:
        key = (item.kind, item.device)
        seen.add(key)
        old = kept.get(key)
        alarm = {
            "id": old["id"] if old else _id(disease, item, when), "kind": item.kind, "device_key": item.device, "label": item.label,
            "evidence": old["evidence"] if old and item.kind == "silent" else item.evidence,
            "changes": list(item.changes), "since": old["since"] if old else iso(item.since), "last": iso(when.end), "open": True, "calm": 0,
            "report": f"reports/{report_name(when)}", "mix": old.get("mix", "") if old else "",
        }  # fmt: skip
        memory.set_alarm(alarm)
    for key, alarm in kept.items():
        if key in seen:
            continue
        if (alarm["kind"] in LASTING and alarm["device_key"] in settled) or alarm["device_key"] == OTHERS:
            memory.set_alarm(alarm | {"calm": alarm["calm"] + 1, "open": alarm["calm"] + 1 < CALM})
        elif alarm["kind"] == "silent" or (alarm["kind"], alarm["device_key"]) == ("unseen", UNKNOWN_DEVICE):  # the latter an older monitor's
            memory.set_alarm(alarm | {"open": False})


def explain(memory: State, said: Mapping[tuple[int, str], tuple[int, str]]) -> None:
    """Add to alarms what labels say of their latest window that has some.

    Args:
        said: (start, device) -> end of the window, sentence.
    """
    for alarm in memory.alarms():
        if alarm["kind"] not in LASTING:
            continue
        first, last = (int(datetime.fromisoformat(alarm[name]).timestamp()) for name in ("since", "last"))
        own = {start: text for (start, device), (end, text) in said.items() if device == alarm["device_key"] and end > first and end <= last}
        if own:
            memory.set_alarm(alarm | {"mix": f"{datetime.fromtimestamp(max(own), UTC):%d %b}: {own[max(own)]}"})


def told(alarm: Mapping[str, Any]) -> dict[str, Any]:
    """An alarm as readers see it: what labels say of it is part of its evidence."""
    out = {name: value for name, value in alarm.items() if name not in ("calm", "mix")}
    return out | {"evidence": "; ".join(part for part in (alarm["evidence"], alarm.get("mix", "")) if part)}


def report_name(when: Window) -> str:
    """File name of a window's page."""
    return datetime.fromtimestamp(when.start, UTC).strftime(PAGE)


def iso(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()


def _id(disease: str, item: Found, when: Window) -> str:
    return hashlib.sha256(f"{disease}|{item.kind}|{item.device}|{when.start}".encode()).hexdigest()[:16]


def export(
    folder: Path, model: ModelPackage, rows: Sequence[Mapping[str, Any]], alarms: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
) -> None:
    """Write `history.parquet`, `alarms.json` and `summary.json`: what dashboards read. They follow the state and can be made again from it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    times, numbers, integers = ("window_start", "window_end"), _NUMBERS, ("n", "abstained", "errors", "labelled", "answered")
    kinds = {**dict.fromkeys(times, pa.timestamp("us", tz="UTC")), **dict.fromkeys(numbers, pa.float64()), **dict.fromkeys(integers, pa.int64())}
    plain = [
        dict(row)
        | {name: datetime.fromtimestamp(row[name], UTC) for name in times}
        | {"words": "; ".join(part for part in (row["words"], row.get("mix", "")) if part)}
        for row in rows
    ]
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in _COLUMNS])
    with atomic_file(folder / "history.parquet") as partial:
        pq.write_table(pa.Table.from_pylist(plain, schema=schema), partial)
    seen = [told(alarm) for alarm in alarms]
    for name, content in (
        ("alarms.json", {"schema_version": 1, "disease": model.disease, "synthetic": model.synthetic, "alarms": seen}),
        ("summary.json", dict(summary)),
    ):
        with atomic_file(folder / name) as partial:
            partial.write_text(json.dumps(content, indent=1), encoding="utf-8")


_NUMBERS = (
    "patients", "score_mean", "score_low", "score_high", "drift_effect", "drift_p", "auc_estimated", "auc_estimated_low", "auc_estimated_high",
    "auc_true", "auc_true_low", "auc_true_high",
)  # fmt: skip
_COLUMNS = (
    "window_start", "window_end", "model", "version", "device_key", "label", "status", "verdict", "reason", "n", "patients", "abstained", "errors",
    "score_mean", "score_low", "score_high", "drift_feature", "drift_effect", "drift_p", "words", "auc_estimated", "auc_estimated_low",
    "auc_estimated_high", "auc_true", "auc_true_low", "auc_true_high", "labelled", "answered",
)  # fmt: skip
