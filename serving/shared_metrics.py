"""One page of Prometheus metrics for all processes of a server: whichever is asked tells its own figures and what the others said a second ago.

A member that takes the place of one that ended counts on from what that one said last, so that a sum never falls.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from serving.aside import aside
from serving.members import Member

EVERY_S = 1.0
SUFFIX = ".json"
ADDED = ("counter", "histogram", "summary")
log = logging.getLogger("dxflow.serving")
Family = dict[str, Any]
"""`name`, `type`, `help` and `samples` ([name, labels, value]) of a metric."""


class Shared:
    """What one member tells of all.

    Args:
        collect: Its own figures; None: those of this process.
    """

    def __init__(self, member: Member, collect: Callable[[], list[Family]] | None = None) -> None:
        self._member, self._collect = member, collect or own
        self._lock, self._failing = threading.Lock(), False
        found = _read(self._path(member.number))
        self._before = [family for family in found[1] if family["type"] in ADDED] if found else []

    def _path(self, number: int) -> Path:
        return self._member.folder / f"{number}{SUFFIX}"

    def tell(self) -> list[Family]:
        """Leave its figures for the others, where they can be left; returns them."""
        families = added([(self._member.number, [*self._before, *self._collect()])], apart=False)
        path = self._path(self._member.number)
        partial = path.with_suffix(".partial")
        with self._lock:
            try:
                partial.write_text(json.dumps([os.getpid(), families]), encoding="utf-8")
                os.replace(partial, path)  # whole, and not worth a sync of the disk
                self._failing = False
            except OSError as error:
                if not self._failing:  # once for each outage
                    log.error("metrics of process %d: the others do not get them: %s", self._member.number, error.strerror)
                self._failing = True
        return families

    def page(self) -> bytes:
        """What GET /metrics answers, in Prometheus' text format."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.metrics_core import Metric

        told = {self._member.number: self.tell()}
        for path in self._member.folder.glob(f"*{SUFFIX}"):
            number = int(path.stem)
            if number != self._member.number and (found := _read(path)):
                pid, families = found
                told[number] = families if _runs(pid) else [family for family in families if family["type"] in ADDED]
        metrics = []
        for family in added(sorted(told.items())):
            metrics.append(Metric(family["name"], family["help"], family["type"]))
            for name, labels, value in family["samples"]:
                metrics[-1].add_sample(name, labels, value)

        class All:
            def collect(self) -> Iterator[Metric]:
                yield from metrics

        registry = CollectorRegistry()
        registry.register(All())  # pyright: ignore[reportArgumentType]
        return generate_latest(registry)

    def telling(self) -> AbstractContextManager[None]:
        """Within the block, every second."""

        def work(stop: threading.Event) -> None:
            self.tell()
            while not stop.wait(EVERY_S):
                self.tell()

        return aside("metrics", work)


def own() -> list[Family]:
    """The figures of this process. When it began to count (`_created`) is left out: such times add up to nothing."""
    from prometheus_client import REGISTRY

    found: list[Family] = []
    for family in REGISTRY.collect():
        samples = [[s.name, s.labels, s.value] for s in family.samples if not s.name.endswith("_created")]
        found.append({"name": family.name, "type": family.type, "help": family.documentation, "samples": samples})
    return found


def added(told: Iterable[tuple[int, list[Family]]], *, apart: bool = True) -> list[Family]:
    """Counters, histograms and summaries added; of what is neither, one line a process, labelled `process`: the sum of some means nothing.

    Args:
        told: Number of a process, and its figures.
        apart: Whether those lines get their label.
    """
    families: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for number, found in told:
        for family in found:
            families.setdefault(family["name"], family)
            sums, adds = values.setdefault(family["name"], {}), family["type"] in ADDED
            for name, labels, value in family["samples"]:
                key = (name, tuple((labels if adds or not apart else {**labels, "process": str(number)}).items()))
                sums[key] = sums.get(key, 0.0) + value if adds else value
    return [
        family | {"samples": [[sample, dict(labels), value] for (sample, labels), value in values[name].items()]} for name, family in families.items()
    ]


def _read(path: Path) -> tuple[int, list[Family]] | None:
    try:
        pid, families = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return pid, families


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
