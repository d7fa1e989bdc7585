"""The inference log: nothing that was answered is lost, nothing that was torn is believed."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components.core.errors import DataError, ServiceError
from components.core.inference_log import COLUMNS, IMAGE_FEATURES, InferenceLog, compact, frame, read_log, summary
from tests.core.killed import different, kill_at_every_line

RECORD = {
    "time": "2026-01-02T03:04:05.000006+00:00", "request_id": "r0", "model": "lung-nodule", "version": "1", "digest": "d", "source": "dicom",
    "device_key": "0123456789abcdef", "manufacturer": "ACME", "device_model": "One", "device_status": "known", "profile": "ok", "patient": "p",
    "series": "s", "scores": {"benign": 0.25, "malignant": 0.75}, "decision": "malignant", "abstain": False, "reasons": [], "latency_ms": 3.5,
    "image": {"mean": -500.0, "sd": 100.0, "p01": -900.0, "p50": -510.0, "p99": 50.0, "noise_sd": 20.0, "sharpness": 0.5},
    "acquisition": {"acq_kvp": 120.0},
}  # fmt: skip


def numbered(n: int) -> dict[str, object]:
    return RECORD | {"request_id": f"r{n}"}


def test_what_was_appended_comes_back_in_order_with_its_figures(tmp_path: Path) -> None:
    with InferenceLog(tmp_path) as log:
        log.append([numbered(0)])
        log.append([numbered(1), numbered(2)])
    table = read_log(tmp_path)
    assert list(table["request_id"]) == ["r0", "r1", "r2"]
    assert table.attrs["damaged"] == 0
    assert set(COLUMNS) <= set(table.columns)
    row = table.iloc[0]
    assert (row["score_malignant"], row["noise_sd"], row["acq_kvp"], row["abstain"]) == (0.75, 20.0, 120.0, False)
    assert row["time"].microsecond == 6


def test_an_empty_log_has_all_columns_and_no_rows(tmp_path: Path) -> None:
    InferenceLog(tmp_path).close()
    table = read_log(tmp_path)
    assert len(table) == 0
    assert set(COLUMNS) <= set(table.columns)


@pytest.mark.parametrize("cut", range(1, len(frame(RECORD)), 37))
def test_a_tail_torn_anywhere_is_counted_and_costs_no_other_record(tmp_path: Path, cut: int) -> None:
    with InferenceLog(tmp_path) as log:
        log.append([numbered(0), numbered(1)])
    segment = next(tmp_path.glob("*.log"))
    os.truncate(segment, segment.stat().st_size - cut)
    with InferenceLog(tmp_path) as log:  # the next start writes on, in a segment of its own
        log.append([numbered(2)])
    table = read_log(tmp_path)
    assert list(table["request_id"]) == ["r0", "r2"]
    assert table.attrs["damaged"] == 1


def test_a_changed_byte_is_not_believed(tmp_path: Path) -> None:
    with InferenceLog(tmp_path) as log:
        log.append([numbered(0)])
        log.append([numbered(1)])
    segment = next(tmp_path.glob("*.log"))
    segment.write_bytes(segment.read_bytes().replace(b'"malignant":0.75', b'"malignant":0.15', 1))
    table = read_log(tmp_path)
    assert list(table["request_id"]) == ["r1"]
    assert table.attrs["damaged"] == 1


def test_records_survive_kill_9_of_the_writer(tmp_path: Path) -> None:
    """The process appends without closing or flushing, says so, and is killed."""
    code = (
        "import sys; from components.core.inference_log import InferenceLog\n"
        f"log = InferenceLog({str(tmp_path)!r})\n"
        "for n in range(50): log.append([{'request_id': f'r{n}'}])\n"
        "print('done', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert list(read_log(tmp_path)["request_id"]) == [f"r{n}" for n in range(50)]


def test_two_writers_on_one_folder_and_small_segments_lose_nothing(tmp_path: Path) -> None:
    with InferenceLog(tmp_path, segment_bytes=1000) as one, InferenceLog(tmp_path, segment_bytes=1000) as two:
        for n in range(20):
            (one if n % 2 else two).append([numbered(n)])
    assert sorted(read_log(tmp_path)["request_id"]) == sorted(f"r{n}" for n in range(20))
    assert len(list(tmp_path.glob("*.log"))) > 2


def test_a_record_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with InferenceLog(tmp_path) as log, pytest.raises(ValueError, match="JSON compliant"):
        log.append([RECORD | {"latency_ms": float("nan")}])
    assert len(read_log(tmp_path)) == 0


def test_a_folder_that_is_absent_or_a_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no inference log"):
        read_log(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match="inference log"):
        InferenceLog(tmp_path / "file")


def test_a_record_of_an_older_server_tells_its_status_by_abstain(tmp_path: Path) -> None:
    with InferenceLog(tmp_path) as log:
        log.append([RECORD, RECORD | {"abstain": True}, RECORD | {"status": "refused"}])
    assert list(read_log(tmp_path)["status"]) == ["answered", "abstained", "refused"]


def test_the_image_figures_of_a_record_are_columns_whichever_its_server_knew(tmp_path: Path) -> None:
    """Records of one log may have seven figures, more, or none; each keeps its own, and nothing is made up for the others."""
    with InferenceLog(tmp_path) as log:
        log.append([RECORD, RECORD | {"image": {"mean": -1.0, "blockiness": 0.25, "skewness": None}}, RECORD | {"image": {}}])
    for _ in range(2):
        table = read_log(tmp_path)
        assert table["mean"].tolist()[:2] == [-500.0, -1.0]
        assert table["blockiness"].fillna(-9).tolist() == [-9, 0.25, -9]
        assert table["skewness"].isna().all()
        assert {str(table[name].dtype) for name in (*IMAGE_FEATURES, "blockiness", "skewness")} == {"float64"}
        assert "fineness" not in table
        compact(tmp_path)


def test_the_last_line_of_a_living_writer_is_awaited_and_that_of_a_dead_one_is_torn(tmp_path: Path) -> None:
    log = InferenceLog(tmp_path)
    log.append([numbered(0)])
    with open(next(tmp_path.glob("*.log")), "ab") as segment:
        segment.write(frame(numbered(1))[:50])
    assert read_log(tmp_path).attrs["damaged"] == 0
    log.close()
    table = read_log(tmp_path)
    assert (len(table), table.attrs["damaged"]) == (1, 1)
    assert summary(tmp_path)["alarms"] == ["1 line of the log is torn or changed and left out"]


def test_kill_9_on_any_line_of_the_writer_loses_only_what_was_not_confirmed(tmp_path: Path) -> None:
    """A process is killed before the n-th line of Python that the log runs, for every n, across four rolls to a new segment."""
    code = (
        "from components.core.inference_log import InferenceLog\n"
        "def work(folder):\n"
        "    with InferenceLog(folder, segment_bytes=60) as log:\n"
        "        for n in range(4):\n"
        "            log.append([{'request_id': f'r{n}'}])\n"
        "            with open(folder / 'confirmed', 'a') as out: out.write(f'r{n}\\n')\n"
    )
    folders = kill_at_every_line(code, tmp_path, ("writer.py", "segments.py", "losses.py"))
    assert len(folders) > 100
    for folder in different(folders):
        confirmed = (folder / "confirmed").read_text().split() if (folder / "confirmed").exists() else []
        found = list(read_log(folder)["request_id"])
        assert found in (confirmed, [f"r{n}" for n in range(len(confirmed) + 1)]), folder
        compact(folder)
        assert list(read_log(folder)["request_id"]) == found


ON_A_SMALL_DISK = """
import json, os, sys
from pathlib import Path
from components.core.inference_log import InferenceLog, compact, read_log, summary
folder, filler = Path(sys.argv[1]) / "log", Path(sys.argv[1]) / "filler"

