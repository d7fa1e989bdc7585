"""Features and a support vector machine with a Gaussian kernel; with the 28 hand-made ones of `hand28` the baseline of Sun et al. 2016.

One machine for each class against the rest (one alone for two classes). Its cost and width are chosen on validation. What is kept is
plain arrays, so nothing but this file is needed to score.
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
Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Choice:
    """What validation chooses from.

    Args:
        features: `raw` for the samples' own values, or a module of `components/core/features/`.
        cost_low, cost_high: Cost of a margin violation, searched in factors of 4 between these.
        width: Kernel widths tried: gamma = 1/features (the usual 1/(features x variance) on standardised ones) times 4^-k .. 4^k.
        balanced: Violations of rare classes cost more, by 1/frequency.
    """

    features: str = "hand28"
    cost_low: float = field(default=0.25, metadata={"low": 1e-4, "high": 1e4})
    cost_high: float = field(default=16.0, metadata={"low": 1e-4, "high": 1e4})
    width: int = field(default=1, metadata={"low": 0, "high": 3})
    balanced: bool = True

    def grid(self, n_features: int) -> list[tuple[float, float]]:
        """(cost, gamma) pairs, cheapest first."""
        costs = [self.cost_low]
        while costs[-1] * 4 <= self.cost_high:
            costs.append(costs[-1] * 4)
        return [(cost, 4.0**k / n_features) for cost in costs for k in range(-self.width, self.width + 1)]


def build(spec: DiseaseSpec, family: Family) -> FeaturesSvm:
    """An untrained estimator. Raises SpecError for features that do not fit the input and for targets without one class per sample."""
    (choice,) = read_options(family, Choice)
    return FeaturesSvm(spec, choice, features_of(spec, choice.features, where=f"{spec.name}: kind '{family.kind}'"))


class FeaturesSvm:
    """See the module."""

    def __init__(self, spec: DiseaseSpec, choice: Choice, features: Features) -> None:
        self.spec, self.choice, self.features = spec, choice, features
        self.feature_name: str | None = features.name
        n = features.n
        self.machines = 1 if spec.n_scores == 2 else spec.n_scores
        self.arrays: Arrays = _arrays(np.zeros(n), np.ones(n), 1.0, np.zeros((0, n)), np.zeros((0, self.machines)), np.zeros(self.machines))

    def fit(
        self, train: Samples, val: Samples, *, seed: int, checkpoint: Path, on_epoch: Callable[[Epoch], None], unlabelled: Samples | None = None
    ) -> list[Epoch]:
        """See `Estimator.fit`; an epoch is one (cost, width) pair. The fit draws nothing at random and ends in seconds, so it neither uses
        `seed` nor leaves a checkpoint."""
        labels = enough(self.spec, train, val)
        inputs, val_inputs = (self.features.of_samples(s) for s in (train, val))
        mean, sd = inputs.mean(axis=0, dtype=np.float64), inputs.std(axis=0, dtype=np.float64)
        sd = np.where(sd > 1e-6 * np.abs(inputs).max(axis=0), sd, 1.0)  # what is constant carries nothing
        standard = ((inputs - mean) / sd).astype(np.float32)
        history: list[Epoch] = []
        best = self.arrays
        for number, (cost, gamma) in enumerate(self.choice.grid(self.features.n)):
            started = time.monotonic()
            self.arrays = self._solve(standard, labels, mean, sd, cost, gamma)
            own = validation_figures(self.spec, labels, self._scores(inputs))
            figures = validation_figures(self.spec, val.labels, self._scores(val_inputs))
            history.append(
                {
                    "epoch": number + 1,
                    "train_loss": own["val_loss"],
                    **figures,
                    "cost": cost,
                    "gamma": gamma,
                    "seconds": round(time.monotonic() - started, 3),
                }
            )
            if best_epoch(history) is history[-1]:
                best = self.arrays
            on_epoch(history[-1])
        self.arrays = best
        return history

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._scores(self.features.of(x))

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save

        (folder / WEIGHTS).write_bytes(save(self.arrays))

    def load(self, folder: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            arrays = load_file(folder / WEIGHTS)
        except (OSError, SafetensorError):
            raise DataError("no readable weights", where=str(folder / WEIGHTS)) from None
        n, width = len(arrays.get("vectors", ())), self.features.n
        expected = {
            "mean": (width,),
            "sd": (width,),
            "gamma": (1,),
            "vectors": (n, width),
            "weights": (n, self.machines),
            "intercepts": (self.machines,),
        }
        if (found := {name: array.shape for name, array in arrays.items()}) != expected:
            raise DataError("weights of another family", where=str(folder / WEIGHTS), got=found, allowed=expected)
        self.arrays = arrays

    def export_onnx(self, path: Path) -> None:
        """Features (or samples, flattened) in, scores out: standardise, distances to the support vectors, Gaussian kernel, weighted sum."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        a = self.arrays
        constants = {
            "mean": a["mean"],
            "sd": a["sd"],
            "minus_gamma": -a["gamma"],
            "transposed": np.ascontiguousarray(a["vectors"].T),
            "two": np.array([2.0], np.float32),
            "norms": (a["vectors"] ** 2).sum(axis=1)[None],
            "weights": a["weights"],
            "intercepts": a["intercepts"],
            "axes": np.array([1], np.int64),
        }
        shape = [self.features.n] if self.feature_name else list(self.spec.input.shape)
        steps = [
            ("Flatten", ["x"], "flat"),
            ("Sub", ["flat", "mean"], "centred"),
            ("Div", ["centred", "sd"], "z"),
            ("Mul", ["z", "z"], "zz"),
            ("ReduceSum", ["zz", "axes"], "own"),
            ("MatMul", ["z", "transposed"], "inner"),
            ("Mul", ["inner", "two"], "twice"),
            ("Add", ["own", "norms"], "both"),
            ("Sub", ["both", "twice"], "distance"),
            ("Mul", ["distance", "minus_gamma"], "exponent"),
            ("Exp", ["exponent"], "kernel"),
            ("MatMul", ["kernel", "weights"], "sums"),
            ("Add", ["sums", "intercepts"], "decisions"),
        ]
        if self.machines == 1:
            constants["signs"] = np.array([[-0.5, 0.5]], np.float32)
            steps.append(("MatMul", ["decisions", "signs"], "scores"))
        else:
            steps.append(("Identity", ["decisions"], "scores"))
        graph = helper.make_graph(
            [helper.make_node(operation, inputs, [output]) for operation, inputs, output in steps],
            "features-svm",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", self.spec.n_scores])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        with atomic_file(path) as partial:
            partial.write_bytes(model.SerializeToString())

    @property
    def epochs(self) -> int:
        return len(self.choice.grid(self.features.n))

    @property
    def n_parameters(self) -> int:
        return sum(array.size for array in self.arrays.values())

    def _solve(
        self, standard: NDArray[np.float32], labels: NDArray[np.int64], mean: NDArray[np.float64], sd: NDArray[np.float64], cost: float, gamma: float
    ) -> Arrays:
        """One machine per class, over the union of their support vectors."""
        from sklearn.svm import SVC

        weights = np.zeros((len(standard), self.machines))
        intercepts = np.full(self.machines, -1.0)
        for number, positive in enumerate([1] if self.machines == 1 else range(self.machines)):
            if not (0 < (own := labels == positive).sum() < len(labels)):
                continue  # a class that training lacks is never the answer
            settings: dict[str, Any] = {"gamma": gamma, "class_weight": "balanced" if self.choice.balanced else None}
            svc = SVC(C=cost, cache_size=500, **settings).fit(standard, own)
            weights[svc.support_, number] = svc.dual_coef_[0]
            intercepts[number] = svc.intercept_[0]
        used = (weights != 0).any(axis=1)
        return _arrays(mean, sd, gamma, standard[used], weights[used], intercepts)

    def _scores(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, features) -> (N, n_scores): for two classes half the decision value, and its negative; else each machine's decision value."""
        a = {name: array.astype(np.float64) for name, array in self.arrays.items()}
        norms = (a["vectors"] ** 2).sum(axis=1)
        parts = [np.empty((0, self.machines))]
        for start in range(0, len(inputs), SCORING_ROWS):
            z = (inputs[start : start + SCORING_ROWS].astype(np.float64) - a["mean"]) / a["sd"]
            distance = (z**2).sum(axis=1)[:, None] + norms - 2 * z @ a["vectors"].T
            parts.append(np.exp(-a["gamma"] * np.maximum(distance, 0)) @ a["weights"] + a["intercepts"])
        decisions = np.concatenate(parts)
        return (decisions * [[-0.5, 0.5]] if self.machines == 1 else decisions).astype(np.float32)


def _arrays(mean: NDArray, sd: NDArray, gamma: float, vectors: NDArray, weights: NDArray, intercepts: NDArray) -> Arrays:
    """All that scores need, as float32."""
    named = {"mean": mean, "sd": sd, "gamma": np.array([gamma]), "vectors": vectors, "weights": weights, "intercepts": intercepts}
    return {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in named.items()}
