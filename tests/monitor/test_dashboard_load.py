"""Snapshots in memory are what Evidently's own loader makes of the same files. All data is synthetic."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest

from components.monitor.dashboard_state import read_all
from components.monitor.dashboard_workspace import build, project_id
from tests.monitor.synthetic_state import write

os.environ["DO_NOT_TRACK"] = "1"
pytest.importorskip("evidently.ui.workspace")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write(folder / "monitor", days=10, devices=4, diseases=("lung-nodule", "skin-lesion"))
    build(folder / "workspace", read_all(folder / "monitor")[0])
    return folder / "workspace"


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "workspace"))


def spelled(value: Any) -> Any:
    """Everything in a value with its type and order: `==` takes 1 for 1.0 and True, and knows no order of keys."""
    if hasattr(value, "__fields__"):
        return (type(value), spelled(vars(value)))
    if isinstance(value, dict):
        return [(key, spelled(each)) for key, each in value.items()]
    return [spelled(each) for each in value] if isinstance(value, list) else (type(value), value)


def loaded(workspace: Path) -> tuple[Any, Any]:
    """Snapshots and points of our loader, then of Evidently's."""
    from evidently.ui.service.storage.common import NoopAuthManager
    from evidently.ui.service.storage.local import create_local_project_manager
    from evidently.ui.service.storage.local.base import LocalState

    from components.monitor.dashboard_load import load

    ours, manager = load(workspace)
    theirs = LocalState.load(str(workspace), None)
    reference = create_local_project_manager(str(workspace), autorefresh=False, auth=NoopAuthManager(), state=theirs)
    found = [
        {"snapshots": state.snapshots, "projects": state.projects, "points": made.data_storage._metrics_points}  # pyright: ignore[reportAttributeAccessIssue]
        for state, made in ((ours, manager), (theirs, reference))
    ]
    return spelled(found[0]), spelled(found[1])


def snapshots(workspace: Path) -> list[Path]:
    return sorted((workspace / project_id("lung-nodule") / "snapshots").glob("*.json"))


def test_what_is_loaded_is_what_evidently_loads(workspace: Path):
    """Values, types, and the order of series in a chart."""
    ours, theirs = loaded(workspace)
    assert ours == theirs
    assert len(snapshots(workspace)) == 10


def _first(snapshot: dict[str, Any]) -> dict[str, Any]:
    return next(iter(snapshot["metric_results"].values()))


def _params(snapshot: dict[str, Any]) -> dict[str, Any]:
    return _first(snapshot)["metric_value_location"]["metric"]["params"]


OTHER = {
    "a whole number": lambda s: _first(s).update(value=1),
    "a number in quotes": lambda s: _first(s).update(value="0.25"),
    "truth": lambda s: _first(s).update(value=True),
    "another name": lambda s: _first(s).update(display_name="another"),
    "another device": lambda s: _params(s).update(device="another"),
    "a parameter that is a number": lambda s: _params(s).update(device=1),
    "a key that is not known": lambda s: _first(s).update(more="of this"),
    "no widget": lambda s: _first(s).pop("widget"),
    "a widget": lambda s: _first(s).update(widget=[{"type": "text", "title": "", "size": 2, "id": "a", "params": {"text": "b"}}]),
    "a result of another type": lambda s: _first(s).update(type="evidently:metric_result_v2:ByLabelValue", values={"a": {**_first(s)}}),
    "parameters in another order": lambda s: _params(s).update(score=_params(s).pop("score")),
    "no result": lambda s: s["metric_results"].clear(),
    "another order": lambda s: s.update(metric_results=dict(reversed(s["metric_results"].items()))),
}


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_what_has_another_form_is_read_by_evidently(change: Any, workspace: Path):
    """In the first, a middle and the last file, so that what was seen before does not decide."""
    paths = snapshots(workspace)
    for path in (paths[0], paths[len(paths) // 2], paths[-1]):
        snapshot = json.loads(path.read_text())
        change(snapshot)
        path.write_text(json.dumps(snapshot))
    ours, theirs = loaded(workspace)
    assert ours == theirs


def test_a_report_of_evidently_itself_is_loaded(workspace: Path):
    """Somebody's own report, put beside ours: metrics by label, counts, tests and widgets."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.legacy.utils import NumpyEncoder
    from evidently.metrics import MeanValue, MissingValueCount, UniqueValueCount
    from evidently.tests import gt

    report = Report([MeanValue(column="x", tests=[gt(0)]), MissingValueCount(column="x"), UniqueValueCount(column="y")])
    frame = pd.DataFrame({"x": [1.0, 2.0], "y": ["a", "b"]})
    run = report.run(Dataset.from_pandas(frame, data_definition=DataDefinition(numerical_columns=["x"], categorical_columns=["y"])))
    path = snapshots(workspace)[0].with_name(f"{uuid.UUID(int=7)}.json")
    path.write_text(json.dumps(run.to_snapshot_model().dict(), cls=NumpyEncoder))
    ours, theirs = loaded(workspace)
    assert ours == theirs


@pytest.mark.parametrize("text", ["[]", "{}", '{"metric_results": []}', '{"metric_results": {"a": 1}}'])
def test_a_damaged_snapshot_is_the_same_error(text: str, workspace: Path):
    from evidently.ui.service.storage.local.base import LocalState

    from components.monitor.dashboard_load import load

    path = snapshots(workspace)[3]
    path.write_text(text)
    for read in (load, lambda folder: LocalState.load(str(folder), None)):
        with pytest.raises(ValueError, match=f"{path.stem} is malformed"):
            read(workspace)


def test_a_result_that_is_of_no_metric_is_an_error(workspace: Path):
    from components.monitor.dashboard_load import load

    path = snapshots(workspace)[3]
    snapshot = json.loads(path.read_text())
    _first(snapshot)["metric_value_location"] = None
    path.write_text(json.dumps(snapshot))
    with pytest.raises(ValueError, match="metric_value_location should be set"):
        load(workspace)


def test_a_number_that_changes_leaves_the_others_alone(workspace: Path):
    """Results share what they have in common; a snapshot read again changes itself only."""
    from components.monitor.dashboard_load import load

    memory, _ = load(workspace)
    project = uuid.UUID(project_id("lung-nodule"))
    before = {key: spelled(value) for key, value in memory.snapshots[project].items()}
    path = snapshots(workspace)[5]
    snapshot = json.loads(path.read_text())
    _first(snapshot)["value"] = 0.123
    path.write_text(json.dumps(snapshot))
    memory.reload_snapshot(memory.projects[project], uuid.UUID(path.stem), skip_errors=False)
    after = {key: spelled(value) for key, value in memory.snapshots[project].items()}
    assert [str(key) for key in after if after[key] != before[key]] == [path.stem]
