"""What a model server may be told when it starts. One frozen value: every part of the server reads its own fields of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.core.errors import SpecError
from serving.access.policy import Oidc

MAX_BODY_BYTES = 64 << 20
MAX_PROCESSES = 64


@dataclass(frozen=True)
class Options:
    """Of `serve`.

    Args:
        log: Folder of the inference log.
        host: An address of this machine.
        grpc_port: Of the v2 protocol over gRPC, on the same address; None: not offered.
        allow_synthetic: Also load models that were trained on synthetic data.
        queue: Requests that may wait for their turn, over all models; one more is told 429. With the body limit it bounds the memory of bodies.
        deadline_s: A request whose turn has not come by then is not computed; a client may ask for less.
        poll_s: How often the registry is asked whether a model was replaced; 0: never.
        drain_s: After SIGTERM the server says that it is not ready and still answers for so long, then stops listening.
        grace_s: Then requests in progress have so long to finish.
        admin: Clients may have models loaded anew.
        processes: Of the server behind its port, see `serving/members.py`. Each has the models and a queue of its own, and its share of the cores.
        max_body_bytes: Of a request, on any protocol.
        engine, precision: As `components/core/engines.py` has them.
        tokens, oidc: Who may ask, see `serving/access/policy.py`; beyond loopback one of them is needed.
        tls_cert, tls_key: PEM files; both or none. tls_client_ca: Clients must have a certificate of this authority.
        reading: Folder of the cases for the reading page; None: no page, and no pixels are kept.
        audit, audit_heads: Folders of the audit log and of its signed heads; None: none is written.
        inbox: Folder of the monitor, which takes readers' verdicts from `<disease>/inbox` in it.

    Raises:
        SpecError: A number is out of its range.
    """

    log: Path
    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int | None = None
    allow_synthetic: bool = False
    queue: int = 32
    deadline_s: float = 60.0
    poll_s: float = 30.0
    drain_s: float = 0.0
    grace_s: float = 10.0
    admin: bool = False
    processes: int = 1
    max_body_bytes: int = MAX_BODY_BYTES
    engine: str = "auto"
    precision: str = "auto"
    tokens: Path | None = None
    oidc: Oidc | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    reading: Path | None = None
    audit: Path | None = None
    audit_heads: Path | None = None
    inbox: Path | None = None

    def __post_init__(self) -> None:
        for name, value, least in (
            ("queue", self.queue, 1), ("deadline", self.deadline_s, 0.001), ("poll", self.poll_s, 0), ("drain", self.drain_s, 0),
            ("grace", self.grace_s, 0),
        ):  # fmt: skip
            if not least <= value <= 86_400:
                raise SpecError("out of range", where=f"--{name}", got=value, allowed=f"{least} to 86400")
        if (self.tls_cert is None) != (self.tls_key is None) or (self.tls_client_ca is not None and self.tls_cert is None):
            raise SpecError("a certificate and its key belong together", where="--tls-cert", allowed="--tls-cert and --tls-key")
        for where, file in (("--tls-cert", self.tls_cert), ("--tls-key", self.tls_key), ("--tls-client-ca", self.tls_client_ca)):
            if file is not None and not file.is_file():
                raise SpecError("no such file", where=where, got=str(file))
        if not 1 <= self.processes <= MAX_PROCESSES:
            raise SpecError("out of range", where="--processes", got=self.processes, allowed=f"1 to {MAX_PROCESSES}")
        if self.admin and self.processes > 1:
            raise SpecError(
                "a model would be loaded anew in one process only", where="--admin", got=f"--processes {self.processes}", allowed="--processes 1"
            )
        if self.grpc_port is not None and self.grpc_port == self.port:
            raise SpecError("the port of HTTP", where="--grpc-port", got=self.grpc_port, allowed="another one")
