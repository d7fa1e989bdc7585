"""All figures of an evaluation, computed from `predictions.parquet` alone: whoever has that file can recompute every number.

Rows that a server would abstain on (no device profile, and the spec says `abstain`) are counted and left out of the figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core import metrics, metrics_classes
from components.core.errors import DataError, SpecError
from components.core.metrics import Estimate, insufficient
from components.core.operating_point import Decision
from components.core.pseudonym import UNKNOWN_DEVICE
from components.core.spec import DiseaseSpec
from components.evaluate.covariates import added

if TYPE_CHECKING:
    import pandas as pd

DEVICE_MIN_PER_CLASS = 5  # below this no interval of a device's AUC means anything, whatever its n
CLASSES = {"auc", "macro_auc", "pairwise_auc", "sensitivity", "specificity", "brier", "calibration_error", "accuracy"}
BY_KIND = {
    "binary": {"auc", "sensitivity", "specificity", "brier", "calibration_error", "accuracy"},
    "multiclass": CLASSES,
    "hierarchical": CLASSES,
    "ordinal": CLASSES | {"qwk"},
    "multilabel": {"auc", "macro_auc", "brier"},
    "dense": set(),
}
OF_GROUPS = ("froc", "dice")  # not of samples: `components/evaluate/groups.py` measures them where the spec aggregates
ABOUT_POSITIVE = ("sensitivity", "specificity")


def wanted(spec: DiseaseSpec) -> tuple[str, ...]:
    """The metrics of samples to report, AUC always among them. Raises SpecError for one that the target does not have."""
    names = tuple(name for name in dict.fromkeys(("auc", *spec.metrics)) if spec.aggregate is None or name not in OF_GROUPS)
    able = BY_KIND[spec.target.kind] - (set() if spec.positive_indices else set(ABOUT_POSITIVE))
    if unable := [name for name in names if name not in able]:
        where = f"{spec.name}: metrics"
        raise SpecError(
            f"no such metric for a {spec.target.kind} target", where=where, got=f"'{unable[0]}'", allowed=", ".join(sorted(able)) or "none yet"
        )
    return names


def recompute(predictions: pd.DataFrame, spec: DiseaseSpec, decision: Decision) -> dict[str, Any]:
    """The figures of the test rows, overall and by device, and of each external set.

    With cross-validation every sample of the main source is a test row once, answered by its fold's model.

    Args:
        predictions: As in `predictions.parquet`; its `decided` columns hold each row's decision, by the operating point of its own model.
        decision: As in `operating_point.json`; used where a table has no `decided`.

    Returns:
        `metrics` {name: estimate}, `coverage`, `counts`, `devices` {key: name, n, counts, estimates}, `worst_device`, `baseline`; `classes`
        {name: n, auc} where there are more than two; `pairs`, `coarse`, `folds`, `external`, `covariates` where the spec has them.
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
    overall = {
        "metrics": {name: _figure(name, answered, spec, decision, floor).to_dict() for name in names},
        "coverage": metrics.share(~test["abstain"].to_numpy(dtype=bool), _groups(test, spec)).to_dict(),
        "counts": {"test": len(test), "answered": len(answered), "groups": int(test["group_id"].nunique()), "classes": _counts(answered, spec)},
        "devices": devices,
        "worst_device": None if worst is None else {"key": worst[1], "name": devices[worst[1]]["name"], "auc": devices[worst[1]]["auc"]},
        "baseline": _baseline(answered, spec),
    }
    return overall | added(answered, spec) | by_class(answered, spec) | by_fold(test, spec, decision) | _external(predictions, spec, decision, names)


