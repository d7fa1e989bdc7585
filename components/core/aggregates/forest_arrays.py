"""A random forest as plain arrays: trained by scikit-learn, kept and applied without it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.generic]]


def grow(x: NDArray[np.float32], y: NDArray[np.int64], classes: int, *, trees: int, leaf: int, seed: int) -> Arrays:
    """Fit on (n, F) features and (n,) class indices.

    Returns:
        `root` (trees,), `feature`, `left`, `right` (nodes,) int32, `threshold` (nodes,) float64, `value` (nodes, classes) float32 in [0, 1];
        a leaf has feature -1. Classes that `y` lacks have probability 0.
    """
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(trees, min_samples_leaf=leaf, class_weight="balanced", random_state=seed, n_jobs=1).fit(x, y)
    parts: dict[str, list[NDArray[np.generic]]] = {name: [] for name in ("root", "feature", "left", "right", "threshold", "value")}
    start = 0
    for one in forest.estimators_:
        tree = one.tree_
        shares = tree.value[:, 0, :] / tree.value[:, 0, :].sum(1, keepdims=True)
        value = np.zeros((tree.node_count, classes), dtype=np.float32)
        value[:, np.asarray(forest.classes_, dtype=np.int64)] = shares
        inner = tree.children_left >= 0
        parts["root"].append(np.array([start], dtype=np.int32))
        parts["feature"].append(np.where(inner, tree.feature, -1).astype(np.int32))
        parts["left"].append(np.where(inner, tree.children_left + start, 0).astype(np.int32))
        parts["right"].append(np.where(inner, tree.children_right + start, 0).astype(np.int32))
        parts["threshold"].append(tree.threshold.astype(np.float64))
        parts["value"].append(value)
        start += tree.node_count
    return {name: np.concatenate(values) for name, values in parts.items()}


def probabilities(forest: Arrays, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, F) -> (n, classes): the mean over trees of the share of each class in the leaf."""
    feature, left, right = (np.asarray(forest[name], dtype=np.int64) for name in ("feature", "left", "right"))
    threshold, value = np.asarray(forest["threshold"], dtype=np.float64), np.asarray(forest["value"], dtype=np.float64)
    x = np.asarray(x, dtype=np.float32)  # scikit-learn compares single precision with a double threshold
    rows = np.arange(len(x))
    total = np.zeros((len(x), value.shape[1]))
    for root in np.asarray(forest["root"], dtype=np.int64):
        node = np.full(len(x), root)
        while (inner := feature[node] >= 0).any():
            below = x[rows, np.maximum(feature[node], 0)] <= threshold[node]
            node = np.where(inner, np.where(below, left[node], right[node]), node)
        total += value[node]
    return total / max(1, len(forest["root"]))
