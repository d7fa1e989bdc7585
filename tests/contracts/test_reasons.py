"""Every reason for which there is no decision fires for every disease that it can meet: a check that is silently off is found here."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.core import outside
from components.core.outside import ACQUISITION, LOW_QUALITY, OUTSIDE, UNSEEN
from components.core.package import ModelPackage
from components.core.spec import DiseaseSpec
from serving import predictor
from serving.predictor import Predictor, Query, Tiles
from tests.core.test_outside import SPECS, learned, samples
from tests.serving.small_package import build
from tests.serving.small_server import free_port

KNOWN, OTHER = "0123456789abcdef", "f" * 16
LIMITED = "acq_pixel_mm"
cases = pytest.mark.parametrize("disease", SPECS)


def graph(shape: tuple[int, ...], classes: int) -> bytes:
    """scores = mean(x) * 0: a network that says the same of everything."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("ReduceMean", ["flat", "one"], ["mean"], keepdims=1),
        helper.make_node("MatMul", ["mean", "weight"], ["scores"]),
    ]
    values = {"one": np.array([1], np.int64), "weight": np.zeros((1, classes), np.float32)}
    made = helper.make_graph(
        nodes, "same", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", classes])], [numpy_helper.from_array(v, k) for k, v in values.items()],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


def package(folder: Path, disease: str, **changes: Any) -> tuple[ModelPackage, DiseaseSpec]:
    """A package of the catalogue's spec, with its own measure of likeness; of a disease with covariates without them."""
    catalogue = SPECS[disease]
    own = {"covariates": [], "abstain": {"acquisition": {LIMITED: (0.2, 0.9)}}, "normalise": {"method": "range"}} | changes
    spec = DiseaseSpec.model_validate(catalogue.model_dump() | own)
    names = spec.target.classes
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.dirichlet(np.ones(len(names)), 60), columns=[f"score_{name}" for name in names])
    table = table.assign(sample_id=[f"s{n}" for n in range(60)], group_id=[f"p{n}" for n in range(60)], device_key=KNOWN, manufacturer="M", model="N")
    table = table.assign(split="test", label=[n % len(names) for n in range(60)])
    more = {
        "outside.json": outside.to_json(learned(disease).image, None).encode(),
        "calibration.json": {"kind": "softmax", "temperature": [1.0], "bias": [0.0] * len(names), "n": 100},
    }
    decision = {"kind": "highest", "classes": list(names), "thresholds": [], "positive": None}
    onnx = graph(tuple(spec.input.shape), len(names))
    return build(folder, spec, table, onnx=onnx, decision=decision, more=more), spec


@cache
def good(disease: str) -> np.ndarray:
    return samples(SPECS[disease], 1, 3)[0]


def reasons(found: Predictor, disease: str, **changes: Any) -> list[str]:
    (answer,) = found.answer([replace(Query(good(disease), KNOWN), **changes)])
    assert answer["abstain"] == (answer["decision"] is None) == (answer["probabilities"] == {})
    return answer["reasons"]


@cases
def test_what_a_sample_is(disease: str, tmp_path: Path):
    found = Predictor(package(tmp_path / "p", disease)[0], None)
    spec = found.spec
    assert found.check == outside.JUDGED
    assert reasons(found, disease) == []
    far = np.full(spec.input.shape, spec.input.range[1] * 0.9) if spec.input.layout == "table" else None
    low, high = spec.input.range
    noise = np.random.default_rng(1).uniform(low, high, spec.input.shape) if far is None else far
    if spec.input.layout == "table":
        assert any(r.startswith(OUTSIDE) for r in reasons(found, disease, array=noise.astype(spec.input.dtype)))
        beyond = good(disease).copy()
        beyond[0] = high + 1 if np.dtype(spec.input.dtype).kind == "f" else high
        assert any(OUTSIDE in r for r in reasons(found, disease, array=beyond))
    else:
        assert reasons(found, disease, array=np.full(spec.input.shape, low, spec.input.dtype)) == [predictor.CONSTANT]
        assert any(r.startswith((OUTSIDE, LOW_QUALITY)) for r in reasons(found, disease, array=noise.astype(spec.input.dtype)))
    assert reasons(found, disease, faults=("a fault of its file",)) == ["a fault of its file"]
    assert [r.partition(":")[0] for r in reasons(found, disease, acquisition={LIMITED: 3.0})] == [ACQUISITION]


@cases
def test_what_its_device_is(disease: str, tmp_path: Path):
    found = Predictor(package(tmp_path / "p", disease, abstain={"unseen_device": True})[0], None)
    assert reasons(found, disease) == []
    assert reasons(found, disease, device_key=OTHER) == [UNSEEN]
    assert reasons(found, disease, device_key="unknown") == [predictor.NOT_TOLD]


@pytest.mark.parametrize("disease", [name for name, spec in SPECS.items() if spec.normalise.method == "device"])
@pytest.mark.parametrize("missing", ["abstain", "pooled"])
def test_what_is_known_of_its_device(disease: str, missing: str, tmp_path: Path):
    from feature_store.redis_online import RedisAddress, RedisPlace
    from feature_store.store import OnlineProfiles

    made, spec = package(tmp_path / "p", disease, normalise={"method": "device", "missing_profile": missing})
    without = predictor.WITHOUT_PROFILE if missing == "abstain" else predictor.POOLED + predictor.WITHOUT_PROFILE
    assert reasons(Predictor(made, None), disease) == [without]
    away = OnlineProfiles(RedisPlace(RedisAddress("127.0.0.1", free_port()), spec.name))
    assert reasons(Predictor(made, away), disease) == [predictor.STORE_AWAY]


def test_a_slide_needs_an_aggregate(tmp_path: Path):
    disease = "breast-metastasis"
    found = Predictor(package(tmp_path / "p", disease, aggregate=None)[0], None)
    tiles = Tiles(good(disease)[None], np.zeros((1, 2)), 100.0, np.zeros((4, 4, 3), np.uint8), 25.0)
    assert reasons(found, disease, tiles=tiles) == [predictor.TILES_ONLY]
