"""Model families: one file each, found by name.

A family's `kind` in a spec, "sun2016-cnn", names the module `sun2016_cnn` in this folder. The module has one function,
`build(spec, family) -> Estimator`. Nothing else knows the list, so a new family is one file here and one table in a `.toml`.
Files that families share are `family.py`, `family_options.py`, `samples.py` and `torch_*.py`.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from components.core.errors import SpecError
from components.core.models.family import Estimator
from components.core.spec import DiseaseSpec

SHARED = ("family", "samples", "torch_")


def kinds() -> list[str]:
    """All family kinds, sorted."""
    return sorted(p.stem.replace("_", "-") for p in Path(__file__).parent.glob("[a-z]*.py") if not p.stem.startswith(SHARED))


def build(spec: DiseaseSpec, family: str | None = None) -> Estimator:
    """An untrained estimator of the spec's family `family` (default: `spec.default_family`)."""
    name = family or spec.default_family
    if name not in spec.families:
        raise SpecError("no such family", where=f"{spec.name}: families", got=f"'{name}'", allowed=", ".join(sorted(spec.families)))
    kind = spec.families[name].kind
    if kind not in kinds():
        raise SpecError("no such kind of family", where=f"{spec.name}: families.{name}.kind", got=f"'{kind}'", allowed=", ".join(kinds()))
    return importlib.import_module(f"{__name__}.{kind.replace('-', '_')}").build(spec, spec.families[name])
