"""The model server: KServe's REST server and data plane around our models, put together from their parts.

KServe's own `ModelServer.start` binds 0.0.0.0 without asking, silently leaves out a model that is not ready, opens gRPC and parses `sys.argv`.
One process answers with one core's worth of Python; `Options.processes` and more replicas are the ways to more.
"""

from __future__ import annotations

import gc
import logging
import signal
import socket
import ssl
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from components.core import scratch
from components.core.engines import Wanted
from components.core.errors import DxflowError, ServiceError
from components.core.home import home
from components.core.inference_log import InferenceLog, compact
from components.core.pseudonym import Pseudonymiser, load_pseudonymiser
from serving import memory, telemetry
from serving.access.audit import Audit, signing_key
from serving.access.policy import Policy
from serving.aside import aside
from serving.journal import Journal, exposed
from serving.members import Member, member_of
from serving.options import Options
from serving.places import Places
from serving.shared_metrics import Shared
from serving.sources import Source
from serving.turns import Turns

GRACE_S = 10
MAX_CONNECTIONS = 512
"""Connections held at once; more are answered 503. How many of them may send a body, `Options.queue` says."""
ALONE, SHARED = (socket.SO_REUSEADDR,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)


def serve(sources: Sequence[Source], options: Options) -> None:
    """Serve until SIGTERM or SIGINT; requests in progress are finished first.

    Args:
        sources: Of the models; each is served under the name of its disease. One that does not load is not ready, and the others go on.

    Raises:
        SpecError, DataError, GateError: No model loads, or two are of one disease; nothing is served then.
        ServiceError: A port is taken, or the log's folder cannot be written. A full disk is no such error: losses are counted then.
        SystemExit: Of several processes, in the one that started them.
    """
    if options.grpc_port is not None:
        bind(options.host, options.grpc_port).close()  # taken: say so now
    if options.processes == 1:
        _serve(sources, options, None)
        return
    quiet()  # the process that watches has a log too
    with reserved(options.host, options.port):
        member = member_of(options.processes)
        _serve(sources, options, member)


def _serve(sources: Sequence[Source], options: Options, member: Member | None) -> None:
    listener = bind(options.host, options.port, ALONE if member is None else SHARED)
    scheme = "http" if options.tls_cert is None else "https"
    first = member is None or member.number == 1
    try:
        pseudonymiser, made = load_pseudonymiser()
        if made:
            print("dxflow: made a new pseudonym key: known devices are unseen under another key", file=sys.stderr)
        quiet()
        memory.keep()
        policy = Policy(options.host, tokens=options.tokens, oidc=options.oidc)
        places = Places(sources, allow_synthetic=options.allow_synthetic, wanted=Wanted(options.engine, options.precision))
        sys.setswitchinterval(0.001)  # seconds; a thread that wants Python back from another need not wait five milliseconds
        if first:
            scratch.sweep()  # what killed servers left of requests
        with InferenceLog(options.log) as answers, Turns(options.queue) as turns, audited(options) as audit:
            journal = Journal(answers, [place.predictor for place in places if place.predictor])
            places.on_taken.append(journal.serves)
            shared = None if member is None else Shared(member)
            server = assemble(places, pseudonymiser, journal, turns, options, policy, audit, member=member, shared=shared)
            listener.listen()  # before anybody is told of it: who asks at once waits a moment instead of being turned away
            for place in places if first else ():
                if place.predictor:
                    print(f"serving {place.name} at {scheme}://{options.host}:{options.port}", flush=True)
            if options.reading is not None and first:
                print(f"reading page at {scheme}://{options.host}:{options.port}/read (pixels are kept in {options.reading})", flush=True)
            if options.grpc_port is not None and first:
                print(f"gRPC at {options.host}:{options.grpc_port}", flush=True)
            gc.collect()
            gc.freeze()  # what is there now stays: no later collection walks through it while a probe waits
            with (
                telemetry.tracing(),
                own_signals(server),
                compacting(options.log) if first else nullcontext(),
                exposed(journal, places.figures, turns.figures, *([audit.figures] if audit is not None else [])),
                places.watched(options.poll_s),
                shared.telling() if shared is not None else nullcontext(),
            ):
                server.run(sockets=[listener])
            gc.unfreeze()  # else libraries report what stays as leaks, a page of them, when the process ends
    finally:
        listener.close()


