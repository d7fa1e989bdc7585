"""Traces for OpenTelemetry and logs as JSON lines, without anything of a patient: names of models, stages, states, and the server's request ids.

    OTEL_EXPORTER_OTLP_ENDPOINT    where traces go (OTLP over HTTP); unset: no tracing, and nothing of OpenTelemetry is imported
    DXFLOW_LOG=json                one JSON object a line on stderr

A request's span carries its stages (decode, infer, encode, log), so a slow answer says where it was slow. Of what a client sends only
`traceparent` is taken: `tracestate` and baggage are free text.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from serving.access.roles import OPEN, model_in, needed

ENDPOINT, LOG = "OTEL_EXPORTER_OTLP_ENDPOINT", "DXFLOW_LOG"
_tracer: Any = None


def wanted() -> bool:
    return bool(os.environ.get(ENDPOINT) or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))


@contextmanager
def tracing(exporter: Any = None) -> Iterator[None]:
    """Within the block, requests are traced where an endpoint is named; spans are sent in batches by a thread of their own.

    Args:
        exporter: In place of OTLP's.
    """
    global _tracer
    if exporter is None and not wanted():
        yield
        return
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    if exporter is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter()
    provider = TracerProvider(resource=Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "dxflow-serving")}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = provider.get_tracer("dxflow.serving")
    try:
        yield
    finally:
        _tracer = None
        provider.shutdown()


class Traced:
    """ASGI layer: a span for each request but the probes'. Args: models: Names that may stand in a span."""

    def __init__(self, app: Any, models: Callable[[], set[str]]) -> None:
        self._app, self._models = app, models

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if _tracer is None or scope["type"] != "http" or needed(str(scope["path"]))[0] == OPEN:
            await self._app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        _, action = needed(str(scope["path"]))
        parent = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"}
        context = TraceContextTextMapPropagator().extract(parent)
        name = model_in(str(scope["path"]))
        with _tracer.start_as_current_span(
            action, context=context, kind=SpanKind.SERVER, record_exception=False, set_status_on_exception=False
        ) as span:
            if name in self._models():
                span.set_attribute("dxflow.model", name)

            async def told(message: Any) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", int(message["status"]))
                    own = dict(message.get("headers", [])).get(b"x-request-id")
                    if own:
                        span.set_attribute("dxflow.request_id", own.decode("latin-1"))
                    if message["status"] >= 500:
                        span.set_status(Status(StatusCode.ERROR))
                await send(message)

            await self._app(scope, receive, told)


def here() -> Any:
    """The context of the request that is at work, to be handed to another thread; None where nothing is traced."""
    if _tracer is None:
        return None
    from opentelemetry import context

    return context.get_current()


@contextmanager
def stage(name: str, context: Any) -> Iterator[None]:
    """A span below `context`. Free where nothing is traced."""
    if context is None or _tracer is None:
        yield
        return
    with _tracer.start_as_current_span(name, context=context, record_exception=False):
        yield


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, message. Never an exception's text: it may hold a value."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return json.dumps({"time": at, "level": record.levelname, "logger": record.name, "message": record.getMessage()})


def log_format() -> logging.Formatter:
    return JsonLines() if os.environ.get(LOG) == "json" else logging.Formatter("%(levelname)s %(name)s: %(message)s")
