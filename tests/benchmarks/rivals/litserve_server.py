"""python litserve_server.py PORT MODEL.onnx TOGETHER

LitServe reads annotations of `request` as objects, so there are none and no postponed ones.
"""

import base64
import sys
from typing import Any

import litserve
from session import Session

TOGETHER = int(sys.argv[3])


class Plain(litserve.LitAPI):
    def setup(self, device: Any) -> None:
        self.session = Session(sys.argv[2])

    def decode_request(self, request) -> bytes:
        return base64.b64decode(request["image"])

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, x: Any) -> Any:
        return self.session(*x) if TOGETHER > 1 else self.session(x)

    def unbatch(self, output: Any) -> Any:
        return output

    def encode_response(self, output: Any) -> Any:
        return {"predictions": output}


if __name__ == "__main__":
    api = Plain(max_batch_size=TOGETHER, batch_timeout=0.01) if TOGETHER > 1 else Plain()
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="error", generate_client_file=False)
