"""200,000 requests of a small model: no error, each answered request once in the log, and memory that does not grow.

`python -m tests.soak.load [requests]`: RSS of the server is read a hundred times; the mean of the last tenth may be at most 5 % above
that of the second tenth (the first one warms up).
"""

from __future__ import annotations

import http.client
import io
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tests.benchmarks.bench_serving import PNG
from tests.serving.small_package import CATALOGUE, build, reference
from tests.serving.small_server import free_port, serving, started

CLIENTS, PARTS, MOST_GROWTH = 8, 100, 1.05


def picture() -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(40, 200, (28, 28, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def package(root: Path) -> tuple[Path, str]:
    from components.core.spec import DiseaseSpec

    spec = DiseaseSpec.from_toml(CATALOGUE / "retinopathy-screening.toml").model_dump()
    spec["input"]["shape"] = (3, 28, 28)
    made = DiseaseSpec.model_validate(spec | {"abstain": {"outside": 0}, "normalise": {"method": "range"}})
    table = reference({"0123456789abcdef": ("MAKER", "MODEL")})
    table = table.rename(columns={f"score_{old}": f"score_{new}" for old, new in zip(("benign", "malignant"), made.target.classes, strict=True)})
    decision = {"kind": "threshold", "classes": list(made.target.classes), "thresholds": [0.4], "positive": made.target.positive}
    return build(root / "package", made, table, decision=decision).folder, made.name


def ask(job: tuple[int, str, bytes, int]) -> int:
    """Requests on connections of one process; how many were not answered with 200."""
    port, path, body, n = job

    def one(_: int) -> int:
        connection, bad = http.client.HTTPConnection("127.0.0.1", port, timeout=120), 0
        for _ in range(n):
            connection.request("POST", path, body, PNG)
            reply = connection.getresponse()
            reply.read()
            bad += reply.status != 200
        connection.close()
        return bad

    with ThreadPoolExecutor(CLIENTS // 2) as pool:
        return sum(pool.map(one, range(CLIENTS // 2)))


def rss_mb(pid: int) -> float:
    pages = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(pages.split()[1]) / 1024


def main() -> int:
    from components.core.inference_log import read_log

    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    each = max(1, requests // PARTS // CLIENTS)
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(2) as pool:
        root, port, body = Path(name), free_port(), picture()
        folder, disease = package(root)
        with started(serving([folder], root / "log", port=port), root, port=port, ready="/v2/health/ready") as server:
            memory, bad, began = [], 0, time.perf_counter()
            for _ in range(PARTS):
                bad += sum(pool.map(ask, [(port, f"/v1/models/{disease}:predict", body, each)] * 2))
                memory.append(rss_mb(server.process.pid))
            took = time.perf_counter() - began
            alive = server.process.poll() is None
        made = each * CLIENTS * PARTS
        found = read_log(root / "log", keep=lambda batch: batch[["request_id", "status"]])["request_id"]
    tenth = PARTS // 10
    second, last = float(np.mean(memory[tenth : 2 * tenth])), float(np.mean(memory[-tenth:]))
    print(f"{made} requests in {took:.0f} s ({made / took:.0f} a second): {bad} not answered with 200")
    print(f"records in the log: {len(found)}, of different requests: {found.nunique()}")
    print(f"memory of the server, MB: first part {memory[0]:.1f}, second tenth {second:.1f}, last tenth {last:.1f} ({last / second - 1:+.1%})")
    return 1 if bad or not alive or len(found) != made or found.nunique() != made or last > MOST_GROWTH * second else 0


if __name__ == "__main__":
    raise SystemExit(main())
