"""A file that takes its decoder down, or never lets it end, costs that file and nothing else."""

from __future__ import annotations

import os
import signal
import time

import pytest

from components.ingest.workers import CRASHED, Workers


def square(context: int, task: int) -> int:
    if task == 13:
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == 17:
        time.sleep(3600)
    return task * task + context


def test_a_crash_and_a_hang_cost_one_task_each():
    with Workers(2, 1000, hang_s=2.0) as pool:
        found = dict(pool.map(square, range(20)))
    assert found[13] is CRASHED
    assert found[17] is CRASHED
    assert {task: result for task, result in found.items() if result is not CRASHED} == {n: n * n + 1000 for n in range(20) if n not in (13, 17)}


def fail(context: None, task: int) -> int:
    raise ZeroDivisionError


def test_a_defect_is_not_hidden():
    with Workers(1, None) as pool, pytest.raises(ZeroDivisionError):
        list(pool.map(fail, range(3)))
