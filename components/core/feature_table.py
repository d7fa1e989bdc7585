"""Rows of a table as a model takes them: which columns are features, and when a row's words are numbers. Training and server share it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError
from components.core.imaging.errors import NotUsable
from components.core.spec import DiseaseSpec
from components.core.text_table import number

GROUPS = ("patient", "lesion", "subject", "slide")
OTHER = {"id", "label", "split", "device", "scanner", "device_key", "manufacturer", "model", "software", "site", "acquired_at", "synthetic"}
OTHER |= {name for group in GROUPS for name in (group, f"{group}_id")}


def feature_columns(spec: DiseaseSpec, header: list[str], first: list[str], decimal: str = ".") -> list[int]:
    """Places of the features in a row. Raises DataError when they are not as many as `input.shape` says."""
    wanted = [name.strip().lower() for name in spec.input.columns]
    if missing := [name for name in wanted if name not in header]:
        raise DataError("no such column of features", where="input.columns", got=f"{len(missing)} missing", allowed=", ".join(missing[:5]))
    if twice := [name for name in wanted if header.count(name) > 1]:  # which of them is meant, the table does not say
        raise DataError(
            "columns with one name", where="input.columns", got=f"{len(twice)} names", allowed=f"{', '.join(twice[:5])}: each of them once"
        )
    other = OTHER | {name.lower() for name in spec.device.key} | {name.lower() for name in spec.target.classes}
    found = [header.index(name) for name in wanted] or [
        n for n, name in enumerate(header) if name not in other and n < len(first) and (not first[n].strip() or number(first[n], decimal) is not None)
    ]
    if len(found) != spec.input.shape[0]:
        raise DataError("another number of features", where="input.shape", got=f"{len(found)} columns of numbers", allowed=spec.input.shape[0])
    return found


def feature_values(texts: list[str], dtype: np.dtype, decimal: str = ".", within: tuple[float, float] | None = None) -> NDArray:
    """(n,) numbers. Raises NotUsable where one is missing, no finite number of this type, or not `within` the lowest and the highest allowed."""
    values = [number(text, decimal) for text in texts]
    if any(not text.strip() for text in texts):
        raise NotUsable("a missing value")
    plain = np.array([math.nan if value is None else value for value in values])
    if not np.isfinite(plain).all():
        raise NotUsable("a value that is not a finite number")
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    if (plain < float(limits.min)).any() or (plain > float(limits.max)).any() or (dtype.kind != "f" and (plain != np.round(plain)).any()):
        raise NotUsable("a value that input.dtype cannot hold")
    if within is not None and ((plain < within[0]) | (plain > within[1])).any():
        raise NotUsable("a value outside input.range")
    return plain.astype(dtype)
