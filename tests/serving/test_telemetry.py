"""Traces say where a request spent its time and hold nothing of what a client sent; logs are JSON where asked."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from serving import telemetry


class Kept(SpanExporter):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += spans
        return SpanExportResult.SUCCESS


async def application(scope: Any, receive: Any, send: Any) -> None:
    request = telemetry.here()

    def work() -> None:
        with telemetry.stage("infer", request):
            pass

    if ":predict" in scope["path"]:
        await asyncio.to_thread(work)
    await send(
        {"type": "http.response.start", "status": 503 if b"fail" in scope["query_string"] else 200, "headers": [(b"x-request-id", b"ab" * 16)]}
    )
    await send({"type": "http.response.body", "body": b""})


def ask(path: str, **headers: str) -> None:
    async def work() -> None:
        app = telemetry.Traced(application, lambda: {"lung-nodule"})
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            await client.post(path, headers=headers)

    asyncio.run(work())


def test_a_request_is_a_span_with_its_stages_and_nothing_of_the_client() -> None:
    kept = Kept()
    with telemetry.tracing(kept):
        own = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
        ask("/v1/models/lung-nodule:predict?who=Miller", traceparent=own, tracestate="who=Miller", baggage="who=Miller")
        ask("/v1/models/Miller:predict?fail")
        ask("/v2/health/ready")
    by_name = [(s.name, dict(s.attributes or {})) for s in kept.spans]
    assert by_name == [
        ("infer", {}),
        ("predict", {"dxflow.model": "lung-nodule", "http.response.status_code": 200, "dxflow.request_id": "ab" * 16}),
        ("infer", {}),
        ("predict", {"http.response.status_code": 503, "dxflow.request_id": "ab" * 16}),
    ]
    inner, outer = kept.spans[:2]
    assert inner.parent is not None
    assert outer.context is not None
    assert (inner.parent.span_id, f"{outer.context.trace_id:032x}") == (outer.context.span_id, "1" * 32)
    assert not kept.spans[3].status.is_ok
    assert "Miller" not in "".join(s.to_json() for s in kept.spans)


def test_without_an_endpoint_nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(telemetry.ENDPOINT, raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    with telemetry.tracing():
        assert telemetry.here() is None
        ask("/v1/models/lung-nodule:predict")


def test_a_log_line_is_one_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(telemetry.LOG, "json")
    record = logging.LogRecord("dxflow.serving", logging.ERROR, "", 0, "defect %s", ("KeyError",), None)
    found = json.loads(telemetry.log_format().format(record))
    assert {k: v for k, v in found.items() if k != "time"} == {"level": "ERROR", "logger": "dxflow.serving", "message": "defect KeyError"}
