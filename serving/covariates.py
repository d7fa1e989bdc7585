"""What a client tells of the patient beside the image: `covariates` of a v1 instance, or one header of a body that is a file.

Where it does not tell one of them, a DICOM file may (`serving/bodies/dicom.py`). Only what the model's spec names is taken, in the words that ingest
keeps (`components/core/covariates.py`). No line quotes a value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from components.core.covariates import PREFIX, checked
from components.core.errors import DataError
from components.core.fusion import Fusion
from components.core.spec import DiseaseSpec

KEY = "covariates"
HEADER = "X-Dxflow-Covariates"
MAX_HEADER = 1024  # characters


def apart(instance: Any, where: str, spec: DiseaseSpec) -> tuple[Any, dict[str, Any]]:
    """An instance without its covariates, and these. Raises DataError."""
    if not isinstance(instance, Mapping) or KEY not in instance:
        return instance, {}
    return {name: value for name, value in instance.items() if name != KEY}, taken(instance[KEY], f"{where}.{KEY}", spec)


def of_header(headers: Mapping[str, str], spec: DiseaseSpec) -> dict[str, Any]:
    """Raises DataError."""
    text, where = headers.get(HEADER.lower()), f"header {HEADER}"
    if text is None:
        return {}
    if len(text) > MAX_HEADER:
        raise DataError("too long", where=where, got=len(text), allowed=f"{MAX_HEADER} characters")
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError("not JSON", where=where) from None
    return taken(told, where, spec)


def taken(told: Any, where: str, spec: DiseaseSpec) -> dict[str, Any]:
    """Covariate -> value as ingest would have kept it; null counts as not told. Raises DataError naming the field."""
    if not spec.covariates:
        raise DataError("this model takes no covariates", where=where)
    if not isinstance(told, Mapping):
        raise DataError("not covariates by name", where=where, allowed=", ".join(spec.covariates))
    if unknown := len(set(told) - set(spec.covariates)):
        raise DataError("unknown covariates", where=where, got=f"{unknown} of them", allowed=", ".join(spec.covariates))
    return {str(name): checked(str(name), value, where=f"{where}.{name}") for name, value in told.items() if value is not None}


def answered(fusion: Fusion | None, told: Mapping[str, Any], *, asked: bool) -> dict[str, Any]:
    """The part of an answer that says which covariates moved it, and which were told without a say: values that validation never held."""
    if fusion is None:
        return {}
    used = list(fusion.used(told)) if asked else []
    return {KEY: {"used": used, "not_used": [name for name in fusion.covariates if told.get(name) is not None and name not in used]}}


def logged(told: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a log record: columns `cov_*`."""
    return {KEY: {PREFIX + name: value for name, value in told.items()}} if told else {}
