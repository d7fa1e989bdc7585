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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.core.cores import available_cores
from components.core.step import die_with_parent

log = logging.getLogger("dxflow.serving")
STOP = (signal.SIGTERM, signal.SIGINT)
AGAIN_S = 5.0  # between starts of a member that never listened


@dataclass(frozen=True)
class Member:
    """One of them.

    Args:
        number: From 1.
        folder: Where all of them leave their metrics.
        pipe: To the process that started them.
    """

    number: int
    folder: Path
    pipe: int

    def listening(self) -> None:
        """Said once: from now on it answers."""
        os.write(self.pipe, b"l")
        os.close(self.pipe)


class _Parent:
    """The process that starts the members, and does nothing else. No thread of its own may hold a lock when it forks."""

    def __init__(self, n: int) -> None:
        self.n, self.pid = n, os.getpid()
        self.folder = Path(tempfile.mkdtemp(prefix="dxflow-members-"))
        self.alive: dict[int, int] = {}
        """Process id -> number."""
        self.pipes: dict[int, int] = {}
        """Process id -> where it says that it listens."""
        self.stopping = False

    def run(self) -> Member:
        """Returns in the members; here it ends with SystemExit."""
        for stop in STOP:
            signal.signal(stop, self._stop)
        try:
            if (first := self._start(1)) is not None:
                return first
            (pid,) = self.alive
            if not self._listened(pid) and not self.stopping:  # what stops the first would stop all: it has said why, once
                _, status = os.waitpid(pid, 0)
                self.alive.clear()
                raise SystemExit(os.waitstatus_to_exitcode(status) % 256)
            for number in range(2, self.n + 1):
                if not self.stopping and (member := self._start(number)) is not None:
                    return member
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
        try:
            pid = os.fork()
        except OSError:
            os.close(reading)
            os.close(writing)
            raise
        if pid == 0:
            for other in (reading, *self.pipes.values()):
                os.close(other)
            os.setpgid(0, 0)  # a signal of the terminal comes to the parent alone, which passes it on
            for stop in STOP:
                signal.signal(stop, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
            die_with_parent(self.pid)
            os.environ["OMP_NUM_THREADS"] = str(max(1, available_cores() // self.n))
            return Member(number, self.folder, writing)
        os.close(writing)
        self.alive[pid], self.pipes[pid] = number, reading
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
        if self.stopping:  # the signal came before there was this one to pass it on to
            os.kill(pid, signal.SIGTERM)
        return None

    def _listened(self, pid: int) -> bool:
        """Whether it has ever listened; waits until it does, or ends."""
        reading = self.pipes.pop(pid)
        try:
            return bool(os.read(reading, 1))
        finally:
            os.close(reading)

    def _watch(self) -> Member:
        while self.alive:
            pid, status = os.wait()
            number = self.alive.pop(pid, None)
            if number is None:  # as process 1 of a container it has children that are not its own
                continue
            listened = self._listened(pid) if pid in self.pipes else True
            while not self.stopping and number not in self.alive.values():
                log.error("server process %d of %d ended (%d) and is started again", number, self.n, os.waitstatus_to_exitcode(status))
                if not listened:  # what kept it from that may be over by then
                    time.sleep(AGAIN_S)
                try:
                    if not self.stopping and (member := self._start(number)) is not None:
                        return member
                except OSError as error:
                    log.error("server process %d of %d cannot be started: %s", number, self.n, error.strerror)
                    listened = False
        raise SystemExit(0 if self.stopping else 1)

    def _stop(self, number: int, frame: Any) -> None:
        self.stopping = True
        for pid in self.alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _end(self) -> None:
        for pid in self.alive:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def member_of(n: int) -> Member:
    """Returns in each of `n` new processes. The one that calls waits for them, tells them SIGTERM at its own SIGTERM or SIGINT, and ends with
    SystemExit: 0 after a signal, else as a first member that could not start, or 1."""
    return _Parent(n).run()
