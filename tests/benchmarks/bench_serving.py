"""The model server: what it adds to the bare engine, its throughput beside plain servers on the same network, and its probe under load.

The network is DenseNet121 at 224 x 224 (weights do not matter for time), asked with PNG files of about 32 KB; the small one is a mean and a linear
layer, so that the server is the limit. Clients are processes of their own, which take their share of the same two cores, as everybody's do.
LitServe, BentoML and MLServer are not in the environment and are not measured here.
"""

from __future__ import annotations

import http.client
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
ONE, MANY, CLIENTS, PROBES = 150, 240, 8, 3000
PNG, DICOM = {"Content-Type": "image/png"}, {"Content-Type": "application/dicom", "X-Dxflow-Row": "500", "X-Dxflow-Column": "500"}


def run() -> list[dict[str, Any]]:
    from components.core.engines import OnnxRuntime

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        big, small, lung = (_package(root, which) for which in ("big", "small", "lung"))
        png, dicom = _png(), _slice()
        rows = []
        for what, folder, body, headers, bounds in (
            ("32 KB PNG", small, png, PNG, (3.0, 10.0)), ("2 MB DICOM", lung, dicom, DICOM, (8.0, 20.0)),
        ):  # fmt: skip
            with _ours(root, folder) as port:
                times = _one(port, _path(folder), body, headers, ONE)
                bare = _bare(OnnxRuntime(folder / "model.onnx", None, name=what), folder)
            for q, bound in zip((50, 99), bounds, strict=True):
                added = float(np.percentile(times, q) - np.percentile(bare, 50)) * 1000
                rows.append(_row(f"added to the bare engine, one client, {what}, p{q}", added, "ms", f"<= {bound:g}", added <= bound))
        rates = {}
        for what, server in (
            ("ours", lambda: _ours(root, big)),
            ("FastAPI", lambda: _plain("fastapi", big)),
            ("KServe", lambda: _plain("kserve", big)),
        ):
            path = {"ours": _path(big), "FastAPI": "/predict", "KServe": "/v1/models/plain:predict"}[what]
            with server() as port:
                rates[what] = _many(port, path, png, MANY if what != "KServe" else MANY // 4)
                if what == "ours":
                    probes = _probed(port, path, png)
        small_rates = {}
        for what, server, path in (("ours", lambda: _ours(root, small), _path(small)), ("FastAPI", lambda: _plain("fastapi", small), "/predict")):
            with server() as port:
                small_rates[what] = _many(port, path, png, 4 * MANY)
    ratio, plain, fast = rates["ours"] / rates["FastAPI"], rates["ours"] / rates["KServe"], small_rates["ours"] / small_rates["FastAPI"]
    return [
        *rows,
        _row(f"requests a second, DenseNet121, {CLIENTS} clients", rates["ours"], "1/s"),
        _row("the same, against a plain FastAPI server, onnxruntime float32", ratio, "x", ">= 1", ratio >= 1),
        _row("the same, against KServe's custom-model example, torch eager", plain, "x", ">= 2", plain >= 2),
        _row(f"requests a second, a mean and a linear layer, {CLIENTS} clients", small_rates["ours"], "1/s"),
        _row("the same, against a plain FastAPI server, which checks, logs and answers less", fast, "x", ">= 1.2", fast >= 1.2),
        _row(f"health probe under full load, p99 of {PROBES}", float(np.percentile(probes, 99)) * 1000, "ms", "<= 50",
             bool(np.percentile(probes, 99) <= 0.05)),
    ]  # fmt: skip


def _row(name: str, value: float, unit: str, bound: str = "", holds: bool | None = None) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "bound": bound, "holds": holds}


