"""Freed memory of the last request is there for the next one."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import resource, threading
import numpy as np
from serving import memory
if {keep}:
    memory.keep()
def work():
    for n in range(40):
        if n == 20:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        made = [np.full(1 << 20, 1.0, np.float32) for _ in range(3)]  # 4 MB each
        del made
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def faults(keep: bool) -> int:
    """Page faults of twenty rounds on a thread that is not the first one."""
    return int(subprocess.run([sys.executable, "-c", CODE.format(keep=keep)], check=True, capture_output=True, text=True).stdout)


def test_a_thread_that_does_the_same_again_takes_no_new_memory():
    assert faults(keep=True) < 100
    assert faults(keep=False) > 1000
