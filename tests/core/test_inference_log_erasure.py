"""Taking records out of a log: positions, readers, writers and everybody else's records stay; nothing of the erased ones does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.core.inference_log import InferenceLog, compact, erase, read_log, since, summary
from components.core.inference_log.erasure import blank, quiet, related
from components.core.inference_log.lines import parse
from tests.core.killed import different, kill_at_every_line

KEY = "0123456789abcdef"
MATCH = {"patient": frozenset({KEY})}


def record(n: int, patient: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "time": f"2026-03-02T08:00:{n:02d}+00:00",
        "request_id": f"r{n}",
        "patient": patient or f"p{n}",
        "study": f"s{n}",
        "scores": {"a": 0.5},
    } | more


def holding(folder: Path, text: bytes) -> list[str]:
    import pyarrow.parquet as pq

    tables = [p for p in folder.glob("*.parquet") if text.decode() in str(pq.read_table(p).to_pylist())]
    return [p.name for p in [*tables, *(p for p in folder.iterdir() if text in p.read_bytes())]]


@pytest.mark.parametrize("length", [30, 100, 5000])
def test_a_blank_line_has_the_length_of_what_it_stands_for(length: int):
    line = blank(length)
    assert len(line) == length
    assert parse(line) == {"status": "erased"}
    assert len(blank(20)) == 20  # too short for that: a damaged line, and empty


def test_a_living_writer_goes_on_and_readers_lose_the_one_record_only(tmp_path: Path):
    with InferenceLog(tmp_path) as log:
        log.append([record(0), record(1, KEY), record(2)])
        assert erase(tmp_path, MATCH) == {"000001.log": 1}
        log.append([record(3)])
        assert read_log(tmp_path)["request_id"].tolist() == ["r0", "r2", "r3"]
        told = summary(tmp_path)
    assert (told["records"], told["damaged"]) == (3, 0)
    assert holding(tmp_path, KEY.encode()) == []
    assert erase(tmp_path, MATCH) == {}


@pytest.mark.parametrize("compacted", ["never", "before", "after"])
def test_what_was_counted_before_is_not_counted_again(tmp_path: Path, compacted: str):
    with InferenceLog(tmp_path) as log:
        log.append([record(n, KEY if n in (0, 3) else None) for n in range(6)])
    if compacted == "before":
        compact(tmp_path)
    assert sum(erase(tmp_path, MATCH).values()) == 2
    if compacted == "after":
        compact(tmp_path)
    new = [table["request_id"].dropna().tolist() for _, table in since(tmp_path, {1: 4})]
    assert new == [["r4", "r5"]]
    assert read_log(tmp_path)["request_id"].tolist() == ["r1", "r2", "r4", "r5"]
    assert summary(tmp_path)["records"] == 4
    assert holding(tmp_path, KEY.encode()) == []


def test_other_rows_of_a_compacted_segment_are_the_same(tmp_path: Path):
    import pandas as pd

    with InferenceLog(tmp_path) as log:
        log.append([record(n, KEY if n == 1 else None, embedding=[0.5, n], reasons=["x"], image={"mean": n / 3}, software="1") for n in range(4)])
    compact(tmp_path)
    before = read_log(tmp_path)
    erase(tmp_path, MATCH)
    pd.testing.assert_frame_equal(read_log(tmp_path), before[before["request_id"] != "r1"].reset_index(drop=True))


def test_compaction_waits_for_an_erasure(tmp_path: Path):
    """It would copy what was there before."""
    with InferenceLog(tmp_path) as log:
        log.append([record(0)])
    with quiet(tmp_path, alone=True):
        assert compact(tmp_path) == 0
    assert compact(tmp_path) == 1


def test_a_study_that_others_share_is_not_the_patients(tmp_path: Path):
    """Files without a study UID all have the same hash of nothing."""
    with InferenceLog(tmp_path) as log:
        log.append([record(0, KEY, study="shared"), record(1, study="shared"), record(2, KEY, study="own", series="x")])
        log.append([record(3, study="own") | {"patient": None}])
    found = related(tmp_path, frozenset({KEY}), nobody=frozenset({"x"}))
    assert found["study"] == {"own"}
    assert found["series"] == frozenset()
    assert found["request_id"] == {"r0", "r2"}


def test_torn_lines_that_name_the_patient_are_blanked(tmp_path: Path):
    with InferenceLog(tmp_path) as log:
        log.append([record(0)])
    path = tmp_path / "000001.log"
    path.write_bytes(path.read_bytes() + b"00000000 " + json.dumps(record(1, KEY)).encode()[:-4])
    erase(tmp_path, MATCH, frozenset({KEY.encode()}))
    assert holding(tmp_path, KEY.encode()) == []
    assert read_log(tmp_path)["request_id"].tolist() == ["r0"]


def test_kill_9_on_any_line_loses_nobody_else_and_is_made_good(tmp_path: Path):
    start = tmp_path / "start"
    with InferenceLog(start) as log:
        log.append([record(0), record(1, KEY)])
    compact(start)
    with InferenceLog(start) as log:
        log.append([record(2, KEY), record(3)])
    code = f"from components.core.inference_log import erase\ndef work(folder):\n    erase(folder, {{'patient': frozenset({{'{KEY}'}})}})\n"
    code += "import pandas, pyarrow.parquet\n"
    for folder in different(kill_at_every_line(code, tmp_path, ("inference_log/erasure.py",), start=start)):
        assert {"r0", "r3"} <= set(read_log(folder)["request_id"])
        erase(folder, MATCH)
        assert holding(folder, KEY.encode()) == []
        assert read_log(folder)["request_id"].tolist() == ["r0", "r3"]
