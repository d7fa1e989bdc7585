"""The workspace in Evidently's memory: the same objects as `LocalState.load` makes of the same files, in a fraction of the time.

A year is more than 30,000 results, and Evidently validates each of them twice (the result, and its point for the charts) although those of one
score and device differ by their number only. Here Evidently validates the first of them, and the next ones are that one with another number. What
differs in anything else is validated by Evidently too: nothing of its models is repeated here, and any file is read as Evidently reads it.
"""

from __future__ import annotations

import json
import posixpath
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from evidently._pydantic_compat import BaseModel, ValidationError, parse_obj_as
from evidently.core.metric_types import MetricValueLocation, SingleValue
from evidently.core.serialization import SnapshotModel
from evidently.ui.service.base import Project
from evidently.ui.service.managers.projects import ProjectManager
from evidently.ui.service.services.dashbord.file import JsonFileDashboardManager
from evidently.ui.service.storage.common import NoopAuthManager
from evidently.ui.service.storage.local.base import (
    SNAPSHOTS,
    FSSpecBlobStorage,
    InMemoryDataStorage,
    JsonFileProjectMetadataStorage,
    LocalState,
    MetricItem,
)

Model = TypeVar("Model", bound=BaseModel)


def load(workspace: Path) -> tuple[LocalState, ProjectManager]:
    """All projects and snapshots of the folder, with their points, and Evidently's manager of them; complete when it returns.

    Raises:
        ValueError: A snapshot is none; Evidently's own error.
    """
    path = str(workspace)
    memory = _Memory(path, None)
    memory.project_manager = ProjectManager(
        project_metadata=JsonFileProjectMetadataStorage(path, memory),
        blob_storage=FSSpecBlobStorage(path),
        data_storage=_Points(path, memory),  # hears of every snapshot that memory reads
        auth_manager=NoopAuthManager(),
        dashboard_manager=JsonFileDashboardManager(path, memory),
    )
    memory.location.makedirs("")
    memory.reload()
    return memory, memory.project_manager


class _Memory(LocalState):
    """Evidently's state that validates each form of a result once."""

    def __init__(self, path: str, project_manager: ProjectManager | None) -> None:
        super().__init__(path, project_manager)
        self._validated: dict[str, SingleValue] = {}

    def reload_snapshot(self, project: Project, snapshot_id: UUID, skip_errors: bool = True) -> None:
        with self.location.open(posixpath.join(str(project.id), SNAPSHOTS, f"{snapshot_id}.json")) as file:
            raw = json.load(file)
        results = raw.get("metric_results") if isinstance(raw, dict) else None
        results = results if isinstance(results, dict) else {}
        forms = {name: _form(result) for name, result in results.items()}
        unknown = {name: results[name] for name, form in forms.items() if form not in self._validated}
        try:
            model = parse_obj_as(SnapshotModel, {**raw, "metric_results": unknown} if forms else raw)
        except ValidationError:
            super().reload_snapshot(project, snapshot_id, skip_errors)  # its errors in its words
            return
        for name, found in model.metric_results.items():
            if forms[name] and type(found) is SingleValue:
                self._validated[forms[name]] = found
        ordered = {}
        for name, form in forms.items():
            ordered[name] = model.metric_results[name] if name in unknown else _with(self._validated[form], value=results[name]["value"])
        model.metric_results = ordered
        self.snapshots[project.id][snapshot_id] = model
        for callback in self.callbacks:
            callback(project.id, snapshot_id, model)


def _form(result: Any) -> str:
    """All of a result but its number, with types and order; empty where the number is none that Evidently keeps as it is."""
    if not isinstance(result, dict) or type(result.get("value")) is not float:
        return ""
    return repr({**result, "value": None})


class _Points(InMemoryDataStorage):
    """Evidently's points of the charts; those of results that share their location share what is said of it."""

    def __init__(self, path: str, local_state: LocalState) -> None:
        self._validated: dict[str, tuple[MetricValueLocation, MetricItem]] = {}
        super().__init__(path, local_state)

    def _add_value(self, project_id: UUID, snapshot_id: UUID, timestamp: datetime, result: SingleValue) -> None:
        location = result.metric_value_location
        if location is None or self._metrics_points is None:
            super()._add_value(project_id, snapshot_id, timestamp, result)  # its error, its first point
            return
        points = self._metrics_points.setdefault(project_id, {}).setdefault(snapshot_id, [])
        seen = self._validated.get(location.metric.metric_id)
        if seen is not None and seen[0] is location:
            points.append(_with(seen[1], snapshot_id=snapshot_id, timestamp=timestamp, value=result.value))
            return
        super()._add_value(project_id, snapshot_id, timestamp, result)
        self._validated[location.metric.metric_id] = (location, points[-1])


def _with(model: Model, **changes: Any) -> Model:
    """A copy that shares everything but `changes`, which are not validated; pydantic's own `copy` takes seven times as long."""
    made = type(model).__new__(type(model))
    object.__setattr__(made, "__dict__", {**model.__dict__, **changes})
    object.__setattr__(made, "__fields_set__", model.__fields_set__)
    return made