def fill():
    with open(filler, "ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(512))
        except OSError as error:
            return error.errno

def record(n):
    return {"request_id": f"r{n}", "padding": "x" * 900}

log = InferenceLog(folder)
took = {n for n in range(10) if log.append([record(n)])}
errno = fill()
took |= {n for n in range(10, 110) if log.append([record(n)])}
told = summary(folder)
filler.unlink()
took |= {n for n in range(110, 120) if log.append([record(n)])}
fill()
full_again = log.append([record(n) for n in range(120, 123)] * 10)
os.fork() or os.kill(os.getpid(), 9)  # as a child, without closing anything
os.wait()
filler.unlink()
log.close()
table = read_log(folder)
late = InferenceLog(folder)  # and one that starts where there is no room at all
fill()
starved = InferenceLog(folder)
lost_at_once = starved.append([record(200)])
filler.unlink()
starved.close()
print(json.dumps({
    "errno": errno, "took": sorted(took), "found": [int(i[1:]) for i in table["request_id"]], "damaged": table.attrs["damaged"],
    "told": told["lost"], "lost": table.attrs["lost"], "full_again": full_again, "lost_at_once": lost_at_once, "at_last": summary(folder)["lost"],
}))
"""


def test_on_a_real_full_disk_nothing_torn_is_kept_and_each_loss_is_counted(tmp_path: Path) -> None:
    """A tmpfs of 96 kB in a mount namespace of its own, where this machine allows one."""
    (tmp_path / "disk").mkdir()
    mount = f"mount -t tmpfs -o size=96k none {shlex.quote(str(tmp_path / 'disk'))}"
    if not shutil.which("unshare") or subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    arguments = [sys.executable, "-c", ON_A_SMALL_DISK, str(tmp_path / "disk")]
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", f"{mount} && exec {shlex.join(arguments)}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["errno"] == errno.ENOSPC
    assert found["found"] == found["took"]
    assert set(range(10)) | set(range(110, 120)) <= set(found["took"])
    assert found["damaged"] == 0
    assert found["told"] == 120 - len(found["took"]) > 80  # readable while the disk was full
    assert found["full_again"] is False
    assert found["lost"] == found["told"] + 30
    assert found["lost_at_once"] is False
    assert found["at_last"] == found["lost"] + 1
