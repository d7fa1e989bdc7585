"""The workspace as Evidently itself reads it: the contract with its file formats, and the traps we rely on. All data is synthetic."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.monitor.dashboard_series import labels
from components.monitor.dashboard_state import read_all
from components.monitor.dashboard_workspace import build, dashboard, project_id
from tests.monitor.synthetic_state import keys, write


@pytest.fixture(scope="module")
def evidently() -> Any:
    os.environ["DO_NOT_TRACK"] = "1"
    return pytest.importorskip("evidently.ui.workspace")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def workspace(state: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    build(folder, read_all(state)[0])
    return folder


def tree(folder: Path) -> dict[str, tuple[int, str]]:
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_text()) for p in sorted(folder.rglob("*.json"))}


def test_evidently_reads_one_project_per_disease_with_one_snapshot_per_window(evidently: Any, workspace: Path):
    read = evidently.Workspace(str(workspace))
    projects = {str(p.id): p for p in read.list_projects()}
    assert set(projects) == {project_id(d) for d in ("lung-nodule", "parkinson-fog", "retinopathy-screening")}
    for project in projects.values():
        assert project.name.endswith("(SYNTHETIC DATA)")
        assert len(read.list_runs(project.id)) == 40


def test_what_is_written_is_what_evidently_would_write(evidently: Any, workspace: Path):
    """Round trip through Evidently's models keeps every value; a custom metric run by Evidently has the same form."""
    from evidently import Dataset, Report
    from evidently.core.metric_types import SingleValue, SingleValueCalculation, SingleValueMetric
    from evidently.core.serialization import SnapshotModel

    class DeviceScore(SingleValueMetric):
        score: str
        device: str

    class DeviceScoreCalculation(SingleValueCalculation[DeviceScore]):
        def calculate(self, context: Any, current_data: Any, reference_data: Any) -> SingleValue:
            return self.result(0.5)

        def display_name(self) -> str:
            return "score"

    run = Report([DeviceScore(score="score_mean", device="Maker")]).run(Dataset.from_pandas(pd.DataFrame({"x": [1.0]})))
    (theirs,) = run.to_snapshot_model().dict()["metric_results"].values()
    path = sorted((workspace / project_id("lung-nodule") / "snapshots").glob("*.json"))[0]
    raw = json.loads(path.read_text())
    read = SnapshotModel.parse_obj(json.loads(path.read_text())).dict()
    ours = next(v for v in read["metric_results"].values() if v["metric_value_location"]["metric"]["params"].get("score") == "score_mean")
    assert set(ours) == set(theirs)
    params = [v["metric_value_location"]["metric"]["params"] for v in (ours, theirs)]
    assert params[0]["type"] == params[1]["type"]
    assert set(params[0]) == set(params[1]) - {"tests"}
    assert {k: v["value"] for k, v in raw["metric_results"].items()} == {k: v["value"] for k, v in read["metric_results"].items()}


def series(evidently: Any, workspace: Path, disease: str, title: str) -> Any:
    """What Evidently's server answers for one panel."""
    from evidently.ui.service.base import SeriesFilter
    from evidently.ui.service.storage.local.base import InMemoryDataStorage, LocalState

    dashboard = evidently.Workspace(str(workspace)).get_dashboard(uuid.UUID(project_id(disease)))
    (panel,) = [p for p in dashboard.panels if p.title == title]
    filters = [SeriesFilter(tags=v.tags, metadata=v.metadata, metric=v.metric, metric_labels=v.metric_labels) for v in panel.values]
    storage = InMemoryDataStorage(str(workspace), LocalState.load(str(workspace), None))
    return asyncio.run(storage.get_data_series(uuid.UUID(project_id(disease)), filters, None, None))


def test_a_panel_has_one_line_per_device_with_the_figures_of_the_history(evidently: Any, state: Path, workspace: Path):
    history = read_all(state)[0][0].history
    for title, column in (("Mean score", "score_mean"), ("Estimated AUC", "auc_estimated"), ("True AUC", "auc_true")):
        answer = series(evidently, workspace, "lung-nodule", title)
        lines = {s.params["device"]: s.values for s in answer.series}
        expected = history[history[column].notna()].groupby("label")[column].apply(list)
        assert set(lines) == set(expected.index)
        for device, values in lines.items():
            assert [v for v in values if v is not None] == pytest.approx(expected[device], abs=1e-6)
        times = [s.timestamp for s in answer.sources]
        assert times == sorted(times)


def test_long_names_are_cut_before_the_key_and_stay_different():
    names = ["Maker of a very long name indeed (8abda527)", "Maker of a very long name indeed (76fc3237)", "GE LightSpeed VCT (30286730)"]
    history = pd.DataFrame({"device_key": ["a", "b", "c", "d", "e"], "label": [*names, "x" * 40, "x" * 41]})
    found = labels(history)
    assert found["a"] == "Maker of a very long\N{HORIZONTAL ELLIPSIS} (8abda527)"
    assert found["c"] == names[2]
    assert all(len(name) <= 32 for name in found.values())
    assert len(set(found.values())) == 5


