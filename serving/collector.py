"""The collector: takes the events of KServe's inference logger, and acknowledges an event when it is on the disk and not before.

    POST /           one event (binary or structured) or a batch         -> {"taken", "duplicates", "refused", "error"}
        200 all taken, or known already      400 some are wrong, the others are taken        503 nothing was taken: send it again
        413 the body is too large            415 no CloudEvents
    GET /metrics     dxflow_collector_events_total{result}, _waiting_bytes, _waiting_limit_bytes           GET /healthz

Requests that wait while the disk works are written by its next write, all at once (`group_commit.py`). An event that comes again, by its source, id
and type, counts once: at once where it is remembered here, and in any case when the log is read (`components/core/inference_log/events.py`).
No authentication: beyond loopback there must be a network policy that lets only KServe's pods in.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from components.core.errors import DataError, ServiceError
from components.core.inference_log import InferenceLog
from components.core.package import ModelPackage
from components.core.pseudonym import load_pseudonymiser
from serving import cloud_events
from serving.cloud_events import BATCH, STRUCTURED, Event
from serving.collected import Collected
from serving.errors import MAX_BODY_BYTES, Receive, Scope, Send, report
from serving.group_commit import GroupCommit
from serving.journal import now
from serving.server import GRACE_S, bind, compacting, own_signals, quiet

MAX_EVENTS = 10_000
MAX_HELD_BYTES = 256 << 20
"""Bodies in memory at once; who comes beyond that is told to come again."""
MAX_CONNECTIONS = 1024
REMEMBERED = 100_000
RESULTS = ("taken", "duplicate", "refused", "unwritten")


class Refused(Exception):
    """An answer other than 200 to the whole message."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Collector:
    """The ASGI application.

    Args:
        limit: Largest body in bytes.
        held: Largest sum of bodies in memory.
    """

    def __init__(self, collected: Collected, commit: GroupCommit, *, limit: int = MAX_BODY_BYTES, held: int = MAX_HELD_BYTES) -> None:
        self._collected, self._commit, self._limit, self._most = collected, commit, limit, held
        self._held = 0
        self._recent: OrderedDict[tuple[str, str], None] = OrderedDict()
        self.counts: Counter[str] = Counter(dict.fromkeys(RESULTS, 0))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path, method = scope["path"], scope["method"]
        if (method, path) == ("GET", "/healthz"):
            await _answer(send, 200, b"ok\n", "text/plain")
        elif (method, path) == ("GET", "/metrics"):
            await _answer(send, 200, exposition(self.counts, self._held, self._most), "text/plain; version=0.0.4; charset=utf-8")
        elif (method, path) == ("POST", "/"):
            status, told = await self._take(scope, receive)
            await _answer(send, status, orjson.dumps(told), "application/json", close=status in (413, 503))
        else:
            await _answer(send, 404, b'{"error":"not offered by this server"}', "application/json")

    async def _take(self, scope: Scope, receive: Receive) -> tuple[int, dict[str, Any]]:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        held = 0
        try:
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            binary = kind not in (STRUCTURED, BATCH)
            if binary and not cloud_events.is_binary(headers):
                raise Refused(415, f"header Content-Type: no CloudEvents; allowed: {STRUCTURED}, {BATCH}, or headers ce-*")
            chunks, size = [], 0
            keep = not (binary and cloud_events.is_request(headers))  # of a request only the size is wanted
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(400, "body: ended early")
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > self._limit:
                    raise Refused(413, f"body: larger than allowed; allowed: {self._limit} bytes")
                if keep and chunk:
                    if self._held + len(chunk) > self._most:
                        raise Refused(503, "too much at once, send it again")
                    self._held += len(chunk)
                    held += len(chunk)
                    chunks.append(chunk)
                if not message.get("more_body", False):
                    break
            return await self._keep(*self._events(kind, binary, headers, b"".join(chunks), size))
        except Refused as refused:
            self.counts["refused" if refused.status != 503 else "unwritten"] += 1
            return refused.status, {"taken": 0, "error": refused.text}
        except Exception as error:
            report(error, "of the collector")
            return 500, {"taken": 0, "error": "a defect of the collector"}
        finally:
            self._held -= held

    def _events(self, kind: str, binary: bool, headers: Mapping[str, str], body: bytes, size: int) -> tuple[list[tuple[str, Event]], list[str]]:
        """The events of a message, each with what to say before an attribute's name, and what is wrong with the others."""
        good: list[tuple[str, Event]] = []
        errors: list[str] = []
        try:
            if binary:
                return [("header ce-", cloud_events.from_binary(headers, size, body))], []
            document = cloud_events.parsed(body)
            if kind == STRUCTURED:
                return [("", cloud_events.from_structured(document))], []
        except DataError as error:
            return [], [str(error)]
        if not isinstance(document, list):
            return [], ["body: not a batch; allowed: a JSON list of CloudEvents"]
        if len(document) > MAX_EVENTS:
            raise Refused(413, f"body: too many events; got {len(document)}; allowed: {MAX_EVENTS}")
        for n, item in enumerate(document):
            try:
                good.append((f"events[{n}].", cloud_events.from_structured(item, f"events[{n}].")))
            except DataError as error:
                errors.append(str(error))
        return good, errors

    async def _keep(self, events: list[tuple[str, Event]], errors: list[str]) -> tuple[int, dict[str, Any]]:
        records: list[dict[str, Any]] = []
        new: dict[tuple[str, str], None] = {}
        duplicates, at = 0, now()
        for where, event in events:
            key = self._collected.key(event)
            if (key, event.kind) in self._recent or (key, event.kind) in new:
                duplicates += 1
                continue
            try:
                records += self._collected.records(event, key, at, where)
                new[key, event.kind] = None
            except DataError as error:
                errors.append(str(error))
        if records:
            try:
                await self._commit.write(records)
            except ServiceError:
                self.counts["unwritten"] += len(new)
                return 503, {"taken": 0, "error": "the log cannot be written, send it again"}
            self._recent.update(new)
            while len(self._recent) > REMEMBERED:
                self._recent.popitem(last=False)
        self.counts.update(taken=len(new), duplicate=duplicates, refused=len(errors))
        told: dict[str, Any] = {"taken": len(new), "duplicates": duplicates, "refused": len(errors)}
        return (400, told | {"error": errors[0]}) if errors else (200, told)


