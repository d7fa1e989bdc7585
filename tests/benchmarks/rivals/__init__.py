"""Other people's model servers, each in an environment of its own, on the same network with the same engine, precision and threads.

Each is written as its documentation shows it for one ONNX model that is asked with a picture, and once more with its own batching where it has some;
`session` is the same for all and for ours: two threads that do not spin. `environment` makes the environment at first use, under
`DXFLOW_BENCH_ENVS` or the user's cache.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

HERE = Path(__file__).parent
START_S = 90
SAME = ("onnxruntime==1.32.0", "pillow==13.0.0", "numpy==2.4.6")


@dataclass(frozen=True)
class Rival:
    """One server.

    Args:
        packages: What its environment holds beside `SAME`; empty: it runs in ours.
        path, headers, body: How it is asked; `body` takes the PNG's bytes. What takes no raw bytes is sent base64 in its own JSON.
        command: Arguments for its Python from (port, folder of the package, folder for its own files).
    """

    packages: tuple[str, ...]
    path: str
    headers: dict[str, str]
    body: Callable[[bytes], bytes]
    command: Callable[[int, Path, Path], list[str]]


def _script(name: str, together: int = 1) -> Callable[[int, Path, Path], list[str]]:
    return lambda port, folder, _: [str(HERE / f"{name}_server.py"), str(port), str(folder / "model.onnx"), str(together)]


def _mlserver(port: int, folder: Path, own: Path, together: int = 1) -> list[str]:
    (own / "settings.json").write_text(json.dumps({
        "http_port": port, "grpc_port": port + 1, "metrics_port": port + 2, "host": "127.0.0.1", "debug": False, "parallel_workers": 1,
    }))  # fmt: skip
    batches = {"max_batch_size": together, "max_batch_time": 0.01} if together > 1 else {}
    (own / "model-settings.json").write_text(
        json.dumps({"name": "plain", "implementation": "mlserver_server.Plain", "parameters": {"uri": str(folder / "model.onnx")}} | batches)
    )
    # its worker processes import the main module again, which must be its own script
    start = "import os, sys; os.execv(os.path.join(os.path.dirname(sys.executable), 'mlserver'), ['mlserver', 'start', sys.argv[1]])"
    return ["-c", start, str(own)]


def _base64(png: bytes) -> str:
    return base64.b64encode(png).decode()


JSON, PNG = {"Content-Type": "application/json"}, {"Content-Type": "image/png"}
BATCHED, TOGETHER = ", batched", 8
"""How a server that puts requests together by itself is named when it does; and how many, as ours."""


def _lit(together: int) -> Rival:
    body = lambda png: json.dumps({"image": _base64(png)}).encode()
    return Rival(("litserve==0.2.19",), "/predict", JSON, body, _script("litserve", together))


def _ml(together: int) -> Rival:
    return Rival(
        ("mlserver==1.7.1", "uvloop==0.21.0"),  # its worker process does not start with a newer uvloop
        "/v2/models/plain/infer", JSON,
        lambda png: json.dumps({"inputs": [
            {"name": "image", "shape": [1], "datatype": "BYTES", "data": [_base64(png)], "parameters": {"content_type": "base64"}}
        ]}).encode(),
        lambda port, folder, own: _mlserver(port, folder, own, together),
    )  # fmt: skip


def _eager(*more: str) -> Rival:
    return Rival((), "/v1/models/plain:predict", PNG, bytes, lambda port, *_: [str(HERE / "kserve_server.py"), str(port), *more])


BENTO = ("bentoml==1.4.40",)
RIVALS = {
    "FastAPI": Rival((), "/predict", PNG, bytes, _script("fastapi")),
    "LitServe": _lit(1),
    f"LitServe{BATCHED}": _lit(TOGETHER),
    "BentoML": Rival(BENTO, "/predict", PNG, bytes, _script("bentoml")),
    f"BentoML{BATCHED}": Rival(BENTO, "/together", JSON, lambda png: json.dumps({"images": [_base64(png)]}).encode(), _script("bentoml")),
    "MLServer": _ml(1),
    f"MLServer{BATCHED}": _ml(TOGETHER),
    "KServe, torch eager": _eager(),
}
KSERVE_CUDA = "KServe, torch eager on CUDA"
ON_CUDA = {KSERVE_CUDA: _eager("inception_v3", "cuda")}


def environment(name: str) -> Path | None:
    """The Python of a rival's environment, made if absent; None where its packages cannot be had."""
    packages = (RIVALS | ON_CUDA)[name].packages
    if not packages:
        return Path(sys.executable)
    folder = Path(os.environ.get("DXFLOW_BENCH_ENVS") or Path.home() / ".cache" / "dxflow-bench") / name.removesuffix(BATCHED).lower()
    python = folder / "bin" / "python"
    if (folder / ".complete").exists():
        return python
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python), *packages, *SAME], check=True)
    except subprocess.CalledProcessError:
        return None
    (folder / ".complete").touch()
    return python


@contextmanager
def running(name: str, port: int, folder: Path, own: Path, png: bytes) -> Iterator[bool]:
    """The server, once it answers; False where its environment cannot be made or it never does. It ends with all its processes."""
    python = environment(name)
    if python is None:
        yield False
        return
    rival = (RIVALS | ON_CUDA)[name]
    own.mkdir(parents=True)
    beside = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH") if not rival.packages else None])])
    with open(own / "output", "w") as output:
        process = subprocess.Popen(
            [str(python), *rival.command(port, folder, own)], cwd=own, env={**os.environ, "PYTHONPATH": beside}, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
        below: list[psutil.Process] = []
        try:
            answers = _answers(process, port, rival, png)
            below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            yield answers
        finally:
            with suppress(ProcessLookupError):  # it has ended
                os.killpg(process.pid, signal.SIGTERM)  # some have processes in groups of their own, which only they can end
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for one in below:
                with suppress(psutil.NoSuchProcess):
                    one.kill()


def _answers(process: subprocess.Popen[bytes], port: int, rival: Rival, png: bytes) -> bool:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("POST", rival.path, rival.body(png), rival.headers)
            if connection.getresponse().status == 200:
                return True
        except OSError:
            pass
        time.sleep(0.2)
    return False
