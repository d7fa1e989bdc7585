"""python litserve_server.py PORT MODEL.onnx

LitServe reads annotations of `request` as objects, so there are none and no postponed ones.
"""

import base64
import sys
from typing import Any

import litserve
from session import Session


class Plain(litserve.LitAPI):
    def setup(self, device: Any) -> None:
        self.session = Session(sys.argv[2])

    def decode_request(self, request) -> bytes:
        return base64.b64decode(request["image"])

    def predict(self, x: bytes) -> Any:
        return self.session(x)

    def encode_response(self, output: Any) -> Any:
        return {"predictions": output}


if __name__ == "__main__":
    server = litserve.LitServer(Plain(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="error", generate_client_file=False)
