"""The scheduled monitor on a log of days: what is told of each device, when, and what happens to events that do not fit."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.core.errors import DataError, ServiceError
from components.core.inference_log import InferenceLog, compact
from components.core.package import ModelPackage
from components.monitor.state import opened
from components.monitor.watch import MOST_VERSIONS, watch
from tests.serving.small_package import build, lung_nodule, reference

SAME, MOVED, QUIET, NEW = (letter * 16 for letter in "abcd")
NAMES = {SAME: ("SIEMENS", "SOMATOM FORCE"), MOVED: ("GE", "LIGHTSPEED"), QUIET: ("PHILIPS", "BRILLIANCE")}
DAY = datetime(2026, 3, 2, tzinfo=UTC)
FIGURES = ("mean", "sd", "p01", "p50", "p99", "noise_sd", "sharpness")
KERNELS = {SAME: "B30", MOVED: "B30", QUIET: "B50"}


def table(names: dict[str, tuple[str, str]], seed: int, patients: int = 60) -> Any:
    """Samples with a kernel in their headers; the pixels tell it by their sharpness."""
    made = reference(names, patients=patients, seed=seed)
    made["acq_kernel"] = made["device_key"].map(KERNELS).fillna("B30")
    made["software"] = "VA1"
    made["abstain"] = False
    made["sharpness"] += np.where(made["acq_kernel"] == "B50", 0.3, 0.0)
    return made


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return build(tmp_path_factory.mktemp("package") / "p", lung_nodule(), table(NAMES, 0, 120), synthetic=True)


def answers(
    package: ModelPackage, key: str, day: int, n: int = 60, *, kernel: str | None = None, software: str = "VA1", **moved: float
) -> Iterator[dict[str, Any]]:
    """n answers about n patients on one day, drawn like the reference but for what `moved` adds."""
    maker, model = NAMES.get(key, ("FUJI", "SCENARIA"))
    for i, row in enumerate(table({key: (maker, model)}, 1000 + 31 * day + ord(key[0]), n).iloc[::2].to_dict("records")):
        yield {
            "time": (DAY + timedelta(days=day, minutes=10 * i)).isoformat(), "request_id": f"{key}-{day}-{i}", "model": package.name,
            "status": "answered", "version": package.version, "digest": package.digest, "source": "dicom",
            "device_key": key, "manufacturer": maker, "device_model": model,
            "patient": f"p{key}{day}-{i}", "scores": {"benign": row["score_benign"], "malignant": row["score_malignant"]}, "decision": "benign",
            "abstain": False, "reasons": [], "latency_ms": 4.0, "image": {name: row[name] + moved.get(name, 0.0) for name in FIGURES},
            "acquisition": {"acq_kernel": kernel or row["acq_kernel"]}, "software": software,
        }  # fmt: skip


def run(package: ModelPackage, root: Path, day: float) -> dict[str, Any]:
    return watch(package=package.folder, log=root / "log", state=root / "state", now=DAY + timedelta(days=day))


def history(root: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(root / "state" / "lung-nodule" / "history.parquet").to_pandas()


def told(summary: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(a["kind"], a["device_key"]): a["evidence"] for a in summary["open_alarms"]}


@pytest.fixture(scope="module")
def month(package: ModelPackage, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Nine days: one scanner becomes noisier on the fifth, one falls silent on the sixth, one nobody knows appears on the third."""
    root = tmp_path_factory.mktemp("month")
    with InferenceLog(root / "log") as log:
        for day in range(9):
            rows = [*answers(package, SAME, day), *answers(package, MOVED, day, noise_sd=4.0 if day >= 4 else 0.0)]
            rows += [*answers(package, QUIET, day)] if day < 5 else []
            rows += [*answers(package, NEW, day, 5)] if day >= 2 else []
            log.append(rows)
    return root, run(package, root, 9.5)


def test_a_changed_scanner_is_alarmed_with_what_changed_since_when(month: tuple[Path, dict[str, Any]]) -> None:
    alarm = next(a for a in month[1]["open_alarms"] if a["kind"] == "drift")
    assert alarm["device_key"] == MOVED
    assert alarm["evidence"].startswith("noise +")
    assert alarm["since"] == (DAY + timedelta(days=4)).isoformat()
    assert alarm["label"] == f"GE LIGHTSPEED ({MOVED[:8]})"


