"""Whose turn it is: a bounded number of requests wait, two are at work, and nobody is worked for after its deadline.

All work is done by two threads that are not the event loop's, in the order of arrival, so a health probe never waits for it. One reads a request
while the other has the engine: engines have threads of their own, and two models at once would only take the cores from each other.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
AT_WORK = 2
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


class Turns:
    """The queue. Everything but the work itself happens on the event loop.

    Args:
        waiting: Requests that may wait beside the one that is answered.

    `engine` is held by whoever asks a model.
    """

    def __init__(self, waiting: int) -> None:
        self._most = waiting + 1
        self.inside = 0
        self.engine = threading.Lock()
        self.executor = ThreadPoolExecutor(AT_WORK, thread_name_prefix="predict")
        self._work_s = 0.0
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
            raise Busy(min(MOST_RETRY_S, max(1, math.ceil(self.inside * self._work_s))))
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def alone(self, ticket: Ticket | None, work: Callable[..., T], *given: Any) -> T:
        """`work(*given)`, on the calling thread, while nobody else has the engine.

        Raises:
            Late: Before that the ticket's deadline passed, or its client went.
        """
        if not self.engine.acquire(timeout=-1 if ticket is None else max(0.0, ticket.left_s())):
            raise Late
        try:
            if ticket is not None and (ticket.gone.is_set() or ticket.left_s() <= 0):
                raise Late
            return work(*given)
        finally:
            self.engine.release()

    async def run(self, ticket: Ticket, work: Callable[[], T]) -> T:
        """`work` on a thread, when its turn comes. Raises Late; whatever `work` raises."""

        def timed() -> T:
            if ticket.left_s() <= 0:
                raise Late
            began = time.perf_counter()
            try:
                return work()
            finally:
                self._work_s += 0.1 * (time.perf_counter() - began - self._work_s)

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
