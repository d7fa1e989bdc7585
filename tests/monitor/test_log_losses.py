"""The monitor beside a damaged log: it goes on with every other record, and tells of each loss once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.core.inference_log import InferenceLog, Tally, compact
from components.core.inference_log.losses import Lost
from components.core.package import ModelPackage
from components.monitor import log_losses, prometheus
from components.monitor.dashboard_state import read_all
from components.monitor.sketch import BINS
from components.monitor.state import opened
from pipelines.terminal import monitor_text
from tests.monitor.test_watch import SAME, answers, history, package, run

__all__ = ["package"]
SEGMENT = "000003.parquet"


@pytest.fixture
def days(package: ModelPackage, tmp_path: Path) -> Path:
    """Six days, a segment each, all compacted."""
    for day in range(6):
        with InferenceLog(tmp_path / "log") as log:
            log.append(list(answers(package, SAME, day, 20)))
    compact(tmp_path / "log")
    return tmp_path


def losses(summary: dict[str, Any]) -> list[str]:
    return [a["evidence"] for a in summary["open_alarms"] if a["kind"] == "log_loss"]


def alarms(root: Path) -> list[dict[str, Any]]:
    found = json.loads((root / "state" / "lung-nodule" / "alarms.json").read_text())["alarms"]
    return [a for a in found if a["kind"] == "log_loss"]


@pytest.mark.parametrize("hurt", ["damaged", "missing"])
def test_one_segment_of_six_is_alarmed_and_the_others_are_judged(package: ModelPackage, days: Path, hurt: str) -> None:
    path = days / "log" / SEGMENT
    data = path.read_bytes()
    path.write_bytes(data[:-30] + b"\0" + data[-29:])
    if hurt == "missing":
        path.unlink()
    found = run(package, days, 6.5)
    text = f"segment {SEGMENT} of the log is {hurt}: 20 records cannot be read"
    assert losses(found) == [text]
    assert (found["events"], found["damaged"], found["unread"]) == (100, 20, [text])
    assert f"alarm      log loss, inference log: {text}" in monitor_text(found, days / "state")
    rows = history(days)
    assert [n for n in rows[rows["device_key"] == SAME]["n"].tolist() if n] == [20] * 5
    states, unreadable = read_all(days / "state")
    assert unreadable == {}
    assert [(a.kind, a.where, a.evidence) for a in states[0].open_alarms if a.kind == "log_loss"] == [("log_loss", "inference log", text)]
    exposed = prometheus.exposition(states, {})
    assert 'dxflow_drift_alarm{disease="lung-nodule",device="",kind="log_loss"} 1' in exposed
    assert 'dxflow_inference_log_damaged_total{disease="lung-nodule"} 20' in exposed


def test_a_loss_is_told_once_and_its_alarm_ends(package: ModelPackage, days: Path) -> None:
    (days / "log" / SEGMENT).unlink()
    for day in (6.5, 6.6, 7.5):
        assert len(losses(run(package, days, day))) == 1
    assert len(alarms(days)) == 1
    assert losses(run(package, days, 9.6)) == []  # three windows later
    assert losses(run(package, days, 10.5)) == []
    assert [a["open"] for a in alarms(days)] == [False]
    (days / "log" / "000004.parquet").unlink()
    assert [text[:22] for text in losses(run(package, days, 10.6))] == ["segment 000004.parquet"]


def test_a_segment_that_comes_back_ends_its_alarm_and_is_counted(package: ModelPackage, days: Path) -> None:
    path = days / "log" / SEGMENT
    data = path.read_bytes()
    path.write_bytes(data.replace(b"SIEMENS", b"SIEMENT", 1))
    assert run(package, days, 5.5)["events"] == 100
    path.write_bytes(data)
    found = run(package, days, 5.6)
    assert (found["events"], found["damaged"], losses(found)) == (120, 0, [])
    path.write_bytes(data[:200])
    assert len(losses(run(package, days, 5.7))) == 1  # a second damage is told again


def test_a_segment_that_was_counted_before_is_alarmed_too(package: ModelPackage, days: Path) -> None:
    assert losses(run(package, days, 6.5)) == []
    path = days / "log" / SEGMENT
    path.write_bytes(path.read_bytes().replace(b"SIEMENS", b"SIEMENT", 1))
    found = run(package, days, 6.6)
    assert (found["events"], len(losses(found))) == (120, 1)


def test_answers_that_no_disk_took_are_alarmed_by_how_many_are_new(package: ModelPackage, days: Path) -> None:
    with InferenceLog(days / "log") as log:
        assert log._segment is not None
        log._segment.ledger.add(Lost(3, "2026-03-07T10:00:00+00:00", "2026-03-07T10:05:00+00:00"))
        assert losses(run(package, days, 6.5)) == ["3 answers are not in the log: it could not be written, last at 2026-03-07T10:05:00+00:00"]
        log._segment.ledger.add(Lost(2, "2026-03-07T11:00:00+00:00", "2026-03-07T11:05:00+00:00"))
        assert [text.partition(" are")[0] for text in losses(run(package, days, 6.6))] == ["3 answers", "2 answers"]
        assert len(losses(run(package, days, 6.7))) == 2


def test_losses_after_a_part_of_the_log_is_gone_are_not_taken_for_old_ones(tmp_path: Path) -> None:
    """Five lost answers were told; the segment that says so goes, and then three others are lost."""
    seen: list[list[str]] = []
    for n in (5, 0, 3, 3):
        with opened(tmp_path / "state.db", (1, 1, BINS)) as memory:
            log_losses.update(memory, "x", Tally(lost=Lost(n, "2026-03-07T10:00:00+00:00", "2026-03-07T10:05:00+00:00")), 86_400 + n, 86_400)
            seen.append(sorted(a["evidence"].partition(" are")[0] for a in memory.alarms()))
    assert seen == [["5 answers"], ["5 answers"], ["3 answers", "5 answers"], ["3 answers", "5 answers"]]
