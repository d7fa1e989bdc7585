"""A process that used pools leaves none of multiprocessing's own servers behind."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import os, sys
from multiprocessing import get_context
import psutil
from components.core.step import end_helpers
if __name__ == "__main__":
    for method in ("forkserver", "spawn"):
        with get_context(method).Pool(1) as pool:
            assert pool.apply(os.getpid) != os.getpid()
    before = len(psutil.Process().children(recursive=True))
    end_helpers()
    end_helpers()
    print(before, len(psutil.Process().children(recursive=True)))
    with get_context("forkserver").Pool(1) as pool:  # it can be started again
        assert pool.apply(os.getpid) != os.getpid()
    end_helpers()
"""


def test_servers_of_pools_are_ended_and_can_be_started_again(tmp_path) -> None:
    script = tmp_path / "pools.py"
    script.write_text(CODE)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert before >= 2
    assert after == 0
