"""What a client is told when something is wrong: one line that names the field, and never a value out of a request.

    400  the request: InvalidInput        413  the request is too large        415  a content type that the model does not take
    501  not offered
    503  a service is absent              500  a defect: an id, and nothing else

KServe's own handlers log and return exception messages, FastAPI's 422 returns the body: both may hold patient data, so all are replaced here.
"""

from __future__ import annotations

import json
import logging
import os
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from components.core.errors import ServiceError
from serving.openapi import PAGE

if TYPE_CHECKING:
    from serving.journal import Journal

log = logging.getLogger("dxflow.serving")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 64 << 20
CLOSED = ("/v2/repository", "/openai", "/docs", "/redoc", "/openapi.json")
"""Paths that KServe opens without asking who calls: loading and unloading models, and pages that tell about the server."""

TOLD = "dxflow.told"
"""Key of the request's scope under which the handlers leave for the guard what the client is told."""

FIELDS = {"id", "inputs", "name", "shape", "datatype", "data", "parameters", "outputs"}


class TooLarge(Exception):
    """The body passed the limit while it was read."""


class Guard:
    """The outermost layer of the server: limits, closed paths, an id for each request, and no exception that gets out.

    Args:
        app: The ASGI application of KServe.
        limit: Largest body in bytes.
        journal: Where requests are written down that get an error.
        page: What GET /openapi.json answers; None: nothing.
    """

    def __init__(self, app: App, *, limit: int = MAX_BODY_BYTES, journal: Journal | None = None, page: bytes | None = None) -> None:
        self._app, self._limit, self._journal, self._page = app, limit, journal, page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex  # never the client's own: people put patient ids there
        headers = [(name, value) for name, value in scope["headers"] if name != b"x-request-id"]
        scope["headers"] = [*headers, (b"x-request-id", request_id.encode())]
        path = str(scope["path"])
        began = time.perf_counter()
        told: dict[str, str] = {}
        scope[TOLD] = told

        async def settle(status: int, text: str) -> None:
            if self._journal is not None:
                await self._journal.settle(request_id, path, status, text, began)

        if self._page is not None and path == PAGE and scope["method"] == "GET":
            await _answer(send, 200, self._page, request_id)
            return
        if path.startswith(CLOSED):
            await _answer(send, 404, "not offered by this server", request_id)
            return
        if path.endswith(":explain"):  # KServe returns the request's headers, cookies too, with an explanation
            await _answer(send, 501, "no explanations", request_id)
            return
        large = f"body: larger than allowed; allowed: {self._limit} bytes"
        if _length(headers) > self._limit:
            await settle(413, large)
            await _answer(send, 413, large, request_id)
            return
        started = over = False
        read = 0

        async def counted() -> Message:
            nonlocal read, over
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
                over = True
                raise TooLarge
            return message

        async def named(message: Message) -> None:
            nonlocal started
            if over:  # whatever the application makes of `TooLarge`, the answer is ours
                return
            if message["type"] == "http.response.start":
                started = True
                await settle(message["status"], told.get("text", ""))
                message["headers"] = [
                    *(h for h in message.get("headers", []) if h[0].lower() != b"x-request-id"),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        try:
            await self._app(scope, counted, named)
        except Exception as error:
            if not over:
                report(error, request_id)
                if not started:
                    await settle(500, "a defect of the server")
                    await _answer(send, 500, "a defect of the server", request_id)
        finally:
            if over and not started:
                await settle(413, large)
            if self._journal is not None:
                self._journal.forget(request_id)
        if over and not started:
            await _answer(send, 413, large, request_id)


def report(error: BaseException, request_id: str) -> None:
    """One line of log for a defect: kind and place. The message stays out, since it may hold a value."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "?"
    log.error("defect %s at %s, request %s", type(error).__name__, place, request_id)


def install(app: Any) -> None:
    """Replace the exception handlers that KServe and FastAPI have put into `app`."""
    from fastapi.exceptions import RequestValidationError
    from kserve.errors import InferenceError, InvalidInput, ModelNotFound, ModelNotReady
    from starlette.responses import JSONResponse

    def reply(status: int, text: str, request: Any) -> JSONResponse:
        request.scope.get(TOLD, {})["text"] = text
        return JSONResponse({"error": text, "request_id": request.headers.get("x-request-id")}, status_code=status)

    async def invalid(request: Any, error: Any) -> JSONResponse:
        return reply(getattr(error, "status", 400), str(error), request)

    async def malformed(request: Any, error: Any) -> JSONResponse:
        """FastAPI's finding without the input that it quotes."""
        # The place of a finding is made of names that the protocol has, of list positions, and of keys that the client made up: those stay out.
        place = [part for part in error.errors()[0].get("loc", ()) if part in FIELDS]
        return reply(400, f"{'.'.join(place) or 'body'}: not as the protocol wants it", request)

    async def unknown(request: Any, error: Any) -> JSONResponse:
        return reply(404, "no such model; GET /v1/models lists them", request)

    async def not_ready(request: Any, error: Any) -> JSONResponse:
        return reply(503, "the model is not ready", request)

    async def not_offered(request: Any, error: Any) -> JSONResponse:
        return reply(501, "not offered by this server", request)

    async def service(request: Any, error: Any) -> JSONResponse:
        log.error("%s, request %s", error, request.headers.get("x-request-id"))
        return reply(503, "a service that the model needs is not there", request)

    async def failed(request: Any, error: Any) -> JSONResponse:
        report(error, str(request.headers.get("x-request-id")))
        return reply(500, "a defect of the server", request)

    async def defect(request: Any, error: Any) -> JSONResponse:
        """Starlette raises these again after answering; the guard reports them."""
        return reply(500, "a defect of the server", request)

    for kind, handler in (
        (InvalidInput, invalid), (RequestValidationError, malformed), (ModelNotFound, unknown), (ModelNotReady, not_ready),
        (NotImplementedError, not_offered), (ServiceError, service), (InferenceError, failed), (Exception, defect),
    ):  # fmt: skip
        app.add_exception_handler(kind, handler)


def _length(headers: list[tuple[bytes, bytes]]) -> int:
    text = next((value for name, value in headers if name == b"content-length"), b"0")
    return int(text) if text.isdigit() else 0


async def _answer(send: Send, status: int, text: str | bytes, request_id: str) -> None:
    body = text if isinstance(text, bytes) else json.dumps({"error": text, "request_id": request_id}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
