"""What the last linear layer of a network looks at, as a second output of its ONNX file: the server logs it, so that drift shows where scores do not.

Networks export scores only; the layer is found in the graph, whatever the architecture. Where the scores come from several last layers, of an
ensemble or of several views, there is none, and hand-made features are watched themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.core.embedding import Projection

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.core.models.samples import Samples
    from feature_store.training import Split

NAME = "embedding"
LARGEST = 1024  # numbers a sample: more would make the log of a busy server mostly this
LINEAR = ("Gemm", "MatMul")
LEARNED = {*LINEAR, "Conv", "LSTM", "GRU"}
FIRST_ONLY = {"Identity", "Reshape", "Flatten", "Cast", "Squeeze", "Unsqueeze", "Transpose"}  # their other inputs are shapes
ELEMENTWISE = {"Add", "Sub", "Mul", "Div"}
LEARNED_FROM = 2000  # training samples: directions of a few thousand numbers are known well enough
CHUNK = 64


@dataclass(frozen=True)
class Embedded:
    """The reference's samples as the network sees them. `vectors`: sample id -> (d,)."""

    projection: Projection
    vectors: Mapping[str, NDArray[np.float32]]

    def columns(self, sample_ids: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Name -> (n,), six digits; not a number for a sample that was not embedded."""
        found = self.projection.columns([self.vectors.get(sample) for sample in sample_ids])
        return {name: np.array([float(f"{value:.6g}") for value in values]) for name, values in found.items()}


def embedded(path: Path, feature_name: str | None, train: Split, answered: Sequence[Split]) -> Embedded | None:
    """Directions from training samples, and the embeddings of the splits that the reference consists of.

    Args:
        path: ONNX with the output `embedding`.
        feature_name: Of the family, as `onnx_input` takes it.

    Returns:
        None where the embedding does not vary.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    chosen = np.unique(np.linspace(0, len(train.samples) - 1, min(LEARNED_FROM, len(train.samples))).astype(np.int64))
    projection = Projection.fit(_run(session, feature_name, train.samples, chosen))
    if projection is None:
        return None
    vectors: dict[str, NDArray[np.float32]] = {}
    for split in answered:
        found = _run(session, feature_name, split.samples, np.arange(len(split.samples)))
        vectors |= dict(zip(split.rows["sample_id"].astype(str), found, strict=True))
    return Embedded(projection, vectors)


def _run(session: Any, feature_name: str | None, samples: Samples, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    from components.core.models.family import onnx_input

    parts = []
    for start in range(0, len(rows), CHUNK):
        x = onnx_input(feature_name, samples.batch(rows[start : start + CHUNK])).astype(np.float32)
        parts.append(np.asarray(session.run([NAME], {"x": x})[0], dtype=np.float32))
    return np.concatenate(parts)


def add(path: Path, x: NDArray[np.float32]) -> int | None:
    """Give the graph at `path` the output `embedding`, (n, d), where there is one to give; the scores stay as they are.

    Args:
        x: A few samples as the graph takes them.

    Returns:
        d, or None where the file was left alone.
    """
    import onnx
    import onnxruntime

    model = onnx.load(str(path))
    found = _last_input(model.graph)
    if found is None:
        return None
    model.graph.node.append(onnx.helper.make_node("Identity", [found], [NAME]))
    model.graph.output.append(onnx.helper.make_tensor_value_info(NAME, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shapes = {np.asarray(session.run([NAME], {"x": given})[0]).shape for given in (x[:2], x[:1])}
    width = next(iter(shapes))[-1] if all(len(shape) == 2 for shape in shapes) else 0
    if not 1 <= width <= LARGEST or shapes != {(n, width) for n in {len(x[:2]), 1}}:
        return None
    model.graph.output[-1].CopyFrom(onnx.helper.make_tensor_value_info(NAME, onnx.TensorProto.FLOAT, ["n", width]))
    onnx.save(model, str(path))
    return width


def _last_input(graph: Any) -> str | None:
    """The tensor that the last linear layer before `scores` multiplies, where one and only one leads there and something was learned before it."""
    makers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:  # in topological order: a constant, or made of constants
        if node.op_type != "Shape" and all(name in constants or not name for name in node.input):
            constants |= set(node.output)
    name = "scores"
    while name in makers:
        node = makers[name]
        varying = [i for i in node.input if i and i not in constants]
        if node.op_type in LINEAR and node.input[1] in constants:
            return node.input[0] if _learned(node.input[0], makers) else None
        if node.op_type in FIRST_ONLY:
            name = node.input[0]
        elif node.op_type in ELEMENTWISE and len(varying) == 1:
            name = varying[0]
        else:
            return None
    return None


def _learned(name: str, makers: dict[str, Any]) -> bool:
    """Whether a layer with weights stands before a tensor."""
    waiting, seen = [name], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in makers:
            continue
        seen.add(name)
        if makers[name].op_type in LEARNED:
            return True
        waiting += makers[name].input
    return False
