"""What tritonclient sees of a server, as JSON.

For gRPC it runs in a process of its own: its messages have the names of KServe's, and protobuf takes a name once.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def look(kind: str, url: str, model: str, broken: str, folder: Path) -> dict[str, Any]:
    """Ask everything that the client offers for a model.

    Args:
        kind: http or grpc.
        folder: `x.npy`, an FP32 tensor; files `*.dcm`.
    """
    t = importlib.import_module(f"tritonclient.{kind}")
    from tritonclient.utils import InferenceServerException

    x, files = np.load(folder / "x.npy"), [path.read_bytes() for path in sorted(folder.glob("*.dcm"))]
    as_json = {"as_json": True} if kind == "grpc" else {}
    found: dict[str, Any] = {}

    def texts(array: Any) -> list[str]:
        return [d if isinstance(d, str) else d.decode() for d in array]

    def error(name: str, *, shape: list[int] | None = None, output: str = "decision") -> list[str]:
        one = t.InferInput("x", list(x.shape), "FP32")
        one.set_data_from_numpy(x)
        if shape:
            one.set_shape(shape)
        try:
            client.infer(name, [one], outputs=[t.InferRequestedOutput(output)])
        except InferenceServerException as raised:
            return [str(raised.status()), str(raised.message())]
        return ["no error", ""]

    with t.InferenceServerClient(url) as client:
        found["live"], found["ready"] = client.is_server_live(), client.is_server_ready()
        found["models"] = [client.is_model_ready(name) for name in (model, broken)]
        found["server"] = client.get_server_metadata(**as_json)
        found["metadata"] = client.get_model_metadata(model, **as_json)
        tensor = t.InferInput("x", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)
        reply = client.infer(model, [tensor])
        found["probabilities"] = reply.as_numpy("probabilities").tolist()
        found["abstain"] = reply.as_numpy("abstain").tolist()
        plain = {"binary_data": False} if kind == "http" else {}
        reply = client.infer(model, [tensor], outputs=[t.InferRequestedOutput("decision", **plain)], request_id="7")
        found["only"] = [reply.as_numpy("probabilities") is None, texts(reply.as_numpy("decision"))]
        tensor = t.InferInput("x", [len(files)], "BYTES")
        tensor.set_data_from_numpy(np.array(files, dtype=np.object_))
        reply = client.infer(model, [tensor], parameters={"row": 100, "column": 99})
        found["files"] = [reply.as_numpy("probabilities").tolist(), [json.loads(a) for a in texts(reply.as_numpy("answer"))]]
        found["errors"] = [error("skin"), error(broken), error(model, output="logits"), error(model, shape=[3, 1, 26, 104])]
    return found


if __name__ == "__main__":
    print(json.dumps(look(*sys.argv[1:5], Path(sys.argv[5]))))
