"""python bentoml_server.py PORT MODEL.onnx"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import bentoml
from session import Session


@bentoml.service(workers=1, traffic={"timeout": 60})
class Plain:
    def __init__(self) -> None:
        self.session = Session(os.environ["PLAIN_MODEL"])

    @bentoml.api
    def predict(self, image: Annotated[Path, bentoml.validators.ContentType("image/png")], /) -> dict[str, Any]:
        return {"predictions": self.session(image.read_bytes())}


if __name__ == "__main__":
    os.environ["PLAIN_MODEL"] = sys.argv[2]
    server = bentoml.serve("bentoml_server:Plain", working_dir=str(Path(__file__).parent), host="127.0.0.1", port=int(sys.argv[1]))
    signal.signal(signal.SIGTERM, lambda *_: server.stop())  # its workers have sessions of their own
    server.process.wait()
