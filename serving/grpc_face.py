"""Protocol v2 over gRPC, on the same data plane, queue, deadlines and log as HTTP.

KServe's own gRPC server binds every address, loses its status codes for what is not ready or not offered, puts exception messages into them, and
turns contents into lists; so the service is ours and the messages are KServe's. Answers come as raw bytes; no parameter is a float, which KServe's
client refuses.

Which model a message asks is known only when it has been read. So gRPC lets messages through up to twice the limit and we refuse those above it, with
a record of the model's; beyond that gRPC refuses them by their length, unread.

    INVALID_ARGUMENT 400, 415  NOT_FOUND 404   RESOURCE_EXHAUSTED 413, 429  UNIMPLEMENTED 501  UNAVAILABLE 503  DEADLINE_EXCEEDED 504  INTERNAL 500
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
import numpy as np
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as service

from components.core.errors import DataError, ServiceError
from serving import queries, wire
from serving.endpoints import Plane, Repository
from serving.errors import GONE, HUNG_UP, TOO_LATE, NotOffered, TooLarge, judge, log, report
from serving.journal import Journal
from serving.options import Options
from serving.places import NotReady
from serving.tickets import Late, Ticket
from serving.turns import Turns

STATUS = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 404: grpc.StatusCode.NOT_FOUND, 413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED, 501: grpc.StatusCode.UNIMPLEMENTED, 503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED, 500: grpc.StatusCode.INTERNAL,
}  # fmt: skip
ENVELOPE = 1 << 20
"""Bytes of a message beside its tensors."""
READ, MOST_READ = 2, (1 << 31) - 1
"""Times the limit up to which a message is read, so that what is above the limit can be written down; and the most that gRPC can be told."""
EARLY_S = 0.1
"""A client's own clock may say that its deadline has passed this much before ours does."""
CONTENTS = {"FP32": ("fp32_contents", "<f4"), "FP64": ("fp64_contents", "<f8"), "INT32": ("int_contents", "<i4"), "INT64": ("int64_contents", "<i8")}


def server(plane: Plane, repository: Repository, journal: Journal, turns: Turns, options: Options, access: Any = None) -> Any:
    """A gRPC server that has its port and does not listen yet. Raises ServiceError. To be made on the event loop.

    Args:
        access: Interceptor that knows who may ask, `serving/access/grpc_layer.py`; None: everybody may.
    """
    most = options.max_body_bytes + ENVELOPE
    read = min(READ * most, MOST_READ)
    limits = [("grpc.max_receive_message_length", read), ("grpc.max_send_message_length", most), ("grpc.so_reuseport", int(options.processes > 1))]
    made = grpc.aio.server(options=limits, interceptors=[access] if access is not None else None)
    service.add_GRPCInferenceServiceServicer_to_server(Servicer(plane, repository, journal, turns, options), made)
    where = f"[{options.host}]:{options.grpc_port}" if ":" in options.host else f"{options.host}:{options.grpc_port}"
    try:
        if options.tls_cert is not None and options.tls_key is not None:
            ca = options.tls_client_ca.read_bytes() if options.tls_client_ca else None
            pair = [(options.tls_key.read_bytes(), options.tls_cert.read_bytes())]
            made.add_secure_port(where, grpc.ssl_server_credentials(pair, ca, require_client_auth=ca is not None))
        else:
            made.add_insecure_port(where)
    except RuntimeError:
        raise ServiceError("cannot listen", where=f"--grpc-port {where}") from None
    return made


