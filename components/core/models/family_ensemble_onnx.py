"""The ONNX files of an ensemble's members and of their join, as one."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from components.core.atomic import atomic_file

INPUT = "x"


def merge(
    files: dict[str, Path],
    takes: dict[str, str],
    path: Path,
    *,
    shape: tuple[int, ...],
    features: int,
    join: Callable[[list[str]], tuple[list[Any], dict[str, Any]]],
) -> None:
    """Write one file, input `x`, output `scores`; every member's names get its own prefix.

    Args:
        files: Member -> its file, input `x`, output `scores`.
        takes: Member -> `samples` or `features`. Where both occur, `x` is (N, values of a sample + features), samples first.
        shape: Of one sample.
        features: Numbers of the hand-made features; 0 without.
        join: Names of the members' scores -> operations that end in `scores`, and their constants.
    """
    import onnx
    from onnx import TensorProto, compose, helper, inliner, numpy_helper, version_converter

    parts = {name: inliner.inline_local_functions(onnx.load(file)) for name, file in files.items()}
    opset = max(_opset(part) for part in parts.values())
    pixels, both = math.prod(shape), len(set(takes.values())) > 1
    constants: dict[str, Any] = {}
    nodes: list[Any] = []
    if both:
        constants |= {
            f"cut/{name}": np.array([value], np.int64) for name, value in (("0", 0), ("pixels", pixels), ("end", pixels + features), ("1", 1))
        }
        constants["cut/shape"] = np.array([-1, *shape], np.int64)
        nodes += [
            helper.make_node("Slice", [INPUT, "cut/0", "cut/pixels", "cut/1"], ["cut/flat"]),
            helper.make_node("Reshape", ["cut/flat", "cut/shape"], ["cut/samples"]),
            helper.make_node("Slice", [INPUT, "cut/pixels", "cut/end", "cut/1"], ["cut/features"]),
        ]
    graphs = []
    for name, part in parts.items():
        current = part if _opset(part) == opset else version_converter.convert_version(part, opset)
        graph = compose.add_prefix(current, f"{name}/").graph
        nodes.append(helper.make_node("Identity", [f"cut/{takes[name]}" if both else INPUT], [graph.input[0].name]))
        nodes += graph.node
        graphs.append(graph)
    last, learned = join([graph.output[0].name for graph in graphs])
    constants |= learned
    domains = {(o.domain, o.version) for part in parts.values() for o in part.opset_import if o.domain not in ("", "ai.onnx")}
    width: list[Any] = [pixels + features] if both else [*shape] if "samples" in takes.values() else [features]
    out = graphs[0].output[0].type.tensor_type.shape.dim[1].dim_value
    model = helper.make_model(
        helper.make_graph(
            [*nodes, *last],
            "ensemble",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", *width])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", out] if out else None)],
            [*(numpy_helper.from_array(value, name) for name, value in constants.items()), *(i for graph in graphs for i in graph.initializer)],
        ),
        opset_imports=[helper.make_opsetid("", opset), *(helper.make_opsetid(domain, version) for domain, version in sorted(domains))],
        ir_version=max(part.ir_version for part in parts.values()),
    )
    onnx.checker.check_model(model)
    with atomic_file(path) as partial:
        partial.write_bytes(model.SerializeToString())


def _opset(model: Any) -> int:
    return next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
