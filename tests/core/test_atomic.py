"""Files and folders are whole or absent."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

from components.core.atomic import PARTIAL, atomic_dir, atomic_file, remove_partials


def test_a_failed_write_leaves_the_old_file_and_no_partial(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with contextlib.suppress(RuntimeError), atomic_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_the_old_one_at_once(tmp_path: Path) -> None:
    path = tmp_path / "d"
    for text in ("1", "2"):
        with atomic_dir(path) as partial:
            (partial / "x").write_text(text)
    assert (path / "x").read_text() == "2"
    assert list(tmp_path.iterdir()) == [path]


def test_kill_9_leaves_only_a_partial_that_is_swept(tmp_path: Path) -> None:
    code = "import sys, time; from components.core.atomic import atomic_dir as a\n"
    code += "with a(sys.argv[1]) as p: (p / 'x').touch(); print('', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "d")], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    assert remove_partials(tmp_path) == 0, "a living writer's partial is not to be touched"
    child.kill()
    child.wait()
    assert not (tmp_path / "d").exists()
    time.sleep(0.01)
    assert remove_partials(tmp_path) == 1
    assert not [p for p in tmp_path.iterdir() if PARTIAL in p.name]
