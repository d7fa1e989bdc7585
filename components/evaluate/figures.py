"""All figures of an evaluation, computed from `predictions.parquet` alone: whoever has that file can recompute every number.

Rows that a server would abstain on (no device profile, and the spec says `abstain`) are counted and left out of the figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core import metrics
from components.core.errors import DataError, SpecError
from components.core.metrics import Estimate, insufficient
from components.core.operating_point import Decision
from components.core.pseudonym import UNKNOWN_DEVICE
from components.core.spec import DiseaseSpec

if TYPE_CHECKING:
    import pandas as pd

DEVICE_MIN_PER_CLASS = 5  # below this no interval of a device's AUC means anything, whatever its n
BY_KIND = {
    "binary": {"auc", "sensitivity", "specificity", "brier", "calibration_error", "accuracy"},
    "multiclass": {"auc", "macro_auc", "brier", "calibration_error", "accuracy"},
    "hierarchical": {"auc", "macro_auc", "brier", "calibration_error", "accuracy"},
    "ordinal": {"auc", "macro_auc", "brier", "calibration_error", "accuracy", "qwk"},
    "multilabel": {"auc", "macro_auc", "brier"},
    "dense": set(),
}


def wanted(spec: DiseaseSpec) -> tuple[str, ...]:
    """The metrics to report, AUC always among them. Raises SpecError for one that the target does not have."""
    names = tuple(dict.fromkeys(("auc", *spec.metrics)))
    able = BY_KIND[spec.target.kind]
    if unable := [name for name in names if name not in able]:
        where = f"{spec.name}: metrics"
        raise SpecError(
            f"no such metric for a {spec.target.kind} target", where=where, got=f"'{unable[0]}'", allowed=", ".join(sorted(able)) or "none yet"
        )
    return names


def recompute(predictions: pd.DataFrame, spec: DiseaseSpec, decision: Decision) -> dict[str, Any]:
    """The figures of the test rows, overall and by device.

    Args:
        predictions: As in `predictions.parquet`.
        decision: As in `operating_point.json`.

    Returns:
        `metrics` {name: estimate}, `coverage`, `counts`, `devices` {key: name, n, counts, estimates}, `worst_device`, `baseline`.
    """
    names = wanted(spec)
    test = predictions[predictions["split"] == "test"]
    if not len(test):
        raise DataError("no test rows", where="predictions", got=0)
    answered = test[~test["abstain"].astype(bool)]
    floor = spec.gates.min_per_class
    devices: dict[str, Any] = {}
    for key, everything in sorted(test.groupby("device_key", sort=True), key=lambda pair: str(pair[0])):
        rows = everything[~everything["abstain"].astype(bool)]
        enough = len(rows) >= spec.device.min_n
        figures = {
            name: _figure(name, rows, spec, decision, DEVICE_MIN_PER_CLASS).to_dict() if enough else insufficient(len(rows)).to_dict()
            for name in names
        }
        facts = {"name": device_name(everything.iloc[0]), "n": len(rows), "abstained": len(everything) - len(rows), "counts": _counts(rows, spec)}
        devices[str(key)] = facts | figures
    judged = [(facts["auc"]["low"], key) for key, facts in devices.items() if facts["auc"]["value"] is not None and key != UNKNOWN_DEVICE]
    worst = min(judged, default=None)
    return {
        "metrics": {name: _figure(name, answered, spec, decision, floor).to_dict() for name in names},
        "coverage": metrics.share(~test["abstain"].to_numpy(dtype=bool), _groups(test, spec)).to_dict(),
        "counts": {"test": len(test), "answered": len(answered), "groups": int(test["group_id"].nunique()), "classes": _counts(answered, spec)},
        "devices": devices,
        "worst_device": None if worst is None else {"key": worst[1], "name": devices[worst[1]]["name"], "auc": devices[worst[1]]["auc"]},
        "baseline": _baseline(answered, spec),
    }


def truth(rows: pd.DataFrame, spec: DiseaseSpec) -> NDArray[Any]:
    """(n,) class indices, or (n, K) of 0 and 1 for multi-label."""
    if spec.target.kind == "multilabel":
        return rows[[f"label_{name}" for name in spec.target.classes]].to_numpy(dtype=np.int64)
    return rows["label"].to_numpy(dtype=np.int64)


def probabilities(rows: pd.DataFrame, spec: DiseaseSpec) -> NDArray[np.float64]:
    """(n, K), calibrated."""
    return rows[[f"score_{name}" for name in spec.target.classes]].to_numpy(dtype=np.float64)


def device_name(row: Any) -> str:
    """Maker, model and the start of the pseudonymous key: enough to tell two scanners apart."""
    if row["device_key"] == UNKNOWN_DEVICE:
        return "unknown device"
    known = [str(row[part]) for part in ("manufacturer", "model") if isinstance(row[part], str) and row[part]]
    return " ".join([*(known or ["device"]), "·", str(row["device_key"])[:6]])


def _figure(name: str, rows: pd.DataFrame, spec: DiseaseSpec, decision: Decision, floor: int) -> Estimate:
    n = len(rows)
    if not n:
        return insufficient(0)
    y, p, groups = truth(rows, spec), probabilities(rows, spec), _groups(rows, spec)
    if spec.target.kind == "binary":
        k = spec.positive_index
        positive, decided = y == k, decision.decide(p) == k
        match name:
            case "auc":
                return metrics.auc_interval(positive, p[:, k], groups, min_per_class=floor)
            case "sensitivity":
                return metrics.sensitivity(positive, decided, groups, minimum=floor)
            case "specificity":
                return metrics.specificity(positive, decided, groups, minimum=floor)
            case "brier":
                return metrics.brier(positive, p[:, k], groups, minimum=floor)
            case "calibration_error":
                return metrics.calibration_error(positive, p[:, k], groups)
            case _:
                return metrics.accuracy(y, decision.decide(p), groups, minimum=floor)
    match name:
        case "auc" | "macro_auc":
            return metrics.macro_auc(y, p, groups, min_per_class=floor)
        case "brier":
            return metrics.brier(y, p, groups, minimum=floor)
        case "calibration_error":
            return metrics.calibration_error(y, p, groups)
        case "qwk":
            return metrics.quadratic_weighted_kappa(y, decision.decide(p), len(spec.target.classes), groups, minimum=floor)
        case _:
            return metrics.accuracy(y, decision.decide(p), groups, minimum=floor)


def _groups(rows: pd.DataFrame, spec: DiseaseSpec) -> NDArray[Any] | None:
    """With grouping `none` nobody knows which samples belong together; the verdict says so, the interval cannot."""
    return None if spec.split.grouping == "none" else rows["group_id"].to_numpy(dtype=object)


def _counts(rows: pd.DataFrame, spec: DiseaseSpec) -> dict[str, int]:
    y = truth(rows, spec)
    return {name: int((y[:, k] > 0).sum() if y.ndim == 2 else (y == k).sum()) for k, name in enumerate(spec.target.classes)}


def _baseline(rows: pd.DataFrame, spec: DiseaseSpec) -> dict[str, float]:
    """What knowing only the class shares of the test split would reach; a model below it has learned nothing that is worth a decision."""
    y = truth(rows, spec)
    if not len(y):
        return {}
    if y.ndim == 2:
        rate = y.mean(0)
        return {"brier": float((rate * (1 - rate)).sum())}
    shares = np.bincount(y, minlength=len(spec.target.classes)) / len(y)
    gini = float(1 - (shares**2).sum())
    return {"accuracy": float(shares.max()), "brier": gini / 2 if spec.target.kind == "binary" else gini}
