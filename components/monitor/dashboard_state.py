"""What the monitor keeps in `<state>/<disease>/`, read for dashboards and metrics: nothing here judges, and nothing here writes.

A disease whose files are damaged or of another schema is not left out: it comes back as an error, because a device that nobody watches must not
look like a device without alarms.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
STATUSES = ("known", "unseen", "unknown", "silent")
VERDICTS = ("drift", "watch", "cannot judge", "no drift found")  # the worst first
KINDS = {
    "drift": "Drift",
    "unseen": "Unseen device",
    "silent": "Silent device",
    "software": "Software changed",
    "header": "Header disagrees with the images",
    "abstention": "Burst of abstentions",
    "log_loss": "Inference log lost requests",
    "data_quality": "Data quality",
}
COLUMNS = (
    *("window_start", "window_end", "model", "version", "device_key", "label", "status", "verdict", "reason", "n", "patients", "abstained", "errors"),
    *("score_mean", "score_low", "score_high", "drift_feature", "drift_effect", "drift_p", "words"),
    *("auc_estimated", "auc_estimated_low", "auc_estimated_high", "auc_true", "auc_true_low", "auc_true_high", "labelled", "answered"),
)
PAGE = "%Y-%m-%dT%H%M.html"  # what the monitor calls the page of the window that starts then
NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
REPORT = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*/)*[A-Za-z0-9][A-Za-z0-9._-]*\.html")


@dataclass(frozen=True)
class Alarm:
    """One alarm of one device.

    Args:
        device_key: Pseudonym; empty where the alarm is the whole disease's, e.g. of the log.
        since, last: First and latest window in which it held; UTC.
        report: The page that shows it, relative to the state folder; None where there is none.
        changes: Everything that the evidence begins to tell.
    """

    id: str
    kind: str
    device_key: str
    label: str
    evidence: str
    since: datetime
    last: datetime
    open: bool
    report: str | None
    changes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The kind in words."""
        return KINDS.get(self.kind, self.kind.replace("_", " ").capitalize())

    @property
    def where(self) -> str:
        """The device as a reader sees it."""
        return self.label or self.device_key or "all devices"


@dataclass(frozen=True)
class DiseaseState:
    """All of one disease.

    Args:
        updated: When the monitor last ran; UTC.
        window_s: Length of a window in seconds.
        coverage: Share of the answers with a label, 0 to 1; None before the first answer.
        counts: `devices`, `events`, `lost`, `damaged`, `late`, `duplicates` since the log began.
        history: One row per (window, device), columns `COLUMNS`, ordered by window_start and device_key.
        alarms: Open ones first, then the newest first.
        reports: Names of the pages in the disease's folder `reports/`.
    """

    disease: str
    title: str
    synthetic: bool
    model: str
    version: str
    updated: datetime
    window_s: float
    coverage: float | None
    counts: Mapping[str, int]
    history: pd.DataFrame
    alarms: tuple[Alarm, ...]
    reports: frozenset[str]

    @property
    def open_alarms(self) -> tuple[Alarm, ...]:
        """Those that hold now."""
        return tuple(alarm for alarm in self.alarms if alarm.open)

    def latest(self) -> pd.DataFrame:
        """The rows of the newest window; none before the first."""
        return self.history[self.history["window_start"] == self.history["window_start"].max()]

    def report_of(self, window: datetime) -> str | None:
        """The page of the window that starts then, relative to the state folder; None where the monitor wrote none."""
        name = window.strftime(PAGE)
        return f"{self.disease}/reports/{name}" if name in self.reports else None


def folders(state: Path) -> list[Path]:
    """The folders of the monitored diseases, by name; a folder counts once the monitor began to write into it."""
    if not state.is_dir():
        return []
    files = ("summary.json", "alarms.json", "history.parquet")
    return [f for f in sorted(state.iterdir()) if NAME.fullmatch(f.name) and f.is_dir() and any((f / name).exists() for name in files)]


