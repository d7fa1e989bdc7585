"""Late fusion: what is known of the patient shifts the calibrated probabilities of the image model.

    softmax   p'_k = p_k * exp(shift_k) / sum over classes        binary, multi-class, ordinal, hierarchical
    sigmoid   odds'_k = odds_k * exp(shift_k)                     multi-label

`shift` is a sum of terms, each of one covariate: that it is told, its distance from the validation mean, its being one word. A penalised logistic
regression whose offset is the image model's log-probability, so no covariate told means a shift of exactly zero: the image model's own answer.

It is fitted on validation. The penalty is chosen there by cross-validation over groups: the strongest whose held-out log loss is within one
standard error of the best. It has to beat no fusion by two standard errors; otherwise there are no terms, and every answer is the image model's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.core.covariates import NAMES, NUMBERS
from components.core.errors import DataError

PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # of the squared weights: a prior of sd 1.8 to 0.06 logits
FOLDS, SEED = 5, 20161
MIN_GROUPS = 40  # below this the standard errors that decide are themselves a guess
MIN_KNOWN = 5  # groups that a word, or a number at all, needs
BEYOND = 2.0  # standard errors
LARGEST = 20.0  # a weight in logits beyond any that a penalty leaves: a file that was damaged
TOLD, PER_SD = "told", "per sd"

Floats = NDArray[np.float64]
Told = Mapping[str, Any]
"""What is known of a sample's patient: covariate -> value. What is missing or stale has no entry; None counts as no entry."""


@dataclass(frozen=True)
class Term:
    """One column of the regression: `what` is `told`, `per sd`, or a word of the covariate. `weights`: (K,) logits."""

    covariate: str
    what: str
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Number:
    """How a covariate that is a number is centred; outside [low, high], which validation held, it counts as their nearest end."""

    mean: float
    sd: float
    low: float
    high: float


@dataclass(frozen=True)
class Fusion:
    """A fitted shift.

    Args:
        covariates: What the spec names.
        terms: None of them: the answers are the image model's.
        penalty: Of the squared weights; None without terms.
        gain, gain_se: Held-out log loss that the penalty saves in each validation sample (nats), and its standard error over groups.
        n, groups: Of validation.
    """

    kind: Literal["softmax", "sigmoid"]
    classes: tuple[str, ...]
    covariates: tuple[str, ...]
    terms: tuple[Term, ...] = ()
    numbers: Mapping[str, Number] = field(default_factory=dict)
    penalty: float | None = None
    gain: float = 0.0
    gain_se: float = 0.0
    n: int = 0
    groups: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("softmax", "sigmoid") or len(self.classes) < 1 or not set(self.covariates) <= set(NAMES):
            raise DataError("not a fusion", where="fusion", got=f"{self.kind}, {len(self.covariates)} covariates", allowed=", ".join(NAMES))
        for term in self.terms:
            if term.covariate not in self.covariates or len(term.weights) != len(self.classes) or not np.isfinite(term.weights).all():
                raise DataError("a term that does not fit", where="fusion", got=term.covariate, allowed=f"{len(self.classes)} finite weights")
            if np.abs(term.weights).max() > LARGEST:
                raise DataError("a weight out of range", where="fusion", got=term.covariate, allowed=f"at most {LARGEST:g}")
            if term.what == PER_SD and (term.covariate not in self.numbers or not self.numbers[term.covariate].sd > 0):
                raise DataError("a number without its scale", where="fusion", got=term.covariate)

    @property
    def identity(self) -> bool:
        return not self.terms

    def used(self, told: Told) -> tuple[str, ...]:
        """The covariates that have a say in this answer, in the spec's order. A word that validation did not hold has none."""
        known = {term.covariate for term in self.terms if _column(term, told, self.numbers)}  # of a number, `told` is 1
        return tuple(name for name in self.covariates if name in known)

    def apply(self, probabilities: ArrayLike, told: Sequence[Told]) -> Floats:
        """(n, K) calibrated probabilities and what is told of each sample -> (n, K). Where nothing is told, the same numbers come back."""
        p = np.asarray(probabilities, dtype=np.float64)
        if p.ndim != 2 or p.shape[1] != len(self.classes) or len(p) != len(told):
            raise DataError("probabilities that do not fit", where="fusion", got=f"{p.shape} for {len(told)}", allowed=f"(n, {len(self.classes)})")
        if self.identity:
            return p
        design = _design(self.terms, told, self.numbers)
        shift = design @ np.array([term.weights for term in self.terms])
        moved = design.any(1)
        out = p.copy()
        out[moved] = _shifted(self.kind, p[moved], shift[moved])
        return out

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind, "classes": list(self.classes), "covariates": list(self.covariates),
            "terms": [{"covariate": t.covariate, "what": t.what, "weights": list(t.weights)} for t in self.terms],
            "numbers": {name: vars(number) for name, number in self.numbers.items()},
            "penalty": self.penalty, "gain": self.gain, "gain_se": self.gain_se, "n": self.n, "groups": self.groups,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Fusion:
        """Raises DataError when a key is missing or a value is out of range."""
        try:
            terms = tuple(Term(str(t["covariate"]), str(t["what"]), tuple(float(w) for w in t["weights"])) for t in raw["terms"])
            numbers = {str(name): Number(*(float(n[key]) for key in ("mean", "sd", "low", "high"))) for name, n in raw["numbers"].items()}
            penalty = None if raw["penalty"] is None else float(raw["penalty"])
            counts = int(raw["n"]), int(raw["groups"])
            return cls(raw["kind"], tuple(raw["classes"]), tuple(raw["covariates"]), terms, numbers, penalty, float(raw["gain"]),
                       float(raw["gain_se"]), *counts)  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DataError("not a fusion", where="fusion", allowed="kind, classes, covariates, terms, numbers, penalty, gain, n, groups") from None

    @classmethod
    def from_json(cls, text: str) -> Fusion:
        """Raises DataError."""
        try:
            return cls.from_dict(json.loads(text))
        except ValueError:
            raise DataError("not JSON", where="fusion") from None