def _package(root: Path, which: str) -> Path:
    from components.core.spec import DiseaseSpec
    from tests.serving.small_package import CATALOGUE, build, lung_nodule, onnx_bytes, reference

    known = reference({"0123456789abcdef": ("MAKER", "MODEL")})
    if which == "lung":
        return build(root / which, lung_nodule(normalise={"method": "range"}), known).folder
    raw = DiseaseSpec.from_toml(CATALOGUE / "retinopathy-screening.toml").model_dump()
    raw["input"]["shape"] = (3, 224, 224)
    spec = DiseaseSpec.model_validate(raw | {"abstain": {"outside": 0}, "normalise": {"method": "range"}})
    table = known.rename(columns={f"score_{old}": f"score_{new}" for old, new in zip(("benign", "malignant"), spec.target.classes, strict=True)})
    decision = {"kind": "threshold", "classes": list(spec.target.classes), "thresholds": [0.4], "positive": spec.target.positive}
    graph = onnx_bytes((3, 224, 224))
    if which == "big":
        import torchvision

        from components.core.models.torch_onnx import export

        export(torchvision.models.densenet121(num_classes=2), (3, 224, 224), root / "big.onnx")
        graph = (root / "big.onnx").read_bytes()
    return build(root / which, spec, table, onnx=graph, decision=decision).folder


def _path(folder: Path) -> str:
    from components.core.package import ModelPackage

    return f"/v1/models/{ModelPackage.open(folder).disease}:predict"


def _png() -> bytes:
    from PIL import Image

    rng = np.random.default_rng(0)
    rows, columns = np.ogrid[:224, :224]
    smooth = 128 + 90 * np.sin(rows / 30)[..., None] * np.cos(columns / 25)[..., None] + rng.normal(0, 0.2, (224, 224, 3))
    out = io.BytesIO()
    Image.fromarray(np.clip(smooth, 0, 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def _slice() -> bytes:
    from tests.serving.small_dicom import ct_slice, image

    return ct_slice(image(size=1024))


def _bare(engine: Any, folder: Path) -> NDArray[np.float64]:
    from components.core.package import ModelPackage

    x = np.random.default_rng(0).random((1, *ModelPackage.open(folder).spec.input.shape), np.float32)
    times = []
    for _ in range(ONE):
        began = time.perf_counter()
        engine.run(x)
        times.append(time.perf_counter() - began)
    return np.array(times[10:])


def _one(port: int, path: str, body: bytes, headers: dict[str, str], n: int) -> NDArray[np.float64]:
    """Seconds of each request on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    times = []
    for _ in range(n):
        began = time.perf_counter()
        connection.request("POST", path, body, headers)
        reply = connection.getresponse()
        text = reply.read()
        times.append(time.perf_counter() - began)
        assert reply.status == 200, text
    connection.close()
    return np.array(times[10:])


def _client(job: tuple[int, str, bytes, int]) -> None:
    port, path, body, n = job
    with ThreadPoolExecutor(CLIENTS // 2) as pool:
        list(pool.map(lambda _: _one(port, path, body, PNG, n), range(CLIENTS // 2)))


def _many(port: int, path: str, body: bytes, n: int) -> float:
    """Requests a second of `CLIENTS` connections from two processes."""
    _one(port, path, body, PNG, 12)
    each = max(12, n // CLIENTS)
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(abs, range(2)))  # started
        began = time.perf_counter()
        list(pool.map(_client, [(port, path, body, each)] * 2))
        return CLIENTS * each / (time.perf_counter() - began)


def _probed(port: int, path: str, body: bytes) -> NDArray[np.float64]:
    """Seconds of each health probe while `CLIENTS` connections keep the server busy."""
    with ProcessPoolExecutor(2) as pool:
        load = [pool.submit(_client, (port, path, body, 40)) for _ in range(2)]
        times: list[float] = []
        while len(times) < PROBES:
            if all(job.done() for job in load):
                load = [pool.submit(_client, (port, path, body, 40)) for _ in range(2)]
            began = time.perf_counter()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/v2/health/live")
            assert connection.getresponse().read() is not None
            connection.close()
            times.append(time.perf_counter() - began)
            time.sleep(0.005)
        return np.array(times)


@contextmanager
def _ours(root: Path, folder: Path) -> Iterator[int]:
    from tests.serving.small_server import free_port, serving, started

    port = free_port()
    own = root / f"run-{port}"
    own.mkdir()
    with started(serving([folder], own / "log", port=port), own, port=port, ready="/v2/health/ready"):
        yield port


@contextmanager
def _plain(kind: str, folder: Path) -> Iterator[int]:
    from tests.serving.small_server import free_port

    port = free_port()
    command = [sys.executable, "-m", "tests.benchmarks.plain_servers", kind, str(port), str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            assert process.poll() is None
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/")
                connection.getresponse().read()
                break
            except OSError:
                time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()
