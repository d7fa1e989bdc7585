"""Scratch: one room, its owner's alone, empty when work ends; a kill leaves nothing beyond the next piece of work."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from components.core.scratch import room, sweep
from tests.core.killed import kill_at_every_line

PRODUCT = ("components", "serving", "pipelines", "feature_store")
ELSEWHERE = {
    "components/core/storage.py",  # an unnamed file, which no kill leaves; a list of hashes
    "components/core/storage_folder.py",  # beside what it becomes: `remove_partials`
    "components/ingest/readers/whole_slide.py",  # in the ingest's own folder of `work`
    "components/register/erasure.py",  # in the erasure's own folder of `erasing`
    "pipelines/run.py",  # a path for sockets, which must be short; gone when the run is, or at the next look at runs
    "serving/members.py",  # counters that processes share by mapping them, of nobody
}


@pytest.fixture(autouse=True)
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "scratch"


def test_a_room_is_its_owners_alone_and_gone_afterwards(top: Path) -> None:
    before = os.umask(0)
    try:
        with room("reference") as one, room("reference") as two:
            (one / "a").mkdir()
            (one / "a" / "b").write_bytes(b"x")
            assert one != two
            assert [one.stat().st_mode & 0o777, top.stat().st_mode & 0o777] == [0o700, 0o700]
            assert sweep() == []
            assert (one / "a" / "b").exists()
    finally:
        os.umask(before)
    assert list(top.iterdir()) == []
    with pytest.raises(KeyError), room("slide"):
        raise KeyError
    assert list(top.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_piece_of_work_and_the_living_keep_theirs(top: Path) -> None:
    code = (
        "import sys, time\nfrom components.core.scratch import room\n"
        "with room(sys.argv[1]) as place:\n    (place / 'slide.tif').write_bytes(b'x' * 1000)\n"
        "    print(place.name, flush=True)\n    time.sleep(600)\n"
    )
    at_work = [subprocess.Popen([sys.executable, "-c", code, what], stdout=subprocess.PIPE, text=True) for what in ("slide", "reference")]
    try:
        names = [process.stdout.readline().strip() for process in at_work if process.stdout]
        at_work[0].send_signal(signal.SIGKILL)
        at_work[0].wait()
        assert (top / names[0] / "slide.tif").exists()
        with room("next"):
            assert not (top / names[0]).exists()
            assert (top / names[1] / "slide.tif").exists()
        assert {p.name for p in top.iterdir()} == {names[1], f"{names[1]}.lock"}
    finally:
        for process in at_work:
            process.kill()
            process.communicate()
    assert sweep(dry=True) == sweep() == [names[1]]
    assert list(top.iterdir()) == []


def test_kill_9_on_any_line_leaves_nothing_that_the_next_sweep_does_not_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from components.core.scratch import room\ndef work(folder):\n    os.environ['DXFLOW_HOME'] = str(folder)\n"
        "    with room('slide') as place:\n        (place / 'x').write_bytes(b'x')\n"
    )
    left = 0
    for folder in kill_at_every_line(code, tmp_path, ("core/scratch.py",)):
        monkeypatch.setenv("DXFLOW_HOME", str(folder))
        left += len(list(folder.glob("scratch/slide-*")))
        sweep()
        assert list(folder.glob("scratch/*")) == []
    assert left > 5


def test_many_at_once_never_take_each_others_room(top: Path) -> None:
    wrong: list[str] = []

    def work() -> None:
        for n in range(25):
            with room("reference") as place:
                (place / "x").write_text(str(n))
                sweep()
                if (place / "x").read_text() != str(n):
                    wrong.append(place.name)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert list(top.iterdir()) == []


def test_nothing_else_of_the_product_makes_temporary_files() -> None:
    """Whoever adds one brings it here, or says above why it may stay elsewhere."""
    root = Path(__file__).parents[2]
    users = {
        path.relative_to(root).as_posix() for folder in PRODUCT for path in (root / folder).rglob("*.py")
        if re.search(r"^\s*(import tempfile|from tempfile import)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }  # fmt: skip
    assert users == ELSEWHERE
