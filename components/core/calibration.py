"""Turn logits into probabilities that come true: one temperature and one bias per class, fitted on the validation split.

    softmax   p = softmax((scores + bias) / temperature)       binary, multi-class, ordinal, hierarchical
    sigmoid   p_k = sigmoid((score_k + bias_k) / temperature_k)   multi-label

For two classes the first is Platt's scaling of the margin `scores[:, 1] - scores[:, 0]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.core.errors import DataError

SLOPE_SD = 1.5  # prior of the log slope on standardised scores: within a factor 20 of one, were there no data
BIAS_SD = 5.0  # prior of the intercepts, in logits

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """A fitted map from scores to probabilities.

    Args:
        temperature: One number (softmax) or one per class (sigmoid), above 0.
        bias: One number per class, in units of the scores.
        n: Samples it was fitted on.
    """

    kind: Literal["softmax", "sigmoid"]
    temperature: tuple[float, ...]
    bias: tuple[float, ...]
    n: int = 0

    def __post_init__(self) -> None:
        lengths = {"softmax": 1, "sigmoid": len(self.bias)}
        if self.kind not in lengths:
            raise DataError("no such kind of calibration", where="calibration", got=repr(self.kind), allowed="softmax, sigmoid")
        if not self.bias or len(self.temperature) != lengths[self.kind]:
            raise DataError("temperatures and biases do not fit", where="calibration", got=f"{len(self.temperature)} and {len(self.bias)}")
        if not np.isfinite([*self.temperature, *self.bias]).all() or min(self.temperature) <= 0:
            raise DataError("temperature or bias out of range", where="calibration", allowed="finite, temperature above 0")

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "temperature": list(self.temperature), "bias": list(self.bias), "n": self.n}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Calibration:
        """Raises DataError when a key is missing or a value is out of range."""
        try:
            return cls(raw["kind"], tuple(float(t) for t in raw["temperature"]), tuple(float(b) for b in raw["bias"]), int(raw.get("n", 0)))
        except (KeyError, TypeError, ValueError):
            raise DataError("not a calibration", where="calibration", allowed="kind, temperature, bias") from None


def fit(labels: ArrayLike, scores: ArrayLike) -> Calibration:
    """The most probable temperature and biases given validation samples.

    Targets are drawn in by one pseudo-count per class, as Platt does, and slope and intercept carry weak priors: ten perfectly separated
    samples give a finite, moderate answer.

    Args:
        labels: (n,) class indices, or (n, K) of 0 and 1 for multi-label.
        scores: (n, K) logits.

    Source:
        Platt, Advances in Large Margin Classifiers 1999; Guo et al., ICML 2017.
    """
    y, s = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if s.ndim != 2 or len(y) != len(s) or not len(s):
        raise DataError("labels and scores do not fit", where="calibration", got=f"{y.shape} and {s.shape}", allowed="(n,) and (n, K), n at least 1")
    if not np.isfinite(s).all():
        raise DataError("scores that are not finite", where="calibration", got=f"{int((~np.isfinite(s)).sum())} values")
    if y.ndim == 1:
        slope, intercept = _fit_softmax(y.astype(np.int64), s)
        return Calibration("softmax", (1 / slope,), tuple((intercept / slope).tolist()), len(s))
    pairs = [_fit_softmax((y[:, k] > 0).astype(np.int64), np.stack([np.zeros(len(s)), s[:, k]], axis=1)) for k in range(s.shape[1])]
    # As two classes the intercepts are +c/2 and -c/2: their difference belongs to the one logit.
    return Calibration("sigmoid", tuple(1 / a for a, _ in pairs), tuple(float(c[1] - c[0]) / a for a, c in pairs), len(s))


def apply(calibration: Calibration, scores: ArrayLike) -> Floats:
    """(N, K) logits -> (N, K) probabilities in [0, 1]; rows of a softmax sum to 1."""
    s = np.asarray(scores, dtype=np.float64)
    if s.ndim != 2 or s.shape[1] != len(calibration.bias):
        raise DataError("scores of another shape than calibrated", where="calibration", got=s.shape, allowed=f"(N, {len(calibration.bias)})")
    logits = (s + np.asarray(calibration.bias)) / np.asarray(calibration.temperature)
    if calibration.kind == "sigmoid":
        return np.exp(-np.logaddexp(0, -logits))
    return np.exp(_log_softmax(logits))


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def _fit_softmax(y: NDArray[np.int64], s: Floats) -> tuple[float, Floats]:
    """Slope (1 / temperature) and intercepts (bias / temperature, sum 0) that minimise the penalised cross-entropy."""
    from scipy.optimize import minimize

    n, classes = s.shape
    if y.min() < 0 or y.max() >= classes:
        raise DataError("labels outside the classes", where="calibration", got=f"{y.min()}..{y.max()}", allowed=f"0..{classes - 1}")
    centred = s - s.mean(1, keepdims=True)
    scale = float(centred.std()) or 1.0
    x = centred / scale
    counts = np.bincount(y, minlength=classes)
    target = np.repeat((1 / (counts[y] + classes))[:, None], classes, axis=1)
    target[np.arange(n), y] *= counts[y] + 1

    def loss(theta: Floats) -> tuple[float, Floats]:
        slope, c = np.exp(theta[0]), theta[1:]
        log_p = _log_softmax(slope * x + c)
        residual = np.exp(log_p) - target
        value = -(target * log_p).sum() + theta[0] ** 2 / (2 * SLOPE_SD**2) + (c**2).sum() / (2 * BIAS_SD**2)
        gradient = np.r_[slope * (residual * x).sum() + theta[0] / SLOPE_SD**2, residual.sum(0) + c / BIAS_SD**2]
        return float(value), gradient

    found = minimize(
        loss,
        np.zeros(1 + classes),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-12, 12)] + [(-50, 50)] * classes,
        options={"maxiter": 500, "ftol": 1e-12, "gtol": 1e-8},
    )
    intercept = found.x[1:] - found.x[1:].mean()
    return float(np.exp(found.x[0]) / scale), intercept
