"""Answers of which nobody told the device: they are of no known device, and of no unseen one either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.core.inference_log import InferenceLog
from components.core.package import ModelPackage
from components.core.pseudonym import UNKNOWN_DEVICE
from components.monitor.alarms import Window, update
from components.monitor.dashboard_series import roll_up
from components.monitor.dashboard_state import read
from components.monitor.state import opened
from components.monitor.step import drift
from tests.monitor.test_watch import MOVED, NAMES, NEW, QUIET, SAME, answers, history, package, run, table, told
from tests.serving.small_package import build, lung_nodule

__all__ = ["package"]
NOBODY = "nobody told which devices these are, and the reference has no such answers"


def untold(package: ModelPackage, day: int, noise_sd: float = 0.0) -> list[dict[str, Any]]:
    return [
        row
        | {"device_key": UNKNOWN_DEVICE, "device_status": "unknown", "manufacturer": None, "device_model": None}
        | {"request_id": f"u{day}-{n}", "patient": f"u{day}-{n}"}
        for n, row in enumerate(answers(package, SAME, day, noise_sd=noise_sd))
    ]


def named(package: ModelPackage, day: int) -> list[dict[str, Any]]:
    return [row for key in (SAME, MOVED, QUIET) for row in answers(package, key, day)]


def test_answers_without_a_device_are_no_unseen_device_and_a_scanner_that_is_one_still_is(package: ModelPackage, tmp_path: Path) -> None:
    """However unlike the reference they are: a mixture of devices is compared with none."""
    for day in range(3):
        with InferenceLog(tmp_path / "log") as log:
            log.append([*named(package, day), *untold(package, day, noise_sd=9.0), *answers(package, NEW, day)])
    found = told(run(package, tmp_path, 3.5))
    assert {key for key in found if key[0] != "data_quality"} == {("unseen", NEW)}
    assert "name no device" in found["data_quality", UNKNOWN_DEVICE]
    rows = history(tmp_path)
    own = rows[rows["device_key"] == UNKNOWN_DEVICE]
    assert (set(own["status"]), set(own["verdict"]), set(own["reason"])) == ({"unknown"}, {"cannot judge"}, {NOBODY})
    assert own["n"].tolist() == [60, 60, 60]
    points = roll_up(read(tmp_path / "state" / "lung-nodule").history)
    assert set(points[points["device_key"] == UNKNOWN_DEVICE]["status"]) == {"unknown"}
    metrics = (tmp_path / "state" / "metrics.prom").read_text().splitlines()
    assert [line.rpartition(" ")[2] for line in metrics if line.startswith("dxflow_device_unseen{") and "unknown" in line] == ["0"]

    seen = drift(package=package.folder, log=tmp_path / "log", out=tmp_path / "drift")
    assert seen["devices"][UNKNOWN_DEVICE]["status"] == "unknown"
    assert [(a["kind"], a["device"]) for a in seen["alarms"]] == [("unseen", NEW)]


def test_they_are_judged_against_their_own_where_training_had_such_and_are_still_of_no_known_device(tmp_path: Path) -> None:
    samples = table({SAME: NAMES[SAME], UNKNOWN_DEVICE: ("", "")}, 0, 120)
    model = build(tmp_path / "package", lung_nodule(), samples, synthetic=True)
    with InferenceLog(tmp_path / "log") as log:
        rows = list(answers(model, SAME, 0))
        log.append([*rows, *(row | {"request_id": f"u{n}", "device_key": UNKNOWN_DEVICE} for n, row in enumerate(rows))])
    seen = drift(package=model.folder, log=tmp_path / "log", out=tmp_path / "drift")
    assert seen["devices"][UNKNOWN_DEVICE]["status"] == "unknown"
    assert NOBODY not in seen["devices"][UNKNOWN_DEVICE]["reason"]
    assert seen["devices"][SAME]["status"] == "known"
    assert seen["unseen"] == []


@pytest.mark.parametrize(("device", "stays"), [(UNKNOWN_DEVICE, False), (NEW, True)])
def test_the_alarm_of_an_older_monitor_ends(device: str, stays: bool, tmp_path: Path) -> None:
    alarm = {
        "id": "a", "kind": "unseen", "device_key": device, "label": "", "evidence": "", "changes": [], "since": "2026-01-01T00:00:00+00:00",
        "last": "2026-01-02T00:00:00+00:00", "open": True, "calm": 0, "report": None, "mix": "",
    }  # fmt: skip

    with opened(tmp_path / "memory.db", (1, 1, 1)) as memory:
        memory.set_alarm(alarm)
        update(memory, "lung-nodule", [], Window(0, 86_400), set())
        assert [a["open"] for a in memory.alarms()] == [stays]
