"""How much scores speak for some classes together against all others: ranks like the sum of their probabilities, without its ties near 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def log_odds(scores: NDArray[Any], classes: Sequence[int], *, multilabel: bool = False) -> NDArray[np.float64]:
    """(n, K) logits, or logarithms of probabilities -> (n,): log of p(classes) / p(not classes), before calibration.

    Args:
        multilabel: Each class is a question of its own; the sum of the logits of `classes`.

    Returns:
        Where `classes` are all there are, as with one sigmoid output, the mean of their logits.
    """
    s = np.asarray(scores, dtype=np.float64)
    inside = np.zeros(s.shape[1], bool)
    inside[list(classes)] = True
    if multilabel:
        return s[:, inside].sum(1)
    if inside.all():
        return s.mean(1)
    return np.logaddexp.reduce(s[:, inside], axis=1) - np.logaddexp.reduce(s[:, ~inside], axis=1)
