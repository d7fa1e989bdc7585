"""Damaged files by the ten thousand: at the decoding layer, then a part of them at a running server.

`python -m tests.soak.fuzz [number] [seed]`; exits with 1 when anything but samples or one plain line came back, or memory grew.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil

from tests.serving.fuzzing import MARKS, mutants, outcome, seeds
from tests.serving.small_bodies import BRAIN, FUNDUS, GAIT, PIXELS, TABLE, package
from tests.serving.small_package import build, lung_nodule, reference
from tests.serving.small_server import Process, free_port, serving, started

GROWTH = 48 << 20
SHARE = 0.1  # of the files that go to the server too
MODELS = {"dicom": "lung-nodule", "dicom-photograph": FUNDUS, "png": FUNDUS, "jpeg": FUNDUS, "nifti": BRAIN, "recording": GAIT, "table": TABLE}
MODELS |= {"pixels": PIXELS}


def layer(number: int, seed: int) -> tuple[dict[str, object], list[str]]:
    """Figures by format, and what was wrong."""
    process = psutil.Process()
    figures: dict[str, object] = {}
    wrong: list[str] = []
    for name, (kind, spec, good) in seeds().items():
        found: Counter[str] = Counter()
        slowest, began = 0.0, time.process_time()
        after_a_tenth = 0
        for n, data in enumerate(mutants(good, number, seed)):
            if n == number // 10:
                after_a_tenth = process.memory_info().rss
            start = time.process_time()
            try:
                found[outcome(kind, spec, data)] += 1
            except Exception as error:  # the very thing that is looked for
                wrong.append(f"{name} {n}: {type(error).__name__}")
            slowest = max(slowest, time.process_time() - start)
        grown = process.memory_info().rss - after_a_tenth
        figures[name] = {
            "files": number, "read": found["read"], "reasons": len(found) - ("read" in found), "slowest_ms": round(1000 * slowest),
            "mean_ms": round(1000 * (time.process_time() - began) / number, 2), "grown_mb": round(grown / (1 << 20), 1),
        }  # fmt: skip
        if grown > GROWTH:
            wrong.append(f"{name}: memory grew by {grown >> 20} MB")
        print(name, json.dumps(figures[name]), flush=True)
    return figures, wrong


def at_the_server(server: Process, number: int, seed: int) -> tuple[dict[str, object], list[str]]:
    """The same files as requests."""
    process = psutil.Process(server.process.pid)
    statuses: Counter[int] = Counter()
    wrong: list[str] = []
    after_a_format = 0
    with httpx.Client(timeout=120) as client:
        for name, model in MODELS.items():
            kind, _, good = seeds()[name]
            headers = {"Content-Type": kind, "X-Dxflow-Row": "30", "X-Dxflow-Column": "30"}
            for n, data in enumerate(mutants(good, number, seed)):
                reply = client.post(f"{server.url}/v1/models/{model}:predict", content=data, headers=headers)
                statuses[reply.status_code] += 1
                if reply.status_code not in (200, 400, 413) or any(mark in reply.text.lower() for mark in MARKS):
                    wrong.append(f"{name} {n}: HTTP {reply.status_code}")
            after_a_format = after_a_format or process.memory_info().rss
    grown = process.memory_info().rss - after_a_format
    output = server.output.read_text().lower()
    if server.process.poll() is not None or "defect" in output or any(mark in output for mark in MARKS) or grown > 2 * GROWTH:
        wrong.append(f"server: exit {server.process.poll()}, grown by {grown >> 20} MB, or its log")
    figures: dict[str, object] = {"requests": sum(statuses.values()), "statuses": dict(statuses), "grown_mb": round(grown / (1 << 20), 1)}
    print("server", json.dumps(figures), flush=True)
    return figures, wrong


def run_server(root: Path) -> tuple[str, int]:
    """Packages of six diseases in `root`; the code of a server with them, and its port."""
    lung = lung_nodule(normalise={"method": "range", "missing_profile": "pooled"})
    build(root / "lung-nodule", lung, reference({"0123456789abcdef": ("SIEMENS", "X")}, patients=2))
    for name in (FUNDUS, BRAIN, GAIT, TABLE, PIXELS):
        package(root / name, name)
    port = free_port()
    return serving([root / name for name in sorted(set(MODELS.values()))], root / "log", port=port), port


def main() -> int:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 20_261_125
    each = -(-number // len(MODELS))
    _, wrong = layer(each, seed)
    with tempfile.TemporaryDirectory() as folder:
        code, port = run_server(Path(folder))
        with started(code, Path(folder), port=port, ready="/v2/health/ready") as server:
            wrong += at_the_server(server, max(1, round(SHARE * each)), seed)[1]
    print(*wrong[:20], f"{len(wrong)} faults in {each * len(MODELS)} files", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
