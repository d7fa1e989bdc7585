"""What the covariates add: the image model's calibrated answers against the fused ones, on the same samples, from `predictions.parquet` alone.

A table of a disease that fuses has `image_score_<class>` beside `score_<class>`, which is what a server answers, and `told`: the names of the
covariates that were known, joined by "+". No value of a covariate is in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core import metrics
from components.core.fusion import PER_SD, TOLD, Fusion, Told
from components.core.spec import DiseaseSpec

if TYPE_CHECKING:
    import pandas as pd

IMAGE, TOLD_NAMES = "image_score_", "told"
MIN_PER_CLASS = 5  # as for a device's AUC: below it no interval means anything
Floats = NDArray[np.float64]


def columns(spec: DiseaseSpec, image: Floats, told: list[Told]) -> dict[str, Any]:
    """The columns that a fused answer's row has beside the usual ones; `image`: (n, K) calibrated, without covariates."""
    names = {f"{IMAGE}{name}": image[:, k] for k, name in enumerate(spec.target.classes)}
    return names | {TOLD_NAMES: ["+".join(name for name in spec.covariates if one.get(name) is not None) for one in told]}


def added(rows: pd.DataFrame, spec: DiseaseSpec) -> dict[str, Any]:
    """`covariates` {told, auc, within_devices, brier}; nothing where the spec names none.

    Args:
        rows: Answered test rows.

    Returns:
        `told` {name: samples that told it}; `auc`, `within_devices` (mean over devices that hold enough of the classes) and `brier` (its sum over
        classes): {image, fused, difference}, the last with its paired interval from resampling whole groups.
    """
    if not spec.covariates or f"{IMAGE}{spec.target.classes[0]}" not in rows:
        return {}
    from components.evaluate.figures import probabilities, truth

    fused, image = probabilities(rows, spec), rows[[f"{IMAGE}{name}" for name in spec.target.classes]].to_numpy(dtype=np.float64)
    y = truth(rows, spec)
    groups = None if spec.split.grouping == "none" else rows["group_id"].to_numpy(dtype=object)
    questions = _questions(spec, y, image, fused)
    every = np.ones(len(rows), dtype=bool)
    device = rows["device_key"].to_numpy(dtype=object)
    known = rows[TOLD_NAMES].astype(str).str.split("+")
    one = np.eye(image.shape[1])[y] if y.ndim == 1 else y
    errors = [((p - one) ** 2).sum(1) for p in (image, fused)]
    brier = metrics.paired_mean_difference(errors[1], errors[0], groups)
    return {
        "covariates": {
            "told": {name: int(known.map(lambda names, name=name: name in names).sum()) for name in spec.covariates},
            "n": len(rows),
            "auc": _compared([(every, questions)], groups),
            "within_devices": _compared([(device == key, questions) for key in sorted(set(device), key=str)], groups),
            "brier": {"image": _mean(errors[0]), "fused": _mean(errors[1]), "difference": brier.to_dict()},
        }
    }


Question = tuple[NDArray[np.bool_], Floats, Floats]  # who is positive, the image model's score, the fused one


def _questions(spec: DiseaseSpec, y: NDArray[Any], image: Floats, fused: Floats) -> list[Question]:
    """What the AUC is about: the positive class, else each class."""
    if among := list(spec.positive_indices):
        return [(np.isin(y, among), image[:, among].sum(1), fused[:, among].sum(1))]
    return [((y[:, k] > 0) if y.ndim == 2 else (y == k), image[:, k], fused[:, k]) for k in range(image.shape[1])]


