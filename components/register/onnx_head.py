"""Where a network still knows places: its last map of features, as one more output of its ONNX file, and what follows as a graph of its own.

A heat-map needs how the scores move with each channel of that map. The rest of the network (pooling, a few small layers) is a small graph; asked
with one channel raised at a time it gives that without a framework for gradients at the server. The map is found in the graph whatever the
architecture: the last tensor with places through which everything goes. Where there is none (features made by hand, several networks side by side),
nothing is written, and the server covers parts of the image instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.core.heatmap import FEATURES, HEAD

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_CHANNELS = 2048
LARGEST_HEAD = 64 << 20
"""Bytes: a head with most of the weights is not small, and would store them twice."""


def add(path: Path, x: NDArray[np.float32], spatial: int) -> str | None:
    """Give the graph at `path` the output `features`, (n, C, *places), and write `head.onnx` beside it: input `features`, output `scores`.

    Args:
        x: A few samples as the graph takes them.
        spatial: Number of axes with places: 1 recordings, 2 images, 3 volumes.

    Returns:
        Name of the tensor, or None where the file was left alone.
    """
    import onnx
    import onnxruntime
    from onnx.utils import Extractor

    model = onnx.load(str(path))
    candidates = _cuts(model.graph)
    if not candidates:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[1:]
    probe.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in candidates)
    try:
        session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
        values: list[Any] = list(session.run(candidates, {"x": x[:2]}))
    except Exception:  # a candidate that is no float tensor; the runtime's exceptions have no common base
        return None
    with_places = [
        (name, v.shape)
        for name, v in zip(candidates, values, strict=True)
        if v.ndim == 2 + spatial and len(v) == len(x[:2]) and max(v.shape[2:]) > 1 and v.shape[1] <= MOST_CHANNELS
    ]
    if not with_places:
        return None
    name, shape = with_places[-1]
    head = Extractor(onnx.shape_inference.infer_shapes(model)).extract_model([name], ["scores"])
    if head.ByteSize() > LARGEST_HEAD:
        return None
    _rename(head.graph, name, FEATURES)
    head.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info(FEATURES, onnx.TensorProto.FLOAT, ["n", *shape[1:]]))
    model.graph.node.append(onnx.helper.make_node("Identity", [name], [FEATURES]))
    model.graph.output.append(onnx.helper.make_tensor_value_info(FEATURES, onnx.TensorProto.FLOAT, ["n", *shape[1:]]))
    whole = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    scores, features = (np.asarray(value) for value in whole.run(["scores", FEATURES], {"x": x}))
    try:
        rest = onnxruntime.InferenceSession(head.SerializeToString(), options, providers=["CPUExecutionProvider"])
        again = [np.asarray(rest.run(["scores"], {FEATURES: part})[0]) for part in (features, features[:1])]
    except Exception:  # a head that takes one batch size only, for example
        return None
    if not np.allclose(again[0], scores, atol=1e-4 * max(1.0, float(np.abs(scores).max()))) or again[1].shape[0] != 1:
        return None
    onnx.save(model, str(path))
    onnx.save(head, str(path.with_name(HEAD)))
    return name


def _cuts(graph: Any) -> list[str]:
    """Tensors through which every way from `x` to `scores` goes, in the graph's order."""
    live = {"scores"}
    for node in reversed(graph.node):
        if live & set(node.output):
            live |= set(node.input)
    order = [node for node in graph.node if live & set(node.output)]
    fed = {"x"}
    varying = []
    for node in order:  # what depends on the sample
        if fed & set(node.input):
            fed |= set(node.output)
            varying.append(node)
    place = {output: n for n, node in enumerate(varying) for output in node.output}
    last_use: dict[str, int] = {"x": -1}
    for n, node in enumerate(varying):
        for name in node.input:
            if name in fed:
                last_use[name] = n
    last_use["scores"] = len(varying)
    out = []
    open_until = -1
    for n, node in enumerate(varying):
        for output in node.output:
            # A cut: whatever was made before is not used after this tensor's maker.
            if open_until <= n and last_use.get("x", -1) <= n and output in last_use and output != "scores":
                others = [o for o in node.output if o != output and o in last_use]
                if not others:
                    out.append(output)
        open_until = max([open_until, *(last_use.get(o, -1) for o in node.output)])
    assert all(name in place for name in out)
    return out


def _rename(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for n, name in enumerate(node.input):
            if name == old:
                node.input[n] = new
