"""The exact interval of a share that was counted.

Source:
    Clopper and Pearson, Biometrika 26 (1934) 404; for counts that come in groups, with the number of groups in place of the number of samples:
    Korn and Graubard, Survey Methodology 24 (1998) 193, at the largest design effect that there can be.
"""

from __future__ import annotations


def interval(k: int, n: int, groups: int | None = None, *, level: float = 0.95) -> tuple[float, float]:
    """Two-sided interval of the share behind `k` of `n`.

    Args:
        k: Counted, 0 to n. n: At least 1.
        groups: How many patients the samples are of, 1 to n; None: each is of another one. Samples of one patient are taken to say the same thing.

    Returns:
        low, high in [0, 1] with low <= k / n <= high; low is 0 for k = 0, high is 1 for k = n. Never within the interval of `n` single samples.

    Raises:
        ValueError: Counts that cannot be.
    """
    from scipy.special import betaincinv

    of = n if groups is None else groups
    if not (0 <= k <= n and 1 <= of <= n):
        raise ValueError(f"k={k}, n={n}, groups={groups}")
    tail, low, high = (1 - level) / 2, 1.0, 0.0
    for total in {n, of}:  # of both, since the wider of two such intervals is not always wider at both ends
        hits = k * total / n
        low = min(low, float(betaincinv(hits, total - hits + 1, tail)) if k > 0 else 0.0)
        high = max(high, float(betaincinv(hits + 1, total - hits, 1 - tail)) if k < n else 1.0)
    return min(low, k / n), max(high, k / n)
