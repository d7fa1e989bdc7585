"""Figures with their uncertainty: every metric is an `Estimate` of a value, the two ends of its interval and the n behind it.

Samples of one patient are not independent. Where `groups` repeat, intervals come from a bootstrap over whole groups with a fixed seed;
otherwise from DeLong (AUC), Wilson (shares) or a bootstrap over samples. Too few samples give no number but the reason why.

Labels of a binary metric are 0 or 1; scores may be on any scale, probabilities are in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.core.errors import DataError

LEVEL = 0.95
REPLICATES = 2000
SEED = 20161
CHUNK_WEIGHTS = 4_000_000  # bootstrap weights held at a time: 16 MB as float32
MIN_GROUPS = 5  # a bootstrap over fewer groups of a class tells nothing about new groups
FEW_ERRORS = 10  # a variance that rests on fewer misranked samples is not trusted alone

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; `value` is None when the data cannot carry one, and `reason` says why."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `reason` only when there is one."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n} | ({"reason": self.reason} if self.reason else {})

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Estimate:
        return cls(raw["value"], raw["low"], raw["high"], raw["n"], raw.get("reason"))


def insufficient(n: int, why: str = "") -> Estimate:
    """No number, and the words that stand in its place."""
    return Estimate(None, None, None, n, f"insufficient evidence (n={n}{', ' + why if why else ''})")


# ---- area under the ROC curve ----------------------------------------------------------------------------------------------------------


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Probability that a random positive scores above a random negative, ties counting one half; in [0, 1].

    Args:
        labels: (n,) of 0 and 1.
        scores: (n,), higher means more positive, any scale.

    Raises:
        DataError: One class only, another length, or scores that are not finite.
    """
    y, s = _binary(labels, scores)
    positives, negatives = s[y], s[~y]
    if not len(positives) or not len(negatives):
        raise DataError("AUC needs both classes", where="auc", got=f"{len(positives)} positive, {len(negatives)} negative")
    return float(_placements(positives, negatives).mean())


def auc_interval(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike | None = None, *, level: float = LEVEL, min_per_class: int = 2) -> Estimate:
    """AUC with its interval on the logit scale, so that it stays in [0, 1].

    Without repeated groups: DeLong's variance. With them: the variance of a bootstrap over groups and a t quantile. Where nearly nothing
    is misranked both are near zero for want of errors, not for certainty; the interval then takes in Newcombe's, which is not.

    Source:
        DeLong et al., Biometrics 1988; Newcombe, Stat Med 2006 (part 2, method 5); Field and Welsh, JRSS B 2007 (cluster bootstrap).
    """
    y, s = _binary(labels, scores)
    index = group_index(groups, len(y))
    if lacking := refusal(y, index, min_per_class):
        return lacking
    value = auc(y, s)
    positive_places, negative_places = _placements(s[y], s[~y]), 1 - _placements(s[~y], s[y])
    m, n = len(positive_places), len(negative_places)
    if index is None:
        variance, quantile = float(positive_places.var(ddof=1) / m + negative_places.var(ddof=1) / n), _z(level)
    else:
        variance = float(np.var(bootstrap(index, weighted_auc(y, s)), ddof=1))
        quantile = _t(level, int(index.max()))
        m, n = len(np.unique(index[y])), len(np.unique(index[~y]))
    low, high = _logit_interval(value, variance, quantile)
    if (
        int((positive_places < 1).sum() + (negative_places < 1).sum()) < FEW_ERRORS
        or int((positive_places > 0).sum() + (negative_places > 0).sum()) < FEW_ERRORS
    ):
        wide = _newcombe(value, m, n, _z(level))
        low, high = min(low, wide[0]), max(high, wide[1])
    return Estimate(value, low, high, len(y))


