"""On a CUDA device: batched serving beside eager batch 1, mixed precision beside float32, and our training loop beside a bare one.

The network is Inception-v3 of 299 x 299 pixels, which three rows of the survey use, with random weights: they do not matter for time. The eager
server is KServe's custom-model example with the network on the device, in torch's default precision there, which is TF32 for convolutions; ours
answers in bfloat16, as `auto` does where registration accepted it, and its float32 is a full one. Parity is that of a network trained on RetinaMNIST.
Without a CUDA device the page says that nothing was measured; its rows name the device on which they were.

    DXFLOW_DATA=... python -m tests.benchmarks cuda
"""

from __future__ import annotations

import http.client
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks import bench_serving as serving
from tests.benchmarks import bench_train as training
from tests.benchmarks.rivals import KSERVE_CUDA, running
from tests.serving.small_server import free_port

ROOT = Path(__file__).parents[2]
SIDE, TOGETHER, REPEATS = 299, 32, 30
CONNECTIONS, PROCESSES, REQUESTS = 64, 8, 3200
LEAST, MOST = 5.0, 4


def run() -> list[dict[str, Any]]:
    import torch

    if not torch.cuda.is_available():
        return [serving._row("batched serving against eager batch 1, and parity of mixed precision (no CUDA device)", None, "")]
    device = torch.cuda.get_device_name()
    with tempfile.TemporaryDirectory() as name:
        rows = [*_engines(), *_servers(Path(name)), *_parity(Path(name)), *_training()]
    machine = f"{device}, {os.cpu_count()} cores, torch {torch.__version__.partition('+')[0]}"
    return [row | {"machine": machine} for row in rows]


def spec() -> Any:
    from components.core.spec import DiseaseSpec
    from tests.serving.small_package import CATALOGUE

    raw = DiseaseSpec.from_toml(CATALOGUE / "retinopathy-screening.toml").model_dump()
    raw["input"]["shape"] = (3, SIDE, SIDE)
    raw["families"], raw["default_family"] = {"inception": {"kind": "inception-v3"}}, "inception"
    return DiseaseSpec.model_validate(raw | {"abstain": {"outside": 0}, "normalise": {"method": "range"}, "engine": {"precisions": ["bf16"]}})


def _engines() -> list[dict[str, Any]]:
    """Pictures a second from memory to memory, with nothing around the engine."""
    import torch

    from components.core.engine_torch import TorchEngine
    from components.core.models import build

    estimator: Any = build(spec())
    module = estimator.scorer()
    x = np.random.default_rng(0).random((TOGETHER, 3, SIDE, SIDE), np.float32)

    def eager(n: int) -> Callable[[], Any]:
        def one() -> Any:
            with torch.no_grad():
                return module(torch.from_numpy(x[:n]).cuda()).cpu().numpy()

        return one

    rates = {"eager, batch 1": 1 / _seconds(eager(1)), f"eager, batch {TOGETHER}": TOGETHER / _seconds(eager(TOGETHER))}
    for precision in ("f32", "bf16"):
        engine = TorchEngine(estimator, precision)
        assert engine.recorded
        for n in (1, TOGETHER):
            rates[f"ours, {precision}, batch {n}"] = n / _seconds(lambda engine=engine, n=n: engine.run(x[:n]))
    rows = [serving._row(f"engine alone, pictures a second: {name}", rate, "1/s") for name, rate in rates.items()]
    base = rates["eager, batch 1"]
    for precision in ("f32", "bf16"):
        ratio = rates[f"ours, {precision}, batch {TOGETHER}"] / base
        rows.append(serving._row(f"engine alone: {precision}, batch {TOGETHER}, against eager batch 1", ratio, "x", f">= {LEAST:g}", ratio >= LEAST))
    return rows