def _external(predictions: pd.DataFrame, spec: DiseaseSpec, decision: Decision, names: tuple[str, ...]) -> dict[str, Any]:
    """`external` {name: n, abstained, counts, coverage, metrics, classes}; a set that the source lacks has n = 0."""
    found: dict[str, Any] = {}
    for external in spec.external:
        if external.role != "test":
            continue
        rows = predictions[predictions["split"] == external.split]
        answered = rows[~rows["abstain"].astype(bool)]
        found[external.name] = {
            "n": len(answered),
            "abstained": len(rows) - len(answered),
            "missing": not len(rows),
            "groups": int(rows["group_id"].nunique()),
            "devices": int(rows["device_key"].nunique()),
            "counts": _counts(answered, spec),
            "coverage": (metrics.share(~rows["abstain"].to_numpy(dtype=bool), _groups(rows, spec)) if len(rows) else insufficient(0)).to_dict(),
            "metrics": {name: _figure(name, answered, spec, decision, DEVICE_MIN_PER_CLASS).to_dict() for name in names},
        } | by_class(answered, spec)
    return {"external": found} if found else {}


def by_class(rows: pd.DataFrame, spec: DiseaseSpec) -> dict[str, Any]:
    """`classes`, and where the spec has them `pairs` and `coarse`; nothing for two classes."""
    if spec.target.kind in ("binary", "dense"):
        return {}
    y, p, groups = truth(rows, spec), probabilities(rows, spec), _groups(rows, spec)
    found: dict[str, Any] = {"classes": {name: _one_class(y, p[:, k], k, groups) for k, name in enumerate(spec.target.classes)}}
    if "pairwise_auc" in spec.metrics:
        pairs = metrics_classes.pairs(y, p, groups, min_per_class=DEVICE_MIN_PER_CLASS)
        found["pairs"] = [{"classes": [spec.target.classes[a], spec.target.classes[b]], "auc": e.to_dict()} for (a, b), e in pairs.items()]
    if spec.target.kind == "hierarchical":
        names, sums = metrics_classes.coarse_names(spec), metrics_classes.coarse_probabilities(spec, p)
        own = metrics_classes.coarse_of(spec)[y] if len(y) else y
        figures = {"accuracy": metrics.accuracy(own, sums.argmax(1), groups, minimum=DEVICE_MIN_PER_CLASS), "auc": insufficient(0)}
        if len(y):
            figures["auc"] = metrics.macro_auc(own, sums, groups, min_per_class=DEVICE_MIN_PER_CLASS)
        found["coarse"] = {
            "classes": {name: _one_class(own, sums[:, k], k, groups) for k, name in enumerate(names)},
            "metrics": {name: e.to_dict() for name, e in figures.items()},
            "confusion": [[int(((own == a) & (sums.argmax(1) == b)).sum()) for b in range(len(names))] for a in range(len(names))],
        }
    return found


def _one_class(y: NDArray[Any], p: NDArray[np.float64], k: int, groups: NDArray[Any] | None) -> dict[str, Any]:
    own = (y[:, k] > 0) if y.ndim == 2 else (y == k)
    return {"n": int(own.sum()), "auc": metrics.auc_interval(own, p, groups, min_per_class=DEVICE_MIN_PER_CLASS).to_dict()}


def by_fold(test: pd.DataFrame, spec: DiseaseSpec, decision: Decision) -> dict[str, Any]:
    """`folds` [{fold, n, abstained, groups, counts, metrics}] and `over_folds` {metric: mean, sd, folds}.

    A fold may be one subject: its figures are values without an interval, and None where it holds too little for one.
    """
    if "fold" not in test or test["fold"].isna().all():
        return {}
    names = [name for name in wanted(spec) if name in POINTS]
    folds = []
    for fold, everything in test.groupby("fold", sort=True):
        rows = everything[~everything["abstain"].astype(bool)]
        values = {name: point(name, rows, spec, decision) for name in names}
        facts = {
            "fold": int(float(str(fold))),
            "n": len(rows),
            "abstained": len(everything) - len(rows),
            "groups": int(everything["group_id"].nunique()),
        }
        folds.append(facts | {"counts": _counts(rows, spec), "metrics": values})
    over = {}
    for name in names:
        known = [f["metrics"][name] for f in folds if f["metrics"][name] is not None]
        over[name] = {
            "mean": float(np.mean(known)) if known else None,
            "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None,
            "folds": len(known),
        }
    return {"folds": folds, "over_folds": over}