def signature(state: Path) -> tuple[tuple[str, int, int], ...]:
    """Changes when any file that `read_all` reads is replaced: (path, modification time in ns, size)."""
    found = []
    for folder in folders(state):
        for name in ("summary.json", "alarms.json", "history.parquet"):
            try:
                facts = (folder / name).stat()
            except FileNotFoundError:
                continue
            found.append((f"{folder.name}/{name}", facts.st_mtime_ns, facts.st_size))
    return tuple(found)


def read_all(state: Path) -> tuple[list[DiseaseState], dict[str, DataError]]:
    """Every disease under `state`, by name, and what could not be read: disease -> why."""
    good: list[DiseaseState] = []
    bad: dict[str, DataError] = {}
    for folder in folders(state):
        try:
            good.append(read(folder))
        except DataError as error:
            bad[folder.name] = error
    return good, bad


def read(folder: Path) -> DiseaseState:
    """One disease.

    Raises:
        DataError: A file is absent, damaged or of another schema version, or lacks a column.
    """
    summary = _json(folder / "summary.json")
    alarms = _json(folder / "alarms.json")
    history = _history(folder / "history.parquet")
    where = f"{folder.name}/summary.json"
    try:
        read_alarms = [_alarm(entry, folder) for entry in alarms["alarms"]]
        return DiseaseState(
            disease=folder.name,
            title=str(summary["title"]),
            synthetic=bool(summary["synthetic"]) or bool(alarms["synthetic"]),
            model=str(summary["model"]),
            version=str(summary["version"]),
            updated=_time(summary["updated"]),
            window_s=float(summary["window_s"]),
            coverage=None if summary["coverage"] is None else float(summary["coverage"]),
            counts={name: int(summary[name]) for name in ("devices", "events", "lost", "damaged", "late", "duplicates")},
            history=history,
            reports=frozenset(path.name for path in folder.glob("reports/*.html")),
            alarms=tuple(sorted(read_alarms, key=lambda a: (not a.open, -a.since.timestamp(), a.where, a.id))),
        )
    except KeyError as error:
        raise DataError("a key of the monitor's state is missing", where=where, got=f"no {error.args[0]!r}") from None
    except (TypeError, ValueError, AttributeError):
        raise DataError("a value of the monitor's state has the wrong type", where=where) from None


def _json(path: Path) -> dict[str, Any]:
    where = f"{path.parent.name}/{path.name}"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("a file of the monitor's state is absent", where=where) from None
    except (ValueError, OSError):
        raise DataError("a file of the monitor's state is damaged", where=where) from None
    version = found.get("schema_version") if isinstance(found, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError("the monitor's state has another schema version", where=where, got=version, allowed=SCHEMA_VERSION)
    return found


def _history(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    where = f"{path.parent.name}/{path.name}"
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise DataError("a file of the monitor's state is absent", where=where) from None
    except (pa.ArrowException, OSError, ValueError):
        raise DataError("a file of the monitor's state is damaged", where=where) from None
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise DataError("the history lacks columns", where=where, got=f"no {', '.join(missing)}")
    for name in ("window_start", "window_end"):
        table[name] = pd.to_datetime(table[name], utc=True)
    return table.sort_values(["window_start", "device_key"], kind="stable", ignore_index=True)


def _alarm(entry: Mapping[str, Any], folder: Path) -> Alarm:
    since, last = _time(entry["since"]), _time(entry["last"])
    return Alarm(
        id=str(entry["id"]),
        kind=str(entry["kind"]),
        device_key=str(entry["device_key"] or ""),
        label=str(entry["label"] or ""),
        evidence=" ".join(str(entry["evidence"]).split()),
        since=since,
        last=last,
        open=bool(entry["open"]),
        report=_report(entry.get("report"), folder),
        changes=tuple(str(text) for text in entry.get("changes") or ()),
    )


def _report(given: Any, folder: Path) -> str | None:
    """A link that stays inside the state folder, whether the monitor wrote it relative to the disease's folder or to the state's."""
    if not isinstance(given, str) or not REPORT.fullmatch(given):
        return None
    return given if given.startswith(f"{folder.name}/") else f"{folder.name}/{given}"


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
