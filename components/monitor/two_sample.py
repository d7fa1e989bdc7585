"""Two samples compared by their counts: location, scale, any difference, missing values, categories. Vectorised over features.

The reference may be weighted (to a window's case mix) and either side's events may belong together (several of one patient); both only lower
the number of independent events. Ties are exact: everything is computed from the pooled distribution over places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

Floats = NDArray[np.float64]
WEIGHTS = {"location": 0.6, "any": 0.2, "scale": 0.2}
"""Shares of the level. A device that drifts mostly moves a mean; one feature still has one p."""


@dataclass(frozen=True)
class Compared:
    """Each (features,).

    Args:
        p: Of the feature, over the tests of `WEIGHTS`; 1 where nothing can be said.
        location: As `shift` gives it.
        scale: Ratio of the mean squared distances from the pooled middle (in ranks), minus 1: 0 where the spread is the same.
        distance: Kolmogorov-Smirnov, in [0, 1].
        kind: 0 location, 1 any, 2 scale: which test speaks.
        spread: As `scale`, but each side around its own middle: whether "more spread" is true.
    """

    p: Floats
    location: Floats
    scale: Floats
    distance: Floats
    kind: NDArray[np.int64]
    spread: Floats


def numbers(reference: Floats, window: Floats, m: Floats, n: Floats) -> Compared:
    """Ordered places.

    Args:
        reference, window: (features, places) shares or counts, not negative; rows of zeros are allowed and say nothing.
        m, n: (features,) how many independent events they stand for.

    Source:
        van der Waerden 1952 (normal scores), Mood 1954 (squared ranks), Kolmogorov-Smirnov with Stephens' finite-sample correction (1970).
    """
    r, w = _shares(reference), _shares(window)
    usable = (r.sum(1) > 0) & (w.sum(1) > 0) & (m > 1) & (n > 1)
    m, n = np.maximum(m, 1.0), np.maximum(n, 1.0)
    pooled = (m[:, None] * r + n[:, None] * w) / (m + n)[:, None]
    middle = np.cumsum(pooled, 1) - pooled / 2
    score = special.ndtri(np.clip(middle, 1e-9, 1 - 1e-9))
    per = 1 / m + 1 / n
    _, z_location = _linear(score, r, w, pooled, per)
    location = shift(r, w)
    apart = (middle - 0.5) ** 2  # bounded, so that few events are enough for the normal approximation; squared normal scores are not
    _, z_scale = _linear(apart, r, w, pooled, per)
    scale = (w * apart).sum(1) / np.maximum((r * apart).sum(1), 1e-9) - 1
    distance = np.abs(np.cumsum(w, 1) - np.cumsum(r, 1)).max(1)
    root = np.sqrt(m * n / (m + n))
    p = np.stack(
        [
            2 * special.ndtr(-np.abs(z_location)) / WEIGHTS["location"],
            stats.kstwobign.sf((root + 0.12 + 0.11 / root) * distance) / WEIGHTS["any"],
            2 * special.ndtr(-np.abs(z_scale)) / WEIGHTS["scale"],
        ]
    )
    kind = p.argmin(0)
    own = [(side * (middle - (side * middle).sum(1, keepdims=True)) ** 2).sum(1) for side in (r, w)]
    spread = own[1] / np.maximum(own[0], 1e-9) - 1
    return Compared(np.where(usable, np.minimum(p.min(0), 1.0), 1.0), location, scale, distance, kind, spread)


def shift(reference: Floats, window: Floats) -> Floats:
    """Difference of mean normal scores in the even mixture of both: about the shift in standard deviations, at most 1.6; whatever the sizes.

    Args:
        reference, window: (features, places) shares that sum to 1.
    """
    even = (reference + window) / 2
    score = special.ndtri(np.clip(np.cumsum(even, 1) - even / 2, 1e-9, 1 - 1e-9))
    return ((window - reference) * score).sum(1)


def persistent(second: Floats, windows: int, shared: Floats) -> Floats:
    """P that at least two of `windows` windows show a p as small as `second`, the second smallest of them, if nothing changed.

    The windows are compared with one and the same reference, so their statistics are correlated: each is taken as a normal one that shares
    `shared` of its variance with the others.

    Args:
        second: (k,) in [0, 1].
        windows: 2 or more; with fewer nothing can persist, and the answer is 1.
        shared: (k,) in [0, 1): n / (n + m) for a window of n and a reference of m independent events.
    """
    second = np.asarray(second, dtype=np.float64)
    if windows < 2:
        return np.ones_like(second)
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    edge = -special.ndtri(np.clip(second, 1e-300, 1.0) / 2)[:, None]
    common = np.sqrt(np.asarray(shared, dtype=np.float64))[:, None] * nodes
    own = np.sqrt(1 - np.asarray(shared, dtype=np.float64))[:, None]
    one = special.ndtr((-edge - common) / own) + special.ndtr((-edge + common) / own)
    # the last term by log, since 1 - (1 - t)^k - k t (1 - t)^(k - 1) loses small t to rounding
    none = np.exp(windows * np.log1p(-np.minimum(one, 1 - 1e-16)))
    exact = 1 - none - windows * one * np.exp((windows - 1) * np.log1p(-np.minimum(one, 1 - 1e-16)))
    small = windows * (windows - 1) / 2 * one**2
    at_least_two = np.where(one < 1e-4, small, exact)
    return np.clip((at_least_two * weights).sum(1) / weights.sum(), 0, 1)


def shares(reference: Floats, window: Floats, m: float, n: float) -> Floats:
    """p of one proportion in a window against a reference, both counted: Fisher's exact test on the effective numbers.

    Args:
        reference, window: (k,) shares in [0, 1].
    """
    m, n = max(1.0, m), max(1.0, n)
    a, c = np.rint(np.asarray(window) * n), np.rint(np.asarray(reference) * m)
    total, draws = np.rint(m) + np.rint(n), np.rint(n)
    marked = a + c
    upper = stats.hypergeom.sf(a - 1, total, marked, draws)
    lower = stats.hypergeom.cdf(a, total, marked, draws)
    return np.minimum(1.0, 2 * np.minimum(upper, lower))


def _shares(counts: Floats) -> Floats:
    counts = np.asarray(counts, dtype=np.float64)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1e-300)


def _linear(score: Floats, r: Floats, w: Floats, pooled: Floats, per: Floats) -> tuple[Floats, Floats]:
    """Difference of mean scores, and it over its deviation if both samples come from the pooled distribution."""
    mean = (pooled * score).sum(1)
    variance = (pooled * score**2).sum(1) - mean**2
    difference = (w * score).sum(1) - (r * score).sum(1)
    spread = np.sqrt(np.maximum(variance, 0) * per)
    return difference, np.where(spread > 1e-9, difference / np.maximum(spread, 1e-9), 0.0)


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Adjusted p-values, in the order given: reject where at most the wanted false-discovery rate.

    Source:
        Benjamini & Hochberg, J. R. Stat. Soc. B 1995.
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values)[::-1]
    scaled = values[order] * len(values) / np.arange(len(values), 0, -1)
    out = np.empty_like(values)
    out[order] = np.minimum(np.minimum.accumulate(scaled), 1.0)
    return out
