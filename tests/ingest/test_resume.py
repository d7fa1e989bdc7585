"""kill -9 in the middle: the next run goes on, and the result is the same to the last byte."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.ingest.made import KEY, ROOT, collection

PROGRAM = """
import sys
from pathlib import Path
if __name__ == "__main__":
    from components.core.step import step
    from components.ingest.step import ingest
    from tests.ingest.made import lung_nodule
    with step("ingest"):
        ingest(lung_nodule(), sys.argv[1], dataset=Path(sys.argv[2]) / "dataset", features=Path(sys.argv[2]) / "features", workers=2)
"""


def start(source: Path, out: Path, home: Path, program: Path) -> subprocess.Popen[str]:
    program.write_text(PROGRAM)
    env = {k: v for k, v in os.environ.items() if not k.startswith("DXFLOW")} | {"DXFLOW_HOME": str(home), "DXFLOW_KEY": KEY, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(program), str(source), str(out)]
    return subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_at(process: subprocess.Popen[str], mark: str) -> list[psutil.Process]:
    """kill -9 as soon as the log shows `mark`; returns the processes that it had started."""
    assert process.stdout is not None
    for line in process.stdout:
        if mark in line:
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGKILL)
            process.wait()
            return children
    raise AssertionError(f"never came to {mark}")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A source, and what ingest makes of it when nobody kills it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    source = collection(folder / "in", patients=40, slices=3)
    assert start(source, folder / "out", folder / "home", folder / "p.py").wait() == 0
    return source, contents(folder / "out")


@pytest.mark.parametrize("mark", ['"what": "series"', '"what": "samples"'])
def test_killed_and_started_again(tmp_path: Path, undisturbed: tuple[Path, dict[str, bytes]], mark: str):
    source, expected = undisturbed
    children = kill_at(start(source, tmp_path / "twice", tmp_path / "home", tmp_path / "p.py"), mark)
    assert children
    assert not (tmp_path / "twice" / "dataset").exists()
    deadline = time.monotonic() + 10
    while (alive := [p for p in children if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive

    (work,) = (tmp_path / "home" / "work").iterdir()
    with sqlite3.connect(work / "journal.db") as db:
        done = [task for (task,) in db.execute("SELECT task FROM done WHERE task LIKE 'series-%'")]
    assert done
    kept = tmp_path / "kept"
    kept.mkdir()
    made = {task: (work / "arrays" / task).stat().st_mtime_ns for task in done if (work / "arrays" / task).exists()}
    for task in made:
        os.link(work / "arrays" / task, kept / task)

    assert start(source, tmp_path / "twice", tmp_path / "home", tmp_path / "p.py").wait() == 0
    assert contents(tmp_path / "twice") == expected
    assert made == {task: (kept / task).stat().st_mtime_ns for task in made}  # finished series were not read again
    assert list((tmp_path / "home" / "work").iterdir()) == []
