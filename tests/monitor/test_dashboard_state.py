"""Reading the monitor's state, rolling it up, the metrics and the alarm page made of it. All data is synthetic."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.monitor import alarm_page, dashboard, prometheus
from components.monitor.alarms import Window, report_name
from components.monitor.dashboard_series import labels, roll_up
from components.monitor.dashboard_state import COLUMNS, read, read_all, signature
from tests.monitor.synthetic_state import END, keys, write


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("state"))


@pytest.fixture
def own(state: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(state, tmp_path / "monitor"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_every_disease_is_read_with_its_alarms_open_ones_first(state: Path):
    good, bad = read_all(state)
    assert [s.disease for s in good] == ["lung-nodule", "parkinson-fog", "retinopathy-screening"]
    assert bad == {}
    assert [a.kind for a in good[0].alarms] == ["log_loss", "silent", "drift", "unseen", "drift"]
    assert [a.open for a in good[0].alarms] == [True] * 4 + [False]
    assert all(s.synthetic for s in good)
    assert len(good[0].latest()) == 8


def _no_alarms(folder: Path) -> None:
    (folder / "alarms.json").unlink()


def _cut(folder: Path) -> None:
    path = folder / "history.parquet"
    path.write_bytes(path.read_bytes()[:2000])


def _newer(folder: Path) -> None:
    edit(folder / "summary.json", schema_version=2)


def _no_column(folder: Path) -> None:
    table = pd.read_parquet(folder / "history.parquet")
    table.drop(columns=["auc_true"]).to_parquet(folder / "history.parquet")


def _wrong_type(folder: Path) -> None:
    edit(folder / "summary.json", updated=5)


def _no_key(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    del summary["lost"]
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_no_alarms, "alarms.json: a file of the monitor's state is absent"),
        (_cut, "history.parquet: a file of the monitor's state is damaged"),
        (_newer, "summary.json: the monitor's state has another schema version; got 2; allowed: 1"),
        (_no_column, "history.parquet: the history lacks columns; got no auc_true"),
        (_wrong_type, "summary.json: a value of the monitor's state has the wrong type"),
        (_no_key, "summary.json: a key of the monitor's state is missing; got no 'lost'"),
    ],
)
def test_a_disease_that_cannot_be_read_is_an_alarm_and_keeps_its_last_charts(damage, words: str, own: Path, tmp_path: Path):
    before = dashboard.build(own, tmp_path / "workspace")
    damage(own / "parkinson-fog")
    after = dashboard.build(own, tmp_path / "workspace")
    assert words in str(after.unreadable["parkinson-fog"])
    assert [s.disease for s in after.states] == ["lung-nodule", "retinopathy-screening"]
    assert 'dxflow_monitor_state_readable{disease="parkinson-fog"} 0' in after.metrics
    assert "parkinson-fog cannot be read, so nothing is known of its devices" in after.page
    assert before.changes
    assert not after.changes.projects_removed


def test_before_the_first_run_nothing_is_claimed(tmp_path: Path):
    built = dashboard.build(tmp_path / "monitor", tmp_path / "workspace")
    assert "No disease is monitored yet" in built.page
    assert "No open alarm" not in built.page
    assert built.metrics.strip() == ""


def test_an_empty_history_is_no_all_clear(own: Path, tmp_path: Path):
    folder = own / "lung-nodule"
    pd.read_parquet(folder / "history.parquet").iloc[:0].to_parquet(folder / "history.parquet")
    edit(folder / "alarms.json", alarms=[])
    built = dashboard.build(own, tmp_path / "workspace")
    section = built.page[built.page.index('id="lung-nodule"') : built.page.index('id="parkinson-fog"')]
    assert "No window was judged yet" in section
    assert "No open alarm" not in section


def test_a_link_never_leaves_the_state_folder(own: Path):
    path = own / "lung-nodule" / "alarms.json"
    alarms = json.loads(path.read_text())["alarms"]
    for entry, report in zip(
        alarms, ["../../../etc/passwd.html", "/etc/x.html", "javascript:alert(1)", "reports/a.html", "lung-nodule/reports/b.html"], strict=True
    ):
        entry["report"] = report
    edit(path, alarms=alarms)
    by_id = {a.id: a.report for a in read(own / "lung-nodule").alarms}
    assert [by_id[entry["id"]] for entry in alarms] == [None, None, None, "lung-nodule/reports/a.html", "lung-nodule/reports/b.html"]


def test_signature_changes_when_a_file_is_replaced(own: Path):
    before = signature(own)
    assert signature(own) == before
    edit(own / "lung-nodule" / "alarms.json", alarms=[])
    assert signature(own) != before


# Rolling up -------------------------------------------------------------------------------------------------------------------------------


def year(days: int = 365, devices: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    start = datetime(2026, 1, 1, 6, tzinfo=UTC)
    table = pd.DataFrame([{"window_start": start + timedelta(days=d), "device_key": f"k{n}"} for d in range(days) for n in range(devices)])
    table["window_start"] = table["window_start"].astype("datetime64[us, UTC]")
    table["window_end"] = table["window_start"] + pd.Timedelta(days=1)
    size = len(table)
    for name in COLUMNS:
        if name not in table:
            table[name] = ""
    table["label"], table["status"], table["verdict"] = "Maker (" + table["device_key"] + ")", "known", "no drift found"
    for name in ("n", "labelled", "answered"):
        table[name] = rng.integers(0, 200, size)
    for name in ("patients", "score_mean", "score_low", "score_high", "auc_estimated", "auc_true"):
        table[name] = np.where(rng.random(size) < 0.2, np.nan, rng.random(size))
    return table


def test_a_year_of_days_becomes_sixty_days_and_the_weeks_before():
    points = roll_up(year())
    at = points["at"].drop_duplicates()
    spans = points.drop_duplicates("at")["windows"]
    assert len(at) == 60 + 6 + 43 + 1  # up to six more days, so that no week is half daily; 43 whole weeks and the first, cut one
    assert spans.iloc[-60:].eq(1).all()
    assert spans.iloc[1:43].eq(7).all()


def test_a_rolled_up_point_is_the_weighted_mean_of_its_windows_and_counts_are_sums():
    table = year()
    points = roll_up(table)
    for name in ("n", "labelled", "answered"):
        assert points[name].sum() == table[name].sum()
    week = points[points["windows"] == 7].iloc[0]
    days = table[(table["device_key"] == week["device_key"]) & table["window_start"].between(week["at"], week["until"], inclusive="left")]
    assert len(days) == 7
    for name, weight in (("score_mean", "n"), ("auc_estimated", "n"), ("auc_true", "labelled")):
        held = days[days[name].notna()]
        assert week[name] == pytest.approx(np.average(held[name], weights=held[weight].clip(lower=1)))


def test_a_single_window_is_not_changed():
    table = year(days=20)
    points = roll_up(table)
    merged = points.merge(table, left_on=["at", "device_key"], right_on=["window_start", "device_key"], suffixes=("", "_window"))
    assert len(merged) == len(table)
    for name in ("n", "score_mean", "auc_true"):
        np.testing.assert_allclose(merged[name], merged[f"{name}_window"])


def test_one_window_that_could_not_be_judged_keeps_its_week_from_being_an_all_clear():
    table = year(devices=1)
    first_week = table["window_start"].between("2026-01-05", "2026-01-12", inclusive="left")
    table.loc[table.index[first_week][3], "verdict"] = "cannot judge"
    second_week = table["window_start"].between("2026-01-12", "2026-01-19", inclusive="left")
    table.loc[table.index[second_week][2], "verdict"] = "a verdict of next year"
    table.loc[table.index[second_week][5], ["verdict", "words"]] = ["drift", "noise +38 %"]
    points = roll_up(table)
    assert list(points["verdict"].iloc[1:4]) == ["cannot judge", "drift", "no drift found"]
    assert points["words"].iloc[2] == "noise +38 %"


def test_hours_become_days_after_two_days():
    table = year(days=24 * 10, devices=1)
    table["window_start"] = datetime(2026, 1, 1, tzinfo=UTC) + pd.to_timedelta(range(len(table)), unit="h")
    table["window_end"] = table["window_start"] + pd.Timedelta(hours=1)
    points = roll_up(table)
    assert list(points["windows"].iloc[:8]) == [24] * 8
    assert points["windows"].iloc[8:].eq(1).all()
    assert points["windows"].sum() == 240


def test_two_devices_with_one_label_are_told_apart():
    table = year(days=2, devices=2).assign(label="Maker Model")
    assert labels(table) == {"k0": "Maker Model (k0)", "k1": "Maker Model (k1)"}


# Metrics ----------------------------------------------------------------------------------------------------------------------------------


def samples(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Oracle: prometheus_client's parser."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(found: dict, name: str, **wanted: str) -> float:
    (match,) = [v for labels_, v in found[name] if wanted.items() <= labels_.items()]
    return match


def test_metrics_say_what_the_state_says(own: Path):
    path = prometheus.write(own, url="http://dash.example:8000/")
    found = samples(path.read_text())
    device = keys("lung-nodule")
    alarm = {"disease": "lung-nodule", "device": device[2], "kind": "drift"}
    assert value(found, "dxflow_drift_alarm", **alarm) == 1
    assert value(found, "dxflow_drift_alarm_since_seconds", **alarm) == (END - timedelta(days=9)).timestamp()
    (info,) = [labels_ for labels_, _ in found["dxflow_drift_alarm_info"] if alarm.items() <= labels_.items()]
    assert info["report"] == "http://dash.example:8000/monitor/lung-nodule/reports/2026-11-12T0000.html"
    assert info["evidence"].startswith("Noise +38 %, kernel B70 instead of B30")
    assert info["since"] == "12 Nov 2026 00:00 UTC"
    assert info["synthetic"] == "true"
    closed = {"disease": "lung-nodule", "device": device[3], "kind": "drift"}
    assert value(found, "dxflow_drift_alarm", **closed) == 0
    assert not [1 for labels_, _ in found["dxflow_drift_alarm_info"] if closed.items() <= labels_.items()]
    assert value(found, "dxflow_device_silent", disease="lung-nodule", device=device[5]) == 1
    assert value(found, "dxflow_device_unseen", disease="lung-nodule", device=device[7]) == 1
    assert value(found, "dxflow_inference_log_lost_total", disease="lung-nodule") == 3
    assert value(found, "dxflow_monitor_last_run_seconds", disease="lung-nodule") == END.timestamp()
    row = read(own / "lung-nodule").latest().set_index("device_key").loc[device[0]]
    assert value(found, "dxflow_window_events", disease="lung-nodule", device=device[0]) == row["n"]
    assert value(found, "dxflow_auc_estimated", disease="lung-nodule", device=device[0]) == row["auc_estimated"]


def test_a_figure_that_was_not_judged_has_no_line(own: Path):
    found = samples(prometheus.write(own).read_text())
    judged = {labels_["device"] for labels_, _ in found["dxflow_auc_estimated"] if labels_["disease"] == "lung-nodule"}
    device = keys("lung-nodule")
    assert judged == set(device) - {device[5], device[6], device[7]}
    assert "NaN" not in (own / "metrics.prom").read_text()


def test_two_alarms_of_one_kind_are_one_series_since_the_older(own: Path):
    path = own / "lung-nodule" / "alarms.json"
    alarms = json.loads(path.read_text())["alarms"]
    again = {**alarms[0], "id": "x", "since": (END - timedelta(days=2)).isoformat(), "evidence": 'a "quoted"\nline \\'}
    edit(path, alarms=[*alarms, again])
    found = samples(prometheus.write(own).read_text())
    alarm = {"disease": "lung-nodule", "device": keys("lung-nodule")[2], "kind": "drift"}
    assert value(found, "dxflow_drift_alarm_since_seconds", **alarm) == (END - timedelta(days=9)).timestamp()
    (info,) = [labels_ for labels_, _ in found["dxflow_drift_alarm_info"] if alarm.items() <= labels_.items()]
    assert info["evidence"] == 'a "quoted" line \\ (and 1 more)'


def test_promtool_finds_nothing_to_object_to(own: Path):
    if shutil.which("promtool") is None:
        pytest.skip("no promtool: apt-get install prometheus")
    text = prometheus.write(own).read_bytes()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# Alarm page -------------------------------------------------------------------------------------------------------------------------------


def test_the_page_names_disease_device_evidence_since_when_and_links(state: Path):
    good, _ = read_all(state)
    page = alarm_page.render(good, {}, charts=False)
    row = page[page.index("Drift</td>") :]
    row = row[: row.index("</tr>")]
    assert f"({keys('lung-nodule')[2][:8]})" in row
    assert "kernel B70 instead of B30" in row
    assert "12 Nov 2026" in row
    assert 'href="lung-nodule/reports/2026-11-12T0000.html"' in row
    assert "SYNTHETIC DATA" in page
    assert "2 of 8 devices could not be judged in the newest window: nothing is known of them." in page
    assert not re.search(r"<script|https?://|//cdn", page)


def test_the_page_of_a_window_is_found_under_the_name_that_the_monitor_gives_it(own: Path):
    state = read(own / "lung-nodule")
    start = END - timedelta(days=1)
    assert state.report_of(start) == f"lung-nodule/reports/{report_name(Window(int(start.timestamp()), int(END.timestamp())))}"
    assert f'href="{state.report_of(start)}">its page' in alarm_page.render([state], {}, charts=False)


def test_text_of_the_state_is_text_on_the_page(own: Path):
    path = own / "lung-nodule" / "alarms.json"
    alarms = json.loads(path.read_text())["alarms"]
    alarms[0]["evidence"] = "<script>alert(1)</script>"
    edit(path, alarms=alarms)
    good, _ = read_all(own)
    page = alarm_page.render(good, {}, charts=True)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
