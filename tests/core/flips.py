"""One bit turned in a file, again and again: what reads it refuses it, or reads the same values as before."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from components.core.errors import DataError

OTHER, SAME, REFUSED = "other values", "same values", "refused"


def flips(data: bytes, number: int, seed: int = 0) -> Iterator[tuple[int, bytes]]:
    """(bit, the file with that bit turned), `number` times, the same for the same seed."""
    draw = random.Random(seed)
    for _ in range(number):
        bit = draw.randrange(8 * len(data))
        turned = bytearray(data)
        turned[bit // 8] ^= 1 << bit % 8
        yield bit, bytes(turned)


def outcomes(data: bytes, read: Callable[[bytes], Any], number: int, seed: int = 0) -> tuple[Counter[str], list[int]]:
    """How often each of `OTHER`, `SAME`, `REFUSED` came out, and the bits that gave other values. Only a DataError is a refusal."""
    good, found, wrong = read(data), Counter[str](), list[int]()
    for bit, turned in flips(data, number, seed):
        try:
            same = equal(read(turned), good)
        except DataError:
            found[REFUSED] += 1
            continue
        found[SAME if same else OTHER] += 1
        if not same:
            wrong.append(bit)
    return found, wrong


def equal(one: Any, two: Any) -> bool:
    """Equal values, of arrays, tables and tuples of them too."""
    if isinstance(one, tuple | list):
        return len(one) == len(two) and all(equal(a, b) for a, b in zip(one, two, strict=True))
    if isinstance(one, np.ndarray):
        return one.shape == two.shape and one.dtype == two.dtype and np.array_equal(one, two)
    return bool(one.equals(two)) if hasattr(one, "equals") else bool(one == two)
