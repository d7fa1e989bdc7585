"""A group is as positive as its most positive sample; binary and multi-label targets only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.core.aggregates import option
from components.core.aggregates.group_table import Plain
from components.core.errors import SpecError
from components.core.spec import DiseaseSpec


def build(spec: DiseaseSpec) -> Plain:
    option(spec, {})
    if spec.target.kind not in ("binary", "multilabel"):
        where = f"{spec.name}: aggregate.method"
        raise SpecError("the maximum needs a positive class", where=where, got=f"target '{spec.target.kind}'", allowed="binary, multilabel")
    k = spec.positive_index

    def answer(p: NDArray[np.float64]) -> NDArray[np.float64]:
        if spec.target.kind == "multilabel":
            return p.max(0)
        top = p[:, k].max()
        return np.array([top if i == k else 1 - top for i in range(2)])

    return Plain(spec, answer)
