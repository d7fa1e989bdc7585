"""Compaction: nothing but the form of the log changes, whoever is killed when, and whoever else is there."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal

from components.core.errors import ServiceError
from components.core.inference_log import InferenceLog, compact, frame, read_log
from tests.core.killed import different, kill_at_every_line
from tests.core.test_inference_log import RECORD, numbered

KEPT = ".manifest"
"""What stays beside the segments whatever becomes of them."""


def mixed(n: int) -> dict[str, object]:
    """Records that differ in every way that a log has: classes, tags that are numbers here and text there, embeddings, gaps."""
    record = numbered(n) | {"time": f"2026-01-02T03:04:{n:02d}.000001+00:00", "study": "s" * 16}
    if n % 3 == 0:
        record |= {"acquisition": {"acq_kernel": "B30f" if n % 2 else 30, "acq_kvp": 120}, "embedding": [0.1, -2.0, float(n)]}
    if n % 4 == 1:
        record |= {"scores": {"other": 0.5}, "abstain": True, "status": "abstained", "reasons": ["a", "b"], "image": {"mean": None}}
    if n % 5 == 4:
        record = {"request_id": f"r{n}", "status": "refused", "reasons": ["body: not JSON"]}
    return record


def fill(folder: Path, n: int = 12) -> None:
    with InferenceLog(folder, segment_bytes=2000) as log:
        for i in range(n):
            log.append([mixed(i)])


def same(one: pd.DataFrame, two: pd.DataFrame) -> None:
    assert_frame_equal(one, two)
    assert one.attrs == two.attrs


def test_what_is_read_is_the_same_before_and_after(tmp_path: Path) -> None:
    fill(tmp_path)
    before = read_log(tmp_path)
    count = len(list(tmp_path.glob("*.log")))
    assert count > 3
    assert compact(tmp_path) == count
    assert {p.suffix for p in tmp_path.iterdir()} == {".parquet", KEPT}
    same(read_log(tmp_path), before)
    assert before.loc[3, "acq_kernel"] == "B30f"
    assert before.loc[0, "acq_kernel"] == "30.0"
    assert before.loc[0, "acq_kvp"] == 120.0
    np.testing.assert_array_equal(before.loc[3, "embedding"], np.float32([0.1, -2, 3]))
    assert before.loc[0, "embedding"].dtype == np.float32
    assert before.loc[1, "embedding"] is None
    assert compact(tmp_path) == 0


def test_a_segment_is_ordinary_parquet_with_a_column_for_each_figure(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    compact(tmp_path)
    table = pq.read_table(next(tmp_path.glob("*.parquet")))
    assert str(table.schema.field("time").type) == "timestamp[us, tz=UTC]"
    assert str(table.schema.field("embedding").type) == "list<element: float>"
    assert str(table.schema.field("score_malignant").type) == "double"


def test_a_segment_with_a_living_writer_is_left_alone_and_its_numbers_go_on(tmp_path: Path) -> None:
    fill(tmp_path)
    with InferenceLog(tmp_path) as log:
        log.append([numbered(12)])
        compact(tmp_path)
        log.append([numbered(13)])
        assert [p.name for p in tmp_path.glob("*.log")] == [f"{len(list(tmp_path.glob('*.parquet'))) + 1:06d}.log"]
    compact(tmp_path)
    with InferenceLog(tmp_path) as log:
        log.append([numbered(14)])
    assert list(read_log(tmp_path)["request_id"]) == [f"r{n}" for n in range(15)]
    assert len({p.stem for p in tmp_path.glob("0*.*")}) == len(list(tmp_path.glob("*.parquet"))) + 1


def test_kill_9_on_any_line_of_a_compaction_leaves_each_record_once(tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as writer:
        writer.append([mixed(n) for n in range(3)])
    log = sorted((tmp_path / "log").glob("*.log"))[-1]
    log.write_bytes(log.read_bytes() + frame(numbered(5))[:40])  # a torn line is told of afterwards, too
    before = read_log(tmp_path / "log")
    code = "from components.core.inference_log import compact, compaction\nimport pyarrow.parquet, pandas\ncompaction.BATCH = 2\nwork = compact\n"
    folders = kill_at_every_line(code, tmp_path, ("compaction.py", "core/atomic.py", "segments.py"), start=tmp_path / "log")
    assert len(folders) > 50
    both = 0
    for folder in different(folders):
        both += any(p.with_suffix(".parquet").exists() for p in folder.glob("*.log"))
        same(read_log(folder), before)
        compact(folder)
        same(read_log(folder), before)
        assert {p.suffix for p in folder.iterdir()} == {".parquet", KEPT}
        assert read_log(folder).attrs["unread"] == []
    assert both == 2  # both forms are there, with the ledger and without it
    assert before.attrs["damaged"] == 1


def test_readers_and_three_compactions_beside_two_writers_see_each_record_once(tmp_path: Path) -> None:
    wrong: list[object] = []
    done = threading.Event()

    def compacting() -> None:
        while not done.is_set():
            compact(tmp_path)

    def reading() -> None:
        before: set[str] = set()
        while not done.is_set():
            table = read_log(tmp_path)
            seen = set(table["request_id"])
            if len(seen) != len(table) or before - seen or table.attrs["damaged"]:
                wrong.append((len(seen), len(table), before - seen, table.attrs))
            before = seen

    def writing(who: int) -> None:
        with InferenceLog(tmp_path, segment_bytes=500) as log:
            for n in range(60):
                log.append([{"request_id": f"{who}-{n}"}])

    others = [threading.Thread(target=work) for work in (compacting, compacting, compacting, reading, reading)]
    writers = [threading.Thread(target=writing, args=(who,)) for who in range(2)]
    for thread in (*writers, *others):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in others:
        thread.join()
    assert wrong == []
    assert sorted(read_log(tmp_path)["request_id"]) == sorted(f"{who}-{n}" for who in range(2) for n in range(60))


def test_memory_of_a_compaction_and_of_batches_does_not_grow_with_the_segment(tmp_path: Path) -> None:
    program = (
        "import re, sys; from components.core.inference_log import batches, compact; import pandas, pyarrow.parquet\n"
        "assert compact(sys.argv[1]) == 1\n"
        "rows = sum(len(b) for b in batches(sys.argv[1]))\n"
        "print(rows, re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    peaks = []
    for n in (2_000, 16_000):
        folder = tmp_path / str(n)
        with InferenceLog(folder, segment_bytes=1 << 30) as log:
            for start in range(0, n, 500):
                log.append([RECORD | {"request_id": f"{i:032x}"} for i in range(start, start + 500)])
        out = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True).stdout
        rows, peak = map(int, out.split())
        assert rows == n
        peaks.append(peak / 1024)
    assert peaks[1] < peaks[0] + 20, peaks  # the larger one has 11 MB of lines, about 100 MB as Python objects


def test_stopping_leaves_the_segment_as_it_was(tmp_path: Path) -> None:
    with InferenceLog(tmp_path) as log:
        log.append([numbered(n) for n in range(1500)])
    stop = threading.Event()
    stop.set()
    assert compact(tmp_path, stop=stop) == 0
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".log", ".lost", KEPT]


def test_a_disk_that_takes_no_parquet_is_one_line_and_costs_nothing(tmp_path: Path) -> None:
    fill(tmp_path)
    before = read_log(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # Python ignores SIGXFSZ
    try:
        with pytest.raises(ServiceError, match="cannot compact the inference log"):
            compact(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    same(read_log(tmp_path), before)
    assert {p.suffix for p in tmp_path.iterdir()} == {".log", ".lost", KEPT}


def test_part_of_a_log_is_kept_without_the_rest(tmp_path: Path) -> None:
    fill(tmp_path)
    table = read_log(tmp_path, keep=lambda part: part[part["status"] == "refused"])
    assert list(table["request_id"]) == ["r4", "r9"]
    assert compact(tmp_path / "absent") == 0
