"""A slide's tiles as a heat-map, the heat-map as 28 geometric features, the features into a random forest (Wang et al., arXiv:1606.05718).

It learns from validation slides only. On training slides the tile network has seen the tiles, so its heat-maps there are cleaner than any
that it will ever make, and only drawn tiles of them exist. What is said of validation slides must come from `out_of_fold`.

Options: `trees` (500), `leaf` (least slides in a leaf, 2), `threshold` (from which probability a tile belongs to a region, 0.5).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.core.aggregates import forest_arrays, option
from components.core.aggregates.group_table import labels, table
from components.core.errors import DataError, SpecError
from components.core.features import heatmap28
from components.core.spec import DiseaseSpec

if TYPE_CHECKING:
    import pandas as pd

FILE = "aggregate.safetensors"
OPTIONS = {"trees": 500, "leaf": 2, "threshold": 0.5}


def build(spec: DiseaseSpec) -> HeatmapForest:
    """Raises SpecError for targets without a positive class and inputs without a place."""
    where = f"{spec.name}: aggregate.method"
    if spec.target.kind != "binary":
        raise SpecError("a heat-map is of one class", where=where, got=f"target '{spec.target.kind}'", allowed="binary")
    if spec.input.layout != "tiles":
        raise SpecError("a heat-map needs tiles", where=where, got=f"layout '{spec.input.layout}'", allowed="tiles")
    return HeatmapForest(spec)


class HeatmapForest:
    """See the module."""

    trained = True

    def __init__(self, spec: DiseaseSpec) -> None:
        found = option(spec, OPTIONS)
        self.spec, self.trees, self.leaf, self.threshold = spec, int(found["trees"]), int(found["leaf"]), float(found["threshold"])
        self.forest: forest_arrays.Arrays | None = None

    def features(self, samples: pd.DataFrame) -> tuple[list[str], NDArray[np.float32]]:
        """Group ids, sorted, and (n, 28)."""
        name = f"score_{self.spec.target.classes[self.spec.positive_index]}"
        ids, maps = [], []
        for group, rows in samples.groupby("group_id", sort=True):
            ids.append(str(group))
            maps.append(heatmap28.heatmap(np.stack([np.asarray(v, dtype=np.float64) for v in rows["place"]]), rows[name].to_numpy(dtype=np.float64)))
        return ids, heatmap28.features(maps, threshold=self.threshold)

    def fit(self, samples: pd.DataFrame, *, seed: int) -> None:
        """Raises DataError when the groups are all of one class."""
        truth = labels(samples, self.spec)
        ids, x = self.features(samples)
        y = np.array([truth[group] for group in ids], dtype=np.int64)
        if len(set(y.tolist())) < 2:
            raise DataError("the aggregate needs groups of both classes", where=f"{self.spec.name}: val", got=f"{len(y)} of one class")
        self.forest = forest_arrays.grow(x, y, self.spec.n_scores, trees=self.trees, leaf=self.leaf, seed=seed)

    def apply(self, samples: pd.DataFrame) -> pd.DataFrame:
        if self.forest is None:
            raise DataError("an aggregate that was never fitted", where=f"{self.spec.name}: aggregate")
        ids, x = self.features(samples)
        return table(self.spec, ids, forest_arrays.probabilities(self.forest, x))

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save

        assert self.forest is not None
        (folder / FILE).write_bytes(save({name: np.ascontiguousarray(values) for name, values in self.forest.items()}))  # type: ignore[arg-type]

    def load(self, folder: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            arrays = load_file(folder / FILE)
        except (OSError, SafetensorError):
            raise DataError("no readable aggregate", where=str(folder / FILE)) from None
        nodes = len(arrays.get("feature", ()))
        expected = {"feature": (nodes,), "left": (nodes,), "right": (nodes,), "threshold": (nodes,), "value": (nodes, self.spec.n_scores)}
        found = {name: array.shape for name, array in arrays.items() if name != "root"}
        if "root" not in arrays or found != expected or arrays["feature"].max(initial=-1) >= len(heatmap28.NAMES):
            raise DataError("an aggregate of another method", where=str(folder / FILE), got=found, allowed=expected)
        # A child that is not after its parent would be a loop without end.
        inner = np.flatnonzero(arrays["feature"] >= 0)
        if any((arrays[side][inner] <= inner).any() or (arrays[side][inner] >= nodes).any() for side in ("left", "right")):
            raise DataError("a damaged aggregate", where=str(folder / FILE), got="a tree with a loop")
        self.forest = dict(arrays)
