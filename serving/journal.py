"""What became of each request to a model, in the inference log before the answer leaves: answered, abstained, refused or failed.

The model writes what it answered. What never got that far (a body that is no JSON, a tensor of another shape, a defect) the guard settles, one
record for the request, when it sees the answer's status. A disk that takes no record stops no answer: the log counts it.
"""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from components.core.inference_log import InferenceLog
from serving.desk import Desk
from serving.predictor import Predictor

NOT_OFFERED = 501
MOST_SYNCED = 10_000
OTHER = "other"
NO_TURN = (429, 499, 504)
"""Neither the request was wrong nor the server: too many waited, the client hung up, or the deadline passed."""
PREDICT = re.compile(r"/v1/models/([^/:]+):(?:predict|explain)|/v2/models/([^/]+)(?:/versions/[^/]+)?/infer")


def asked(path: str) -> str | None:
    """The model that a request's path asks for a prediction or an explanation; None for any other path."""
    match = PREDICT.fullmatch(path)
    return next(filter(None, match.groups())) if match else None


class Journal:
    """The inference log as the server's parts use it. Safe to share between threads.

    Args:
        log: Where records go.
        predictors: Of the models served. Only their names get into records: a client may put anything into a path.
    """

    def __init__(self, log: InferenceLog, predictors: Iterable[Predictor] = ()) -> None:
        self.log = log
        self._models: dict[str, dict[str, str]] = {}
        self._devices: dict[str, frozenset[str]] = {}
        for predictor in predictors:
            self.serves(predictor)
        self._settled: set[str] = set()
        self._disk, self._lock = Desk(), threading.Lock()
        self.counts: Counter[tuple[str, str]] = Counter()
        """Records by (model, status), written or lost."""
        self.others: list[Callable[[], Iterator[Any]]] = []
        """Figures of parts that are made after it."""
        self.by_device: Counter[tuple[str, str, str]] = Counter()
        """Answers and abstentions by (model, device, status). Devices beyond the reference are one, "other": a client may name any number of them."""

    def serves(self, predictor: Predictor) -> None:
        """From now on its package answers for its disease."""
        package = predictor.package
        self._devices[package.name] = predictor.known_devices
        self._models[package.disease] = {"model": package.name, "version": package.version, "digest": package.digest}

    def write(self, request_id: str, records: Sequence[Mapping[str, Any]], gone: threading.Event | None = None) -> bool:
        """The records of one request, with their `status`, in one sync with what other threads write meanwhile; the request is settled by them.

        Args:
            gone: Set when its client no longer waits: then nothing is written, since that has been written down.

        Returns:
            Whether it wrote, when they are on the disk, or counted because no disk takes them.
        """
        with self._lock:
            if gone is not None and gone.is_set():
                return False
            self._settled.add(request_id)
        self._record(request_id, records)
        return True

    def _record(self, request_id: str, records: Sequence[Mapping[str, Any]]) -> None:
        try:
            self._disk.ask(self._append, records, most=MOST_SYNCED)
        except ValueError:  # a number that is not finite: what becomes of the request is not written down yet
            self._settled.discard(request_id)
            raise
        with self._lock:
            self.counts.update((r["model"], r["status"]) for r in records)
            for r in records:
                if (key := r.get("device_key")) is not None:
                    self.by_device[r["model"], key if key in self._devices.get(r["model"], ()) else OTHER, r["status"]] += 1

    def _append(self, records: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        self.log.append(records)
        return records

    async def settle(self, request_id: str, disease: str | None, status: int, reason: str, started: float) -> None:
        """Write down a request that gets an error, unless its model has done so.

        Args:
            disease: The model that was asked, as the client wrote it; None where the request asked none.
            status: As in HTTP, on every protocol.
            reason: What the client is told, which never quotes the request.
            started: `time.perf_counter()` when the request came.
        """
        model = self._models.get(disease or "")
        if model is None or status < 400:
            return
        with self._lock:
            if request_id in self._settled:
                return
            self._settled.add(request_id)
        refused = status < 500 or status == NOT_OFFERED
        record = model | {
            "time": now(), "request_id": request_id, "reasons": [reason or f"HTTP {status}"], "abstain": False, "latency_ms": milliseconds(started),
            "status": "unanswered" if status in NO_TURN else "refused" if refused else "error",
        }  # fmt: skip
        await asyncio.shield(asyncio.to_thread(self._record, request_id, [record]))  # it is written whoever waits

    def figures(self) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str, str]]]:
        """Copies of `counts` and `by_device` as they are together."""
        with self._lock:
            return self.counts.copy(), self.by_device.copy()

    def forget(self, request_id: str) -> None:
        """The request is over."""
        self._settled.discard(request_id)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def milliseconds(started: float) -> float:
    """Since `started`, a `time.perf_counter()`."""
    return round((time.perf_counter() - started) * 1000, 3)


def finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Figures as JSON takes them: what is not finite is null."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


@contextmanager
def exposed(journal: Journal, *others: Callable[[], Iterator[Any]]) -> Iterator[None]:
    """Within the block, Prometheus sees `dxflow_inference_log_lost_total`, `dxflow_requests_total{model, status}`,
    `dxflow_samples_total{model, device, status}` and what the others give."""
    from prometheus_client.core import REGISTRY, CounterMetricFamily

    class Figures:
        def collect(self) -> Iterator[Any]:
            lost = CounterMetricFamily("dxflow_inference_log_lost", "Records that the inference log could not take since the start.")
            lost.add_metric([], journal.log.lost.n)
            yield lost
            requests = CounterMetricFamily(
                "dxflow_requests", "Samples by what became of them; a refused request counts once.", labels=["model", "status"]
            )
            counts, by_device = journal.figures()
            for key, n in sorted(counts.items()):
                requests.add_metric(list(key), n)
            yield requests
            samples = CounterMetricFamily("dxflow_samples", "Samples by device and what became of them.", labels=["model", "device", "status"])
            for key, n in sorted(by_device.items()):
                samples.add_metric(list(key), n)
            yield samples
            for other in (*others, *journal.others):
                yield from other()

    figures = Figures()
    REGISTRY.register(figures)  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        REGISTRY.unregister(figures)  # pyright: ignore[reportArgumentType]