def _compared(parts: list[tuple[NDArray[np.bool_], list[Question]]], groups: NDArray[Any] | None) -> dict[str, Any]:
    """{image, fused, difference, parts}: AUCs averaged over questions and over those parts of the samples that hold enough for all of them."""
    n = len(parts[0][0]) if parts else 0
    index = metrics.group_index(groups, n)
    index = np.arange(n) if index is None else index
    kept = [
        (of, [(y[of], a[of], b[of]) for y, a, b in questions])
        for of, questions in parts
        if not any(metrics.refusal(y[of], index[of], MIN_PER_CLASS) for y, _, _ in questions)
    ]
    if not kept:
        return {"image": None, "fused": None, "difference": metrics.insufficient(n).to_dict(), "parts": 0}
    image, fused = ([[metrics.auc(q[0], q[1 + which]) for q in asked] for _, asked in kept] for which in (0, 1))
    pairs = [(of, metrics.weighted_auc(y, b), metrics.weighted_auc(y, a)) for of, asked in kept for y, a, b in asked]
    spread = metrics.bootstrap(index, lambda w: np.mean([after(w[:, of]) - before(w[:, of]) for of, after, before in pairs], axis=0))
    low, high = np.quantile(spread, ((1 - metrics.LEVEL) / 2, (1 + metrics.LEVEL) / 2))
    value = float(np.mean(fused) - np.mean(image))
    used = int(np.logical_or.reduce([of for of, _ in kept]).sum())
    difference = metrics.Estimate(value, min(float(low), value), max(float(high), value), used)
    return {"image": float(np.mean(image)), "fused": float(np.mean(fused)), "difference": difference.to_dict(), "parts": len(kept)}


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def fitted(spec: DiseaseSpec, served: Fusion, folds: list[Fusion]) -> dict[str, Any]:
    """How it was fitted, in figures and in words; part of `metrics.json`'s `covariates`."""
    return {
        "penalty": served.penalty, "gain": served.gain, "gain_se": served.gain_se, "fitted_on": served.n, "groups": served.groups,
        "fused": not served.identity, "words": words(served, spec.positive_indices),
    } | ({"folds": len(folds), "folds_fused": sum(not f.identity for f in folds)} if folds else {})  # fmt: skip


def words(fusion: Fusion, about: tuple[int, ...] = ()) -> list[str]:
    """One sentence for each term: what it multiplies the odds of the second of two classes by, or the weights of the classes `about` and of those
    that it moves most up and down."""
    return [_sentence(fusion, term.covariate, term.what, np.array(term.weights), about) for term in fusion.terms]


def _sentence(fusion: Fusion, covariate: str, what: str, weights: Floats, about: tuple[int, ...]) -> str:
    name = covariate.removesuffix("_years").replace("_", " ")
    if what == TOLD:
        subject = f"{name} told, at its mean of {fusion.numbers[covariate].mean:.0f}"
    elif what == PER_SD:
        subject = f"{name} higher by {fusion.numbers[covariate].sd:.0f}"
    else:
        subject = f"{name} {what}"
    if fusion.kind == "softmax":
        weights = weights - weights.mean()
    if fusion.kind == "softmax" and len(weights) == 2:
        return f"{subject}: odds of {fusion.classes[1]} x {np.exp(weights[1] - weights[0]):.2f}"
    order = np.argsort(-weights)
    chosen = [k for k in order.tolist() if len(order) <= 3 or k in (*about, order[0], order[-1])]
    kind = "weight" if fusion.kind == "softmax" else "odds"
    return f"{subject}: {kind} of " + ", ".join(f"{fusion.classes[k]} x {np.exp(weights[k]):.2f}" for k in chosen)


def shown(spec: DiseaseSpec, figures: dict[str, Any]) -> dict[str, Any] | None:
    """The section of the report; None where the spec names no covariates."""
    found = figures.get("covariates")
    if found is None:
        return None
    about = f"AUC of {spec.target.positive}" if spec.positive_indices else "AUC, mean of classes"
    titles = {
        "auc": about,
        "within_devices": f"the same within a device, mean of {found['within_devices']['parts']}",
        "brier": "squared error, lower is better",
    }
    rows = [
        {"name": title, "image": _number(found[key]["image"]), "fused": _number(found[key]["fused"]), "difference": _signed(found[key]["difference"])}
        for key, title in titles.items()
    ]
    told = ", ".join(f"{name.removesuffix('_years').replace('_', ' ')} of {count}" for name, count in found["told"].items())
    say = f"Told: {told} of {found['n']} test samples. Whose covariates are not told, or are older than a year, gets the image model's answer "
    say += (
        f"unchanged. Fitted on {found['fitted_on']} validation samples of {found['groups']} groups, after calibration; held out there, fusing saved "
    )
    say += f"{found['gain']:.4f} nats a sample (standard error {found['gain_se']:.4f})"
    say += (
        f", penalty {found['penalty']:g}." if found["fused"] else ": too little to be believed, so the registered model answers by the image alone."
    )
    if "folds" in found:
        say += f" Of the {found['folds']} folds' models, {found['folds_fused']} fuse."
    if found["words"]:
        say += " What each does in the registered model, before the classes are brought to a sum of 1:"
    return {"rows": rows, "words": say, "terms": found["words"]}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _signed(difference: dict[str, Any]) -> str:
    if difference["value"] is None:
        return difference["reason"]
    return f"{difference['value']:+.3f} ({difference['low']:+.3f} to {difference['high']:+.3f})"
