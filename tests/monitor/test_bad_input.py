"""What the scheduled monitor does with input that is wrong: decision 0196, one test for each line. All data is synthetic."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from components.core.inference_log import InferenceLog
from components.core.package import ModelPackage
from tests.monitor.test_watch import DAY, MOVED, NAMES, NEW, QUIET, SAME, answers, build, history, lung_nodule, run, table, told


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return build(tmp_path_factory.mktemp("package") / "p", lung_nodule(), table(NAMES, 0, 120), synthetic=True)


def test_answers_of_another_version_only_are_said_and_nothing_is_judged(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        log.append([r | {"digest": "0" * 64} for r in answers(package, SAME, 0)])
    found = run(package, tmp_path, 2.5)
    assert (found["other_version"], found["events"]) == (60, 0)
    assert found["not_judged"] == "nothing was judged: 60 answers of another version of the model"
    assert len(history(tmp_path)) == 0


def test_an_empty_log_is_said_and_nothing_is_judged(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log"):
        pass
    assert run(package, tmp_path, 2.5)["not_judged"] == "nothing was judged: no answers"
    assert len(history(tmp_path)) == 0


def test_an_empty_window_is_not_judged(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        log.append([*answers(package, SAME, 0), *answers(package, SAME, 2)])
    found = run(package, tmp_path, 3.5)
    rows = history(tmp_path)
    empty = rows[rows["window_start"] == DAY + timedelta(days=1)]
    assert set(empty["device_key"]) == set(NAMES)
    assert set(empty["verdict"]) == {"cannot judge"}
    assert set(empty["reason"]) == {"no events"}
    assert found["not_judged"] == ""


def test_an_answer_that_comes_again_in_a_later_run_counts_once(package: ModelPackage, tmp_path: Path) -> None:
    rows = list(answers(package, SAME, 0))
    for _ in range(2):
        with InferenceLog(tmp_path / "log") as log:
            log.append([*rows, rows[0]])
        run(package, tmp_path, 0.5)
    found = run(package, tmp_path, 1.5)
    assert found["duplicates"] == 62
    assert history(tmp_path).query("device_key == @SAME")["n"].tolist() == [60]


def test_an_answer_after_its_window_was_judged_changes_nothing_but_its_count(package: ModelPackage, tmp_path: Path) -> None:
    rows = list(answers(package, SAME, 0))
    with InferenceLog(tmp_path / "log") as log:
        log.append(rows[:50])
    run(package, tmp_path, 1.5)
    before = history(tmp_path)
    with InferenceLog(tmp_path / "log") as log:
        log.append(rows[50:])
    assert run(package, tmp_path, 1.6)["late"] == 10
    assert history(tmp_path).equals(before)


def test_a_server_whose_clock_is_ahead_is_counted_apart_and_said(package: ModelPackage, tmp_path: Path) -> None:
    ahead = [r | {"time": (datetime.fromisoformat(r["time"]) + timedelta(days=400)).isoformat()} for r in answers(package, SAME, 0)]
    with InferenceLog(tmp_path / "log") as log:
        log.append(ahead)
    found = run(package, tmp_path, 2.5)
    assert found["skewed"] == 60
    assert found["not_judged"] == "nothing was judged: 60 answers from the future"


def test_figures_that_are_gone_are_a_change_of_their_own(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        for day in range(3):
            log.append([r | {"image": r["image"] | {"noise_sd": None}} for r in answers(package, SAME, day)])
    assert "noise missing in 100 % (before 0 %)" in told(run(package, tmp_path, 3.5))["drift", SAME]
    assert "no drift found" not in history(tmp_path).query("device_key == @SAME")["verdict"].tolist()


def test_tags_that_are_gone_are_a_change_of_their_own(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        for day in range(3):
            log.append([r | {"acquisition": {}, "software": None} for r in answers(package, SAME, day)])
    assert "kernel missing in 100 % (before 0 %)" in told(run(package, tmp_path, 3.5))["drift", SAME]


def test_a_new_key_of_another_make_is_not_called_the_silent_scanner(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        for day in range(4):
            log.append(list(answers(package, SAME if day < 2 else NEW, day)))
    found = told(run(package, tmp_path, 4.5))
    assert ("silent", SAME) in found
    assert "perhaps it changed its key" not in found["unseen", NEW]


def test_a_reference_without_devices_is_refused(tmp_path: Path) -> None:
    from components.core.errors import DataError
    from components.monitor.watched import Watched

    made = build(tmp_path / "p", lung_nodule(), table(NAMES, 0, 30).drop(columns="device_key"), synthetic=True)
    with pytest.raises(DataError, match="reference without devices"):
        Watched.of(made)


def test_a_device_that_never_answers_is_never_called_free_of_drift(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        for day in range(3):
            log.append([*answers(package, SAME, day), *answers(package, QUIET, day, 3)])
    run(package, tmp_path, 3.5)
    rows = history(tmp_path)
    assert set(rows.loc[rows["device_key"] == MOVED, "verdict"]) == {"cannot judge"}
    assert set(rows.loc[rows["device_key"] == QUIET, "verdict"]) == {"cannot judge"}
    assert rows.loc[rows["device_key"] == QUIET, "reason"].str.startswith("too few").all()
