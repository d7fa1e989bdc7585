"""How well two outlines of one thing agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from components.core.errors import DataError


def dice(a: ArrayLike, b: ArrayLike) -> float:
    """Twice the common part over the sum of both, in [0, 1]; two empty masks agree fully.

    Args:
        a, b: Masks of one shape.

    Raises:
        DataError: Different shapes.

    Source:
        Dice, Ecology 1945.
    """
    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if first.shape != second.shape:
        raise DataError("masks of different shapes", where="dice", got=list(first.shape), allowed=list(second.shape))
    both = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / both if both else 1.0
