"""Keeping the loop going: pass after pass, longer waits while the archive is away, JSON lines about what happens, figures for Prometheus."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.core.errors import ServiceError, SpecError
from components.core.pacs_rules import PacsRules
from components.core.pseudonym import Pseudonymiser
from serving.nodules import detector
from serving.pacs.chest_ct import ChestCt
from serving.pacs.head_mr import HeadMr
from serving.pacs.ledger import Ledger
from serving.pacs.loop import Loop, Station
from serving.pacs.photograph import Photographs
from serving.predictor import Predictor

LONGEST_WAIT_S = 300.0


def station(model: Predictor, rules: PacsRules | None, pseudonymiser: Pseudonymiser, *, own_detector: Path | None, allow_synthetic: bool) -> Station:
    """A model with what it needs to answer studies.

    Raises:
        SpecError: Its disease has no rules for an archive, or its samples are no images of one.
        GateError: The detector is fitted on synthetic data, and that is not allowed.
    """
    spec = model.spec
    if rules is None:
        raise SpecError(
            "no PACS loop: no [pacs] part says which images of an archive are meant", where=f"disease {spec.name}", allowed="a disease with one"
        )
    if spec.input.unit == "HU":
        return Station(model, rules, ChestCt(model, detector(own_detector, allow_synthetic=allow_synthetic), pseudonymiser))
    if spec.input.layout == "image" and spec.input.shape[0] == 3:
        return Station(model, rules, Photographs(model, rules, pseudonymiser))
    if spec.input.layout == "volume" and spec.input.modality == "MR":
        return Station(model, rules, HeadMr(model, pseudonymiser))
    raise SpecError(
        "cannot be asked about an archive's images",
        where=f"disease {spec.name}",
        got=spec.input.layout,
        allowed="CT patches, photographs, MR volumes",
    )


def run(loop: Loop, *, poll_s: float, once: bool, tell: Callable[[dict[str, Any]], None], sleep: Callable[[float], None] = time.sleep) -> None:
    """Pass after pass, until a signal; with `once` until nothing waits any more.

    Raises:
        ServiceError: With `once`, when the archive cannot be reached.
    """
    wait = poll_s
    while True:
        try:
            waiting = loop.once()
            wait = poll_s
            if once and not waiting:
                return
        except ServiceError as error:
            if once:
                raise
            tell({"event": "unreachable", "reasons": [str(error)], "wait_s": wait})
            wait = min(max(wait, 1.0) * 2, LONGEST_WAIT_S)
        sleep(min(poll_s, 1.0) if once else wait)


def printed(event: dict[str, Any]) -> None:
    """One JSON line. A study is a keyed hash in it; there is nothing of a patient."""
    print(json.dumps({"at": datetime.now(UTC).isoformat(timespec="milliseconds"), **event}), flush=True)


@contextmanager
def measured(ledger: Path, port: int | None) -> Iterator[None]:
    """Within the block Prometheus finds `dxflow_pacs_studies{model, state}` at this port of loopback; None: nowhere.

    Raises:
        ServiceError: The port is taken.
    """
    if port is None:
        yield
        return
    from prometheus_client import start_http_server
    from prometheus_client.core import CollectorRegistry, GaugeMetricFamily

    class Figures:
        def collect(self) -> Iterator[GaugeMetricFamily]:
            with Ledger(ledger) as opened:  # a connection belongs to its thread
                found = GaugeMetricFamily("dxflow_pacs_studies", "Studies by what became of them.", labels=["model", "state"])
                for key, n in sorted(opened.counts().items()):
                    found.add_metric(list(key), n)
                yield found

    registry = CollectorRegistry()
    registry.register(Figures())  # pyright: ignore[reportArgumentType]
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        raise ServiceError(f"cannot listen: {error.strerror}", where=f"127.0.0.1:{port}") from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
