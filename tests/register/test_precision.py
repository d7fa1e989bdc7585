"""Less than float32 is used only where its change was measured and is small enough."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from components.core import engines
from components.core.calibration import Calibration
from components.core.errors import ServiceError, SpecError
from components.core.models.samples import Samples
from components.core.operating_point import Decision
from components.core.package import ModelPackage
from components.register import precision
from serving.predictor import Predictor, Query
from tests.serving.small_package import MIDDLE, build, lung_nodule, onnx_bytes, reference

CALIBRATION = Calibration("softmax", (1.0,), (0.0, 0.0), 100)
DECISION = Decision("threshold", ("benign", "malignant"), (0.4,), "malignant")


def samples(n: int, seed: int, *, apart: float = 0.03) -> Samples:
    """Patches whose mean decides; `apart`: how far from the threshold they are spread."""
    rng = np.random.default_rng(seed)
    x = rng.normal(MIDDLE + rng.normal(0, apart, (n, 1, 1, 1)), 0.05, (n, 1, 52, 52)).astype(np.float32)
    labels = (x.mean((1, 2, 3)) + rng.normal(0, apart / 2, n) > MIDDLE).astype(np.int64)
    return Samples(batch=lambda rows: x[rows], labels=labels, groups=np.arange(n).astype(object))


def measured(tmp_path: Path, **tolerance: object) -> dict:
    spec = lung_nodule(engine={"precisions": ["int8"], **tolerance})
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "model.onnx").write_bytes(onnx_bytes(tuple(spec.input.shape)))
    return precision.measure(tmp_path, spec, None, samples(300, 1), samples(200, 2), CALIBRATION, DECISION)


def test_int8_within_the_tolerance_is_accepted_and_outside_it_is_not(tmp_path: Path) -> None:
    loose = measured(tmp_path / "loose", auc_change=0.1, decision_change=0.1)["tried"][1]
    assert loose["accepted"], loose["why"]
    assert (tmp_path / "loose" / "model.int8.onnx").exists()
    strict = measured(tmp_path / "strict", auc_change=0.0, decision_change=0.0)["tried"][1]
    assert loose["decisions_changed"] == strict["decisions_changed"] > 0
    assert not strict["accepted"]
    assert "of the decisions, allowed 0.00%" in strict["why"]
    assert not (tmp_path / "strict" / "model.int8.onnx").exists()
    assert json.loads((tmp_path / "strict" / "engine.json").read_text())["n"] == 300


def test_the_recorded_changes_are_those_of_the_quantised_graph(tmp_path: Path) -> None:
    record = measured(tmp_path, auc_change=0.1, decision_change=0.1)["tried"][1]
    val = samples(300, 1)
    x = val.batch(np.arange(300))
    exact = engines.OnnxRuntime(tmp_path / "model.onnx", None, name="t", threads=1).run(x)[0]
    eight = engines.OpenVino(tmp_path / "model.int8.onnx", None, "int8", name="t", threads=1).run(x)[0]
    malignant = [1 / (1 + np.exp(-(s[:, 1] - s[:, 0]))) >= 0.4 for s in (exact, eight)]
    assert record["decisions_changed"] == pytest.approx((malignant[0] != malignant[1]).mean(), abs=1e-5)
    assert record["logit_change"] == pytest.approx(np.abs(exact - eight).max(), rel=0.06)


@pytest.fixture
def packed(tmp_path: Path) -> ModelPackage:
    spec = lung_nodule()
    return build(tmp_path / "package", spec, reference({"0" * 16: ("SIEMENS", "X")}))


def test_without_a_measurement_only_float32_runs(packed: ModelPackage) -> None:
    assert packed.accepted_precisions("openvino") == ()
    for kind in ("auto", "openvino"):
        with pytest.raises(SpecError, match="registration did not accept"):
            engines.open_engine(packed, engines.Wanted(kind, "int8"))
    for kind, expected in (("auto", "onnxruntime"), ("onnxruntime", "onnxruntime"), ("openvino", "openvino")):
        engine = engines.open_engine(packed, engines.Wanted(kind))
        assert (engine.kind, engine.precision) == (expected, "f32")
    with pytest.raises(SpecError, match="no such engine"):
        engines.Wanted("tensorrt")


def test_float32_of_openvino_is_accepted_where_its_answers_are_the_same_and_then_it_serves(tmp_path: Path) -> None:
    spec = lung_nodule(engine={"precisions": []})
    (tmp_path / "model.onnx").write_bytes(onnx_bytes(tuple(spec.input.shape)))
    record = precision.measure(tmp_path, spec, None, samples(300, 1), samples(200, 2), CALIBRATION, DECISION)
    assert [(one["engine"], one["precision"], one["accepted"], one["decisions_changed"]) for one in record["tried"]] == [("openvino", "f32", True, 0)]
    assert record["tried"][0]["logit_change"] == 1e-4  # whatever this machine's last digits are
    package = build(tmp_path / "p", spec, reference({"0" * 16: ("SIEMENS", "X")}), more={"engine.json": record})
    assert (package.accepted_precisions("openvino"), package.accepted_precisions("torch")) == (("f32",), ())
    assert engines.open_engine(package).kind == "openvino"
    assert engines.open_engine(package, engines.Wanted("onnxruntime")).kind == "onnxruntime"


def accepted(engine: str, precision: str, *, chosen: str = "f32") -> dict[str, object]:
    """`engine.json` of a registration that accepted float32 and one other precision."""
    tried = [{"engine": "openvino", "precision": "f32", "accepted": True, "why": ""}]
    return {"precision": chosen, "n": 300, "tried": [*tried, {"engine": engine, "precision": precision, "accepted": True, "why": ""}]}


def registered(folder: Path, record: dict[str, object]) -> ModelPackage:
    return build(folder, lung_nodule(), reference({"0" * 16: ("SIEMENS", "X")}), more={"engine.json": record})


def test_the_node_does_not_choose_the_precision(tmp_path: Path) -> None:
    """Where the processor has bfloat16 units and registration accepted bf16, `auto` took it: other answers than on the node beside it."""
    package = registered(tmp_path / "p", accepted("openvino", "bf16"))
    engine = engines.open_engine(package)
    assert (package.precision, engine.kind, engine.precision) == ("f32", "openvino", "f32")
    assert Predictor(package, None).answer([Query(samples(1, 3).batch(np.arange(1))[0])])[0]["engine"] == "openvino f32"


def test_a_precision_that_registration_chose_is_computed_or_the_node_says_so_at_start(tmp_path: Path) -> None:
    package = registered(tmp_path / "p", accepted("openvino", "bf16", chosen="bf16"))
    if engines.computes("openvino", "bf16"):
        assert engines.open_engine(package).precision == "bf16"
    else:
        with pytest.raises(ServiceError, match="this node does not compute in bf16, in which it was registered"):
            Predictor(package, None)


@pytest.mark.skipif(engines.cuda(), reason="needs a machine without a CUDA device")
def test_a_precision_of_another_device_is_refused_at_start_and_float32_is_an_operators_decision_that_answers_tell(tmp_path: Path) -> None:
    package = registered(tmp_path / "p", accepted("torch", "bf16", chosen="bf16"))
    with pytest.raises(ServiceError, match="this node does not compute in bf16, in which it was registered; got engine torch"):
        engines.open_engine(package, engines.Wanted("torch"))
    with pytest.raises(SpecError, match="registration did not accept"):
        engines.open_engine(package)
    query = Query(samples(1, 3).batch(np.arange(1))[0])
    answer = Predictor(package, None, engines.Wanted(precision="f32")).answer([query])[0]
    assert answer["engine"] == "openvino f32, registered in bf16"


def test_registration_chooses_what_the_spec_names_only_where_it_is_accepted(tmp_path: Path) -> None:
    for folder, change, expected in (("loose", 0.1, "int8"), ("strict", 0.0, "f32")):
        record = measured(tmp_path / folder, precision="int8", auc_change=change, decision_change=change)
        assert record["precision"] == expected
        assert json.loads((tmp_path / folder / "engine.json").read_text())["precision"] == expected
    with pytest.raises(ValueError, match=r"one of engine\.precisions"):
        lung_nodule(engine={"precision": "int8", "precisions": []})


def test_torch_in_bfloat16_stays_near_float32_and_runs_only_where_it_was_accepted(packed: ModelPackage) -> None:
    from components.core.engine_torch import TorchEngine
    from components.core.models import build as network

    spec = lung_nodule()
    family = next(name for name, f in spec.families.items() if f.kind == "sun2016-cnn")
    estimator, x = network(spec, family), samples(64, 5).batch(np.arange(64))
    exact, half = (TorchEngine(estimator, precision).run(x)[0] for precision in ("f32", "bf16"))
    assert 0 < np.abs(exact - half).max() < 0.05 * max(1.0, float(np.abs(exact).max()))
    with pytest.raises(SpecError, match="registration did not accept"):
        engines.open_engine(packed, engines.Wanted("torch", "bf16"))


def test_both_engines_give_the_same_scores_and_embedding(tmp_path: Path) -> None:
    spec = lung_nodule()
    package = build(tmp_path / "p", spec, reference({"0" * 16: ("SIEMENS", "X")}), onnx=onnx_bytes(tuple(spec.input.shape), embedding=True))
    x = samples(9, 3).batch(np.arange(9))
    (a, ea), (b, eb) = (engines.open_engine(package, engines.Wanted(kind)).run(x) for kind in ("onnxruntime", "openvino"))
    assert np.allclose(a, b, atol=1e-4)
    assert ea is not None
    assert eb is not None
    assert np.allclose(ea, eb, atol=1e-5)
    assert ea.shape == (9, 1)
