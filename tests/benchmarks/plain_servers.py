"""Two servers as people write them in an hour, for the benchmark: what ours is compared with on the same network.

    python -m tests.benchmarks.plain_servers fastapi|kserve PORT MODEL

fastapi: ONNX Runtime on a thread of its own, two threads of its own. kserve: KServe's custom-model example, torch eager, work on the event loop.
"""

from __future__ import annotations

import asyncio
import io
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pixels(body: bytes) -> NDArray[np.float32]:
    """PNG -> (1, 3, H, W) in [0, 1]."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(body)).convert("RGB"), np.float32).transpose(2, 0, 1)[None] / 255


def fastapi(port: int, model: str) -> None:
    import onnxruntime
    import uvicorn
    from fastapi import FastAPI
    from starlette.responses import JSONResponse

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(f"{model}/model.onnx", options, providers=["CPUExecutionProvider"])
    executor = ThreadPoolExecutor(1)
    app = FastAPI()

    async def predict(request: Any) -> Any:
        body = await request.body()
        work = lambda: session.run(["scores"], {"x": pixels(body)})[0].tolist()
        return JSONResponse({"predictions": await asyncio.get_running_loop().run_in_executor(executor, work)})

    app.add_route("/predict", predict, methods=["POST"])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


def kserve(port: int, model: str) -> None:
    sys.argv = sys.argv[:1]
    import kserve as k
    import torch
    import torchvision

    torch.set_num_threads(2)
    network = torchvision.models.densenet121(num_classes=2).eval()

    class Plain(k.Model):
        def __init__(self) -> None:
            super().__init__("plain")
            self.ready = True

        def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
            with torch.no_grad():
                return {"predictions": network(torch.from_numpy(pixels(payload))).tolist()}

    k.ModelServer(http_port=port, enable_grpc=False, workers=1).start([Plain()])


if __name__ == "__main__":
    {"fastapi": fastapi, "kserve": kserve}[sys.argv[1]](int(sys.argv[2]), sys.argv[3])
