"""The layer in front of everything: who asks is known before a byte of the body is read, and what became of it is in the audit log."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from components.core.errors import ServiceError
from serving.access.audit import Audit
from serving.access.policy import Denied, Identity, Policy, is_loopback
from serving.access.roles import OPEN, model_in, needed
from serving.errors import App, Message, Receive, Scope, Send

COOKIE = "dxflow_token"
"""Of the reading page: a browser sends no Authorization header by itself. HttpOnly, SameSite=Strict."""
IDENTITY = "dxflow.identity"
"""Key of the request's scope under which the layers behind find who asks."""
SAFE = ("GET", "HEAD")


class Access:
    """ASGI layer.

    Args:
        models: Names that may stand in the audit log.
        audit: None: nothing is written down.
    """

    def __init__(self, app: App, policy: Policy, audit: Audit | None, models: Callable[[], set[str]]) -> None:
        self._app, self._policy, self._audit, self._models = app, policy, audit, models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, method = str(scope["path"]), str(scope["method"])
        roles, action = needed(path)
        if roles == OPEN:
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal: tuple[int, str] | None = None
        identity: Identity | None = None
        if self._policy.open and action == "read" and not is_loopback(_hostname(headers.get("host", ""))):
            # A name that somebody points at loopback would let their page read ours (DNS rebinding).
            await _refuse(send, 421, "ask for this page by the address of this machine", uuid.uuid4().hex)
            return
        try:
            identity = await self._who(headers, method)
            if not identity.roles & roles:
                refusal = (403, f"this needs the role {' or '.join(sorted(roles))}")
        except Denied as error:
            refusal = (401, str(error))
        except ServiceError:
            refusal = (503, "who asks cannot be checked now")
        name = identity.name if identity else None
        facts: dict[str, Any] = {"who": name, "model": self._known(path)}
        if refusal is not None:
            request_id = uuid.uuid4().hex
            self._note(action, **facts, status=refusal[0], request_id=request_id)
            browser = method == "GET" and path.startswith("/read") and "text/html" in headers.get("accept", "")
            await (_to_login(send) if browser and refusal[0] == 401 else _refuse(send, *refusal, request_id))
            return
        scope[IDENTITY] = identity

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = dict(message.get("headers", [])).get(b"x-request-id", b"").decode("latin-1")
                self._note(action, **facts, status=int(message["status"]), request_id=own or None)
            await send(message)

        await self._app(scope, receive, noted)

    async def _who(self, headers: Mapping[str, str], method: str) -> Identity:
        header = headers.get("authorization")
        if self._policy.open:
            # Whoever reaches loopback is trusted; a page of another site in the browser of somebody who sits here is not.
            if method not in SAFE and headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
                raise Denied("the request comes from another site")
            return self._policy.identify(None)
        if header is None and (token := _cookie(headers.get("cookie", ""))):
            # A cookie comes by itself, from any page: what changes something must come from our own.
            if method not in SAFE and headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
                raise Denied("the request comes from another site")
            header = f"Bearer {token}"
        return await asyncio.get_running_loop().run_in_executor(None, self._policy.identify, header)  # it may fetch keys

    def _known(self, path: str) -> str | None:
        name = model_in(path)
        return name if name in self._models() else None

    def _note(self, action: str, **facts: Any) -> None:
        if self._audit is not None:
            self._audit.append(action, **facts)


def _hostname(host: str) -> str:
    return host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]


def _cookie(text: str) -> str | None:
    for part in text.split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE and value:
            return value
    return None


async def _to_login(send: Send) -> None:
    """A person with a browser is asked who they are; a program gets the 401."""
    await send({"type": "http.response.start", "status": 303, "headers": [(b"location", b"/read/login"), (b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def _refuse(send: Send, status: int, text: str, request_id: str) -> None:
    body = json.dumps({"error": text, "request_id": request_id}).encode()
    headers = [
        (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
    ]  # fmt: skip
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="dxflow"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
