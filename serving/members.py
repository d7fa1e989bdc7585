"""Several processes of one server behind one port: Python in one process keeps one core busy at most, however many there are.

Each member is a whole server, with the models, a queue, a segment of the inference log and a file of the audit log of its own; the kernel shares the
connections out (SO_REUSEPORT). A member that ends unasked is started again. `/metrics` of any of them tells of all (`shared_metrics.py`).
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from components.core.cores import available_cores
from components.core.step import die_with_parent

log = logging.getLogger("dxflow.serving")
STOP = (signal.SIGTERM, signal.SIGINT)
AGAIN_S = 5.0


@dataclass(frozen=True)
class Member:
    """One of them.

    Args:
        number: From 1.
        folder: Where all of them leave their metrics.
        told: A pipe to the process that started them.
    """

    number: int
    folder: Path
    told: int

    def ready(self) -> None:
        """It is about to answer."""
        os.write(self.told, b"r")
        os.close(self.told)


class _Parent:
    """The process that starts the members, and does nothing else. It must have no other thread when it forks."""

    def __init__(self, n: int) -> None:
        self.n, self.pid = n, os.getpid()
        self.folder = Path(tempfile.mkdtemp(prefix="dxflow-members-"))
        self.alive: dict[int, int] = {}
        self.silent: dict[int, int] = {}
        self.answered: set[int] = set()
        self.stopping = False

    def run(self) -> Member:
        """Returns in the members; here it ends with SystemExit."""
        for number in STOP:
            signal.signal(number, self._stop)
        try:
            if (first := self._start(1)) is not None:
                return first
            self._hear()  # what stops the first would stop all, and is told once
            for number in range(2, self.n + 1):
                if not self.stopping and (member := self._start(number)) is not None:
                    return member
            self._hear()
            return self._watch()
        finally:
            if os.getpid() == self.pid:
                self._end()
                shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, number: int) -> Member | None:
        """The member, in its own process; here None."""
        reading, writing = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP)  # until it is clear whose signal it is
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            for other in self.silent.values():
                os.close(other)
            os.setpgid(0, 0)  # a signal of the terminal comes to the parent alone, which passes it on
            for stop in STOP:
                signal.signal(stop, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
            die_with_parent()
            os.environ["OMP_NUM_THREADS"] = str(max(1, available_cores() // self.n))
            return Member(number, self.folder, writing)
        os.close(writing)
        self.alive[pid], self.silent[pid] = number, reading
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
        return None

    def _hear(self) -> None:
        """Wait until those that were started answer, or have ended. A first one that ends takes this process with it."""
        for pid, reading in list(self.silent.items()):
            if os.read(reading, 1):
                self.answered.add(pid)
            os.close(reading)
            del self.silent[pid]
            if not self.answered and not self.stopping:
                self._leave(pid)

    def _leave(self, pid: int) -> NoReturn:
        """As the member `pid` did, which has said why."""
        _, status = os.waitpid(pid, 0)
        self.alive.pop(pid, None)
        raise SystemExit(os.waitstatus_to_exitcode(status) % 256)

    def _watch(self) -> Member:
        while self.alive:
            pid, status = os.wait()
            number = self.alive.pop(pid, None)
            if number is None or self.stopping:
                continue
            log.error("server process %d of %d ended (%d) and is started again", number, self.n, os.waitstatus_to_exitcode(status))
            if pid not in self.answered:  # what kept it from answering may be over by then
                time.sleep(AGAIN_S)
                if self.stopping:
                    continue
            if (member := self._start(number)) is not None:
                return member
            self._hear()
        raise SystemExit(0 if self.stopping else 1)

    def _stop(self, number: int, frame: Any) -> None:
        self.stopping = True
        for pid in self.alive:
            os.kill(pid, signal.SIGTERM)

    def _end(self) -> None:
        for pid in self.alive:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def member_of(n: int) -> Member:
    """Returns in each of `n` new processes. The one that calls waits for them, passes SIGTERM and SIGINT on, and ends with SystemExit: 0 after a
    signal, else as a first member that could not start, or 1."""
    return _Parent(n).run()