def bind(host: str, port: int, flags: Sequence[int] = ALONE) -> socket.socket:
    """A bound socket that does not listen yet: a taken port fails before seconds of imports, and no client is let in too early.

    Args:
        flags: Socket options that are set. With SO_REUSEPORT other sockets of this user may have the same port too, and those that listen share its
            connections.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ServiceError(f"no such address: {error.strerror}", where="--host", got=host) from None
    try:
        for flag in flags:
            listener.setsockopt(socket.SOL_SOCKET, flag, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ServiceError(f"cannot listen: {error.strerror}", where=f"{host}:{port}") from None
    return listener


def reserved(host: str, port: int) -> socket.socket:
    """A port for members, which no other server takes while the first of them loads. It never listens, so no connection comes here."""
    bind(host, port).close()  # somebody else has it: say so
    try:
        return bind(host, port, [socket.SO_REUSEPORT])  # who comes with SO_REUSEADDR alone is refused
    except ServiceError:  # by connections of a server that has ended
        return bind(host, port, SHARED)


def assemble(
    places: Places, pseudonymiser: Pseudonymiser, journal: Journal, turns: Turns, options: Options, policy: Policy | None = None,
    audit: Audit | None = None, *, member: Member | None = None, shared: Shared | None = None,
) -> Any:  # fmt: skip
    """uvicorn's server for KServe's application with our models, routes, handlers and guard in place, and gRPC beside it.

    `run(sockets=[...])` serves until a signal, or until its `should_exit` is set.
    """
    argv, sys.argv = sys.argv, sys.argv[:1]  # KServe parses the command line at import: our --log would abbreviate its --log_config_file
    try:
        from serving import bodies, openapi
        from serving.access.layer import Access
        from serving.endpoints import Plane, Repository, application
        from serving.errors import Guard, install
        from serving.model import DiseaseModel
        from serving.reading.cases import CaseStore
        from serving.reading.pages import ReadingPage
        from serving.references import Allowed, References
    finally:
        sys.argv = argv
    quiet()
    policy = policy or Policy(options.host, tokens=options.tokens, oidc=options.oidc)
    cases = CaseStore(options.reading) if options.reading is not None else None
    if cases is not None:
        journal.others.append(cases.figures)
    references = References(Allowed.from_environment())
    plane = Plane([DiseaseModel(place, pseudonymiser, journal, turns, cases, references) for place in places])
    repository = Repository(plane, places)
    app, config = application(plane, repository, options.port, options.grace_s, shared.page if shared else None)
    install(app, places.reason)
    behind: Any = app
    if cases is not None:
        predictors = lambda: {place.name: place.predictor for place in places if place.predictor}  # noqa: E731 - who answers at that moment
        inbox = options.inbox or home() / "monitor"
        behind = reading_or(ReadingPage(cases, predictors, turns, policy, audit, lambda disease: inbox / disease / "inbox").app, app)

    def page() -> bytes:
        return openapi.page({place.name: bodies.offered(place.predictor.spec) for place in places if place.predictor}, "1")

    guard = Guard(
        behind, limit=options.max_body_bytes, journal=journal, turns=turns, deadline_s=options.deadline_s, admin=options.admin,
        page=page if openapi.is_loopback(options.host) else None,
    )  # fmt: skip
    config.app = telemetry.Traced(Access(guard, policy, audit, lambda: set(places.by_name)), lambda: set(places.by_name))
    if options.tls_cert is not None:
        config.ssl_certfile, config.ssl_keyfile = str(options.tls_cert), str(options.tls_key)
        if options.tls_client_ca is not None:
            config.ssl_ca_certs, config.ssl_cert_reqs = str(options.tls_client_ca), ssl.CERT_REQUIRED
    config.host = options.host
    config.server_header = False
    config.limit_concurrency = MAX_CONNECTIONS
    return _both(config, plane, repository, journal, turns, options, policy, audit, member)


def reading_or(page: Any, app: Any) -> Any:
    """One application out of two, by path."""

    async def either(scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        await (page if path == "/read" or path.startswith("/read/") else app)(scope, receive, send)

    return either


@contextmanager
def audited(options: Options) -> Iterator[Audit | None]:
    """The audit log while the server runs, where one is asked for."""
    if options.audit is None:
        yield None
        return
    with Audit(options.audit, options.audit_heads or options.audit.with_name(f"{options.audit.name}-heads"), signing_key()) as audit:
        yield audit


def _both(
    config: Any, plane: Any, repository: Any, journal: Journal, turns: Turns, options: Options, policy: Policy, audit: Audit | None,
    member: Member | None,
) -> Any:  # fmt: skip
    import uvicorn

    class Both(uvicorn.Server):
        """HTTP and, where asked for, gRPC on one event loop, which stop together: not ready first, then no new connections, then none."""

        grpc: Any = None
        stop_at: float | None = None

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            if options.grpc_port is not None:
                from serving.access.grpc_layer import GrpcAccess
                from serving.grpc_face import server

                self.grpc = server(plane, repository, journal, turns, options, GrpcAccess(policy, audit, lambda: set(plane.names)))
                await self.grpc.start()
            await super().startup(sockets)
            if member is not None:
                member.listening()

        def handle_exit(self, sig: int, frame: Any) -> None:
            plane.draining = True
            if self.stop_at is None and options.drain_s:
                self.stop_at = time.monotonic() + options.drain_s
            else:
                super().handle_exit(sig, frame)

        async def on_tick(self, counter: int) -> bool:
            if self.stop_at is not None and time.monotonic() >= self.stop_at:
                self.should_exit = True
            return await super().on_tick(counter)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            import asyncio

            stopping = asyncio.ensure_future(self.grpc.stop(options.grace_s)) if self.grpc else None
            await super().shutdown(sockets)
            if stopping:
                await stopping

    return Both(config)


def compacting(log: Path) -> AbstractContextManager[None]:
    """Compact what earlier processes left in the log, aside: nobody waits for it, and it may be killed at any point."""

    def work(stop: threading.Event) -> None:
        try:
            compact(log, stop=stop)
        except DxflowError as error:
            logging.getLogger("dxflow.serving").error("%s", error)

    return aside("compact", work)


def quiet() -> None:
    """Errors only: access logs hold query strings, KServe's trace logs client-made request ids, and libraries quote values in warnings."""
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(telemetry.log_format())
    for name in ("kserve", "kserve.trace", "uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.WARNING)
        logger.propagate = name != "uvicorn.access"


@contextmanager
def own_signals(server: Any) -> Iterator[None]:
    """uvicorn stops at a signal and then raises it again; here it has done its work by then. One that comes before uvicorn listens is not lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
