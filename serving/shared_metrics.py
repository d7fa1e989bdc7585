"""One page of Prometheus metrics for all processes of a server: whichever is asked tells its own figures and what the others said a second ago.

A process that was started again counts from nothing, which Prometheus takes for a reset, as after any restart.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from serving.members import Member

EVERY_S = 1.0
SUFFIX = ".prom"


def own_page() -> bytes:
    """This process's figures in Prometheus' text format."""
    from prometheus_client import REGISTRY, generate_latest

    return generate_latest(REGISTRY)


def page(member: Member | None) -> bytes:
    """What GET /metrics answers."""
    if member is None:
        return own_page()
    pages = {member.number: own_page().decode()}
    for path in member.folder.glob(f"*{SUFFIX}"):
        if (number := int(path.stem)) != member.number:
            pages[number] = path.read_text(encoding="utf-8")
    return merged(pages)


def merged(pages: dict[int, str]) -> bytes:
    """Counters and histograms of all pages added; of a gauge one line a process, labelled `process`, since the sum of some means nothing.

    Args:
        pages: Number of the process -> its page.
    """
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.metrics_core import Metric
    from prometheus_client.parser import text_string_to_metric_families

    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for number, text in sorted(pages.items()):
        for family in text_string_to_metric_families(text):
            if family.name.endswith("_created"):  # when a process began to count: adds up to nothing
                continue
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            own = values.setdefault(family.name, {})
            adds = family.type in ("counter", "histogram", "summary")
            for sample in family.samples:
                labels = sample.labels if adds else {**sample.labels, "process": str(number)}
                key = (sample.name, tuple(labels.items()))
                own[key] = own.get(key, 0.0) + sample.value
    for name, family in families.items():
        for (sample, labels), value in values[name].items():
            family.add_sample(sample, dict(labels), value)
    registry = CollectorRegistry()

    class All:
        def collect(self) -> Iterator[Metric]:
            yield from families.values()

    registry.register(All())  # pyright: ignore[reportArgumentType]
    return generate_latest(registry)


@contextmanager
def told(member: Member | None) -> Iterator[None]:
    """Within the block this process leaves its figures for the others, every second."""
    if member is None:
        yield
        return
    stop, path = threading.Event(), member.folder / f"{member.number}{SUFFIX}"
    partial = path.with_suffix(".partial")

    def work() -> None:
        while True:
            partial.write_bytes(own_page())
            os.replace(partial, path)  # whole, and not worth a sync of the disk
            if stop.wait(EVERY_S):
                return

    thread = threading.Thread(target=work, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
