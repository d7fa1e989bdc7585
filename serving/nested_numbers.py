"""Nested lists of JSON numbers as an array. NumPy is asked only when all of them are known to be numbers: it would make every element as wide as the
longest text among them, so one long text in a short request takes gigabytes."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError

MOST_AXES = 8
NUMBERS = {int, float}  # and not bool, which is a kind of int


def array_of(values: Any, where: str, most: int) -> NDArray[np.float32]:
    """float32 of the lists' shape.

    Args:
        most: Numbers that can be meant; the array is not made where there are more.

    Raises:
        DataError: Something between the lists that is no number (true is none), lists of unequal length, or more than `most` numbers.
    """
    shape: list[int] = []
    inner = values
    while isinstance(inner, list):
        if len(shape) == MOST_AXES:
            raise DataError("another shape", where=where, got=f"more than {MOST_AXES} axes")
        shape.append(len(inner))
        inner = inner[0] if inner else None
    if not shape:
        raise DataError("not numbers only", where=where)
    level: list[Any] = values
    for size in shape[1:]:
        if kinds := set(map(type, level)) - {list}:
            raise DataError("lists of unequal length" if kinds <= NUMBERS else "not numbers only", where=where)
        if any(len(part) != size for part in level):
            raise DataError("lists of unequal length", where=where)
        level = list(chain.from_iterable(level))
    if kinds := set(map(type, level)) - NUMBERS:
        raise DataError("lists of unequal length" if kinds == {list} else "not numbers only", where=where)
    if math.prod(shape) > most:
        raise DataError("another number of values than its shape", where=where, got=math.prod(shape), allowed=most)
    try:
        with np.errstate(over="ignore"):  # beyond float32 is infinite, which is refused with the other values that are not finite
            return np.array(level, dtype=np.float64).reshape(shape).astype(np.float32)
    except OverflowError:
        raise DataError("values that are not finite", where=where) from None
