"""What families of hand-made features share: features by name, and one class per sample."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.core import features
from components.core.errors import DataError, SpecError
from components.core.models.samples import Samples
from components.core.spec import DiseaseSpec

RAW = "raw"


@dataclass(frozen=True)
class Features:
    """Features of a spec's samples.

    Args:
        name: As `Estimator.feature_name`: None for the samples' own values, flattened.
        n: How many there are.
    """

    name: str | None
    n: int

    def of(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, *input.shape) in [0, 1] -> (N, n)."""
        if self.name is None:
            return np.ascontiguousarray(x, dtype=np.float32).reshape(len(x), self.n)
        return importlib.import_module(f"{features.__name__}.{self.name}").features(x)

    def of_samples(self, samples: Samples, size: int = 512) -> NDArray[np.float32]:
        """(len(samples), n); only `size` samples are in memory at a time."""
        parts = [self.of(samples.batch(np.arange(i, min(i + size, len(samples))))) for i in range(0, len(samples), size)]
        return np.concatenate(parts) if parts else np.empty((0, self.n), np.float32)


def features_of(spec: DiseaseSpec, name: str, *, where: str) -> Features:
    """`raw`, or a module of `components/core/features/` that takes this spec's samples. Raises SpecError on others, and on targets without
    one class per sample."""
    if spec.target.kind in ("multilabel", "dense"):
        raise SpecError(
            "this family needs one class per sample",
            where=where,
            got=f"target '{spec.target.kind}'",
            allowed="binary, multiclass, ordinal, hierarchical",
        )
    if name == RAW:
        return Features(None, math.prod(spec.input.shape))
    known = sorted(p.stem for p in Path(features.__path__[0]).glob("[a-z]*.py"))
    if name not in known:
        raise SpecError("no such features", where=f"{where}, options.features", got=f"'{name}'", allowed=", ".join([RAW, *known]))
    try:
        found = Features(name, 0).of(np.zeros((1, *spec.input.shape), np.float32))
    except DataError as error:
        raise SpecError(f"these features do not fit the input: {error}", where=where, got=f"shape {list(spec.input.shape)}") from None
    return Features(name, found.shape[1])


def enough(spec: DiseaseSpec, train: Samples, val: Samples) -> NDArray[np.int64]:
    """The training labels. Raises DataError below 2 classes in train or 1 sample in val."""
    labels = np.asarray(train.labels, dtype=np.int64)
    if len(val) == 0 or len(np.unique(labels)) < 2:
        raise DataError(
            "too little to train with",
            where=f"{spec.name}: train",
            got=f"{len(np.unique(labels))} classes in train, {len(val)} samples in val",
            allowed="2 classes, 1 sample",
        )
    return labels
