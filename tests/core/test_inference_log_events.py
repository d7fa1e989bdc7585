"""Two events of one request become one row, whatever came twice, late or never."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from components.core.inference_log import InferenceLog, compact, read_log


def request(key: str, second: float, size: int = 10) -> dict[str, object]:
    own = {"event": "request", "event_id": key, "request_id": key, "status": "unanswered", "request_bytes": size}
    return {"time": f"2026-01-01T00:00:{second:09.6f}+00:00", "model": "m", "source": "cloudevent"} | own


def response(key: str, second: float, request_id: str | None = None, score: float = 0.5) -> dict[str, object]:
    own = {"event": "response", "event_id": key, "request_id": request_id or key, "status": "answered", "scores": {"a": score}}
    return {"time": f"2026-01-01T00:00:{second:09.6f}+00:00", "model": "m", "source": "cloudevent"} | own


def kept(folder: Path, *groups: list[dict[str, object]]) -> pd.DataFrame:
    """Read before and after compaction, which must not matter."""
    for group in groups:
        with InferenceLog(folder) as log:
            log.append(group)
    table = read_log(folder)
    compact(folder)
    assert list(read_log(folder)["request_id"]) == list(table["request_id"])
    return table


def test_the_halves_meet_across_segments_in_either_order_and_a_batch_shares_its_request(tmp_path: Path) -> None:
    table = kept(tmp_path, [response("k", 2.5, "k-0"), response("k", 2.5, "k-1")], [request("k", 2)])
    assert list(table["request_id"]) == ["k-0", "k-1"]
    assert table["latency_ms"].tolist() == [500, 500]
    assert table["request_bytes"].tolist() == [10, 10]


def test_what_comes_twice_counts_once_and_what_is_never_answered_stays(tmp_path: Path) -> None:
    table = kept(tmp_path, [request("k", 1), response("k", 2)], [request("k", 1), response("k", 2), request("alone", 3)])
    assert list(table["request_id"]) == ["k", "alone"]
    assert list(table["status"]) == ["answered", "unanswered"]


def test_a_clock_that_went_backwards_gives_no_latency(tmp_path: Path) -> None:
    table = kept(tmp_path, [request("k", 2), response("k", 1)])
    assert table["latency_ms"].isna().all()


def test_an_answer_that_its_server_wrote_down_too_counts_once_as_the_server_wrote_it(tmp_path: Path) -> None:
    own = {"time": "2026-01-01T00:00:02+00:00", "request_id": "r1", "model": "m", "source": "dicom", "status": "answered", "scores": {"a": 0.25}}
    table = kept(tmp_path, [request("k", 1), response("k", 2, "r1")], [own], [request("j", 3), response("j", 4, "r2", 0.75)])
    assert list(table["request_id"]) == ["r1", "r2"]
    assert list(table["source"]) == ["dicom", "cloudevent"]
    assert table["score_a"].tolist() == [0.25, 0.75]


def test_a_log_without_events_is_left_as_it_is(tmp_path: Path) -> None:
    own = {"time": "2026-01-01T00:00:02+00:00", "request_id": "r1", "status": "answered"}
    table = kept(tmp_path, [own, own])
    assert list(table["request_id"]) == ["r1", "r1"]
    assert "event" not in table


@pytest.mark.parametrize("half", [request, response])
def test_halves_alone_are_rows(tmp_path: Path, half: object) -> None:
    assert len(kept(tmp_path, [half("a", 1), half("b", 1)])) == 2  # type: ignore[operator]
