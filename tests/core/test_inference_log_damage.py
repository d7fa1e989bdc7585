"""A segment that changed or is gone costs its own records, is named and counted, and stops nobody; a log that is whole says nothing."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from components.core.errors import DataError
from components.core.inference_log import InferenceLog, Tally, batches, compact, erase, read_log, since, summary
from components.core.inference_log import manifest as manifests
from components.core.inference_log.erasure import related, unsearched
from tests.core.flips import flips
from tests.core.killed import different, kill_at_every_line
from tests.core.test_inference_log import numbered
from tests.core.test_inference_log_compaction import fill, mixed

PATIENT = "0123456789abcdef"


def segmented(folder: Path, sizes: list[int]) -> Path:
    """A compacted log of segments with so many records each."""
    n = 0
    for size in sizes:
        with InferenceLog(folder) as log:
            if size:
                log.append([mixed(i % 60) | {"request_id": f"r{i}", "patient": PATIENT if i == 0 else f"p{i}"} for i in range(n, n + size)])
        n += size
    compact(folder)
    return folder


def turned(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Segments of 3, 0, 4 and 5 records."""
    return segmented(tmp_path / "log", [3, 0, 4, 5])


def test_a_whole_log_says_nothing(log: Path):
    assert sorted(p.name for p in log.iterdir()) == ["000001.parquet", "000003.parquet", "000004.parquet", "segments.manifest"]
    table = read_log(log)
    assert (len(table), table.attrs["unread"], table.attrs["unverified"], table.attrs["told"]) == (12, [], [], [])
    assert summary(log)["alarms"] == []
    assert unsearched(log) == []


@pytest.mark.parametrize("name", ["000001", "000003", "000004"])
def test_no_flipped_bit_of_a_segment_gives_other_records(log: Path, name: str):
    """137 of 300 were read as other values, when neither pages nor file had a checksum."""
    path, whole = log / f"{name}.parquet", read_log(log)
    own = {"000001": range(3), "000003": range(3, 7), "000004": range(7, 12)}[name]
    rest = whole.drop(index=list(own)).reset_index(drop=True)
    data = path.read_bytes()
    for _, changed in flips(data, 25, seed=int(name)):
        path.write_bytes(changed)
        found = read_log(log)
        assert found["request_id"].tolist() == rest["request_id"].tolist()
        assert found.attrs["unread"] == [{"segment": path.name, "why": "damaged", "records": len(own)}]
        assert found.attrs["damaged"] == len(own)
    path.write_bytes(data)
    assert_frame_equal(read_log(log), whole)


def test_every_reader_reads_the_rest_and_tells_of_the_one(log: Path):
    turned(log / "000003.parquet", 100)
    tally, told = Tally(), "segment 000003.parquet of the log is damaged: 4 records cannot be read"
    assert sum(map(len, batches(log, tally))) == 8
    assert [str(one) for one in tally.unread] == [told]
    assert [(n, len(table)) for n, table in since(log, {1: 2})] == [(1, 1), (4, 5)]
    found = summary(log)
    assert (found["records"], found["damaged"], found["alarms"]) == (8, 4, [told])
    assert related(log, frozenset({PATIENT}))["request_id"] == {"r0"}


def test_a_segment_that_is_gone_is_noticed_and_one_without_records_is_not(log: Path):
    (log / "000004.parquet").unlink()
    found = read_log(log)
    assert found.attrs["unread"] == [{"segment": "000004.parquet", "why": "missing", "records": 5}]
    assert (len(found), found.attrs["damaged"]) == (7, 5)
    with InferenceLog(log) as writer:  # its number is not given again: whoever read it would skip the new one's first records
        writer.append([numbered(50)])
    assert sorted(p.name for p in log.glob("*.log")) == ["000005.log"]
    assert len(read_log(log).attrs["unread"]) == 1


def test_a_log_file_that_is_gone_before_it_was_compacted_is_noticed(log: Path):
    with InferenceLog(log) as writer:
        writer.append([numbered(50)])
    (log / "000005.log").unlink()
    assert read_log(log).attrs["unread"] == [{"segment": "000005.log", "why": "missing", "records": None}]
    assert summary(log)["alarms"] == ["segment 000005.log of the log is missing: an unknown number of records cannot be read"]


