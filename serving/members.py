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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from components.core.cores import available_cores
from components.core.step import die_with_parent

log = logging.getLogger("dxflow.serving")
STOP = (signal.SIGTERM, signal.SIGINT)


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
        self.stopping = False
        self.answers: set[int] = set()

    def run(self) -> Member:
        """Returns in the members; here it ends with SystemExit."""
        for number in STOP:
            signal.signal(number, self._stop)
        try:
            for number in range(1, self.n + 1):  # one after the other: what stops the first is told once
                if self.stopping:
                    break
                if (member := self._start(number)) is not None:
                    return member
            return self._watch()
        finally:
            if os.getpid() == self.pid:
                self._end()
                shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, number: int) -> Member | None:
        """The member, in its own process; here None, once it answers. A first one that ends before takes this process with it."""
        reading, writing = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP)  # until it is clear whose signal it is
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            os.setpgid(0, 0)  # a signal of the terminal comes to the parent alone, which passes it on
            for stop in STOP:
                signal.signal(stop, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
            die_with_parent()
            os.environ["OMP_NUM_THREADS"] = str(max(1, available_cores() // self.n))
            return Member(number, self.folder, writing)
        os.close(writing)
        self.alive[pid] = number
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
        with os.fdopen(reading, "rb") as pipe:
            if pipe.read(1):
                self.answers.add(pid)
            elif not self.stopping and not self.answers:
                self._leave(pid)
        return None

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
            if pid not in self.answers:  # it never answered: starting it once more would help no better
                log.error("server process %d of %d does not start; the others go on", number, self.n)
                continue
            log.error("server process %d of %d ended (%d) and is started again", number, self.n, os.waitstatus_to_exitcode(status))
            if (member := self._start(number)) is not None:
                return member
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
