"""A group's probability is the mean of its samples' (Coudray et al., Nature Medicine 2018, for tiles of a slide)."""

from __future__ import annotations

from components.core.aggregates import option
from components.core.aggregates.group_table import Plain
from components.core.spec import DiseaseSpec


def build(spec: DiseaseSpec) -> Plain:
    option(spec, {})
    return Plain(spec, lambda p: p.mean(0))