def paired_auc_difference(
    labels: ArrayLike, a: ArrayLike, b: ArrayLike, groups: ArrayLike | None = None, *, level: float = LEVEL, min_per_class: int = 2
) -> Estimate:
    """AUC of scores `a` minus AUC of scores `b` on the same samples; the interval uses that they are correlated."""
    y, first = _binary(labels, a)
    _, second = _binary(labels, b)
    index = group_index(groups, len(y))
    if lacking := refusal(y, index, min_per_class):
        return lacking
    value = auc(y, first) - auc(y, second)
    if index is None:
        over_positives = _placements(first[y], first[~y]) - _placements(second[y], second[~y])
        over_negatives = _placements(first[~y], first[y]) - _placements(second[~y], second[y])
        half = _z(level) * float(np.sqrt(over_positives.var(ddof=1) / len(over_positives) + over_negatives.var(ddof=1) / len(over_negatives)))
    else:
        one, two = weighted_auc(y, first), weighted_auc(y, second)
        half = _t(level, int(index.max())) * float(np.std(bootstrap(index, lambda w: one(w) - two(w)), ddof=1))
    return Estimate(value, max(-1.0, value - half), min(1.0, value + half), len(y))


def macro_auc(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike | None = None, *, level: float = LEVEL, min_per_class: int = 2) -> Estimate:
    """Unweighted mean of the one-versus-rest AUCs.

    Args:
        labels: (n,) class indices, or (n, K) of 0 and 1 for multi-label.
        scores: (n, K).
    """
    s = np.asarray(scores, dtype=np.float64)
    truth = _one_hot(labels, s.shape[1])
    index = group_index(groups, len(s))
    for k in range(s.shape[1]):
        if lacking := refusal(truth[:, k], index, min_per_class):
            return lacking
    value = float(np.mean([auc(truth[:, k], s[:, k]) for k in range(s.shape[1])]))
    parts = [weighted_auc(truth[:, k], s[:, k]) for k in range(s.shape[1])]
    variance = float(
        np.var(bootstrap(index if index is not None else np.arange(len(s)), lambda w: np.mean([part(w) for part in parts], axis=0)), ddof=1)
    )
    unit = index if index is not None else np.arange(len(s))
    apart = any(nearly_separated(y, s[:, k]) for k, y in enumerate(truth.T))
    fewest = min((len(np.unique(unit[y])), len(np.unique(unit[~y]))) for y in truth.T) if apart else None
    low, high = mean_interval(value, variance, None if index is None else int(index.max()), fewest, level)
    return Estimate(value, low, high, len(s))


def nearly_separated(labels: NDArray[np.bool_], scores: Floats) -> bool:
    """Whether fewer than `FEW_ERRORS` samples stand on the wrong side of any other (or of all others)."""
    positive_places, negative_places = _placements(scores[labels], scores[~labels]), _placements(-scores[~labels], -scores[labels])
    wrong = int((positive_places < 1).sum() + (negative_places < 1).sum())
    right = int((positive_places > 0).sum() + (negative_places > 0).sum())
    return min(wrong, right) < FEW_ERRORS


def mean_interval(value: float, variance: float, freedom: int | None, fewest: tuple[int, int] | None, level: float = LEVEL) -> tuple[float, float]:
    """Interval of a mean of AUCs on the logit scale.

    Args:
        variance: Of the mean, by bootstrap.
        freedom: Groups - 1 where groups were resampled; None for samples.
        fewest: Positive and negative units of the AUC with the fewest, where one of the AUCs rests on nearly no error; the interval then
            takes in Newcombe's for that many.
    """
    low, high = _logit_interval(value, variance, _z(level) if freedom is None else _t(level, freedom))
    if fewest is not None:
        wide = _newcombe(value, *fewest, _z(level))
        low, high = min(low, wide[0]), max(high, wide[1])
    return low, high


