"""Whose turn it is: a bounded number of requests wait, a few are at work, and nobody is worked for after its deadline.

All work is done by threads that are not the event loop's, in the order of arrival, so a health probe never waits for it. As many requests are read
at once as there are cores; one thread has the engine, which has threads of its own, and answers for all who wait for the same model meanwhile: a
batch of four costs an engine less than four times one.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from components.core.cores import available_cores

T = TypeVar("T")
TOGETHER = 32
"""Requests that may be read and wait for the engine; a model takes as many of them at once as its engine gains from."""
DEADLINE = "X-Dxflow-Deadline-Ms"
MOST_RETRY_S = 60


class Busy(Exception):
    """As many requests wait as may.

    Args:
        retry_s: When it is worth trying again.
    """

    def __init__(self, retry_s: int) -> None:
        self.retry_s = retry_s
        super().__init__("too many requests wait")


class Late(Exception):
    """The deadline passed before the work began."""


@dataclass(frozen=True)
class Ticket:
    """One request on its way through the server.

    Args:
        request_id: Made by the server.
        within_s: Its deadline, in seconds after it came.
        started: `time.perf_counter()` when it came.
        gone: Set when its client no longer waits for an answer.
    """

    request_id: str
    within_s: float
    started: float = field(default_factory=time.perf_counter)
    gone: threading.Event = field(default_factory=threading.Event)

    def left_s(self) -> float:
        """Until the deadline; not above 0 when it has passed."""
        return self.started + self.within_s - time.perf_counter()


@dataclass(eq=False)
class _Asked:
    """Args: work: Items -> as many results. given: The items. most: Items of one call of `work`. found: The results, once they are there."""

    ticket: Ticket | None
    work: Callable[[list[Any]], Sequence[Any]]
    given: Sequence[Any]
    most: int
    found: Sequence[Any] | None = None
    error: Exception | None = None

    @property
    def over(self) -> bool:
        return self.found is not None or self.error is not None

    def answer(self) -> None:
        try:
            self.found = self.work(list(self.given))
        except Exception as error:
            self.error = error


class Desk:
    """Who has the engine. Whoever gets it works for all who wait for the same, in the order of arrival."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy = False
        self._waiting: list[_Asked] = []

    def ask(self, own: _Asked) -> Sequence[Any]:
        """The results, worked out by this thread or another.

        Raises:
            Late: Before its turn the ticket's deadline passed, or its client went.
        """
        with self._changed:
            self._waiting.append(own)
            while not own.over:
                if not self._busy:
                    self._lead()
                elif own.ticket is None or own not in self._waiting:
                    self._changed.wait()
                elif not self._changed.wait(max(0.0, own.ticket.left_s())) and own in self._waiting:
                    self._waiting.remove(own)
                    raise Late
        if own.error is not None:
            raise own.error
        assert own.found is not None
        return own.found

    def _lead(self) -> None:
        """Work for the first of those who wait and all that go with it; called, and left, with the lock held."""
        group = self._first()
        self._busy = True
        self._changed.release()
        try:
            _answer(group)
        finally:
            self._changed.acquire()
            self._busy = False
            self._changed.notify_all()

    def _first(self) -> list[_Asked]:
        group: list[_Asked] = []
        items = 0
        for one in tuple(self._waiting):
            if one.ticket is not None and (one.ticket.gone.is_set() or one.ticket.left_s() <= 0):
                one.error = Late()
            elif group and (one.work != group[0].work or items + len(one.given) > group[0].most):
                continue
            else:
                group.append(one)
                items += len(one.given)
            self._waiting.remove(one)
        return group


def _answer(group: list[_Asked]) -> None:
    """All at once; where that fails, each alone, so that one does not spoil the others."""
    if len(group) > 1:
        whole = _Asked(None, group[0].work, [item for one in group for item in one.given], 0)
        whole.answer()
        if whole.found is not None:
            at = 0
            for one in group:
                one.found = whole.found[at : at + len(one.given)]
                at += len(one.given)
            return
    for one in group:
        one.answer()


class Turns:
    """The queue. Everything but the work itself happens on the event loop.

    Args:
        waiting: Requests that may wait beside the one that is answered.

    `reading` is held by whoever turns a request into samples: as many at once as there are cores, two at least.
    """

    def __init__(self, waiting: int) -> None:
        self._most = waiting + 1
        self.inside = 0
        at_once = max(2, available_cores())
        self.reading = threading.BoundedSemaphore(at_once)
        self._desk = Desk()
        self.executor = ThreadPoolExecutor(at_once + TOGETHER, thread_name_prefix="predict")
        self._finished_s, self._apart_s = time.perf_counter(), 0.0
        self.counts: Counter[str] = Counter(busy=0, late=0)
        """Requests that were turned away because too many waited, or whose deadline passed."""

    def __enter__(self) -> Turns:
        return self

    def __exit__(self, *_: object) -> None:
        self.executor.shutdown(cancel_futures=True)

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue, from the first byte of a request to its answer: who only sends slowly holds one too. Raises Busy."""
        if self.inside >= self._most:
            self.counts["busy"] += 1
            raise Busy(min(MOST_RETRY_S, max(1, math.ceil(self.inside * self._apart_s))))
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def alone(self, ticket: Ticket | None, work: Callable[..., T], *given: Any) -> T:
        """`work(*given)`, while nobody else has the engine. Raises Late, as `together`; whatever `work` raises."""
        return self._desk.ask(_Asked(ticket, lambda _: [work(*given)], [None], 1))[0]

    def together(self, ticket: Ticket | None, work: Callable[[list[Any]], Sequence[T]], given: Sequence[Any], most: int) -> Sequence[T]:
        """`work(given)` in one call with what others want of the same `work` meanwhile.

        Args:
            work: Items -> as many results, in order; each independent of the others.
            most: Items of one call, unless a single request has more.

        Raises:
            Late: Before its turn the ticket's deadline passed, or its client went.
        """
        return self._desk.ask(_Asked(ticket, work, given, most))

    async def run(self, ticket: Ticket, work: Callable[[], T]) -> T:
        """`work` on a thread, when its turn comes. Raises Late; whatever `work` raises."""

        def timed() -> T:
            if ticket.left_s() <= 0:
                raise Late
            began = time.perf_counter()
            try:
                return work()
            finally:
                finished = time.perf_counter()
                apart_s = finished - max(began, self._finished_s)  # several are at work at once: what counts is how soon one follows another
                self._finished_s = finished
                self._apart_s += 0.1 * (apart_s - self._apart_s)

        job: Future[T] = self.executor.submit(timed)
        told = asyncio.wrap_future(job)
        try:
            try:
                async with asyncio.timeout(max(0.0, ticket.left_s())):
                    return await asyncio.shield(told)
            except TimeoutError:
                if job.cancel():
                    raise Late from None
                return await told  # it is at work: the answer is worth the wait
        except Late:
            self.counts["late"] += 1
            raise
        except asyncio.CancelledError:  # the client is gone
            ticket.gone.set()
            if not job.cancel():  # what becomes of it then is nobody's matter
                told.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    def figures(self) -> Iterator[Any]:
        """For Prometheus: `dxflow_requests_inside`, `dxflow_requests_turned_away_total{reason}`."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        yield GaugeMetricFamily("dxflow_requests_inside", "Requests that wait or are at work.", value=self.inside)
        away = CounterMetricFamily("dxflow_requests_turned_away", "Requests that were not computed.", labels=["reason"])
        for reason, n in sorted(self.counts.items()):
            away.add_metric([reason], n)
        yield away