def test_a_segment_that_comes_back_from_a_backup_is_read_again(log: Path):
    path = log / "000003.parquet"
    data = path.read_bytes()
    path.unlink()
    taken = {n: len(table) for n, table in since(log, {})}
    assert taken == {1: 3, 4: 5}
    path.write_bytes(data)
    assert [(n, len(table)) for n, table in since(log, taken)] == [(3, 4)]
    assert read_log(log).attrs["unread"] == []


def test_what_was_taken_before_is_verified_all_the_same(log: Path):
    taken = {n: len(table) for n, table in since(log, {})}
    turned(log / "000001.parquet", 50)
    tally = Tally()
    assert list(since(log, taken, tally)) == []
    assert [(one.segment, one.records) for one in tally.unread] == [("000001.parquet", 3)]


def test_a_segment_of_an_older_version_is_read_unverified_and_has_a_digest_from_the_next_compaction_on(log: Path, caplog: Any):
    import pyarrow.parquet as pq

    path = log / "000003.parquet"
    table = pq.read_table(path)
    old = (table.schema.metadata or {})[b"dxflow"].replace(b', "checked": true', b"")
    pq.write_table(table.replace_schema_metadata({b"dxflow": old}), path, compression="zstd")
    manifest = log / manifests.MANIFEST
    manifest.write_bytes(b"".join(line for line in manifest.read_bytes().splitlines(keepends=True) if b'"segment":3' not in line))
    before = read_log(log)
    assert (len(before), before.attrs["unread"], before.attrs["unverified"], before.attrs["damaged"]) == (12, [], ["000003.parquet"], 0)
    compact(log)
    compact(log)
    assert caplog.text.count("1 segments of an older version had no digest") == 1
    assert read_log(log).attrs["unverified"] == []
    turned(path, 300)
    assert [one["segment"] for one in read_log(log).attrs["unread"]] == ["000003.parquet"]


@pytest.mark.parametrize("lost", ["a line", "all of it"])
def test_a_manifest_that_is_damaged_costs_no_record_and_is_told(log: Path, lost: str):
    manifest = log / manifests.MANIFEST
    if lost == "a line":
        turned(manifest, manifest.read_bytes().rindex(b'"sha256"') + 20)
    else:
        manifest.unlink()
    compact(log)  # makes nothing good by itself: the digest is gone
    found = read_log(log)
    wanted = ["000004.parquet"] if lost == "a line" else ["000001.parquet", "000003.parquet", "000004.parquet"]
    assert [(one["segment"], one["why"]) for one in found.attrs["unread"]] == [(name, "no digest") for name in wanted]
    assert (len(found), found.attrs["damaged"]) == (12, 0)
    turned(log / "000004.parquet", 60)  # its pages have checksums still
    assert len(read_log(log)) == 7


def test_an_erasure_gives_a_segment_its_new_digest_and_the_one_that_nobody_can_read_is_named(log: Path):
    turned(log / "000003.parquet", 100)
    assert erase(log, {"patient": frozenset({PATIENT})}) == {"000001.parquet": 1}
    found = read_log(log)
    assert (len(found), [one["segment"] for one in found.attrs["unread"]]) == (7, ["000003.parquet"])
    assert unsearched(log) == ["000003.parquet"]
    (log / "000001.parquet").unlink()
    assert {one["segment"]: one["records"] for one in read_log(log).attrs["unread"]}["000001.parquet"] == 2  # nobody misses what was erased


def test_a_segment_from_before_an_erasure_is_not_taken_back(log: Path):
    before = (log / "000001.parquet").read_bytes()
    erase(log, {"patient": frozenset({PATIENT})})
    erase(log, {"patient": frozenset({"p1"})})
    (log / "000001.parquet").write_bytes(before)
    assert [one["why"] for one in read_log(log).attrs["unread"]] == ["damaged"]


def test_compaction_writes_a_damaged_segment_anew_while_its_lines_are_there(tmp_path: Path):
    fill(tmp_path / "log", 3)
    before = read_log(tmp_path / "log")
    shutil.copytree(tmp_path / "log", tmp_path / "lines")
    compact(tmp_path / "log")
    for path in (tmp_path / "log").glob("*.parquet"):  # as a power cut may leave them: the new file bad, the old one still there
        turned(path, 90)
        shutil.copy2(tmp_path / "lines" / f"{path.stem}.log", tmp_path / "log")
    compact(tmp_path / "log")
    assert_frame_equal(read_log(tmp_path / "log"), before)
    assert [p.name for p in (tmp_path / "log").glob("*.log")] == []