def _seconds(work: Callable[[], Any]) -> float:
    """Median of calls that end with the answer in the host's memory."""
    for _ in range(5):
        work()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _servers(root: Path) -> list[dict[str, Any]]:
    """Pictures a second over HTTP, one PNG a request, the same clients for all."""
    folder, png = _package(root), serving._png(SIDE)
    rates: dict[str, float] = {}
    own = root / "eager"
    port = free_port()
    with running(KSERVE_CUDA, port, folder, own, png) as answers:
        if answers:
            rates["KServe's example, eager, batch 1"] = _rate(port, "/v1/models/plain:predict", png, REQUESTS // 8)
    for processes in (1, MOST):
        with serving._ours(root, folder, "torch", processes=processes, queue=2 * CONNECTIONS) as port:
            _all_answer(port, processes)
            rates[f"ours, {processes} process{'es' * (processes > 1)}"] = _rate(port, serving._path(folder), png, REQUESTS)
    rows = [serving._row(f"served, pictures a second, {CONNECTIONS} connections: {name}", rate, "1/s") for name, rate in rates.items()]
    eager = rates.pop("KServe's example, eager, batch 1", None)
    for name, rate in rates.items() if eager else ():
        bound, holds = (f">= {LEAST:g}", rate >= LEAST * eager) if name == f"ours, {MOST} processes" else ("", None)
        rows.append(serving._row(f"batched serving against eager batch 1: {name}", rate / eager, "x", bound, holds))
    return rows


def _all_answer(port: int, processes: int) -> None:
    """The first process answers while the others still load."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/metrics")
        found = connection.getresponse().read().decode()
        if processes == 1 or all(f'process="{number}"' in found for number in range(1, processes + 1)):
            time.sleep(5)  # they tell of themselves before they listen
            return
        time.sleep(0.5)
    raise AssertionError("not all processes of the server came up")


def _rate(port: int, path: str, body: bytes, n: int) -> float:
    return serving._many(port, path, body, n, processes=PROCESSES, connections=CONNECTIONS)


def _package(root: Path) -> Path:
    from components.core.models import build
    from tests.serving.small_package import build as package
    from tests.serving.small_package import onnx_bytes, reference

    own = spec()
    build(own).save(root)
    known = reference({"0123456789abcdef": ("MAKER", "MODEL")})
    table = known.rename(columns={f"score_{old}": f"score_{new}" for old, new in zip(("benign", "malignant"), own.target.classes, strict=True)})
    decision = {"kind": "threshold", "classes": list(own.target.classes), "thresholds": [0.4], "positive": own.target.positive}
    more = {
        "model.safetensors": root / "model.safetensors",
        "engine.json": {"precision": "bf16", "n": 0, "tried": [{"engine": "torch", "precision": "bf16", "accepted": True}]},
    }
    return package(root / "big", own, table, onnx=onnx_bytes(own.input.shape), decision=decision, more=more).folder


def _parity(root: Path) -> list[dict[str, Any]]:
    """What bfloat16 changes on the test split of RetinaMNIST, trained here."""
    from components.core import calibration, metrics
    from components.core.engine_torch import TorchEngine
    from components.core.models import build
    from components.core.models.samples import Samples
    from components.core.spec import DiseaseSpec

    path = Path(os.environ.get("DXFLOW_DATA") or ROOT.parent / "shared" / "data") / "retinopathy-retinamnist" / "retinamnist.npz"
    if not path.exists():
        return [serving._row("mixed precision: AUC and grades on RetinaMNIST (the data are not here)", None, "")]
    own = DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / "retinopathy-mnist.toml")
    arrays = np.load(path, allow_pickle=False)

    def split(name: str) -> Samples:
        x = (arrays[f"{name}_images"].transpose(0, 3, 1, 2) / np.float32(255)).astype(np.float32)
        labels = arrays[f"{name}_labels"].ravel().astype(np.int64)
        return Samples(batch=lambda rows: x[rows], labels=labels, groups=np.arange(len(labels)).astype(object))

    estimator = build(own, "residual")
    began = time.perf_counter()
    history = estimator.fit(split("train"), split("val"), seed=0, checkpoint=root / "checkpoint", on_epoch=lambda _: None)
    took = time.perf_counter() - began
    test = split("test")
    pieces = np.array_split(np.arange(len(test)), -(-len(test) // TOGETHER))  # as they are served: by kernels that were recorded
    engines = [TorchEngine(estimator, precision) for precision in ("f32", "bf16")]
    exact, half = (np.concatenate([engine.run(test.batch(rows))[0] for rows in pieces]) for engine in engines)
    plain = calibration.Calibration("softmax", (1.0,), (0.0,) * own.n_scores)
    any_grade = np.asarray(test.labels) > 0
    auc = [metrics.auc(any_grade, calibration.apply(plain, scores)[:, 1:].sum(1)) for scores in (exact, half)]
    changed = float((exact.argmax(1) != half.argmax(1)).mean())
    lost = auc[0] - auc[1]
    held = lost <= own.engine.auc_change and changed <= own.engine.decision_change
    return [
        serving._row(f"RetinaMNIST, {len(history)} epochs of 1,080 pictures in bfloat16 autocast", took, "s"),
        serving._row("RetinaMNIST, any retinopathy, 400 test pictures: AUC in float32", auc[0], ""),
        serving._row("mixed precision: AUC lost on it by bfloat16", lost, "", f"<= {own.engine.auc_change:g}", lost <= own.engine.auc_change),
        serving._row("mixed precision: grades changed by bfloat16", changed, "", f"<= {own.engine.decision_change:g}", held),
        serving._row("mixed precision: largest change of a logit", float(np.abs(exact - half).max()), ""),
    ]


def _training() -> list[dict[str, Any]]:
    """As on the page's training rows, both loops in the device's mixed precision."""
    return [row | {"name": f"training: {row['name']}"} for row in training.run()]
