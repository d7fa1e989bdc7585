"""The model server: what it adds to the bare engine, its throughput beside plain servers on the same network, and its probe under load.

The network is DenseNet121 at 224 x 224 (weights do not matter for time), asked with PNG files of about 32 KB; the small one is a mean and a linear
layer, so that the server is the limit. Clients are processes of their own, which take their share of the same two cores, as everybody's do.
The others (`rivals`) run in environments of their own on the same engine; what they do not do (abstain, log, check, say how sure) costs them nothing.
"""

from __future__ import annotations

import http.client
import io
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.rivals import RIVALS, running
from tests.serving.small_server import free_port

ONE, MANY, CLIENTS, PROBES, ROUNDS = 150, 160, 8, 3000, 3
EAGER = "KServe, torch eager"
OURS, DEFAULT = "ours", "ours, default engine"
STAGES = {
    "request_preprocess_seconds": "decode", "request_predict_seconds": "image figures, engine, decision", "request_postprocess_seconds": "encode",
}  # fmt: skip
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
                before = _stages(port)
                times = _one(port, _path(folder), body, headers, ONE)
                after = _stages(port)
                bare = _bare(OnnxRuntime(folder / "model.onnx", None, name=what), folder)
            for q, bound in zip((50, 99), bounds, strict=True):
                added = float(np.percentile(times, q) - np.percentile(bare, 50)) * 1000
                rows.append(_row(f"added to the bare engine, one client, {what}, p{q}", added, "ms", f"<= {bound:g}", added <= bound))
            spent = {stage: 1000 * (after[stage] - before[stage]) / ONE for stage in STAGES}
            rows += [_row(f"of that in the mean, {what}: {STAGES[stage]}", value, "ms") for stage, value in spent.items()]
            rest = float(np.mean(times)) * 1000 - sum(spent.values())
            rows.append(_row(f"of that in the mean, {what}: HTTP, threads, inference log on the disk, the client itself", rest, "ms"))
        rows += _compared(root, big, png, MANY, "DenseNet121", tuple(RIVALS), 1.0)
        rows += _compared(root, small, png, 4 * MANY, "a mean and a linear layer", tuple(r for r in RIVALS if r != EAGER), 1.2)
        with _ours(root, big) as port:
            probes = _probed(port, _path(big), png)
        probe = float(np.percentile(probes, 99)) * 1000
        rows.append(_row(f"health probe under full load, p99 of {PROBES}", probe, "ms", "<= 50", probe <= 50))
    return rows


def _compared(root: Path, folder: Path, png: bytes, n: int, network: str, rivals: Sequence[str], least: float) -> list[dict[str, Any]]:
    """Requests a second of ours and of each of the others, one after the other in rounds, since the machine's own speed changes by the minute."""
    rates: dict[str, list[float]] = {}
    for turn in range(ROUNDS):
        for name in (OURS, *rivals, *([DEFAULT] if EAGER in rivals else [])):
            if name in (OURS, DEFAULT):
                with _ours(root, folder, "onnxruntime" if name == OURS else "auto") as port:
                    rates.setdefault(name, []).append(_many(port, _path(folder), png, n))
                continue
            port = free_port()
            rival, own = RIVALS[name], root / f"{network}-{name}-{turn}".replace(" ", "-")
            with running(name, port, folder, own, png) as answers:
                if answers:
                    few = n if name != EAGER else n // 3
                    rates.setdefault(name, []).append(_many(port, rival.path, rival.body(png), few, rival.headers))
    middle = {name: float(np.median(found)) for name, found in rates.items()}
    rows = [_row(f"requests a second, {network}, {CLIENTS} clients: {name}", rate, "1/s") for name, rate in middle.items()]
    rows += [_row(f"{name}: could not be run here", None, "") for name in rivals if name not in middle]
    best = max((name for name in middle if name not in (OURS, DEFAULT, EAGER) and len(rates[name]) == ROUNDS), key=lambda name: middle[name])

    def ratio(name: str, other: str) -> tuple[float, str]:
        """The median over the rounds of the ratio in each, and all of them in words."""
        each = [a / b for a, b in zip(rates[name], rates[other], strict=True)]
        return float(np.median(each)), ", ".join(f"{one:.2f}" for one in each)

    found, each = ratio(OURS, best)
    rows.append(_row(f"{network}: ours against the best of the others ({best}; rounds {each})", found, "x", f">= {least:g}", found >= least))
    if len(rates.get(EAGER, ())) == ROUNDS:
        found, each = ratio(OURS, EAGER)
        rows.append(_row(f"{network}: ours with ONNX Runtime against KServe's custom-model example, torch eager (rounds {each})", found, "x"))
        found, each = ratio(DEFAULT, EAGER)
        rows.append(_row(f"{network}: ours with its default engine against KServe's example (rounds {each})", found, "x", ">= 2", found >= 2))
    return rows