def test_all_that_a_log_writes_is_its_owners_alone(tmp_path: Path):
    """A compaction made a 0644 file of a 0600 one."""
    before = os.umask(0o022)
    try:
        log = segmented(tmp_path / "log", [2])
        erase(log, {"patient": frozenset({PATIENT})})
        with InferenceLog(log):
            assert {p.name: p.stat().st_mode & 0o777 for p in log.iterdir()} == {
                name: 0o600 for name in ("000001.parquet", "000002.log", "000002.lost", "segments.manifest")
            }
        assert log.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


def test_a_log_file_loses_the_line_that_was_changed_and_counts_it(tmp_path: Path):
    with InferenceLog(tmp_path) as log:
        log.append([numbered(n) for n in range(6)])
    path = tmp_path / "000001.log"
    data, whole = path.read_bytes(), read_log(tmp_path)
    for bit, changed in flips(data, 40):
        path.write_bytes(changed)
        found = read_log(tmp_path)
        line = data[: bit // 8].count(b"\n")
        lost = {f"r{line}", f"r{line + 1}"} if data[bit // 8] == 10 else {f"r{line}"}  # without its end a line runs into the next one
        kept = whole[~whole["request_id"].isin(lost)].reset_index(drop=True)
        assert found["request_id"].tolist() == kept["request_id"].tolist()
        assert found.attrs["damaged"] >= 1


def test_kill_9_on_any_line_of_the_manifest_leaves_what_was_there_before_or_all(tmp_path: Path):
    start = tmp_path / "start"
    start.mkdir()
    manifests.add(start, 1, manifests.BEGUN)
    with open(start / manifests.MANIFEST, "ab") as handle:
        handle.write(b"01234567 torn")
    code = "from components.core.inference_log import manifest\ndef work(folder):\n    manifest.add(folder, 2, manifest.BEGUN)\n"
    states = [sorted(manifests.read(folder)) for folder in different(kill_at_every_line(code, tmp_path, ("manifest.py",), start=start))]
    assert states == [[1], [1, 2]]


def test_a_manifest_that_a_full_disk_does_not_take_stops_no_writer(tmp_path: Path):
    for number in range(1, 60):
        manifests.add(tmp_path, number, manifests.EMPTY)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))  # the manifest is beyond it; Python ignores SIGXFSZ
    try:
        with InferenceLog(tmp_path) as log:
            assert log.append([{"request_id": "r"}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 60 not in manifests.read(tmp_path)
    compact(tmp_path)
    assert manifests.read(tmp_path)[60].facts.records == 1


def test_no_log_is_still_an_error(tmp_path: Path):
    for read in (read_log, summary):
        with pytest.raises(DataError, match="no inference log"):
            read(tmp_path / "absent")


@settings(max_examples=8, deadline=None, database=None, derandomize=True)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.data())
def test_whatever_happens_to_segments_the_others_are_read_and_every_loss_is_counted(tmp_path_factory: Any, sizes: list[int], data: Any):
    log = segmented(tmp_path_factory.mktemp("made") / "log", sizes)
    numbers = [n for n, size in enumerate(sizes, 1) if size]
    hurt = data.draw(st.lists(st.sampled_from(numbers), unique=True)) if numbers else []
    lost: set[int] = set()
    for number in hurt:
        path = log / f"{number:06d}.parquet"
        lost |= set(range(sum(sizes[: number - 1]), sum(sizes[:number])))
        if data.draw(st.booleans()):
            path.unlink()
        else:
            turned(path, data.draw(st.integers(0, path.stat().st_size - 1)))
    found = read_log(log)
    assert list(found["request_id"] if len(found) else []) == [f"r{i}" for i in range(sum(sizes)) if i not in lost]
    assert found.attrs["damaged"] == len(lost)
    assert {one["segment"] for one in found.attrs["unread"]} == {f"{n:06d}.parquet" for n in hurt}
    assert pd.Series([one["records"] for one in found.attrs["unread"]], dtype="int64").sum() == len(lost)
