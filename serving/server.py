"""The model server: KServe's REST server and data plane around our predictors.

KServe's own `ModelServer.start` binds 0.0.0.0 without asking, silently leaves out a model that is not ready, opens gRPC and parses `sys.argv`;
so its parts are put together here. One process, one worker: more replicas are the way to scale.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.core.errors import DxflowError, ServiceError
from components.core.inference_log import InferenceLog, compact
from components.core.package import ModelPackage
from components.core.pseudonym import load_pseudonymiser
from serving.journal import Journal, exposed
from serving.predictor import Predictor, check_unique

GRACE_S = 10
MAX_CONNECTIONS = 64
"""Requests held at once; together with the body limit this bounds memory. More are answered 503."""


def serve(packages: list[Path], *, host: str = "127.0.0.1", port: int, allow_synthetic: bool, log: Path) -> None:
    """Serve until SIGTERM or SIGINT; requests in progress are finished first.

    Args:
        packages: Model package folders; each is served under the name of its disease.
        host: An address of this machine. Beyond loopback there must be a gateway that authenticates.
        log: Folder of the inference log.

    Raises:
        DataError, GateError: A package does not load, or may not be served; nothing is served then.
        ServiceError: The port is taken, or the log's folder cannot be written. A full disk is no such error: losses are counted then.
    """
    listener = bind(host, port)
    try:
        pseudonymiser, made = load_pseudonymiser()
        if made:
            print("dxflow: made a new pseudonym key: known devices are unseen under another key", file=sys.stderr)
        predictors = [_predictor(folder, allow_synthetic) for folder in packages]
        check_unique(predictors)
        with InferenceLog(log) as answers, ThreadPoolExecutor(1, thread_name_prefix="predict") as executor:
            journal = Journal(answers, predictors)
            config = _kserve(predictors, pseudonymiser, journal, executor, port, host)
            config.host = host
            for p in predictors:
                note = ", trained on SYNTHETIC data" if p.package.synthetic else ""
                print(f"serving {p.package.name} {p.package.version} as {p.package.disease} at http://{host}:{port}{note}", flush=True)
            with own_signals(), compacting(log), exposed(journal):
                import uvicorn

                uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: a taken port fails before seconds of imports, and no client is let in too early."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ServiceError(f"no such address: {error.strerror}", where="--host", got=host) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ServiceError(f"cannot listen: {error.strerror}", where=f"{host}:{port}") from None
    return listener


def _predictor(folder: Path, allow_synthetic: bool) -> Predictor:
    package = ModelPackage.open(folder, allow_synthetic=allow_synthetic)
    profiles = None
    if package.spec.normalise.method == "device":  # Feast takes seconds to import: here, not in the first request
        from feature_store.feast_import import feast
        from feature_store.store import OnlineProfiles, online_folder

        feast()
        profiles = OnlineProfiles(online_folder(package.name))
        profiles.get("0" * 16, max_age_days=1.0)
    return Predictor(package, profiles)


def _kserve(predictors: list[Predictor], pseudonymiser: Any, journal: Journal, executor: ThreadPoolExecutor, port: int, host: str) -> Any:
    """uvicorn's configuration for KServe's application with our models, handlers and guard in place."""
    argv, sys.argv = sys.argv, sys.argv[:1]  # KServe parses the command line at import: our --log would abbreviate its --log_config_file
    try:
        from kserve import ModelRepository
        from kserve.model_server import app
        from kserve.protocol.model_repository_extension import ModelRepositoryExtension
        from kserve.protocol.rest.server import RESTServer

        from serving import bodies, openapi
        from serving.errors import Guard, install
        from serving.model import DiseaseModel, Plane
        from serving.references import Allowed, References
    finally:
        sys.argv = argv
    quiet()
    models = ModelRepository()
    references = References(Allowed.from_environment())
    for predictor in predictors:
        models.update(DiseaseModel(predictor, pseudonymiser, journal, executor, references))
    rest = RESTServer("kserve.model_server:app", Plane(model_registry=models), ModelRepositoryExtension(models), port, grace_period=GRACE_S)
    rest.create_application()
    install(app)
    offered = {p.package.disease: bodies.offered(p.spec) for p in predictors}
    rest.config.app = Guard(app, journal=journal, page=openapi.page(offered, "1") if openapi.is_loopback(host) else None)
    rest.config.server_header = False
    rest.config.limit_concurrency = MAX_CONNECTIONS
    return rest.config


@contextmanager
def compacting(log: Path) -> Iterator[None]:
    """Compact what earlier processes left in the log, aside: nobody waits for it, and it may be killed at any point."""
    stop = threading.Event()

    def work() -> None:
        try:
            compact(log, stop=stop)
        except DxflowError as error:
            logging.getLogger("dxflow.serving").error("%s", error)

    thread = threading.Thread(target=work, name="compact", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def quiet() -> None:
    """Errors only: access logs hold query strings, KServe's trace logs client-made request ids, and libraries quote values in warnings."""
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for name in ("kserve", "kserve.trace", "uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.WARNING)
        logger.propagate = name != "uvicorn.access"


@contextmanager
def own_signals() -> Iterator[None]:
    """uvicorn stops at a signal and then raises it again; here it has done its work by then."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
