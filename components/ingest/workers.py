"""Tasks over all cores, whatever they do: a task that kills or hangs its process is given up alone, and the others go on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from components.core.step import die_with_parent

HANG_S = 900.0
IN_FLIGHT = 3  # tasks waiting per worker: enough that none is ever idle, few enough that memory stays flat


class Crashed:
    """The result of a task whose process died or hung, also when it ran alone."""


CRASHED = Crashed()
_context: Any = None


def _start(context: Any, owner: int, environment: dict[str, str]) -> None:
    global _context
    os.environ.update(environment)  # the fork server has the one of its own start
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["DXFLOW_RUN_PID"] = str(owner)  # the parent is the fork server; the step, which itself watches the run, is what counts
    die_with_parent()
    _context = context


def _call(function: Callable[[Any, Any], Any], task: Any) -> Any:
    return function(_context, task)


class Workers:
    """A pool of processes that share one picklable `context`, given to every task's function as its first argument.

    Processes are forked from a server that has imported `preload` once; the parent's memory, threads and locks are not in it.
    """

    def __init__(self, count: int, context: Any, *, preload: tuple[str, ...] = (), hang_s: float = HANG_S) -> None:
        self.count, self._context, self._hang_s = count, context, hang_s
        self._mp = get_context("forkserver")
        self._mp.set_forkserver_preload(list(preload))
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def map(self, function: Callable[[Any, Any], Any], tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """(task, result) in the order of completion; `CRASHED` is the result of a task that took its process with it."""
        waiting = iter(tasks)
        flying: dict[Future[Any], Any] = {}
        exhausted = False
        while True:
            while not exhausted and len(flying) < self.count * IN_FLIGHT:
                try:
                    task = next(waiting)
                except StopIteration:
                    exhausted = True
                    break
                flying[self._submit(function, task)] = task
            if not flying:
                return
            ended, _ = wait(flying, timeout=self._hang_s, return_when=FIRST_COMPLETED)
            suspects: list[Any] = [] if ended else list(flying.values())
            for future in ended:
                task = flying.pop(future)
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    suspects.append(task)
                elif error is not None:
                    raise error
                else:
                    yield task, future.result()
            if suspects:  # one of those in flight did it; each is tried alone
                suspects += [task for task in flying.values() if task not in suspects]
                flying.clear()
                self._stop()
                for task in suspects:
                    yield task, self._alone(function, task)

    def _alone(self, function: Callable[[Any, Any], Any], task: Any) -> Any:
        pool = self._new(1)
        future = pool.submit(_call, function, task)
        wait([future], timeout=self._hang_s)
        if not future.done():
            _kill(pool)
            return CRASHED
        error = future.exception()
        _kill(pool)
        if isinstance(error, BrokenProcessPool):
            return CRASHED
        if error is not None:
            raise error
        return future.result()

    def _submit(self, function: Callable[[Any, Any], Any], task: Any) -> Future[Any]:
        if self._pool is None:
            self._pool = self._new(self.count)
        try:
            return self._pool.submit(_call, function, task)
        except BrokenProcessPool as error:  # it broke between two submissions: the caller meets it as the task's result
            broken: Future[Any] = Future()
            broken.set_exception(error)
            return broken

    def _new(self, count: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(count, mp_context=self._mp, initializer=_start, initargs=(self._context, os.getpid(), dict(os.environ)))

    def _stop(self) -> None:
        if self._pool is not None:
            _kill(self._pool)
            self._pool = None


def _kill(pool: ProcessPoolExecutor) -> None:
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
    for process in processes:
        process.join(5)