def roc(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """False-positive rate, true-positive rate and threshold of every corner of the ROC curve, from (0, 0) to (1, 1).

    A sample is called positive when its score is at least the threshold; the first threshold is infinite.
    """
    y, s = _binary(labels, scores)
    order = np.argsort(-s, kind="stable")
    last_of_tie = np.r_[np.flatnonzero(np.diff(s[order])), len(s) - 1]
    hits = np.cumsum(y[order])[last_of_tie]
    alarms = last_of_tie + 1 - hits
    return np.r_[0.0, alarms / max(1, (~y).sum())], np.r_[0.0, hits / max(1, y.sum())], np.r_[np.inf, s[order][last_of_tie]]


def roc_band(
    labels: ArrayLike, scores: ArrayLike, grid: Floats, groups: ArrayLike | None = None, *, level: float = LEVEL, replicates: int = 500
) -> tuple[Floats, Floats]:
    """Pointwise band of the true-positive rate over the false-positive rates `grid`, by bootstrap over groups or samples."""
    y, s = _binary(labels, scores)
    index = group_index(groups, len(y))
    order = np.argsort(-s, kind="stable")
    truth = y[order].astype(np.float32)

    def curve(weights: NDArray[np.float32]) -> Floats:
        hits = np.cumsum(weights[:, order] * truth, axis=1)
        alarms = np.cumsum(weights[:, order] * (1 - truth), axis=1)
        return np.stack([np.interp(grid, a / max(a[-1], 1), h / max(h[-1], 1)) for a, h in zip(alarms, hits, strict=True)])

    curves = bootstrap(index if index is not None else np.arange(len(y)), curve, replicates=replicates)
    tail = (1 - level) / 2
    return np.quantile(curves, tail, axis=0), np.quantile(curves, 1 - tail, axis=0)


def paired_mean_difference(a: ArrayLike, b: ArrayLike, groups: ArrayLike | None = None, *, level: float = LEVEL) -> Estimate:
    """Mean of `a` minus mean of `b` over the same samples (n,), by bootstrap over groups or samples."""
    d = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    index = group_index(groups, len(d))
    if len(d) < 2 or (index is not None and int(index.max()) + 1 < MIN_GROUPS):
        return insufficient(len(d))
    low, high = _quantiles(bootstrap(index if index is not None else np.arange(len(d)), _weighted_mean(d.astype(np.float32))), level)
    return Estimate(float(d.mean()), low, high, len(d))


# ---- decisions -------------------------------------------------------------------------------------------------------------------------


def share(hits: ArrayLike, groups: ArrayLike | None = None, *, level: float = LEVEL, minimum: int = 1) -> Estimate:
    """Share of true values, with Wilson's interval, or Wilson's at the effective n of a cluster bootstrap where groups repeat."""
    hit = np.asarray(hits, dtype=bool)
    n = len(hit)
    if n < max(1, minimum):
        return insufficient(n, f"at least {minimum} needed" if minimum > 1 else "")
    value = float(hit.mean())
    index = group_index(groups, n)
    effective = float(n)
    if index is not None:
        clusters = int(index.max()) + 1
        if clusters < MIN_GROUPS:
            return insufficient(n, f"{clusters} independent groups")
        variance = float(np.var(bootstrap(index, _weighted_mean(hit.astype(np.float32))), ddof=1))
        # Independent samples have variance p(1-p)/n; the bootstrap's variance says how many of them these samples are worth.
        effective = min(float(n), value * (1 - value) / variance) if variance > 0 else float(clusters)
    low, high = _wilson(value, effective, _z(level))
    return Estimate(value, low, high, n)


def sensitivity(labels: ArrayLike, decisions: ArrayLike, groups: ArrayLike | None = None, *, level: float = LEVEL, minimum: int = 1) -> Estimate:
    """Share of the positives that are called positive; n counts the positives."""
    return _share_of(np.asarray(labels).astype(bool), np.asarray(decisions).astype(bool), groups, level, minimum)


def specificity(labels: ArrayLike, decisions: ArrayLike, groups: ArrayLike | None = None, *, level: float = LEVEL, minimum: int = 1) -> Estimate:
    """Share of the negatives that are called negative; n counts the negatives."""
    return _share_of(~np.asarray(labels).astype(bool), ~np.asarray(decisions).astype(bool), groups, level, minimum)


def accuracy(labels: ArrayLike, predicted: ArrayLike, groups: ArrayLike | None = None, *, level: float = LEVEL, minimum: int = 1) -> Estimate:
    """Share of samples whose predicted class index is the true one."""
    return share(np.asarray(labels) == np.asarray(predicted), groups, level=level, minimum=minimum)


def quadratic_weighted_kappa(
    labels: ArrayLike, predicted: ArrayLike, classes: int, groups: ArrayLike | None = None, *, level: float = LEVEL, minimum: int = 2
) -> Estimate:
    """Agreement on an ordinal scale beyond chance, in [-1, 1]; a disagreement counts with its squared distance. Bootstrap interval.

    Source:
        Cohen, Psychological Bulletin 1968.
    """
    y, p = np.asarray(labels, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    if len(y) < minimum or len(np.unique(np.r_[y, p])) < 2:
        return insufficient(len(y), "one class only" if len(y) >= minimum else f"at least {minimum} needed")
    index = group_index(groups, len(y))
    if index is not None and int(index.max()) + 1 < MIN_GROUPS:
        return insufficient(len(y), f"{int(index.max()) + 1} independent groups")
    cost = (np.arange(classes)[:, None] - np.arange(classes)) ** 2.0
    cells = np.zeros((len(y), classes * classes), dtype=np.float32)
    cells[np.arange(len(y)), y * classes + p] = 1

    def kappa(weights: NDArray[np.float32]) -> Floats:
        table = (weights @ cells).reshape(-1, classes, classes).astype(np.float64)
        chance = table.sum(2)[:, :, None] * table.sum(1)[:, None, :] / np.maximum(table.sum((1, 2)), 1)[:, None, None]
        expected = (cost * chance).sum((1, 2))
        return np.where(expected > 0, 1 - (cost * table).sum((1, 2)) / np.where(expected > 0, expected, 1), 1.0)

    value = float(kappa(np.ones((1, len(y)), dtype=np.float32))[0])
    low, high = _quantiles(bootstrap(index if index is not None else np.arange(len(y)), kappa), level)
    return Estimate(value, min(low, value), max(high, value), len(y))


# ---- probabilities ---------------------------------------------------------------------------------------------------------------------


def brier(labels: ArrayLike, probabilities: ArrayLike, groups: ArrayLike | None = None, *, level: float = LEVEL, minimum: int = 2) -> Estimate:
    """Mean squared error of the probabilities. One probability per sample: in [0, 1]; (n, K): the sum over classes, in [0, 2].

    Source:
        Brier, Monthly Weather Review 1950.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    truth = _one_hot(labels, p.shape[1]) if p.ndim == 2 else np.asarray(labels, dtype=np.float64)
    if len(p) < max(2, minimum):
        return insufficient(len(p), f"at least {max(2, minimum)} needed")
    index = group_index(groups, len(p))
    if index is not None and int(index.max()) + 1 < MIN_GROUPS:
        return insufficient(len(p), f"{int(index.max()) + 1} independent groups")
    errors = ((p - truth) ** 2).sum(1) if p.ndim == 2 else (p - truth) ** 2
    low, high = _quantiles(bootstrap(index if index is not None else np.arange(len(p)), _weighted_mean(errors.astype(np.float32))), level)
    return Estimate(float(errors.mean()), low, high, len(p))


def calibration_error(
    labels: ArrayLike, probabilities: ArrayLike, groups: ArrayLike | None = None, *, level: float = LEVEL, minimum: int = 50
) -> Estimate:
    """Expected calibration error over bins of equal mass: the mean distance between predicted and observed share; in [0, 1].

    (n, K) probabilities are judged by their top class. Noise inside bins makes the plain value too large and a resample's still larger
    by about as much, so the bootstrap's interval is moved back by its own bias; it still contains the value.

    Source:
        Guo et al., ICML 2017 (error); Nguyen and O'Connor, EMNLP 2015 (equal mass).
    """
    p = np.asarray(probabilities, dtype=np.float64)
    y = np.asarray(labels)
    if p.ndim == 2:
        y, p = (p.argmax(1) == y).astype(np.float64), p.max(1)
    if len(p) < minimum:
        return insufficient(len(p), f"at least {minimum} needed")
    index = group_index(groups, len(p))
    if index is not None and int(index.max()) + 1 < MIN_GROUPS:
        return insufficient(len(p), f"{int(index.max()) + 1} independent groups")
    member = bins_of(p)
    gaps = np.zeros((len(p), int(member.max()) + 1), dtype=np.float32)
    gaps[np.arange(len(p)), member] = p - y

    def error(weights: NDArray[np.float32]) -> Floats:
        return np.abs(weights @ gaps).sum(1) / np.maximum(weights.sum(1), 1)

    value = float(error(np.ones((1, len(p)), dtype=np.float32))[0])
    replicates = bootstrap(index if index is not None else np.arange(len(p)), error)
    low, high = _quantiles(replicates - (replicates.mean() - value), level)
    return Estimate(value, max(0.0, min(low, value)), min(1.0, max(high, value)), len(p))


def bins_of(probabilities: Floats) -> NDArray[np.int64]:
    """Bin number of each sample: equal mass, ties together, about 40 samples a bin, at least 2 and at most 15 bins."""
    count = int(np.clip(len(probabilities) // 40, 2, 15))
    edges = np.unique(np.quantile(probabilities, np.linspace(0, 1, count + 1)[1:-1]))
    return np.searchsorted(edges, probabilities, side="right")


# ---- the parts -------------------------------------------------------------------------------------------------------------------------


def _binary(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    y, s = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if y.shape != s.shape or y.ndim != 1:
        raise DataError("labels and scores differ in length", where="metric", got=f"{y.shape} and {s.shape}")
    if not np.isfinite(s).all():
        raise DataError("scores that are not finite", where="metric", got=f"{int((~np.isfinite(s)).sum())} of {len(s)}")
    if not np.isin(y, (0, 1)).all():
        raise DataError("binary labels other than 0 and 1", where="metric", got=f"{len(np.unique(y))} distinct values")
    return y.astype(bool), s


def _one_hot(labels: ArrayLike, classes: int) -> NDArray[np.bool_]:
    y = np.asarray(labels)
    return y.astype(bool) if y.ndim == 2 else np.arange(classes) == y.astype(np.int64)[:, None]


def group_index(groups: ArrayLike | None, n: int) -> NDArray[np.int64] | None:
    """(n,) group numbers 0..G-1, or None when every sample is its own group."""
    if groups is None:
        return None
    values = np.asarray(groups)
    if len(values) != n:
        raise DataError("groups and labels differ in length", where="metric", got=f"{len(values)} and {n}")
    distinct, index = np.unique(values.astype(str) if values.dtype == object else values, return_inverse=True)
    return None if len(distinct) == n else index.astype(np.int64)


def refusal(y: NDArray[np.bool_], index: NDArray[np.int64] | None, minimum: int) -> Estimate | None:
    """The estimate that refuses, when a class has too few samples or comes from too few groups."""
    counts = int(y.sum()), int((~y).sum())
    if min(counts) < max(2, minimum):
        return insufficient(len(y), f"{counts[0]} positive, {counts[1]} negative")
    if index is not None and (fewest := min(len(np.unique(index[y])), len(np.unique(index[~y])))) < MIN_GROUPS:
        return insufficient(len(y), f"a class from {fewest} independent groups")
    return None


def _placements(of: Floats, among: Floats) -> Floats:
    """For each value of `of`, the share of `among` below it, ties counting one half."""
    ordered = np.sort(among)
    return (np.searchsorted(ordered, of, side="left") + np.searchsorted(ordered, of, side="right")) / (2.0 * len(ordered))


def bootstrap(index: NDArray[np.int64], statistic: Callable[[NDArray[np.float32]], Any], *, replicates: int = REPLICATES) -> Floats:
    """`statistic` of `replicates` resamples of whole groups.

    Args:
        index: (n,) group numbers 0..G-1.
        statistic: (b, n) sample weights (how often each was drawn) -> (b, ...).
    """
    n, count = len(index), int(index.max()) + 1
    size = max(1, min(replicates, CHUNK_WEIGHTS // max(n, count)))
    rng = np.random.default_rng(SEED)
    own = count == n and bool((index == np.arange(n)).all())
    parts = []
    for start in range(0, replicates, size):
        b = min(size, replicates - start)
        draws = rng.integers(0, count, size=(b, count), dtype=np.int64) + np.arange(b)[:, None] * count
        times = np.bincount(draws.ravel(), minlength=b * count).reshape(b, count).astype(np.float32)
        parts.append(np.asarray(statistic(times if own else times[:, index]), dtype=np.float64))
    return np.concatenate(parts)


def weighted_auc(y: NDArray[np.bool_], s: Floats) -> Callable[[NDArray[np.float32]], Floats]:
    """AUC of weighted samples: the scores are sorted once, then each resample is two sums."""
    order = np.argsort(s, kind="stable")
    ordered, truth = s[order], y[order]
    negatives = order[~truth]
    positives = order[truth]
    # Of the negatives in ascending order: how many lie below, and how many at or below, each positive.
    below = np.searchsorted(ordered[~truth], ordered[truth], side="left")
    upto = np.searchsorted(ordered[~truth], ordered[truth], side="right")

    def weighted(weights: NDArray[np.float32]) -> Floats:
        seen = np.zeros((len(weights), len(negatives) + 1), dtype=np.float32)  # whole numbers below 2^24: exact
        np.cumsum(weights[:, negatives], axis=1, out=seen[:, 1:])
        w = weights[:, positives].astype(np.float64)
        wins = np.einsum("bi,bi->b", w, (seen[:, below] + seen[:, upto]).astype(np.float64)) / 2
        pairs = w.sum(1) * seen[:, -1]
        return np.where(pairs > 0, wins / np.where(pairs > 0, pairs, 1), 0.5)  # a resample without one class says nothing

    return weighted


def _weighted_mean(values: NDArray[np.float32]) -> Callable[[NDArray[np.float32]], Floats]:
    return lambda weights: (weights @ values) / np.maximum(weights.sum(1), 1)


def _share_of(among: NDArray[np.bool_], hits: NDArray[np.bool_], groups: ArrayLike | None, level: float, minimum: int) -> Estimate:
    return share(hits[among], None if groups is None else np.asarray(groups)[among], level=level, minimum=minimum)


def _logit_interval(value: float, variance: float, quantile: float) -> tuple[float, float]:
    if not 0 < value < 1:
        return value, value
    centre, half = np.log(value / (1 - value)), quantile * np.sqrt(variance) / (value * (1 - value))
    return float(1 / (1 + np.exp(-(centre - half)))), float(1 / (1 + np.exp(-min(centre + half, 700.0))))


def _newcombe(value: float, m: int, n: int, z: float) -> tuple[float, float]:
    """Score interval of an AUC from m positives and n negatives: the values that are not z standard errors away by their own variance."""

    def excess(theta: float) -> float:
        spread = (m + n) / 2 - 1
        variance = theta * (1 - theta) * (1 + spread * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (m * n)
        return abs(value - theta) - z * float(np.sqrt(variance))

    def edge(outside: float) -> float:
        if excess(outside) <= 0:
            return outside
        inside = value
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if excess(middle) > 0 else (middle, outside)
        return (inside + outside) / 2

    return (edge(0.0) if value > 0 else 0.0), (edge(1.0) if value < 1 else 1.0)


def _wilson(value: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's score interval of a share; `n` may be an effective number."""
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z * float(np.sqrt(value * (1 - value) / n + z * z / (4 * n * n))) / (1 + z * z / n)
    return max(0.0, min(value, centre - half)), min(1.0, max(value, centre + half))


def _quantiles(replicates: Floats, level: float) -> tuple[float, float]:
    tail = (1 - level) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return float(low), float(high)


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _t(level: float, freedom: int) -> float:
    """Student's quantile by Cornish-Fisher (Abramowitz and Stegun 26.7.5); exact to 1 % from 4 degrees of freedom at the usual levels."""
    z, f = _z(level), max(4, freedom)
    return z + (z**3 + z) / (4 * f) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * f**2) + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * f**3)