POINTS = ("auc", "macro_auc", "sensitivity", "specificity", "accuracy", "brier")


def point(name: str, rows: pd.DataFrame, spec: DiseaseSpec, decision: Decision) -> float | None:
    """The value of a figure alone, or None where the rows do not hold what it needs (both classes, one positive ...)."""
    if not len(rows):
        return None
    y, p = truth(rows, spec), probabilities(rows, spec)
    if name == "brier":
        one = np.eye(p.shape[1])[y] if y.ndim == 1 else y
        return float(((p - one) ** 2).sum(1).mean() / (2 if spec.target.kind == "binary" else 1))
    if name == "accuracy":
        return float((decided(rows, spec, decision) == y).mean())
    if name in ABOUT_POSITIVE:
        hit = np.isin(decided(rows, spec, decision), spec.positive_indices) == np.isin(y, spec.positive_indices)
        among = np.isin(y, spec.positive_indices) == (name == "sensitivity")
        return float(hit[among].mean()) if among.any() else None
    if name == "auc" and spec.positive_indices:
        positive, score = np.isin(y, spec.positive_indices), p[:, list(spec.positive_indices)].sum(1)
        return metrics.auc(positive, score) if 0 < positive.sum() < len(positive) else None
    areas = [((y[:, k] > 0) if y.ndim == 2 else (y == k), p[:, k]) for k in range(p.shape[1])]
    if any(not 0 < own.sum() < len(own) for own, _ in areas):
        return None
    return float(np.mean([metrics.auc(own, score) for own, score in areas]))


def decided(rows: pd.DataFrame, spec: DiseaseSpec, decision: Decision) -> NDArray[Any]:
    """(n,) class indices, or (n, K) of bool for multi-label: as written, else by `decision`."""
    if spec.target.kind == "multilabel":
        names = [f"decided_{name}" for name in spec.target.classes]
        if all(name in rows for name in names):
            return rows[names].to_numpy(dtype=bool)
    elif "decided" in rows:
        return rows["decided"].to_numpy(dtype=np.int64)
    return decision.decide(probabilities(rows, spec))


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
    among = list(spec.positive_indices)
    if among:
        positive, score = np.isin(y, among), p[:, among].sum(1)
        match name:
            case "auc":
                return metrics.auc_interval(positive, score, groups, min_per_class=floor)
            case "sensitivity":
                return metrics.sensitivity(positive, np.isin(decided(rows, spec, decision), among), groups, minimum=floor)
            case "specificity":
                return metrics.specificity(positive, np.isin(decided(rows, spec, decision), among), groups, minimum=floor)
            case _:
                pass
    if spec.target.kind == "binary" and name in ("brier", "calibration_error"):
        positive, score = y == spec.positive_index, p[:, spec.positive_index]
        return metrics.brier(positive, score, groups, minimum=floor) if name == "brier" else metrics.calibration_error(positive, score, groups)
    match name:
        case "auc" | "macro_auc":
            return metrics.macro_auc(y, p, groups, min_per_class=floor)
        case "pairwise_auc":
            return metrics_classes.pairwise_auc(y, p, groups, min_per_class=floor)
        case "brier":
            return metrics.brier(y, p, groups, minimum=floor)
        case "calibration_error":
            return metrics.calibration_error(y, p, groups)
        case "qwk":
            return metrics.quadratic_weighted_kappa(y, decided(rows, spec, decision), len(spec.target.classes), groups, minimum=floor)
        case _:
            return metrics.accuracy(y, decided(rows, spec, decision), groups, minimum=floor)


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
