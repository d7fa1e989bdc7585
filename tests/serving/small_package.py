"""A model package small enough to build in a test, made by the same writer as a real one: the real spec of lung-nodule, a three-node ONNX."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.core import package
from components.core.devices import DeviceProfile
from components.core.spec import DiseaseSpec

CATALOGUE = Path(__file__).parents[2] / "pipelines" / "diseases"
POOL = DeviceProfile("pooled", "", 400, -500.0, 200.0, -950.0, -520.0, 80.0, 20.0, 0.4)
GAIN, MIDDLE = 40.0, 0.27
"""The model's margin: logit of malignant = GAIN * (mean of x - MIDDLE), x in [0, 1]."""


def lung_nodule(**changes: Any) -> DiseaseSpec:
    """The catalogue's spec; `changes` replace whole parts, e.g. normalise={"method": "device", "missing_profile": "pooled"}.

    Nothing lies outside by default: the reference below is made of figures, which are not those of the tests' images.
    """
    spec = DiseaseSpec.from_toml(CATALOGUE / "lung-nodule.toml")
    return DiseaseSpec.model_validate(spec.model_dump() | {"abstain": {"outside": 0}} | changes)


def onnx_bytes(shape: tuple[int, ...], *, embedding: bool = False, gain: float = GAIN) -> bytes:
    """scores = [0, gain * (mean(x) - MIDDLE)]; embedding = [mean(x)]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    dims = ["n", *shape]
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("ReduceMean", ["flat", "one"], ["mean"], keepdims=1),
        helper.make_node("MatMul", ["mean", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["scores"]),
    ]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])]
    if embedding:
        nodes.append(helper.make_node("Identity", ["mean"], ["embedding"]))
        outputs.append(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 1]))
    constants = {
        "one": np.array([1], dtype=np.int64),
        "weight": np.array([[0, gain]], dtype=np.float32),
        "bias": np.array([0, -gain * MIDDLE], dtype=np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def reference(devices: dict[str, tuple[str, str]], *, patients: int = 60, per_patient: int = 2, seed: int = 0) -> pd.DataFrame:
    """Validation and test samples as `register` keeps them. devices: key -> maker, model."""
    rng = np.random.default_rng(seed)
    rows = []
    for key, (maker, model) in devices.items():
        for patient in range(patients):
            own = rng.normal(0, 30)
            for n in range(per_patient):
                mean = -500 + own + rng.normal(0, 20)
                p = 1 / (1 + np.exp(-rng.normal(0, 1.5)))
                rows.append(
                    {"sample_id": f"{key}-{patient}-{n}", "group_id": f"{key}-{patient}", "device_key": key, "manufacturer": maker, "model": model}
                    | {"split": "test" if patient % 2 else "val", "label": int(p > 0.5), "score_benign": 1 - p, "score_malignant": p}
                    | {"mean": mean, "sd": rng.normal(200, 10), "p01": mean - 400, "p50": mean - 10, "p99": mean + 500}
                    | {"noise_sd": rng.normal(20, 2), "sharpness": rng.normal(0.4, 0.03)}
                )
    return pd.DataFrame(rows)


def build(
    folder: Path,
    spec: DiseaseSpec,
    table: pd.DataFrame,
    *,
    synthetic: bool = False,
    onnx: bytes | None = None,
    facts: dict[str, Any] | None = None,
    decision: dict[str, Any] | None = None,
    more: dict[str, Any] | None = None,
) -> package.ModelPackage:
    """Write the package; `more`: further files by name: paths, bytes, or what becomes JSON."""
    parquet = io.BytesIO()
    table.to_parquet(parquet, index=False)
    documents: dict[str, Any] = {
        "model.json": {"family": spec.default_family, "feature_name": None} | (facts or {}),
        "preprocessing.json": {"method": spec.normalise.method, "missing_profile": spec.normalise.missing_profile, "reference": POOL.to_dict()},
        "calibration.json": {"kind": "softmax", "temperature": [1.0], "bias": [0.0, 0.0], "n": 100},
        "operating_point.json": {"kind": "threshold", "classes": list(spec.target.classes), "thresholds": [0.4], "positive": spec.target.positive},
        "metrics.json": {},
        "features.json": {"feature_service": "device_profile_v1", "profile_version": "0" * 16},
    }
    if decision is not None:
        documents["operating_point.json"] = decision
    files: dict[str, Path | bytes] = {name: json.dumps(content).encode() for name, content in documents.items()}
    files |= {
        "spec.json": spec.to_json().encode(),
        "model.onnx": onnx_bytes(tuple(spec.input.shape)) if onnx is None else onnx,
        "reference.parquet": parquet.getvalue(),
        "card.md": b"# A model of the tests\n\n## Limits\n\n- Tested on one split only.\n",
    }
    files |= {name: content if isinstance(content, Path | bytes) else json.dumps(content).encode() for name, content in (more or {}).items()}
    return package.write(folder, files, disease=spec.name, family=spec.default_family, synthetic=synthetic, verdict="pass", reasons=[])