class Servicer(service.GRPCInferenceServiceServicer):
    """The methods of the service, each under the same rules: a request id, a known status for every error, and no message of a defect."""

    def __init__(self, plane: Plane, repository: Repository, journal: Journal, turns: Turns, options: Options) -> None:
        self._plane, self._repository, self._journal, self._turns, self._options = plane, repository, journal, turns, options

    async def ServerLive(self, request: Any, context: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=await self._plane.ready())

    async def ModelReady(self, request: Any, context: Any) -> Any:
        return await self._call(context, lambda _: self._ready(request))

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return pb.ServerMetadataResponse(**self._plane.metadata())

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        return await self._call(context, lambda _: self._metadata(request))

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        return await self._call(context, lambda _: self._load(request))

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        return await self._call(context, lambda _: self._repository.unload(request.model_name))

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        return await self._call(context, lambda ticket: self._infer(request, context.invocation_metadata(), ticket), disease=request.model_name)

    async def _ready(self, request: Any) -> Any:
        try:
            return pb.ModelReadyResponse(ready=await self._plane.model(request.name, request.version).healthy())
        except (NotOffered, NotReady):  # another version than the one that serves is not ready, and neither is one of a model that is none
            return pb.ModelReadyResponse(ready=False)

    async def _metadata(self, request: Any) -> Any:
        self._plane.model(request.name, request.version)
        return pb.ModelMetadataResponse(**await self._plane.model_metadata(request.name))

    async def _load(self, request: Any) -> Any:
        if not self._options.admin:
            raise NotOffered
        await self._repository.load(request.model_name)
        return pb.RepositoryModelLoadResponse(model_name=request.model_name, isLoaded=True)

    async def _infer(self, request: Any, metadata: Any, ticket: Ticket) -> Any:
        most = self._options.max_body_bytes + ENVELOPE
        if request.ByteSize() > most:
            raise TooLarge(f"message: larger than allowed; allowed: {most} bytes")
        with self._turns.place():
            model = self._plane.model(request.model_name, request.model_version)
            model.place.holder()

            def reply(asked: wire.Asked, outputs: list[wire.Output], version: str) -> Any:
                return response(asked, outputs, model=model.name, version=version, request_id=ticket.request_id)

            def read() -> wire.Asked:
                queries.check_headers({str(name): "" for name, _ in metadata or ()})
                return asked(request)

            return await model.v2(ticket, read, reply)

    async def _call(self, context: Any, work: Callable[[Ticket], Awaitable[Any]], *, disease: str | None = None) -> Any:
        left = context.time_remaining()
        ticket = Ticket(uuid.uuid4().hex, self._options.deadline_s if left is None else min(left, self._options.deadline_s))
        await context.send_initial_metadata((("x-request-id", ticket.request_id),))
        try:
            return await work(ticket)
        except asyncio.CancelledError:  # the client is gone, most often because its deadline passed
            late = ticket.left_s() <= EARLY_S
            if not late:
                log.info("%s, request %s", HUNG_UP, ticket.request_id)
                self._turns.counts["gone"] += 1
            why = (504, TOO_LATE) if late else (GONE, HUNG_UP)
            task = asyncio.ensure_future(self._journal.settle(ticket.request_id, disease, *why, ticket.started))
            await asyncio.shield(task)
            raise
        except Exception as error:
            status, text = judge(error) or (500, "a defect of the server")
            if status == 500:
                report(error, ticket.request_id)
            elif isinstance(error, ServiceError):
                log.error("%s, request %s", error, ticket.request_id)
            elif isinstance(error, Late):
                log.warning("%s, request %s", TOO_LATE, ticket.request_id)
            await self._journal.settle(ticket.request_id, disease, status, text, ticket.started)
            context.set_code(STATUS[status])
            context.set_details(text)
            return None
        finally:
            self._journal.forget(ticket.request_id)


def asked(request: Any) -> wire.Asked:
    """A ModelInferRequest as protocol v2 has it; bytes stay bytes. Raises DataError."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise DataError("another number than inputs", where="raw_input_contents", got=len(raw), allowed=len(request.inputs))
    tensors = []
    for n, item in enumerate(request.inputs):
        where = f"inputs[{n}]"
        if raw and item.HasField("contents"):
            raise DataError("beside raw_input_contents", where=f"{where}.contents", allowed="one of them")
        data = None if raw else _contents(item, where)
        is_raw = raw or isinstance(data, bytes)
        tensors.append(
            wire.Tensor(
                item.name, list(item.shape), item.datatype, data=None if is_raw else data, raw=raw[n] if raw else data if is_raw else None,
                parameters=_parameters(item.parameters),
            )
        )  # fmt: skip
    outputs = [(output.name, True) for output in request.outputs] or None
    return wire.Asked(request.id, tensors, _parameters(request.parameters), outputs, binary=True)


def _contents(item: Any, where: str) -> Any:
    """Numbers as bytes, elements as they are."""
    if item.datatype == "BYTES":
        return list(item.contents.bytes_contents)
    if item.datatype not in CONTENTS:
        raise DataError("another datatype", where=f"{where}.datatype", allowed="FP32, BYTES")
    name, kind = CONTENTS[item.datatype]
    return np.array(getattr(item.contents, name), dtype=kind).tobytes()


def _parameters(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: getattr(value, value.WhichOneof("parameter_choice") or "string_param") for name, value in found.items()}


def response(asked: wire.Asked, outputs: list[wire.Output], *, model: str, version: str, request_id: str) -> Any:
    wanted = [output for output, _ in wire.chosen(asked, outputs)]
    return pb.ModelInferResponse(
        model_name=model, model_version=version, id=asked.id or request_id,
        outputs=[pb.ModelInferResponse.InferOutputTensor(name=o.name, datatype=o.datatype, shape=o.shape) for o in wanted],
        raw_output_contents=[o.raw() for o in wanted],
    )  # fmt: skip
