"""Features and a random forest. What is kept is plain arrays of nodes, so nothing but this file is needed to score.

The smallest leaf is chosen on validation. The score of a class is log(share of the trees' votes + half a vote), so a class without a vote
stays finite; a tree's vote is the share of each class in the leaf.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.atomic import atomic_file
from components.core.errors import DataError
from components.core.models.family import Epoch
from components.core.models.family_features import Features, enough, features_of
from components.core.models.family_figures import best_epoch, validation_figures
from components.core.models.family_options import read_options
from components.core.models.samples import Samples
from components.core.spec import DiseaseSpec, Family

WEIGHTS = "model.safetensors"
SCORING_ROWS = 1024
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Choice:
    """What validation chooses from.

    Args:
        features: `raw` for the samples' own values, or a module of `components/core/features/`.
        trees: In the forest.
        leaf_low, leaf_high: Samples in the smallest leaf, tried in factors of 2 between these.
        balanced: Rare classes count as much as common ones.
    """

    features: str = "hand28"
    trees: int = field(default=200, metadata={"low": 1, "high": 5000})
    leaf_low: int = field(default=1, metadata={"low": 1, "high": 1000})
    leaf_high: int = field(default=8, metadata={"low": 1, "high": 1000})
    balanced: bool = True

    def grid(self) -> list[int]:
        """Smallest leaves, smallest first."""
        leaves = [self.leaf_low]
        while leaves[-1] * 2 <= self.leaf_high:
            leaves.append(leaves[-1] * 2)
        return leaves


def build(spec: DiseaseSpec, family: Family) -> FeaturesForest:
    """An untrained estimator. Raises SpecError for features that do not fit the input and for targets without one class per sample."""
    (choice,) = read_options(family, Choice)
    return FeaturesForest(spec, choice, features_of(spec, choice.features, where=f"{spec.name}: kind '{family.kind}'"))


class FeaturesForest:
    """See the module.

    The nodes of all trees stand one after the other: `feature` (-1 in a leaf), `threshold`, `left`, `right` (node numbers), `votes`
    (n_nodes, n_scores), `roots` (trees,).
    """

    def __init__(self, spec: DiseaseSpec, choice: Choice, features: Features) -> None:
        self.spec, self.choice, self.features = spec, choice, features
        self.feature_name: str | None = features.name
        one = np.zeros(1, np.int32)
        votes = np.full((1, spec.n_scores), 1 / spec.n_scores, np.float32)
        self.arrays: Arrays = {"feature": one - 1, "threshold": np.zeros(1, np.float32), "left": one, "right": one, "votes": votes, "roots": one}

    def fit(
        self, train: Samples, val: Samples, *, seed: int, checkpoint: Path, on_epoch: Callable[[Epoch], None], unlabelled: Samples | None = None
    ) -> list[Epoch]:
        """See `Estimator.fit`; an epoch is one forest. It ends in seconds, so it leaves no checkpoint."""
        from sklearn.ensemble import RandomForestClassifier

        labels = enough(self.spec, train, val)
        inputs, val_inputs = (self.features.of_samples(s) for s in (train, val))
        history: list[Epoch] = []
        best = self.arrays
        for number, leaf in enumerate(self.choice.grid()):
            started = time.monotonic()
            weight: Any = "balanced" if self.choice.balanced else None
            forest = RandomForestClassifier(self.choice.trees, min_samples_leaf=leaf, class_weight=weight, random_state=seed)
            self.arrays = self._nodes(forest.fit(inputs, labels))
            own = validation_figures(self.spec, labels, self._scores(inputs))
            figures = validation_figures(self.spec, val.labels, self._scores(val_inputs))
            seconds = round(time.monotonic() - started, 3)
            history.append({"epoch": number + 1, "train_loss": own["val_loss"], **figures, "leaf": leaf, "seconds": seconds})
            if best_epoch(history) is history[-1]:
                best = self.arrays
            on_epoch(history[-1])
        self.arrays = best
        return history

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._scores(self.features.of(x))

    def votes(self, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, features) -> (N, n_scores): mean share of each class over the trees."""
        a = self.arrays
        parts = [np.empty((0, self.spec.n_scores))]
        for start in range(0, len(inputs), SCORING_ROWS):
            x = inputs[start : start + SCORING_ROWS].astype(np.float32)
            rows = np.arange(len(x))[:, None]
            node = np.broadcast_to(a["roots"], (len(x), len(a["roots"])))
            while True:
                feature = a["feature"][node]
                inner = feature >= 0
                if not inner.any():
                    break
                left = x[rows, np.maximum(feature, 0)] <= a["threshold"][node]
                node = np.where(inner, np.where(left, a["left"][node], a["right"][node]), node)
            parts.append(a["votes"][node].mean(axis=1, dtype=np.float64))
        return np.concatenate(parts)

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save

        (folder / WEIGHTS).write_bytes(save({name: np.ascontiguousarray(array) for name, array in self.arrays.items()}))

    def load(self, folder: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            arrays = load_file(folder / WEIGHTS)
        except (OSError, SafetensorError):
            raise DataError("no readable weights", where=str(folder / WEIGHTS)) from None
        if (names := sorted(arrays)) != sorted(self.arrays) or not self._sound(arrays):
            raise DataError("weights of another family", where=str(folder / WEIGHTS), got=names, allowed=sorted(self.arrays))
        self.arrays = arrays

    def export_onnx(self, path: Path) -> None:
        """Features (or samples, flattened first) in, scores out: a TreeEnsembleRegressor with one target per class, then the logarithm."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        a = self.arrays
        roots, total = a["roots"], len(a["feature"])
        tree = np.searchsorted(roots, np.arange(total), side="right") - 1
        node = np.arange(total) - roots[tree]
        leaf = a["feature"] < 0
        leaves, k = np.flatnonzero(leaf), self.spec.n_scores
        attributes = {
            "n_targets": k,
            "aggregate_function": "AVERAGE",
            "nodes_treeids": tree.tolist(),
            "nodes_nodeids": node.tolist(),
            "nodes_featureids": np.maximum(a["feature"], 0).tolist(),
            "nodes_values": a["threshold"].tolist(),
            "nodes_modes": np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
            "nodes_truenodeids": np.where(leaf, 0, a["left"] - roots[tree]).tolist(),
            "nodes_falsenodeids": np.where(leaf, 0, a["right"] - roots[tree]).tolist(),
            "target_treeids": np.repeat(tree[leaves], k).tolist(),
            "target_nodeids": np.repeat(node[leaves], k).tolist(),
            "target_ids": np.tile(np.arange(k), len(leaves)).tolist(),
            "target_weights": a["votes"][leaves].ravel().tolist(),
        }
        shape = [self.features.n] if self.feature_name else list(self.spec.input.shape)
        graph = helper.make_graph(
            [
                helper.make_node("Flatten", ["x"], ["flat"]),
                helper.make_node("TreeEnsembleRegressor", ["flat"], ["votes"], domain="ai.onnx.ml", **attributes),
                helper.make_node("Add", ["votes", "half"], ["shares"]),
                helper.make_node("Log", ["shares"], ["scores"]),
            ],
            "features-forest",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", k])],
            [numpy_helper.from_array(np.array([self._half], np.float32), "half")],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        onnx.checker.check_model(model)
        with atomic_file(path) as partial:
            partial.write_bytes(model.SerializeToString())

    @property
    def epochs(self) -> int:
        return len(self.choice.grid())

    @property
    def n_parameters(self) -> int:
        return int((self.arrays["feature"] >= 0).sum()) * 2 + int((self.arrays["feature"] < 0).sum()) * self.spec.n_scores

    @property
    def _half(self) -> float:
        """Half a tree's vote."""
        return 0.5 / len(self.arrays["roots"])

    def _scores(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.log(self.votes(inputs) + self._half).astype(np.float32)

    def _nodes(self, forest: Any) -> Arrays:
        """The trees of a fitted scikit-learn forest; classes that training lacks get no vote."""
        trees = [estimator.tree_ for estimator in forest.estimators_]
        roots = np.cumsum([0, *(tree.node_count for tree in trees)])[:-1]

        def joined(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(tree, name) for tree in trees])

        shift = np.repeat(roots, [tree.node_count for tree in trees])
        leaf = joined("children_left") < 0
        threshold = joined("threshold")
        lower = threshold.astype(np.float32)
        # Values are float32: against the largest float32 that is not above the threshold they fall to the same side.
        lower = np.where(lower > threshold, np.nextafter(lower, np.float32(-np.inf)), lower)
        found = joined("value")[:, 0, :]
        votes = np.zeros((len(leaf), self.spec.n_scores))
        votes[:, forest.classes_.astype(int)] = found / found.sum(axis=1, keepdims=True)
        return {
            "feature": np.where(leaf, -1, joined("feature")).astype(np.int32),
            "threshold": np.where(leaf, 0, lower).astype(np.float32),
            "left": np.where(leaf, 0, joined("children_left") + shift).astype(np.int32),
            "right": np.where(leaf, 0, joined("children_right") + shift).astype(np.int32),
            "votes": votes.astype(np.float32),
            "roots": roots.astype(np.int32),
        }

    def _sound(self, a: Arrays) -> bool:
        """Shapes fit, every number of a node or a feature is one, and children stand behind their parent, so every walk ends."""
        n = len(a["feature"])
        if any(a[name].shape != (n,) for name in ("feature", "threshold", "left", "right")) or a["votes"].shape != (n, self.spec.n_scores):
            return False
        inner = np.flatnonzero(a["feature"] >= 0)
        children = np.concatenate([a["left"][inner], a["right"][inner]])
        roots = a["roots"]
        return bool(
            roots.ndim == 1 and len(roots) and roots[0] == 0 and (np.diff(roots) > 0).all() and roots.max() < n
            and (a["feature"] < self.features.n).all() and (children < n).all() and (children > np.tile(inner, 2)).all()
        )  # fmt: skip
