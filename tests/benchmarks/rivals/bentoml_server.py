"""python bentoml_server.py PORT MODEL.onnx TOGETHER"""

from __future__ import annotations

import base64
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import bentoml
from session import Session


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Plain:
    def __init__(self) -> None:
        self.session = Session(os.environ["PLAIN_MODEL"])

    @bentoml.api
    def predict(self, image: Annotated[Path, bentoml.validators.ContentType("image/png")], /) -> dict[str, Any]:
        return {"predictions": self.session(image.read_bytes())}

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=1000)
    def together(self, images: list[str]) -> list[list[float]]:
        return self.session(*(base64.b64decode(image) for image in images))


if __name__ == "__main__":
    os.environ["PLAIN_MODEL"] = sys.argv[2]
    server = bentoml.serve("bentoml_server:Plain", working_dir=str(Path(__file__).parent), host="127.0.0.1", port=int(sys.argv[1]))
    signal.signal(signal.SIGTERM, lambda *_: server.stop())  # its workers have sessions of their own
    server.process.wait()