def test_a_chart_without_a_point_says_why_in_words(state: Path):
    """Before the first label, and where nobody was judged, Evidently would draw empty boxes."""
    whole = read_all(state)[0][0]
    none = replace(whole, history=whole.history.assign(auc_true=math.nan, auc_estimated=None))
    for given, kinds in ((whole, {"line"}), (none, {"text"})):
        panels = {p["title"]: p for p in dashboard(given)["panels"]}
        assert {panels[title]["plot_params"]["plot_type"] for title in ("Estimated AUC", "True AUC")} == kinds
        assert panels["Mean score"]["plot_params"]["plot_type"] == "line"
    assert panels["True AUC"]["subtitle"] == "No device has enough late labels yet; `dxflow labels` takes them."


def test_a_panel_asks_with_one_filter(workspace: Path):
    """With a filter for each line Evidently reads every snapshot once per filter: fifty devices would take fifty times as long."""
    dashboard = json.loads((workspace / project_id("lung-nodule") / "dashboard.json").read_text())
    assert {len(p["values"]) for p in dashboard["panels"] if p["plot_params"]["plot_type"] != "text"} == {1}


def test_the_open_source_server_refuses_a_second_tab(evidently: Any, workspace: Path):
    """Why a disease's tab is a project."""
    from evidently.sdk.models import DashboardModel
    from evidently.ui.service.storage.local import create_local_project_manager
    from evidently.ui.service.type_aliases import ZERO_UUID
    from litestar.exceptions import HTTPException

    project = uuid.UUID(project_id("lung-nodule"))
    manager = create_local_project_manager(str(workspace), autorefresh=False)
    model = json.loads((workspace / str(project) / "dashboard.json").read_text())
    model["tabs"] = model["tabs"] * 2
    with pytest.raises(HTTPException, match="Multiple tabs are not supported"):
        asyncio.run(manager.save_project_dashboard(ZERO_UUID, project, DashboardModel.parse_obj(model)))


def test_building_twice_is_building_once(state: Path, workspace: Path):
    before = tree(workspace)
    changes = build(workspace, read_all(state)[0])
    assert not changes
    assert tree(workspace) == before


def test_late_labels_correct_a_window_in_place(state: Path, tmp_path: Path):
    own = Path(shutil.copytree(state, tmp_path / "monitor"))
    build(tmp_path / "workspace", read_all(own)[0])
    before = tree(tmp_path / "workspace")
    path = own / "lung-nodule" / "history.parquet"
    table = pd.read_parquet(path)
    window = table["window_start"].drop_duplicates().iloc[-5]
    table.loc[table["window_start"] == window, ["auc_true", "labelled"]] = [0.77, 40]
    table.to_parquet(path)
    changes = build(tmp_path / "workspace", read_all(own)[0])
    (snapshot,) = changes.written[project_id("lung-nodule")]
    after = tree(tmp_path / "workspace")
    assert set(after) == set(before)
    assert [name for name in after if after[name] != before[name]] == [f"{project_id('lung-nodule')}/snapshots/{snapshot}.json"]
    assert json.loads(after[f"{project_id('lung-nodule')}/snapshots/{snapshot}.json"][1])["timestamp"] == window.strftime("%Y-%m-%dT%H:%M:%S")


def test_days_that_became_a_week_disappear_and_a_disease_that_went_takes_its_project(tmp_path: Path):
    write(tmp_path / "monitor", days=100, devices=4, diseases=("lung-nodule", "skin-lesion"))
    build(tmp_path / "workspace", read_all(tmp_path / "monitor")[0])
    folder = tmp_path / "workspace" / project_id("lung-nodule") / "snapshots"
    assert 65 <= len(list(folder.glob("*.json"))) <= 75
    write(tmp_path / "monitor", days=10, devices=4, diseases=("lung-nodule",))
    shutil.rmtree(tmp_path / "monitor" / "skin-lesion")
    changes = build(tmp_path / "workspace", read_all(tmp_path / "monitor")[0])
    assert len(list(folder.glob("*.json"))) == 10
    assert changes.projects_removed == [project_id("skin-lesion")]


def test_a_value_that_does_not_exist_is_not_written(workspace: Path, state: Path):
    """One NaN would lose a whole answer of Evidently's server; a silent device has no score, and no zero either."""
    silent = {s.disease: s for s in read_all(state)[0]}["lung-nodule"].latest().set_index("device_key").loc[keys("lung-nodule")[5], "label"]
    newest = max((workspace / project_id("lung-nodule") / "snapshots").glob("*.json"), key=lambda p: json.loads(p.read_text())["timestamp"])
    text = newest.read_text()
    assert "NaN" not in text
    found = {tuple(v["metric_value_location"]["metric"]["params"].values())[1:]: v["value"] for v in json.loads(text)["metric_results"].values()}
    assert ("score_mean", silent) not in found
    assert found["n", silent] == 0
    assert found["devices", "silent"] == 1
    assert found["devices", "unseen"] == 1
    assert found["verdicts", "cannot judge"] == 1  # the silent one is counted as silent, not as unjudged


def test_with_many_devices_those_with_an_alarm_are_drawn_alone(evidently: Any, tmp_path: Path):
    write(tmp_path / "monitor", days=8, devices=20, diseases=("lung-nodule",))
    build(tmp_path / "workspace", read_all(tmp_path / "monitor")[0])
    answer = series(evidently, tmp_path / "workspace", "lung-nodule", "Mean score, devices with an open alarm")
    alarmed = [keys("lung-nodule", 20)[n] for n in (2, 5, 19)]
    assert {s.params["device"].split("(")[1][:8] for s in answer.series} <= {key[:8] for key in alarmed}
    assert len(answer.series) >= 2
