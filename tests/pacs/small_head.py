"""A package of alzheimer-smri for the loop's tests: the catalogue's spec with its three classes, its covariates and its [pacs] part."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from components.core.fusion import Fusion, Term
from components.core.spec import DiseaseSpec
from tests.serving.small_package import CATALOGUE, build


def spec() -> DiseaseSpec:
    return DiseaseSpec.model_validate(DiseaseSpec.from_toml(CATALOGUE / "alzheimer-smri.toml").model_dump() | {"abstain": {"outside": 0}})


def onnx_bytes(shape: tuple[int, ...]) -> bytes:
    """scores = [0, mean(x), 2 mean(x)]."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("ReduceMean", ["flat", "one"], ["mean"], keepdims=1),
        helper.make_node("MatMul", ["mean", "weight"], ["scores"]),
    ]
    constants = {"one": np.array([1], dtype=np.int64), "weight": np.array([[0, 1, 2]], dtype=np.float32)}
    graph = helper.make_graph(
        nodes, "head", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def package(folder: Path, of: DiseaseSpec, table: pd.DataFrame) -> None:
    """Synthetic; sex moves the answer."""
    classes = list(of.target.classes)
    fusion = Fusion("softmax", of.target.classes, of.covariates, (Term("sex", "M", (0.0, 0.0, 0.5)),), penalty=1.0)
    more = {
        "fusion.json": fusion.to_dict(),
        "calibration.json": {"kind": "softmax", "temperature": [1.0], "bias": [0.0, 0.0, 0.0], "n": 100},
    }
    decision = {"kind": "highest", "classes": classes, "thresholds": []}
    known = table.rename(columns={"score_benign": "score_control", "score_malignant": "score_ad"})
    known = known.assign(score_mci=0.0, label=2 * known["label"])  # those that were malignant are those that are ill
    build(folder, of, known, synthetic=True, onnx=onnx_bytes(tuple(of.input.shape)), decision=decision, more=more)
