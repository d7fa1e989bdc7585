"""Which graphs have an embedding to give, and that giving it changes no score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from components.register import onnx_embedding

RNG = np.random.default_rng(0)
X = RNG.random((3, 1, 4, 4), dtype=np.float32)
WEIGHTS = {
    "kernel": RNG.normal(size=(2, 1, 3, 3)), "dense": RNG.normal(size=(8, 3)), "other": RNG.normal(size=(8, 3)), "linear": RNG.normal(size=(16, 2)),
    "last": RNG.normal(size=(3, 2)), "bias": RNG.normal(size=2), "wide": RNG.normal(size=(8, 1025)), "narrow": RNG.normal(size=(1025, 2)),
}  # fmt: skip
CONVOLUTION = [("Conv", ["x", "kernel"], "maps"), ("Relu", ["maps"], "rectified"), ("Flatten", ["rectified"], "flat")]
GRAPHS: dict[str, tuple[list[tuple[str, list[str], str]], str | None]] = {
    "one last layer": ([*CONVOLUTION, ("MatMul", ["flat", "dense"], "h"), ("MatMul", ["h", "last"], "s"), ("Add", ["s", "bias"], "scores")], "h"),
    "after a reshape": (
        [*CONVOLUTION, ("MatMul", ["flat", "dense"], "h"), ("Gemm", ["h", "last", "bias"], "s"), ("Shape", ["s"], "n"),
         ("Reshape", ["s", "n"], "scores")],
        "h",
    ),
    "nothing learned before it": ([("Flatten", ["x"], "flat"), ("MatMul", ["flat", "linear"], "scores")], None),
    "two last layers": (
        [*CONVOLUTION, ("MatMul", ["flat", "dense"], "h"), ("MatMul", ["flat", "other"], "g"), ("MatMul", ["h", "last"], "a"),
         ("MatMul", ["g", "last"], "b"), ("Add", ["a", "b"], "scores")],
        None,
    ),
    "too wide": ([*CONVOLUTION, ("MatMul", ["flat", "wide"], "h"), ("MatMul", ["h", "narrow"], "scores")], None),
}  # fmt: skip


def written(path: Path, steps: list[tuple[str, list[str], str]], *extra: str) -> Path:
    graph = helper.make_graph(
        [helper.make_node(operation, inputs, [output]) for operation, inputs, output in steps],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 4, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", None]) for name in ("scores", *extra)],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in WEIGHTS.items() if any(name in i for _, i, _ in steps)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def run(path: Path, *names: str) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [np.asarray(a) for a in session.run(list(names), {"x": X})]


@pytest.mark.parametrize("case", GRAPHS)
def test_a_graph_with_one_last_layer_gives_what_that_layer_sees_and_others_are_left_alone(case: str, tmp_path: Path) -> None:
    steps, tensor = GRAPHS[case]
    path = written(tmp_path / "m.onnx", steps)
    before, scores = path.read_bytes(), run(path, "scores")[0]
    width = onnx_embedding.add(path, X)
    if tensor is None:
        assert (width, path.read_bytes()) == (None, before)
        return
    assert width == 3
    (expected,) = run(written(tmp_path / "open.onnx", steps, tensor), tensor)
    after, found = run(path, "scores", "embedding")
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(after, scores)
    onnx.checker.check_model(str(path))
