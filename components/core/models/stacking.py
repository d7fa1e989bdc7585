"""Stacking: a logistic regression on the members' scores (Wolpert, Neural Networks 1992).

It learns on the validation split, which no member has seen: members choose their best epoch on groups held out of training. What it learns
is one affine map from all members' scores to the answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.models.family_ensemble import Arrays, Ensemble, Scores, checked_members
from components.core.models.family_options import read_options
from components.core.spec import DiseaseSpec, Family

BIAS_PENALTY = 1e-2  # finite biases for classes that validation lacks
PENALTIES = (1000.0, 100.0, 10.0, 1.0)
FOLDS = 5


@dataclass(frozen=True)
class Options:
    """Args:
    members: Other families of the disease, two or more, no ensembles.
    l2: Penalty on the squared weights of standardised scores, against the summed loss; 0: the one of 1, 10, 100, 1000 with the lowest loss in
        cross-validation over the groups of the validation split.
    held: Share of the training groups on which members choose their best epoch.
    """

    members: tuple[str, ...] = ()
    l2: float = field(default=0.0, metadata={"low": 0, "high": 1e6})
    held: float = field(default=0.2, metadata={"low": 0.05, "high": 0.5})


def build(spec: DiseaseSpec, family: Family) -> Ensemble:
    """An untrained ensemble; see `checked_members` for the errors."""
    (options,) = read_options(family, Options)
    several = spec.target.kind == "multilabel"
    return Ensemble(spec, checked_members(spec, family, options.members), Stack(several=several, l2=options.l2), held=options.held)


@dataclass(frozen=True)
class Stack:
    """Args:
    several: A sample may carry several labels: one regression for each, on the members' scores for that label.
    """

    several: bool
    l2: float = 0.0

    def blank(self, members: int, classes: int) -> Arrays:
        """The members' sum."""
        return {"weight": np.tile(np.eye(classes, dtype=np.float32), (members, 1)), "bias": np.zeros(classes, np.float32)}

    def learn(self, labels: NDArray[Any], scores: list[Scores], groups: NDArray[np.object_]) -> Arrays:
        s = np.stack(scores).astype(np.float64)  # (M, N, K)
        members, _, classes = s.shape
        if self.several:
            weight, bias = np.zeros((members * classes, classes)), np.zeros(classes)
            for k in range(classes):
                # Two classes, the absent one's scores being 0.
                mean, sd = s[:, :, k].mean(axis=1), np.maximum(s[:, :, k].std(axis=1), 1e-6)
                own = ((s[:, :, k] - mean[:, None]) / sd[:, None]).T
                w, b = self._solve((np.asarray(labels)[:, k] > 0.5).astype(np.int64), own, 2, groups)
                slope = (w[:, 1] - w[:, 0]) / sd
                weight[k::classes, k], bias[k] = slope, b[1] - b[0] - slope @ mean
            return {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}
        # A constant on all scores of a sample changes nothing, so it is taken out; then each member gets its own scale.
        centre = np.eye(classes) - 1 / classes
        centred = s @ centre
        scale = np.maximum(centred.std(axis=(1, 2)), 1e-6)
        inputs = (centred / scale[:, None, None]).transpose(1, 0, 2).reshape(s.shape[1], -1)
        w, bias = self._solve(np.asarray(labels, dtype=np.int64), inputs, classes, groups)
        weight = np.concatenate([centre @ w[m * classes : (m + 1) * classes] / scale[m] for m in range(members)])
        return {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}

    def apply(self, arrays: Arrays, scores: list[Scores]) -> Scores:
        together = np.concatenate(scores, axis=1).astype(np.float64)
        return (together @ arrays["weight"] + arrays["bias"]).astype(np.float32)

    def nodes(self, arrays: Arrays, scores: list[str]) -> tuple[list[Any], Arrays]:
        from onnx import helper

        nodes = [
            helper.make_node("Concat", scores, ["join/together"], axis=1),
            helper.make_node("MatMul", ["join/together", "join/weight"], ["join/weighed"]),
            helper.make_node("Add", ["join/weighed", "join/bias"], ["scores"]),
        ]
        return nodes, {f"join/{name}": array for name, array in arrays.items()}

    def _solve(
        self, y: NDArray[np.int64], x: NDArray[np.float64], classes: int, groups: NDArray[np.object_]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self.l2:
            return _regression(y, x, classes, self.l2)
        fold = _folds(y, groups)
        losses = [_left_out_loss(y, x, classes, fold, l2) for l2 in PENALTIES]
        return _regression(y, x, classes, PENALTIES[int(np.argmin(losses))])


def _folds(y: NDArray[np.int64], groups: NDArray[np.object_]) -> NDArray[np.intp]:
    """A fold for each sample: groups in the order of their first sample's class, dealt out one by one."""
    _, first, member = np.unique(groups.astype(str), return_index=True, return_inverse=True)
    fold = np.empty(len(first), dtype=np.intp)
    fold[np.argsort(y[first], kind="stable")] = np.arange(len(first)) % FOLDS
    return fold[member]


def _left_out_loss(y: NDArray[np.int64], x: NDArray[np.float64], classes: int, fold: NDArray[np.intp], l2: float) -> float:
    """Summed cross-entropy of each fold under the regression on the others."""
    total = 0.0
    for number in np.unique(fold):
        out = fold == number
        weight, bias = _regression(y[~out], x[~out], classes, l2)
        total -= float(_log_softmax(x[out] @ weight + bias)[np.arange(out.sum()), y[out]].sum())
    return total


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _regression(y: NDArray[np.int64], x: NDArray[np.float64], classes: int, l2: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (F, classes) and biases (classes,) that minimise the summed cross-entropy and the penalty; convex, so there is one answer."""
    from scipy.optimize import minimize

    wanted = np.eye(classes)[y]
    shape = (x.shape[1] + 1, classes)
    penalty = np.full(shape, l2)
    penalty[-1] = BIAS_PENALTY
    inputs = np.concatenate([x, np.ones((len(x), 1))], axis=1)

    def loss(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        w = theta.reshape(shape)
        log_p = _log_softmax(inputs @ w)
        gradient = inputs.T @ (np.exp(log_p) - wanted) + penalty * w
        return float(-(wanted * log_p).sum() + (penalty * w**2).sum() / 2), gradient.ravel()

    found = minimize(loss, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 1000, "ftol": 1e-13, "gtol": 1e-8})
    w = found.x.reshape(shape)
    return w[:-1], w[-1]