def fit(
    labels: ArrayLike, probabilities: ArrayLike, told: Sequence[Told], groups: Sequence[Any] | None, *, classes: Sequence[str], names: Sequence[str]
) -> Fusion:
    """The shift that validation supports; without terms where it supports none.

    Args:
        labels: (n,) class indices, or (n, K) of 0 and 1 for multi-label.
        probabilities: (n, K), the image model's, calibrated.
        told: Of each sample.
        groups: (n,) whose samples stay together in cross-validation; None: each sample on its own.
        names: The spec's covariates.
    """
    y, p = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or not len(y) == len(p) == len(told) or p.shape[1] != len(classes):
        raise DataError("labels, probabilities and covariates do not fit", where="fusion", got=f"{len(y)}, {p.shape} and {len(told)}")
    kind: Literal["softmax", "sigmoid"] = "softmax" if y.ndim == 1 else "sigmoid"
    truth = np.eye(p.shape[1])[y.astype(np.int64)] if y.ndim == 1 else (y > 0).astype(np.float64)
    group = np.unique(np.asarray([str(g) for g in groups]), return_inverse=True)[1] if groups is not None else np.arange(len(y))
    count = len(np.unique(group))
    none = Fusion(kind, tuple(classes), tuple(names), n=len(y), groups=count)
    columns, numbers = _terms(told, group, names)
    if count < MIN_GROUPS or not columns:
        return none
    design = _design([Term(*c, ()) for c in columns], told, numbers)
    part = np.random.default_rng(SEED).permutation(count)[group] % FOLDS
    before = _loss(kind, truth, p, np.zeros_like(p))
    saved = np.zeros((len(PENALTIES), len(y)))
    for place, penalty in enumerate(PENALTIES):
        for fold in range(FOLDS):
            out = part == fold
            weights = _regression(kind, truth[~out], p[~out], design[~out], penalty)
            saved[place, out] = before[out] - _loss(kind, truth[out], p[out], design[out] @ weights)
    best = int(saved.mean(1).argmax())
    behind = [_mean(saved[best] - one, group) for one in saved]
    chosen = max(place for place, (value, se) in enumerate(behind) if value <= se + 1e-12)
    gain, se = _mean(saved[chosen], group)
    if gain <= BEYOND * se:
        return Fusion(kind, tuple(classes), tuple(names), gain=gain, gain_se=se, n=len(y), groups=count)
    weights = _regression(kind, truth, p, design, PENALTIES[chosen])
    terms = tuple(Term(*column, tuple(row)) for column, row in zip(columns, weights.tolist(), strict=True))
    return Fusion(kind, tuple(classes), tuple(names), terms, numbers, PENALTIES[chosen], gain, se, len(y), count)