def exposition(counts: Mapping[str, int], held: int, most: int) -> bytes:
    """The counts, and the bytes of bodies in memory and the most of them, as Prometheus reads them."""
    from prometheus_client import generate_latest
    from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily

    class Figures:
        def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
            events = CounterMetricFamily(
                "dxflow_collector_events", "Events by what became of them; unwritten ones were not acknowledged.", labels=["result"]
            )
            for result in RESULTS:
                events.add_metric([result], counts[result])
            yield events
            yield GaugeMetricFamily("dxflow_collector_waiting_bytes", "Bodies in memory that are not on the disk yet.", value=held)
            yield GaugeMetricFamily("dxflow_collector_waiting_limit_bytes", "Beyond it senders are told to come again.", value=most)

    registry = CollectorRegistry()
    registry.register(Figures())  # pyright: ignore[reportArgumentType]
    return generate_latest(registry)


async def _answer(send: Send, status: int, body: bytes, kind: str, *, close: bool = False) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers + [(b"connection", b"close")] * close})
    await send({"type": "http.response.body", "body": body})


def collect(packages: list[Path], *, host: str = "127.0.0.1", port: int, allow_synthetic: bool, log: Path) -> None:
    """Collect until SIGTERM or SIGINT; what was received is written first.

    Args:
        packages: Model package folders: the services whose events are taken, by disease or package name.
        host: An address of this machine.
        log: Folder of the inference log; servers may write to it too.

    Raises:
        DataError, GateError: A package does not load. ServiceError: The port is taken, or the log's folder cannot be written.
    """
    import uvicorn

    listener = bind(host, port)
    try:
        pseudonymiser, made = load_pseudonymiser()
        if made:
            print("dxflow: made a new pseudonym key: the halves of a request do not find each other under two keys", file=sys.stderr)
        collected = Collected([ModelPackage.open(p, allow_synthetic=allow_synthetic) for p in packages], pseudonymiser)
        quiet()
        with InferenceLog(log) as records, ThreadPoolExecutor(1, thread_name_prefix="write") as executor:
            app: Any = Collector(collected, GroupCommit(records.write, executor))
            config = uvicorn.Config(
                app, host=host, port=port, lifespan="off", log_config=None, access_log=False, server_header=False,
                limit_concurrency=MAX_CONNECTIONS, timeout_graceful_shutdown=GRACE_S,
            )  # fmt: skip
            print(f"collecting at http://{host}:{port}", flush=True)
            server = uvicorn.Server(config)
            with own_signals(server), compacting(log):
                server.run(sockets=[listener])
    finally:
        listener.close()
