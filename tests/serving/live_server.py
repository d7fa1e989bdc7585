"""The whole server on real ports, in a thread of the test's process: its parts can be looked at while clients that we did not write ask it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pandas as pd

from components.core.inference_log import InferenceLog, read_log
from components.core.package import ModelPackage
from components.core.pseudonym import Pseudonymiser
from serving.journal import Journal, exposed
from serving.options import Options
from serving.places import Places
from serving.predictor import Predictor
from serving.server import assemble, bind
from serving.sources import Source
from serving.turns import Turns
from tests.serving.small_server import free_ports


class Gated(Predictor):
    """A model that is at work until the test lets it go on."""

    def __init__(self, package: ModelPackage) -> None:
        super().__init__(package, None)
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.samples = 0

    def work(self, queries: Any, figures: Any = None) -> Any:
        self.begun.release()
        assert self.go_on.acquire(timeout=300)
        self.samples += len(queries)
        return super().work(queries)


@dataclass
class Live:
    http: httpx.Client
    url: str
    grpc: str
    places: Places
    turns: Turns
    server: Any
    log: Path

    def records(self) -> pd.DataFrame:
        return read_log(self.log)

    def metrics(self) -> dict[str, float]:
        lines = self.http.get("/metrics").text.splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line and line[0] != "#")}


@contextmanager
def running(sources: Sequence[Source], log: Path, **options: Any) -> Iterator[Live]:
    """Serve until the block ends."""
    port, grpc_port = free_ports(2)
    chosen = Options(log=log, port=port, grpc_port=grpc_port, **options)
    places = Places(sources, allow_synthetic=chosen.allow_synthetic)
    with InferenceLog(log) as answers, Turns(chosen.queue) as turns:
        journal = Journal(answers, [place.predictor for place in places if place.predictor])
        places.on_taken.append(journal.serves)
        server = assemble(places, Pseudonymiser(b"a key of the tests only"), journal, turns, chosen)
        listener = bind(chosen.host, port)
        with exposed(journal, places.figures, turns.figures), places.watched(chosen.poll_s):
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                while not server.started:
                    assert thread.is_alive()
                    thread.join(0.05)
                with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as http:
                    yield Live(http, f"127.0.0.1:{port}", f"127.0.0.1:{grpc_port}", places, turns, server, log)
            finally:
                server.should_exit = True
                thread.join(60)
                listener.close()
        assert not thread.is_alive()
