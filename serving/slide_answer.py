"""From the probabilities of a slide's tiles to the slide's, as evaluate makes them: aggregate, logarithm, calibration of groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.core import aggregates, calibration
from components.core.package import ModelPackage

TINY = 1e-6  # a share of samples may be 0; its logarithm is then this one's (as components/evaluate/groups.py has it)
WEIGHTS = "aggregate.safetensors"


def aggregator(package: ModelPackage) -> aggregates.Aggregator | None:
    """What turns this model's tiles into one answer; None where the spec does not aggregate, or the package is older than its weights."""
    if package.spec.aggregate is None:
        return None
    one = aggregates.build(package.spec)
    if one.trained:
        if WEIGHTS not in package.info["files"]:
            return None
        one.load(package.folder)
    return one


def of_slide(package: ModelPackage, one: aggregates.Aggregator, p: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """(1, K) calibrated probabilities.

    Args:
        p: (n, K) calibrated probabilities of the tiles.
        places: (n, 2) microns.
    """
    import pandas as pd

    classes = package.spec.target.classes
    table = pd.DataFrame({"group_id": ["slide"] * len(p), "place": list(places)} | {f"score_{name}": p[:, k] for k, name in enumerate(classes)})
    found = one.apply(table)[[f"score_{name}" for name in classes]].to_numpy(dtype=np.float64)
    return calibration.apply(package.calibration, np.log(np.maximum(found, TINY)).astype(np.float32))