def _terms(told: Sequence[Told], group: NDArray[np.int64], names: Sequence[str]) -> tuple[list[tuple[str, str]], dict[str, Number]]:
    """(covariate, what) of each column, and the scales of the numbers."""
    columns: list[tuple[str, str]] = []
    numbers: dict[str, Number] = {}
    for name in names:
        known = [(t[name], g) for t, g in zip(told, group.tolist(), strict=True) if t.get(name) is not None]
        if name in NUMBERS:
            values = np.array([float(v) for v, _ in known])
            if len({g for _, g in known}) >= MIN_KNOWN and values.std() > 0:
                numbers[name] = Number(float(values.mean()), float(values.std()), float(values.min()), float(values.max()))
                columns += [(name, TOLD), (name, PER_SD)]
        else:
            columns += [(name, word) for word in sorted({str(v) for v, _ in known}) if len({g for v, g in known if v == word}) >= MIN_KNOWN]
    return columns, numbers


def _column(term: Term, told: Told, numbers: Mapping[str, Number]) -> float:
    if told.get(term.covariate) is None:
        return 0.0
    if term.what == TOLD:
        return 1.0
    if term.what == PER_SD:
        scale = numbers[term.covariate]
        return float((np.clip(float(told[term.covariate]), scale.low, scale.high) - scale.mean) / scale.sd)
    return float(told[term.covariate] == term.what)


def _design(terms: Sequence[Term], told: Sequence[Told], numbers: Mapping[str, Number]) -> Floats:
    """(n, terms); a row of zeros where nothing is told."""
    return np.array([[_column(term, one, numbers) for term in terms] for one in told], dtype=np.float64).reshape(len(told), len(terms))


def _shifted(kind: str, p: Floats, shift: Floats) -> Floats:
    if kind == "sigmoid":
        up = p * np.exp(np.minimum(shift, 0))  # the larger of e^shift and 1 is divided out, so that nothing overflows
        return up / (up + (1 - p) * np.exp(-np.maximum(shift, 0)))
    raised = p * np.exp(shift - shift.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def _loss(kind: str, truth: Floats, p: Floats, shift: Floats) -> Floats:
    """(n,) log loss in nats."""
    q = np.clip(_shifted(kind, p, shift), 1e-12, 1 - 1e-12)
    return -(truth * np.log(q)).sum(1) - (((1 - truth) * np.log1p(-q)).sum(1) if kind == "sigmoid" else 0)


def _regression(kind: str, truth: Floats, p: Floats, design: Floats, penalty: float) -> Floats:
    """(terms, K) weights that minimise the log loss plus half the penalty times their squares."""
    from scipy.optimize import minimize

    shape = design.shape[1], p.shape[1]

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(shape)
        shift = design @ weights
        gradient = design.T @ (_shifted(kind, p, shift) - truth) + penalty * weights
        return float(_loss(kind, truth, p, shift).sum() + penalty / 2 * (weights**2).sum()), gradient.ravel()

    found = minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 300})
    return found.x.reshape(shape)


def _mean(values: Floats, group: NDArray[np.int64]) -> tuple[float, float]:
    """Mean of (n,) values and its standard error, groups being independent of each other and samples of a group not."""
    mean, count = float(values.mean()), int(group.max()) + 1
    apart = np.bincount(group, values - mean)
    return mean, float(np.sqrt((apart**2).sum() * count / (count - 1)) / len(values))
