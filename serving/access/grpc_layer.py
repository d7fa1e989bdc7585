"""Who may ask, for gRPC: the same people, roles and audit log as for HTTP. The token stands in the metadata `authorization`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from components.core.errors import ServiceError
from serving.access.audit import Audit
from serving.access.policy import Denied, Identity, Policy
from serving.access.roles import ADMIN, ANY, OPEN, READER

NEEDED: dict[str, tuple[frozenset[str], str]] = {
    "ServerLive": (OPEN, "probe"), "ServerReady": (OPEN, "probe"), "ModelInfer": (frozenset({READER}), "predict"),
    "RepositoryModelLoad": (frozenset({ADMIN}), "replace"), "RepositoryModelUnload": (frozenset({ADMIN}), "replace"),
}  # fmt: skip


class GrpcAccess(grpc.aio.ServerInterceptor):
    """Args: models: Names that may stand in the audit log."""

    def __init__(self, policy: Policy, audit: Audit | None, models: Callable[[], set[str]]) -> None:
        self._policy, self._audit, self._models = policy, audit, models

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """The method as it is for who may call it; one that refuses for everybody else."""
        handler = await continuation(details)
        roles, action = NEEDED.get(details.method.rpartition("/")[2], (ANY, "look"))
        if handler is None or handler.unary_unary is None or roles == OPEN:
            return handler
        header = next((str(value) for name, value in details.invocation_metadata or () if name == "authorization"), None)
        work = handler.unary_unary

        async def asked(request: Any, context: Any) -> Any:
            name = getattr(request, "model_name", None) or getattr(request, "name", None)
            facts = {"model": name if name in self._models() else None}
            identity, code, text = await self._who(header, roles)
            facts["who"] = identity.name if identity else None
            if code is not None:
                self._note(action, **facts, status=code.name)
                await context.abort(code, text)
            reply = await work(request, context)
            found = context.code()  # a number where the method set none
            self._note(action, **facts, status=found.name if isinstance(found, grpc.StatusCode) else "OK")
            return reply

        return grpc.unary_unary_rpc_method_handler(asked, handler.request_deserializer, handler.response_serializer)

    async def _who(self, header: str | None, roles: frozenset[str]) -> tuple[Identity | None, grpc.StatusCode | None, str]:
        try:
            identity = await asyncio.get_running_loop().run_in_executor(None, self._policy.identify, header)
        except Denied as error:
            return None, grpc.StatusCode.UNAUTHENTICATED, str(error)
        except ServiceError:
            return None, grpc.StatusCode.UNAVAILABLE, "who asks cannot be checked now"
        if not identity.roles & roles:
            return identity, grpc.StatusCode.PERMISSION_DENIED, f"this needs the role {' or '.join(sorted(roles))}"
        return identity, None, ""

    def _note(self, action: str, **facts: Any) -> None:
        if self._audit is not None:
            self._audit.append(action, **facts)