def test_unseen_and_silent_scanners_are_named_and_the_unchanged_one_is_left_in_peace(month: tuple[Path, dict[str, Any]]) -> None:
    found = told(month[1])
    assert set(found) == {("drift", MOVED), ("unseen", NEW), ("silent", QUIET)}
    assert "60 usual" in found["silent", QUIET]


def test_a_drift_alarm_needs_two_windows(month: tuple[Path, dict[str, Any]]) -> None:
    rows = history(month[0])
    verdicts = rows[rows["device_key"] == MOVED]["verdict"].tolist()
    assert verdicts[:4] == ["no drift found"] * 4
    assert verdicts[4:6] == ["watch", "drift"]


def test_a_device_with_few_events_is_carried_on_until_it_can_be_judged(month: tuple[Path, dict[str, Any]]) -> None:
    rows = history(month[0])
    rows = rows[rows["device_key"] == NEW]
    assert rows["n"].tolist() == [5] * 7
    assert rows["verdict"].tolist()[:4] == ["cannot judge"] * 4
    assert rows["reason"].iloc[3].startswith("too few")
    assert rows["verdict"].iloc[4] != "cannot judge"  # 25 events over five days


def test_run_after_run_gives_what_one_run_gives(package: ModelPackage, month: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Also when the log was compacted between runs."""
    records = [json.loads(line[9:]) for line in next((month[0] / "log").glob("*.log")).read_bytes().splitlines()]
    last: dict[str, Any] = {}
    for day in range(1, 10):
        with InferenceLog(tmp_path / "log") as log:
            log.append([r for r in records if DAY + timedelta(days=day - 1) <= datetime.fromisoformat(r["time"]) < DAY + timedelta(days=day)])
        last = run(package, tmp_path, day + 0.5)
        compact(tmp_path / "log")
    assert last["open_alarms"] == month[1]["open_alarms"]
    pd.testing.assert_frame_equal(history(tmp_path), history(month[0]))
    assert run(package, tmp_path, 9.5) == last


def test_events_that_do_not_fit_are_counted_and_left_out(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        rows = list(answers(package, SAME, 0))
        log.append([*rows, rows[0], rows[1] | {"time": None}, rows[2] | {"request_id": "future", "time": (DAY + timedelta(days=30)).isoformat()}])
        log.append([rows[3] | {"request_id": "old", "digest": "0" * 64}, rows[4] | {"model": "another"}])
    first = run(package, tmp_path, 1.5)
    assert (first["duplicates"], first["no_time"], first["skewed"], first["other_version"], first["late"]) == (1, 1, 1, 1, 0)
    assert history(tmp_path).query("device_key == @SAME")["n"].tolist() == [60]
    with InferenceLog(tmp_path / "log") as log:
        log.append([rows[5] | {"request_id": "late"}])
    assert run(package, tmp_path, 1.6)["late"] == 1


def test_a_window_that_is_not_over_is_not_judged(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        log.append(list(answers(package, SAME, 0)))
    assert run(package, tmp_path, 1.0)["next_window"] is None or len(history(tmp_path)) == 0
    assert len(history(tmp_path)) == 0
    run(package, tmp_path, 1.05)
    assert len(history(tmp_path)) == 3


def test_a_header_that_lies_is_told_from_the_pixels(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        for day in range(3):
            log.append([*answers(package, SAME, day, sharpness=0.3)])
    found = told(run(package, tmp_path, 3.5))
    text = next(text for (kind, device), text in found.items() if device == SAME)
    assert "kernel: pixels look like B50 in" in text
    assert "the tags say otherwise" in text


def test_a_kernel_that_changed_is_named_with_the_one_before(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        for day in range(3):
            log.append([*answers(package, SAME, day, sharpness=0.3, kernel="B50")])
    assert "kernel B50 instead of B30 in 100 % (before 0 %)" in told(run(package, tmp_path, 3.5))["drift", SAME]


def test_a_kernel_that_nobody_had_is_named(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        for day in range(3):
            log.append([*answers(package, SAME, day, kernel="Qr36")])
    assert told(run(package, tmp_path, 3.5))["drift", SAME].startswith("kernel Qr36 instead of B30 in 100 %")


def test_a_new_software_version_is_alarmed_at_once(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        log.append([*answers(package, SAME, 0), *answers(package, MOVED, 0, software="VB2")])
    assert told(run(package, tmp_path, 1.5)) == {("software", MOVED): "a software version that the reference of the model does not have (VB2)"}


def test_a_device_that_changes_its_key_is_recognised_by_its_silence(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        for day in range(4):
            log.append([r | ({"device_key": NEW} if day >= 2 else {}) for r in answers(package, SAME, day)])
    found = told(run(package, tmp_path, 4.5))
    assert f"SIEMENS SOMATOM FORCE ({SAME[:8]}), of the same make, fell silent: perhaps it changed its key" in found["unseen", NEW]


def test_a_run_that_fails_changes_nothing_and_two_do_not_run_at_once(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        log.append(list(answers(package, SAME, 0)))
    run(package, tmp_path, 0.5)
    state = next((tmp_path / "state" / "lung-nodule").glob("*.db"))
    shape = tuple(json.loads(sqlite3.connect(state).execute("select value from memory where key = 'schema'").fetchone()[0])[1:])
    with opened(state, shape), pytest.raises(ServiceError, match="another run"):
        run(package, tmp_path, 1.5)
    with pytest.raises(ZeroDivisionError), opened(state, shape) as memory:
        memory.put("next", 1 // 0)
    assert run(package, tmp_path, 1.5)["events"] == 60
    with pytest.raises(DataError, match="no inference log"):
        watch(package=package.folder, log=tmp_path / "absent", state=tmp_path / "other", now=DAY)
    with pytest.raises(DataError, match="time without a zone"):
        watch(package=package.folder, log=tmp_path / "log", state=tmp_path / "state", now=DAY.replace(tzinfo=None))


def test_the_auc_is_expected_without_labels_and_not_where_a_device_drifted(month: tuple[Path, dict[str, Any]]) -> None:
    rows = history(month[0])
    same = rows[rows["device_key"] == SAME]
    assert ((same["auc_estimated_low"] < same["auc_estimated"]) & (same["auc_estimated"] < same["auc_estimated_high"])).all()
    moved = rows[rows["device_key"] == MOVED]
    assert moved["auc_estimated"].isna().tolist() == [verdict == "drift" for verdict in moved["verdict"]]
    assert rows[rows["device_key"] == NEW]["auc_estimated"].isna().all()


def test_the_page_of_a_window_says_what_the_alarm_says_offline_and_marked(month: tuple[Path, dict[str, Any]]) -> None:
    alarm = next(a for a in month[1]["open_alarms"] if a["kind"] == "drift")
    text = (month[0] / "state" / "lung-nodule" / alarm["report"]).read_text()
    assert "SYNTHETIC DATA" in text
    assert "GE LIGHTSPEED" in text
    assert "since 2026-03-06" in text
    assert "<figcaption>noise (HU)<br>" in text
    assert "http" not in text


def test_answers_that_are_broken_are_an_alarm_of_their_own(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        log.append([r | ({"scores": {"benign": 2.0, "malignant": 3.0}} if n % 2 else {}) for n, r in enumerate(answers(package, SAME, 0))])
    found = told(run(package, tmp_path, 1.5))
    assert found["data_quality", SAME] == "50 % of the answers have probabilities outside [0, 1] or with another sum than 1"


def test_a_flood_of_software_versions_does_not_hide_the_next_one(package: ModelPackage, tmp_path: Path) -> None:
    """A client that makes up a version for every answer; a week later a new one is told like any other."""
    with InferenceLog(tmp_path / "log") as log:
        for day in range(2):
            log.append([row | {"software": f"{1000 * day + n:016x}"} for n, row in enumerate(answers(package, SAME, day))])
        log.append([row for day in range(2, 6) for row in answers(package, SAME, day)])
    assert ("software", SAME) not in told(run(package, tmp_path, 6.5))
    with InferenceLog(tmp_path / "log") as log:
        log.append(list(answers(package, SAME, 6, software="VB2")))
    assert told(run(package, tmp_path, 7.5))["software", SAME].endswith("(VB2)")
    with closing(sqlite3.connect(next((tmp_path / "state" / "lung-nodule").glob("*.db")))) as db:
        (kept,) = db.execute("select value from memory where key = 'software'").fetchone()
    assert len(json.loads(kept)[SAME]) == MOST_VERSIONS
