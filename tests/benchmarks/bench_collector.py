"""The collector against the bare write: events a second in batches of 100 and one by one, over real HTTP, each on the disk before its answer.

The bare write is the same records in the same groups through the same log, without HTTP, JSON and CloudEvents. Both use the folder of temporary
files: `TMPDIR` chooses the disk.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH, CONNECTIONS, EVENTS = 100, 4, 20_000
SINGLES, SENDERS = 4_000, 32
ROOT = Path(__file__).parents[2]


def run() -> list[dict[str, Any]]:
    """Rates of responses with one answer each, about 1 kB, as KServe's logger sends them for a model of dxflow."""
    from components.core.package import ModelPackage
    from tests.serving.small_package import build, lung_nodule, reference

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        package: ModelPackage = build(root / "p", lung_nodule(), reference({"0123456789abcdef": ("SIEMENS", "SOMATOM FORCE")}, patients=3))
        batched = [_batch(range(at, at + BATCH)) for at in range(0, EVENTS, BATCH)]
        alone = [_single(n) for n in range(EVENTS, EVENTS + SINGLES)]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        code = (
            "from pathlib import Path; from serving.collector import collect; "
            f"collect([Path({str(package.folder)!r})], port={port}, allow_synthetic=False, log=Path({str(root / 'log')!r}))"
        )
        environment = os.environ | {"DXFLOW_HOME": str(root / "home"), "DXFLOW_KEY": "a key of the benchmark only"}
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, cwd=ROOT, env=environment) as process:
            try:
                _await_port(port)
                in_batches = len(batched) * BATCH / asyncio.run(_send(port, batched, CONNECTIONS))
                one_by_one = len(alone) / asyncio.run(_send(port, alone, SENDERS))
            finally:
                process.terminate()
        from components.core.inference_log import read_log

        found = read_log(root / "log")
        if len(found) != EVENTS + SINGLES or found.attrs["damaged"]:
            raise AssertionError(f"{len(found)} records of {EVENTS + SINGLES}")
        groups = _groups(package, batched)
        bare, bare_alone = _bare(root / "bare", groups), _bare(root / "alone", [[r] for group in groups for r in group][:SINGLES])
    return [
        _row(f"events a second, batches of {BATCH}, {CONNECTIONS} connections", in_batches, "1/s", ">= 5000", in_batches >= 5000),
        _row("batches: bare write against the collector", bare / in_batches, "x"),
        _row(f"events a second, one by one, {SENDERS} connections", one_by_one, "1/s"),
        _row("one by one: bare write, synced for each, against the collector", bare_alone / one_by_one, "x"),
        _row("bare write, groups of 100, records a second", bare, "1/s"),
        _row("bare write, synced for each, records a second", bare_alone, "1/s"),
    ]


def _row(name: str, value: float, unit: str, bound: str = "", holds: bool | None = None) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "bound": bound, "holds": holds}


def _event(n: int) -> dict[str, Any]:
    device = {"key": "0123456789abcdef", "manufacturer": "SIEMENS", "model": "SOMATOM FORCE", "status": "known", "profile": "ok"}
    answer = {
        "request_id": f"{n:032x}", "model": "lung-nodule", "version": "3", "digest": "d" * 64, "disease": "lung-nodule", "synthetic": False,
        "probabilities": {"benign": 0.25, "malignant": 0.75}, "decision": "malignant", "abstain": False, "reasons": [], "device": device,
        "operating_point": {"kind": "threshold", "threshold": 0.4, "rule": "sensitivity at least 0.9"},
    }  # fmt: skip
    return {
        "specversion": "1.0", "id": f"8b1f6f0e-0000-4000-8000-{n:012x}", "source": "http://localhost:9081/", "datacontenttype": "application/json",
        "type": "org.kubeflow.serving.inference.response", "time": "2026-03-01T10:00:00.123456789Z", "inferenceservicename": "lung-nodule",
        "namespace": "default", "component": "predictor", "endpoint": "", "metadata": "{}", "data": {"predictions": [answer]},
    }  # fmt: skip


def _batch(numbers: range) -> bytes:
    return _post({"content-type": "application/cloudevents-batch+json"}, json.dumps([_event(n) for n in numbers]))


def _single(n: int) -> bytes:
    """In binary mode, as KServe's agent sends it."""
    event = _event(n)
    data = event.pop("data")
    kind = event.pop("datacontenttype")
    return _post({"content-type": kind} | {f"ce-{name}": value for name, value in event.items()}, json.dumps(data))


def _post(headers: dict[str, str], text: str) -> bytes:
    body = text.encode()
    head = "".join(f"{name}: {value}\r\n" for name, value in (headers | {"host": "x", "content-length": str(len(body))}).items())
    return f"POST / HTTP/1.1\r\n{head}\r\n".encode() + body


async def _send(port: int, messages: list[bytes], connections: int) -> float:
    """Seconds until the last message is acknowledged; each connection waits for an answer before it sends again."""
    waiting = iter(messages)

    async def sender() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for message in waiting:
            writer.write(message)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            if not head.startswith(b"HTTP/1.1 200"):
                raise AssertionError(body)
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(sender() for _ in range(connections)))
    return time.perf_counter() - started


def _await_port(port: int) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the collector did not come up")


def _groups(package: Any, batched: list[bytes]) -> list[list[dict[str, Any]]]:
    """What the collector writes for each batch."""
    from components.core.pseudonym import Pseudonymiser
    from serving import cloud_events
    from serving.collected import Collected

    collected = Collected([package], Pseudonymiser(b"a key of the benchmark only"))
    groups = []
    for message in batched:
        events = [cloud_events.from_structured(item) for item in json.loads(message.partition(b"\r\n\r\n")[2])]
        groups.append([r for event in events for r in collected.records(event, collected.key(event), "")])
    return groups


def _bare(folder: Path, groups: list[list[dict[str, Any]]]) -> float:
    """Records a second."""
    from components.core.inference_log import InferenceLog

    with InferenceLog(folder) as log:
        started = time.perf_counter()
        for group in groups:
            log.write(group)
        return sum(map(len, groups)) / (time.perf_counter() - started)


if __name__ == "__main__":
    for found in run():
        print(f"{found['name']}: {found['value']:.4g} {found['unit']}")
