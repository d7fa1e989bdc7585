"""Whose turn it is: a bounded number of requests wait, a few are at work, and nobody is worked for after its deadline.

All work is done by threads that are not the event loop's, in the order of arrival, so a health probe never waits for it. As many requests are read
at once as there are cores; one thread has the engine, which has threads of its own, and answers for all who wait for the same model meanwhile: a
batch of four costs an engine less than four times one (`desk.py`).
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
from typing import Any, TypeVar

from components.core.cores import available_cores
from serving.desk import Desk
from serving.tickets import Late, Ticket

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


class Turns:
    """The queue. Everything but the work itself happens on the event loop.

    Args:
        waiting: Requests that may wait beside the one that is answered.

    At `engine` a model is asked.
    """

    def __init__(self, waiting: int) -> None:
        self._most = waiting + 1
        self.inside = 0
        at_once = max(2, available_cores())
        self._reading = threading.BoundedSemaphore(at_once)
        self.engine = Desk()
        self.executor = ThreadPoolExecutor(at_once + TOGETHER, thread_name_prefix="predict")
        self._finished_s, self._apart_s = time.perf_counter(), 0.0
        self.counts: Counter[str] = Counter(busy=0, late=0, gone=0)
        """Requests that were turned away because too many waited, whose deadline passed, or whose client hung up."""

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

    @contextmanager
    def reading(self, ticket: Ticket) -> Iterator[None]:
        """Whoever turns a request into samples: as many at once as there are cores, two at least. Raises Late when nobody waits for it any more."""
        if not self._reading.acquire(timeout=max(0.0, ticket.left_s())):
            raise Late
        try:
            if ticket.gone.is_set() or ticket.left_s() <= 0:
                raise Late
            yield
        finally:
            self._reading.release()

    def alone(self, ticket: Ticket | None, work: Callable[..., T], *given: Any) -> T:
        """`work(*given)`, while nobody else has the engine. Raises Late, as `Desk.ask`; whatever `work` raises."""
        return self.engine.ask(lambda _: [work(*given)], [None], most=1, ticket=ticket)[0]

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
