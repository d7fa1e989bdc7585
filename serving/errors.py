"""What a client is told when something is wrong: one line that names the field, and never a value out of a request.

    400  the request: InvalidInput        413  the request is too large        501  not offered
    404  no such model                    415  a content type that the model does not take
                                          429  too many requests wait          504  the deadline passed before the request's turn
    499  nobody: the client hung up before its request had come, which is no fault of the server's. Nginx's number; for log, audit and metrics
    503  a service or the model is absent 500  a defect: an id, and nothing else

KServe's own handlers log and return exception messages, FastAPI's 422 returns the body: both may hold patient data, so all are replaced here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import traceback
import uuid
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from components.core.errors import ServiceError
from serving.journal import asked
from serving.openapi import PAGE
from serving.options import MAX_BODY_BYTES
from serving.tickets import Late, Ticket
from serving.turns import DEADLINE, Busy, Turns

if TYPE_CHECKING:
    from serving.journal import Journal

log = logging.getLogger("dxflow.serving")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CLOSED = ("/v2/repository", "/openai", "/docs", "/redoc", "/openapi.json")
"""Paths that KServe opens without asking who calls: loading and unloading models, and pages that tell about the server."""
ADMIN = re.compile(r"/v2/repository/index|/v2/repository/models/[^/]+/load")
"""What of the closed paths opens with `admin`."""

TOLD, TICKET = "dxflow.told", "dxflow.ticket"
"""Keys of the request's scope: what the client is told, which the handlers leave for the guard; and the guard's ticket."""

TOO_MANY, TOO_LATE = "too many requests wait, try again later", "the deadline passed before the request's turn"
GONE, HUNG_UP = 499, "the client hung up before its request had come"
CLOSE = [(b"connection", b"close")]
DRAIN_S = 5.0

FIELDS = {"id", "inputs", "name", "shape", "datatype", "data", "parameters", "outputs"}


class NotOffered(Exception):
    """What the protocol has and this server, or this model, does not offer."""


class TooLarge(Exception):
    """The body passed the limit while it was read, or a gRPC message is above it; then with what the client is told."""


class Guard:
    """The outermost layer of the server: limits, closed paths, a ticket for each request, and no exception that gets out.

    Args:
        app: The ASGI application of KServe.
        limit: Largest body in bytes.
        journal: Where requests are written down that get an error.
        turns: Where a request for a prediction takes its place before its body is read; None: there is always one.
        deadline_s: Of each request; a client may ask for less.
        admin: Whether models may be loaded anew.
        page: What GET /openapi.json answers, asked anew each time; None: nothing.
    """

    def __init__(
        self, app: App, *, limit: int = MAX_BODY_BYTES, journal: Journal | None = None, turns: Turns | None = None, deadline_s: float = 60.0,
        admin: bool = False, page: Callable[[], bytes] | None = None,
    ) -> None:  # fmt: skip
        self._page = page
        self._app, self._limit, self._journal, self._turns, self._deadline_s, self._admin = app, limit, journal, turns, deadline_s, admin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex  # never the client's own: people put patient ids there
        headers = [(name, value) for name, value in scope["headers"] if name != b"x-request-id"]
        scope["headers"] = [*headers, (b"x-request-id", request_id.encode())]
        path = str(scope["path"])
        if self._page is not None and path == PAGE and scope["method"] == "GET":
            await _answer(send, 200, self._page(), request_id)
            return
        if path.startswith(CLOSED) and not (self._admin and ADMIN.fullmatch(path)):
            await _answer(send, 404, "not offered by this server", request_id)
            return
        disease = asked(path)
        ticket = Ticket(request_id, self._deadline_s)
        try:
            within_s = deadline_s(headers, self._deadline_s)
            if _length(headers) > self._limit:
                raise TooLarge
            ticket = replace(ticket, within_s=within_s)
            with self._turns.place() if self._turns and disease else nullcontext():
                await self._pass(scope, receive, send, ticket, disease)
        except (InvalidDeadline, TooLarge, Busy) as error:
            status, text, more = self._refusal(error)
            await self._settle(ticket, disease, status, text)
            if status == 429:  # a client that is still sending would see a broken connection and not the answer
                await _drained(receive, self._limit)
            await _answer(send, status, text, request_id, more)
        finally:
            if self._journal is not None:
                self._journal.forget(request_id)

    def _refusal(self, error: Exception) -> tuple[int, str, list[tuple[bytes, bytes]]]:
        """Status, what the client is told, and headers."""
        if isinstance(error, Busy):
            return 429, TOO_MANY, [(b"retry-after", str(error.retry_s).encode())]
        if isinstance(error, InvalidDeadline):
            return 400, f"header {DEADLINE}: not a number of milliseconds above 0", CLOSE
        return 413, f"body: larger than allowed; allowed: {self._limit} bytes", CLOSE

    async def _settle(self, ticket: Ticket, disease: str | None, status: int, text: str) -> None:
        if self._journal is not None:
            await self._journal.settle(ticket.request_id, disease, status, text, ticket.started)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, ticket: Ticket, disease: str | None) -> None:
        """The request through KServe's application. Raises TooLarge when its body passed the limit and no answer has begun."""
        request_id = ticket.request_id
        told: dict[str, str] = {}
        scope[TOLD], scope[TICKET] = told, ticket
        started = over = read = gone = False

        async def whole() -> Message:
            """The body as one message, under one deadline: a timer for each piece costs more than the pieces."""
            nonlocal over, read, gone
            if read:  # after the body only the end of the connection is waited for
                return await receive()
            read, size, more = True, 0, True
            pieces: list[bytes] = []
            try:
                async with asyncio.timeout(max(0.0, ticket.left_s()) if disease else None):
                    while more:
                        message = await receive()
                        if message["type"] != "http.request":
                            gone = True
                            return message
                        pieces.append(message.get("body", b""))
                        size += len(pieces[-1])
                        if size > self._limit:
                            over = True
                            raise TooLarge
                        more = message.get("more_body", False)
            except TimeoutError:
                raise Late from None
            return {"type": "http.request", "body": b"".join(pieces), "more_body": False}

        async def named(message: Message) -> None:
            nonlocal started
            if over or gone:  # whatever the application makes of `TooLarge` or of half a body, the answer is ours
                return
            if message["type"] == "http.response.start":
                started = True
                await self._settle(ticket, disease, message["status"], told.get("text", ""))
                message["headers"] = [
                    *(h for h in message.get("headers", []) if h[0].lower() != b"x-request-id"),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        # HEAD wherever GET is answered (RFC 9110, 9.1): KServe's routes say 405, load balancers ask so, and the server below sends no body for it.
        inner = {**scope, "method": "GET"} if scope.get("method") == "HEAD" else scope
        try:
            await self._app(inner, whole, named)
        except Exception as error:
            if not over and not gone:
                report(error, request_id)
                if not started:
                    await self._settle(ticket, disease, 500, "a defect of the server")
                    await _answer(send, 500, "a defect of the server", request_id)
        if over and not started:
            raise TooLarge
        if gone:
            log.info("%s, request %s", HUNG_UP, request_id)
            if self._turns is not None and disease:
                self._turns.counts["gone"] += 1
            await self._settle(ticket, disease, GONE, HUNG_UP)
            await _answer(send, GONE, HUNG_UP, request_id)  # for the layers outside, which write down what became of it


class InvalidDeadline(Exception):
    """The header of the deadline holds no number of milliseconds above 0."""


def deadline_s(headers: Iterable[tuple[bytes, bytes]], most: float) -> float:
    """Seconds that the client gives, but `most` at most. Raises InvalidDeadline."""
    text = next((value for name, value in headers if name == DEADLINE.lower().encode()), None)
    if text is None:
        return most
    if not (text.isdigit() and len(text) < 10 and int(text) > 0):
        raise InvalidDeadline
    return min(most, int(text) / 1000)


def report(error: BaseException, request_id: str) -> None:
    """One line of log for a defect: kind and place. The message stays out, since it may hold a value."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "?"
    log.error("defect %s at %s, request %s", type(error).__name__, place, request_id)


def judge(error: BaseException) -> tuple[int, str] | None:
    """The status of an error, as in HTTP, and what the client is told, on every protocol; None for a defect."""
    from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady, ServerNotLive, ServerNotReady

    from serving.places import NotReady

    if isinstance(error, InvalidInput):  # ours: KServe's own, which may quote, come from code that is not used
        return getattr(error, "status", 400), str(error)
    if isinstance(error, ModelNotFound):
        return 404, "no such model; GET /v1/models lists them"
    if isinstance(error, Busy):
        return 429, TOO_MANY
    if isinstance(error, TooLarge):
        return 413, str(error)
    if isinstance(error, NotOffered | NotImplementedError):  # the latter from KServe's own routes, for versions of a model
        return 501, "not offered by this server"
    if isinstance(error, NotReady):
        return 503, f"the model is not ready: {error.reason}"
    if isinstance(error, ModelNotReady):
        return 503, "the model is not ready"
    if isinstance(error, ServerNotReady | ServerNotLive):
        return 503, "the server is not ready"
    if isinstance(error, ServiceError):
        return 503, "a service that the model needs is not there"
    if isinstance(error, Late):
        return 504, TOO_LATE
    return None


def install(app: Any, reason: Callable[[str], str | None]) -> None:
    """Replace the exception handlers that KServe and FastAPI have put into `app`.

    Args:
        reason: Why a model is not ready, where that is known.
    """
    from fastapi.exceptions import RequestValidationError
    from kserve.errors import InferenceError, InvalidInput, ModelNotFound, ModelNotReady, ServerNotLive, ServerNotReady, UnsupportedProtocol
    from starlette.responses import JSONResponse

    from serving.places import NotReady

    def reply(status: int, text: str, request: Any) -> JSONResponse:
        request.scope.get(TOLD, {})["text"] = text
        # After 504 the body may not have been read to its end.
        headers = {"connection": "close"} if status == 504 else None
        return JSONResponse({"error": text, "request_id": request.headers.get("x-request-id")}, status_code=status, headers=headers)

    async def known(request: Any, error: Any) -> JSONResponse:
        if isinstance(error, ModelNotReady) and (why := reason(error.model_name)):
            error = NotReady(why)
        if isinstance(error, ServiceError):
            log.error("%s, request %s", error, request.headers.get("x-request-id"))
        if isinstance(error, Late):
            log.warning("%s, request %s", TOO_LATE, request.headers.get("x-request-id"))
        status, text = judge(error) or (500, "a defect of the server")
        return reply(status, text, request)

    async def malformed(request: Any, error: Any) -> JSONResponse:
        """FastAPI's finding without the input that it quotes."""
        # The place of a finding is made of names that the protocol has, of list positions, and of keys that the client made up: those stay out.
        place = [part for part in error.errors()[0].get("loc", ()) if part in FIELDS]
        return reply(400, f"{'.'.join(place) or 'body'}: not as the protocol wants it", request)

    async def failed(request: Any, error: Any) -> JSONResponse:
        report(error, str(request.headers.get("x-request-id")))
        return reply(500, "a defect of the server", request)

    async def defect(request: Any, error: Any) -> JSONResponse:
        """Starlette raises these again after answering; the guard reports them."""
        return reply(500, "a defect of the server", request)

    for kind in (
        InvalidInput,
        ModelNotFound,
        ModelNotReady,
        NotReady,
        ServerNotReady,
        ServerNotLive,
        NotOffered,
        NotImplementedError,
        ServiceError,
        Late,
    ):
        app.add_exception_handler(kind, known)
    for kind, handler in (
        (RequestValidationError, malformed), (InferenceError, failed), (UnsupportedProtocol, failed), (Exception, defect),
    ):  # fmt: skip
        app.add_exception_handler(kind, handler)


def _length(headers: list[tuple[bytes, bytes]]) -> int:
    text = next((value for name, value in headers if name == b"content-length"), b"0")
    return int(text) if text.isdigit() else 0


async def _drained(receive: Receive, most: int) -> None:
    """Read a body that nobody wants to its end, keeping none of it; not beyond `most` bytes, nor for long."""
    read, more = 0, True
    try:
        async with asyncio.timeout(DRAIN_S):
            while more and read <= most:
                message = await receive()
                read += len(message.get("body", b""))
                more = message.get("more_body", False)
    except TimeoutError:
        return


async def _answer(send: Send, status: int, text: str | bytes, request_id: str, more: Iterable[tuple[bytes, bytes]] = CLOSE) -> None:
    body = text if isinstance(text, bytes) else json.dumps({"error": text, "request_id": request_id}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
