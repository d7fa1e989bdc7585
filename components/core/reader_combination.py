"""A model and a human reader together: one score from two, fitted on validation groups only.

In CAMELYON16 a pathologist reached an AUC of .966, the best model .925, and both together .995, for they fail on other slides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.core.errors import DataError

PENALTY = 0.1  # on the slopes of standardised scores: two classes that separate would otherwise have no finite fit
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Combination:
    """What was fitted.

    Args:
        method: `logistic`: of both scores, standardised on validation. `ranks`: the mean of both scores' ranks among validation's.
        model, reader: `logistic`: mean, standard deviation and slope of each; `ranks`: validation's scores, sorted.
    """

    method: Literal["logistic", "ranks"]
    model: tuple[float, ...]
    reader: tuple[float, ...]
    intercept: float = 0.0

    def apply(self, model: ArrayLike, reader: ArrayLike) -> Floats:
        """(n,), (n,) -> (n,) in [0, 1], higher is more positive."""
        scores = [np.asarray(v, dtype=np.float64) for v in (model, reader)]
        if self.method == "ranks":
            return np.mean([_rank(np.array(known), s) for known, s in zip((self.model, self.reader), scores, strict=True)], axis=0)
        z = self.intercept + sum(slope * (s - mean) / sd for (mean, sd, slope), s in zip((self.model, self.reader), scores, strict=True))
        return 1 / (1 + np.exp(-np.clip(z, -500, 500)))

    def to_dict(self) -> dict[str, Any]:
        return {"method": self.method, "model": list(self.model), "reader": list(self.reader), "intercept": self.intercept}


def fit(labels: ArrayLike, model: ArrayLike, reader: ArrayLike, *, method: Literal["logistic", "ranks"] = "logistic") -> Combination:
    """Fit on validation.

    Args:
        labels: (n,) of 0 and 1; model, reader: (n,), any scale, higher is more positive.

    Raises:
        DataError: One class only, or scores that are not finite.
    """
    y, m, r = np.asarray(labels, dtype=np.float64), np.asarray(model, dtype=np.float64), np.asarray(reader, dtype=np.float64)
    if not len(y) == len(m) == len(r) or not (np.isfinite(m).all() and np.isfinite(r).all()):
        raise DataError("scores that are not finite, or not one for each label", where="reader combination", got=f"{len(y)}, {len(m)}, {len(r)}")
    if len(np.unique(y)) < 2:
        raise DataError("a combination needs both classes", where="reader combination", got=f"{int(y.sum())} positive of {len(y)}")
    if method == "ranks":
        return Combination("ranks", tuple(np.sort(m).tolist()), tuple(np.sort(r).tolist()))
    from scipy.optimize import minimize

    scale = [(float(s.mean()), float(s.std()) or 1.0) for s in (m, r)]
    x = np.stack([(s - mean) / sd for s, (mean, sd) in zip((m, r), scale, strict=True)], axis=1)

    def loss(theta: Floats) -> tuple[float, Floats]:
        z = theta[0] + x @ theta[1:]
        gap = 1 / (1 + np.exp(-z)) - y
        value = np.logaddexp(0, z).sum() - y @ z + PENALTY * (theta[1:] ** 2).sum()
        return float(value), np.r_[gap.sum(), x.T @ gap + 2 * PENALTY * theta[1:]]

    theta = minimize(loss, np.zeros(3), jac=True, method="L-BFGS-B").x
    parts = [(mean, sd, float(slope)) for (mean, sd), slope in zip(scale, theta[1:], strict=True)]
    return Combination("logistic", parts[0], parts[1], float(theta[0]))


def _rank(known: Floats, values: Floats) -> Floats:
    """Share of `known` below each value, ties counting one half."""
    return (np.searchsorted(known, values, "left") + np.searchsorted(known, values, "right")) / (2 * max(1, len(known)))
