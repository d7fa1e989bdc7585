"""One answer for each group (a slide, an eye's images, a recording) from the answers for its samples.

A spec's `aggregate.method`, "heatmap-forest", names the module `heatmap_forest` in this folder, with one function
`build(spec) -> Aggregator`. Files that methods share are `group_table.py` and `forest_arrays.py`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from components.core.errors import SpecError
from components.core.spec import DiseaseSpec

if TYPE_CHECKING:
    import pandas as pd

SHARED = ("group_table", "forest_arrays")
EVERY: dict[str, Any] = {"hard_negatives": 0}
"""Options beside every method's own. `hard_negatives`: rounds in which the sample model is trained again with its false alarms added."""


class Aggregator(Protocol):
    """From a table of samples to a table of groups.

    A table of samples has `group_id`, `score_<class>` (calibrated probabilities), `label` (class index), `group_label` (class index of the
    group or null) and, for methods that look at where samples lie, `place` (x, y in microns).
    """

    trained: bool
    """Whether `fit` learns anything; answers for the groups it learned from are then too good."""

    def fit(self, samples: pd.DataFrame, *, seed: int) -> None:
        """Learn from groups whose samples the sample model has not been trained on."""
        ...

    def apply(self, samples: pd.DataFrame) -> pd.DataFrame:
        """One row per group, sorted by `group_id`: `group_id`, `score_<class>` in [0, 1]."""
        ...

    def save(self, folder: Path) -> None:
        """Write `aggregate.safetensors` into an existing folder; nothing where there is nothing to keep."""
        ...

    def load(self, folder: Path) -> None:
        """Read what `save` wrote. Raises DataError when it does not fit."""
        ...


def kinds() -> list[str]:
    """All methods, sorted."""
    return sorted(p.stem.replace("_", "-") for p in Path(__file__).parent.glob("[a-z]*.py") if p.stem not in SHARED)


def build(spec: DiseaseSpec) -> Aggregator:
    """The spec's aggregator, untrained. Raises SpecError when there is none of this name, or its options do not fit."""
    assert spec.aggregate is not None
    method = spec.aggregate.method
    if method not in kinds():
        raise SpecError("no such method", where=f"{spec.name}: aggregate.method", got=f"'{method}'", allowed=", ".join(kinds()))
    return importlib.import_module(f"{__name__}.{method.replace('-', '_')}").build(spec)


def option(spec: DiseaseSpec, known: dict[str, Any]) -> dict[str, Any]:
    """`aggregate.options` over the defaults in `known` and `EVERY`. Raises SpecError for an option that neither has."""
    assert spec.aggregate is not None
    known = known | EVERY
    if unknown := sorted(set(spec.aggregate.options) - set(known)):
        where = f"{spec.name}: aggregate.options"
        raise SpecError("unknown option", where=where, got=f"'{unknown[0]}'", allowed=", ".join(sorted(known)))
    return known | spec.aggregate.options
