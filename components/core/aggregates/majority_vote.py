"""A group's probability of a class is the share of its samples that vote for it (Golatkar et al., ICIAR 2018, for patches of an image).

A sample votes for its most probable class; for a multi-label target, for every class from one half upward.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.core.aggregates import option
from components.core.aggregates.group_table import Plain
from components.core.spec import DiseaseSpec


def build(spec: DiseaseSpec) -> Plain:
    option(spec, {})

    def answer(p: NDArray[np.float64]) -> NDArray[np.float64]:
        votes = p >= 0.5 if spec.target.kind == "multilabel" else np.eye(p.shape[1])[p.argmax(1)]
        return votes.mean(0)

    return Plain(spec, answer)
