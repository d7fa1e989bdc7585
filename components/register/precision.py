"""What another engine than ONNX Runtime, or less than float32, changes: measured on validation samples, accepted or not by the spec's tolerance, kept
as `engine.json`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core import calibration, engines, metrics
from components.core.calibration import Calibration
from components.core.engine_torch import TorchEngine
from components.core.errors import DataError, ServiceError
from components.core.models.family import Estimator, onnx_input
from components.core.models.samples import Samples
from components.core.models.torch_fit import TorchEstimator
from components.core.operating_point import Decision
from components.core.package import ENGINE
from components.core.spec import DiseaseSpec

MEASURED, CALIBRATING, CHUNK = 4000, 200, 64
LAST_DIGITS = 1e-4  # of logits: what differs less differs between machines too, and the record, which the digest holds, must not
Fuse = Callable[[NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64]]
Answers = Callable[[NDArray[np.float32]], NDArray[np.float64]]


def measure(
    drafts: Path,
    spec: DiseaseSpec,
    feature_name: str | None,
    val: Samples,
    train: Samples,
    calibrated: Calibration,
    decision: Decision,
    fuse: Fuse | None = None,
    *,
    estimator: Estimator | None = None,
) -> dict[str, Any]:
    """Write `engine.json` beside `model.onnx`, and `model.int8.onnx` where that was accepted.

    Args:
        val: What is measured on. train: What int8 takes its ranges from.
        fuse: (n, K) calibrated probabilities of rows (n,) of `val` -> fused; None where the spec names no covariates.
        estimator: The network, for what torch makes of it on a CUDA device here; None: that is not tried.

    Returns:
        The contents of engine.json: `precision` to serve in, `n`, and `tried`: {precision, engine, accepted, why, auc_change, decisions_changed,
        logit_change}.

    Raises:
        ServiceError: The spec wants a precision that this node cannot compute in, so that nobody knows what it changes.
    """
    rows = np.unique(np.linspace(0, len(val) - 1, min(MEASURED, len(val))).astype(np.int64))
    labels = np.asarray(val.labels)[rows]
    exact = _scores(engines.OnnxRuntime(drafts / "model.onnx", feature_name, name=spec.name), val, rows)

    def answered(scores: NDArray[np.float32]) -> NDArray[np.float64]:
        p = calibration.apply(calibrated, scores)
        return p if fuse is None else fuse(p, rows)

    def engine(kind: str, precision: str) -> engines.Engine:
        if kind == "torch":
            assert estimator is not None
            return TorchEngine(estimator, "bf16" if precision == "bf16" else "f32")
        if not engines.computes(kind, precision):
            raise DataError(f"this processor has no units for {precision}")
        path = _quantised(drafts, feature_name, train) if precision == "int8" else drafts / "model.onnx"
        return engines.OpenVino(path, feature_name, precision, name=spec.name)

    pairs = [("openvino", "f32"), *(("openvino", precision) for precision in spec.engine.precisions)]
    if isinstance(estimator, TorchEstimator) and "bf16" in spec.engine.precisions and engines.torch_bf16():
        pairs.append(("torch", "bf16"))
    tried = []
    for kind, precision in pairs:
        named = {"precision": precision, "engine": kind}
        try:
            found = _scores(engine(kind, precision), val, rows)
        except DataError as error:
            tried.append(named | {"accepted": False, "why": f"not measured: {error.what}"})
            continue
        except Exception as error:  # engines' exceptions have no common base; another engine than the default is no reason to register nothing
            tried.append(named | {"accepted": False, "why": f"not measured: {type(error).__name__}"})
            continue
        tried.append(named | _compared(spec, labels, exact, found, answered, decision))
    record = {"precision": _chosen(spec, tried), "n": len(rows), "tried": tried}
    if not any(one["precision"] == "int8" and one["accepted"] for one in tried):
        (drafts / engines.INT8).unlink(missing_ok=True)
    (drafts / ENGINE).write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
    return record


def _chosen(spec: DiseaseSpec, tried: list[dict[str, Any]]) -> str:
    """The spec's precision where it was accepted; float32 where it changes too much."""
    wanted = spec.engine.precision
    if wanted == "f32":
        return wanted
    found = [one for one in tried if one["precision"] == wanted]
    if not any("logit_change" in one for one in found):
        why = "; ".join(dict.fromkeys(one["why"] for one in found))
        raise ServiceError("the precision to serve in cannot be measured here", where="engine.precision", got=f"{wanted} ({why})", allowed="f32")
    return wanted if any(one["accepted"] for one in found) else "f32"


def _compared(
    spec: DiseaseSpec, labels: NDArray[Any], exact: NDArray[np.float32], found: NDArray[np.float32], answered: Answers, decision: Decision
) -> dict[str, Any]:
    if not np.isfinite(found).all():
        return {"accepted": False, "why": "scores that are not finite"}
    p, q = answered(exact), answered(found)
    changed = float((np.asarray(decision.decide(p)) != np.asarray(decision.decide(q))).mean())
    lost = _auc(spec, labels, p) - _auc(spec, labels, q)
    lost = 0.0 if np.isnan(lost) else float(lost)
    why = []
    if lost > spec.engine.auc_change:
        why.append(f"loses {lost:.4f} of AUC, allowed {spec.engine.auc_change:g}")
    if changed > spec.engine.decision_change:
        why.append(f"changes {changed:.2%} of the decisions, allowed {spec.engine.decision_change:.2%}")
    return {
        "accepted": not why, "why": "; ".join(why), "auc_change": round(-lost, 5) + 0.0, "decisions_changed": round(changed, 5),
        "logit_change": float(f"{max(LAST_DIGITS, np.abs(exact - found).max()):.2g}"),
    }  # fmt: skip


def _auc(spec: DiseaseSpec, labels: NDArray[Any], p: NDArray[np.float64]) -> float:
    """Of the positive class, or the mean over the classes; not a number where validation holds one side only."""
    if labels.ndim == 2:
        questions = [(labels[:, k] > 0.5, p[:, k]) for k in range(p.shape[1])]
    elif spec.positive_indices:
        questions = [(np.isin(labels, spec.positive_indices), p[:, list(spec.positive_indices)].sum(1))]
    else:
        questions = [(labels == k, p[:, k]) for k in range(p.shape[1])]
    found = [metrics.auc(y, s) for y, s in questions if 0 < y.sum() < len(y)]
    return float(np.mean(found)) if found else float("nan")


def _scores(engine: engines.Engine, samples: Samples, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.concatenate([engine.run(samples.batch(rows[at : at + CHUNK]))[0] for at in range(0, len(rows), CHUNK)])


def _quantised(drafts: Path, feature_name: str | None, train: Samples) -> Path:
    """`model.int8.onnx`: weights and activations in 8 bits, their ranges from training samples. Raises DataError where that cannot be made."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    rows = np.unique(np.linspace(0, len(train) - 1, min(CALIBRATING, len(train))).astype(np.int64))

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter([rows[at : at + CHUNK] for at in range(0, len(rows), CHUNK)])

        def get_next(self) -> dict[str, Any] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
            chosen = next(self._left, None)
            return None if chosen is None else {"x": np.asarray(onnx_input(feature_name, train.batch(chosen)), dtype=np.float32)}

    path = drafts / engines.INT8
    try:
        quantize_static(
            str(drafts / "model.onnx"), str(path), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    except Exception as error:  # its exceptions have no common base
        path.unlink(missing_ok=True)
        raise DataError(f"the graph cannot be quantised ({type(error).__name__})") from None
    return path