def _stages(port: int) -> dict[str, float]:
    """Seconds that the server's own metrics say it has spent in each stage."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return {stage: sum(float(value) for name, value in lines if name.startswith(f"{stage}_sum")) for stage in STAGES}


def _row(name: str, value: float | None, unit: str, bound: str = "", holds: bool | None = None) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "bound": bound, "holds": holds}


def _package(root: Path, which: str) -> Path:
    from components.core.calibration import Calibration
    from components.core.models.samples import Samples
    from components.core.operating_point import Decision
    from components.core.spec import DiseaseSpec
    from components.register import precision
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
    (root / "model.onnx").write_bytes(graph)
    rng = np.random.default_rng(0)
    x, labels = rng.random((64, *spec.input.shape), np.float32), np.arange(64) % 2
    some = Samples(batch=lambda rows: x[rows], labels=labels, groups=labels.astype(object))
    flat = Calibration("softmax", (1.0,), (0.0, 0.0), 64)
    engine = precision.measure(root, spec, None, some, some, flat, Decision.from_dict(decision))  # as register does: which engine is the default
    return build(root / which, spec, table, onnx=graph, decision=decision, more={"engine.json": engine}).folder


def _path(folder: Path) -> str:
    from components.core.package import ModelPackage

    return f"/v1/models/{ModelPackage.open(folder).disease}:predict"


def _png(side: int = 224) -> bytes:
    from PIL import Image

    rng = np.random.default_rng(0)
    rows, columns = np.ogrid[:side, :side]
    smooth = 128 + 90 * np.sin(rows / 30)[..., None] * np.cos(columns / 25)[..., None] + rng.normal(0, 0.2, (side, side, 3))
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


def _client(job: tuple[int, str, bytes, int, dict[str, str], int]) -> None:
    port, path, body, n, headers, connections = job
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(lambda _: _one(port, path, body, headers, n), range(connections)))


def _many(
    port: int, path: str, body: bytes, n: int, headers: dict[str, str] = PNG, *, connections: int = CLIENTS, processes: int = 2
) -> float:  # fmt: skip
    """Requests a second of `connections` from client processes."""
    _one(port, path, body, headers, 12)
    each = max(12, n // connections)
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(abs, range(processes)))  # started
        began = time.perf_counter()
        list(pool.map(_client, [(port, path, body, each, headers, connections // processes)] * processes))
        return connections * each / (time.perf_counter() - began)


def _probed(port: int, path: str, body: bytes) -> NDArray[np.float64]:
    """Seconds of each health probe while `CLIENTS` connections keep the server busy."""
    with ProcessPoolExecutor(2) as pool:
        load = [pool.submit(_client, (port, path, body, 40, PNG, CLIENTS // 2)) for _ in range(2)]
        times: list[float] = []
        while len(times) < PROBES:
            if all(job.done() for job in load):
                load = [pool.submit(_client, (port, path, body, 40, PNG, CLIENTS // 2)) for _ in range(2)]
            began = time.perf_counter()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/v2/health/live")
            assert connection.getresponse().read() is not None
            connection.close()
            times.append(time.perf_counter() - began)
            time.sleep(0.005)
        return np.array(times)


@contextmanager
def _ours(root: Path, folder: Path, engine: str = "onnxruntime", **options: Any) -> Iterator[int]:
    from tests.serving.small_server import serving, started

    port = free_port()
    own = root / f"run-{port}"
    own.mkdir()
    with started(serving([folder], own / "log", port=port, engine=engine, **options), own, port=port, ready="/v2/health/ready"):
        yield port
