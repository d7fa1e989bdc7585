"""How sure an answer is, said in three ways that a reader can check.

    entropy    of the calibrated probabilities, 0 (sure) to 1 (no idea), over the number of classes
    set        the classes that cannot be excluded: with probability 0.9 for each class, the true one is in it (class-conditional conformal)
    low, high  95 % interval of the share of positives among samples with this probability, from resampled patients of the reference

All from the package's reference, by preference of test samples, which neither training nor calibration saw. A set or an interval that the reference
cannot support is None.

Source:
    Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005 (label-conditional conformal predictors); Platt 1999.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core.spec import DiseaseSpec

if TYPE_CHECKING:
    import pandas as pd

COVERAGE = 0.9
LEAST = 20
"""Samples of a class, below which nothing is said of it."""
DRAWS, STEPS, SEED = 200, 25, 20161
SLOPE_SD, INTERCEPT_SD = 0.5, 2.0
"""Prior of slope and intercept on the logit of a calibrated probability, which is about right: near 1 and 0."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Uncertainty:
    """What the reference says.

    Args:
        classes: Names.
        least: (K,) lowest probability with which a class is still in the set; None: no sets.
        lines: (draws, 2) slope and intercept of the logit; None: no interval.
        positive: Indices of the classes whose sum the interval is about.
    """

    classes: tuple[str, ...]
    least: Floats | None
    lines: Floats | None
    positive: tuple[int, ...]

    @classmethod
    def learn(cls, spec: DiseaseSpec, reference: pd.DataFrame) -> Uncertainty:
        """From `reference.parquet`: `label`, `split`, `group_id` and `score_<class>`, which are probabilities."""
        names = spec.target.classes
        nothing = cls(names, None, None, spec.positive_indices)
        columns = [f"score_{name}" for name in names]
        if spec.target.kind == "multilabel" or "label" not in reference or not set(columns) <= set(reference.columns):
            return nothing
        rows = reference[reference["label"].notna() & reference[columns].notna().all(axis=1)]
        tested = rows[rows["split"] == "test"] if "split" in rows else rows
        counts = tested["label"].astype(int).value_counts()
        if all(counts.get(k, 0) >= LEAST for k in range(len(names))):
            rows = tested
        if not len(rows):
            return nothing
        y, p = rows["label"].to_numpy(np.int64), rows[columns].to_numpy(np.float64)
        counts = np.bincount(y, minlength=len(names))
        least = _least(y, p) if counts.min() >= LEAST else None
        positive = np.isin(y, spec.positive_indices)
        lines = None
        if spec.positive_indices and min(positive.sum(), (~positive).sum()) >= LEAST:
            lines = _lines(positive, p[:, list(spec.positive_indices)].sum(1), rows["group_id"].astype(str).to_numpy())
        return cls(names, least, lines, spec.positive_indices)

    def describe(self, p: Floats) -> list[dict[str, Any]]:
        """(n, K) probabilities -> one dict a sample, see the module."""
        logs = np.log(np.clip(p, 1e-300, 1))
        rows = p.sum(1, keepdims=True)
        entropy = -(p * logs).sum(1) / np.log(max(2, p.shape[1])) if np.abs(rows - 1).max(initial=0) < 1e-6 else _binary_entropy(p)
        out: list[dict[str, Any]] = [{"entropy": round(float(np.clip(e, 0, 1)), 4)} for e in entropy]
        for n, one in enumerate(out):
            one["coverage"] = COVERAGE if self.least is not None else None
            one["set"] = (
                [c for c, value, least in zip(self.classes, p[n], self.least, strict=True) if value >= least] if self.least is not None else None
            )
        if self.lines is None:
            bounds = np.full((len(p), 2), np.nan)
        else:
            logit = _logit(p[:, list(self.positive)].sum(1))
            bounds = _sigmoid(_quantiles(np.outer(logit, self.lines[:, 0]) + self.lines[:, 1], (0.025, 0.975)))
        for one, (low, high) in zip(out, bounds, strict=True):
            one["low"], one["high"] = (None, None) if np.isnan(low) else (round(float(low), 4), round(float(high), 4))
        return out


def _least(y: NDArray[np.int64], p: Floats) -> Floats:
    """Of each class, the probability that a share `COVERAGE` of its samples reach, counted so that it holds for the next one."""
    out = np.zeros(p.shape[1])
    for k in range(p.shape[1]):
        own = np.sort(p[y == k, k])
        below = int(np.floor((len(own) + 1) * (1 - COVERAGE)))
        out[k] = own[below - 1] if below >= 1 else 0.0
    return out


def _lines(positive: NDArray[np.bool_], p: Floats, groups: NDArray[Any]) -> Floats:
    """(draws, 2) logistic regressions of the truth on the logit, each on groups drawn again."""
    rng = np.random.default_rng(SEED)
    names, group = np.unique(groups, return_inverse=True)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)[:, group].astype(np.float64)  # (draws, n) weights
    x, y = _logit(p), positive.astype(np.float64)
    line = np.tile([1.0, 0.0], (DRAWS, 1))
    prior = np.array([1 / SLOPE_SD**2, 1 / INTERCEPT_SD**2])
    for _ in range(STEPS):  # Newton's method, all draws at once
        q = _sigmoid(np.outer(line[:, 0], x) + line[:, 1:])
        residual, weight = drawn * (y - q), drawn * q * (1 - q)
        gradient = np.stack([residual @ x, residual.sum(1)], 1) - prior * (line - [1.0, 0.0])
        a, b, d = weight @ x**2 + prior[0], weight @ x, weight.sum(1) + prior[1]
        step = np.stack([d * gradient[:, 0] - b * gradient[:, 1], a * gradient[:, 1] - b * gradient[:, 0]], 1) / (a * d - b * b)[:, None]
        line = line + np.clip(step, -2, 2)
    return line


def _quantiles(x: Floats, q: tuple[float, ...]) -> Floats:
    """(n, draws) -> (n, len(q)), as `numpy.quantile` of each row, which takes ten times as long for a few hundred values."""
    ordered, place = np.sort(x, axis=1), np.array(q) * (x.shape[1] - 1)
    below = place.astype(int)
    low, high = ordered[:, below], ordered[:, np.minimum(below + 1, x.shape[1] - 1)]
    return low + (high - low) * (place - below)


def _binary_entropy(p: Floats) -> Floats:
    """Mean over the labels of several yes-or-no questions."""
    q = np.clip(p, 1e-12, 1 - 1e-12)
    return (-(q * np.log2(q) + (1 - q) * np.log2(1 - q))).mean(1)


def _logit(p: Floats) -> Floats:
    q = np.clip(p, 1e-6, 1 - 1e-6)
    return np.log(q / (1 - q))


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))
