"""The engine of every ONNX server of the benchmark, and how each of them reads a picture. Only NumPy, Pillow and ONNX Runtime are needed."""

from __future__ import annotations

import io
from typing import Any

import numpy as np


def pixels(body: bytes) -> Any:
    """PNG -> (1, 3, H, W) float32 in [0, 1]."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(body)).convert("RGB"), np.float32).transpose(2, 0, 1)[None] / 255


class Session:
    """ONNX Runtime, float32, two threads that do not spin, as in our server."""

    def __init__(self, path: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = 2, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def __call__(self, *bodies: bytes) -> list[list[float]]:
        """Scores of each picture, from one run."""
        return self._session.run(["scores"], {"x": np.concatenate([pixels(body) for body in bodies])})[0].tolist()
