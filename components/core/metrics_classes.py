"""Figures of more than two classes: each pair of them apart, and coarse classes as sums of their leaves."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.core import metrics
from components.core.metrics import LEVEL, Estimate, Floats, insufficient
from components.core.spec import DiseaseSpec

TINY = 1e-300


def pairs(labels: ArrayLike, probabilities: ArrayLike, groups: ArrayLike | None = None, *, min_per_class: int = 2) -> dict[tuple[int, int], Estimate]:
    """AUC of each pair of classes on the samples of these two, scored by p_b / (p_a + p_b): could one tell a from b, knowing it is one of them?

    Args:
        labels: (n,) class indices.
        probabilities: (n, K).
    """
    y, p = np.asarray(labels, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    groups = None if groups is None else np.asarray(groups)
    found = {}
    for a, b in combinations(range(p.shape[1]), 2):
        rows, score = _pair(y, p, a, b)
        if not len(rows):
            found[a, b] = insufficient(0)
            continue
        found[a, b] = metrics.auc_interval(y[rows] == b, score, None if groups is None else groups[rows], min_per_class=min_per_class)
    return found


def pairwise_auc(
    labels: ArrayLike, probabilities: ArrayLike, groups: ArrayLike | None = None, *, level: float = LEVEL, min_per_class: int = 2
) -> Estimate:
    """Unweighted mean over all pairs of classes of `pairs`: blind to how common a class is, in [0, 1].

    The interval is that of a bootstrap over groups (or samples) on the logit scale. Of two classes it is the AUC.

    Source:
        Hand and Till, Machine Learning 2001; with p_b / (p_a + p_b) as the score, their A(a|b) and A(b|a) are one number.
    """
    y, p = np.asarray(labels, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    index = metrics.group_index(groups, len(y))
    scored = [(rows, b, score) for a, b in combinations(range(p.shape[1]), 2) for rows, score in [_pair(y, p, a, b)]]
    for rows, b, _ in scored:
        if metrics.refusal(y[rows] == b, None if index is None else index[rows], min_per_class):
            return insufficient(len(y), "too few of some class")
    value = float(np.mean([metrics.auc(y[rows] == b, score) for rows, b, score in scored]))
    parts = [(rows, metrics.weighted_auc(y[rows] == b, score)) for rows, b, score in scored]

    def mean(weights: NDArray[np.float32]) -> Floats:
        return np.mean([part(weights[:, rows]) for rows, part in parts], axis=0)

    unit = index if index is not None else np.arange(len(y))
    variance = float(np.var(metrics.bootstrap(unit, mean), ddof=1))
    sizes = sorted(len(np.unique(unit[y == k])) for k in range(p.shape[1]))
    apart = any(metrics.nearly_separated(y[rows] == b, score) for rows, b, score in scored)
    low, high = metrics.mean_interval(value, variance, None if index is None else int(index.max()), (sizes[0], sizes[1]) if apart else None, level)
    return Estimate(value, low, high, len(y))


def coarse_names(spec: DiseaseSpec) -> tuple[str, ...]:
    """The coarse classes, in the order in which the leaves name them."""
    return tuple(dict.fromkeys(spec.target.parents[leaf] for leaf in spec.target.classes))


def coarse_of(spec: DiseaseSpec) -> NDArray[np.int64]:
    """(K,) the coarse class of every leaf."""
    names = coarse_names(spec)
    return np.array([names.index(spec.target.parents[leaf]) for leaf in spec.target.classes])


def coarse_probabilities(spec: DiseaseSpec, probabilities: ArrayLike) -> Floats:
    """(n, leaves) -> (n, coarse classes): each coarse class has the sum of its leaves."""
    p, of = np.asarray(probabilities, dtype=np.float64), coarse_of(spec)
    return np.stack([p[:, of == k].sum(1) for k in range(int(of.max()) + 1)], axis=1)


def _pair(y: NDArray[np.int64], p: Floats, a: int, b: int) -> tuple[NDArray[np.int64], Floats]:
    rows = np.flatnonzero((y == a) | (y == b))
    return rows, p[rows, b] / np.maximum(p[rows, a] + p[rows, b], TINY)
