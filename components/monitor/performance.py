"""How well a device's answers are ranked while nobody has labels: an AUC expected from calibrated probabilities, with an interval, or no figure.

The idea is confidence-based performance estimation: if an answer of 0.8 comes true eight times in ten, the labels of a window can be drawn
from its probabilities, and each draw has an AUC. What is added here is what an interval needs to be true on one device:

    calibration   of the device itself, from its labelled reference rows, drawn towards all devices' as far as these agree
    doubt in it   every draw uses another resample of the reference (whole groups) and another draw of the device's prior
    labels        every draw is one set of labels; labels of one patient go together as far as they do in the reference
    case mix      half of the draws take a changed share of ill patients for what it may be: other patients, with scores like before

It rests on two assumptions that no unlabelled window can test: a score still means what it meant on this device (no concept shift), and the
reference is like production. So there is no figure for a device that drifted, is unknown, has too few labels in the reference, answers outside
the reference's range, or whose reference contradicts its own calibration.

Source:
    Guillory et al., ICCV 2021; Garg et al., ICLR 2022 (no method can do without such assumptions); NannyML's CBPE and its limitations;
    Saerens et al., Neural Computation 2002 (changed shares); Kull et al., AISTATS 2017 (beta calibration).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.core.errors import DataError
from components.core.metrics import group_index

LEVEL = 0.95
DRAWS = 1000  # sets of labels for a window
FITS = 250  # calibrations of a device
SEED = 20221
MIN_N = 30
MIN_EXPECTED = 5.0  # expected samples of the rarer class of a window
MIN_GROUPS = 5
MIN_LABELS = 60  # labelled reference samples of the device
MIN_PER_CLASS = 10  # of them, of each class
MAX_WIDTH = 0.25
OUTSIDE = 0.02  # share of a window that may lie beyond the device's reference
MARGIN = 0.5  # how far, in logits, "beyond" begins
CALIBRATION_P = 0.001
PRIOR_SD = 0.3  # of a device's intercept and slope around all devices', before devices were seen
PRIOR_WEIGHT = 2.0  # how many devices this prior stands for
TINY = 1e-6
SHAPE = 1 / 0.35**2

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Answer:
    """What can be said about one device in one window.

    Args:
        metric: "auc" or "macro_auc".
        value, low, high: In [0, 1]; None where not judged.
        n: Samples of the window.
        judged: False: nothing is known, which is not "nothing is wrong".
        reason: Why not judged; empty otherwise.
    """

    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    judged: bool
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"metric": self.metric, "value": self.value, "low": self.low, "high": self.high, "n": self.n, "judged": self.judged} | (
            {"reason": self.reason} if self.reason else {}
        )


@dataclass(frozen=True)
class _Map:
    """Calibrations of one device and one class: probability = sigmoid(basis(p) @ theta).

    Args:
        theta: (FITS + 1, 3); row 0 is the best fit.
        low, high: Range of the device's reference scores, in logits.
    """

    theta: Floats
    low: float
    high: float


@dataclass(frozen=True)
class Learned:
    """What the reference says about every device. Made by `learn`."""

    metric: str
    classes: int
    positive: tuple[int, ...]
    maps: Mapping[str, tuple[_Map, ...]]
    shares: Mapping[str, Floats]
    refused: Mapping[str, str]
    together: float = 0.0
    level: float = LEVEL
    seed: int = SEED
    sizes: Mapping[str, int] = field(default_factory=dict)


def learn(
    probabilities: ArrayLike,
    labels: ArrayLike,
    devices: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    positive: Sequence[int] = (),
    level: float = LEVEL,
    seed: int = SEED,
) -> Learned:
    """Calibrate every device on the labelled reference of a model package.

    Args:
        probabilities: (n, K), or (n,) of the positive class; what the server would have answered.
        labels: (n,) class indices 0..K-1; 0 and 1 for (n,).
        devices: (n,) device keys.
        groups: (n,) patients, lesions or subjects; None: every sample is its own.
        positive: The classes whose probabilities add up to the positive one, as `DiseaseSpec.positive_indices`. Empty: class 1 of two, the
            mean over one-versus-rest of more.

    Raises:
        DataError: Other lengths, probabilities that are not in [0, 1], labels outside the classes, no samples.
    """
    p = _checked(probabilities)
    y, d = np.asarray(labels), np.asarray(devices).astype(str)
    if not len(p) or y.shape != (len(p),) or d.shape != (len(p),):
        raise DataError("probabilities, labels and devices do not fit", where="reference", got=f"{p.shape}, {y.shape}, {d.shape}")
    if not np.isfinite(y.astype(np.float64)).all() or not np.isin(y, np.arange(p.shape[1])).all():
        raise DataError("labels outside the classes", where="reference", allowed=f"0..{p.shape[1] - 1}")
    index = group_index(groups, len(p))
    index = np.arange(len(p)) if index is None else index
    classes, positive = p.shape[1], tuple(positive) or ((1,) if p.shape[1] == 2 else ())
    score, truth = _columns(p, positive), _truths(y.astype(np.int64), classes, positive)
    rng = np.random.default_rng(seed)
    maps: dict[str, list[_Map]] = {name: [] for name in np.unique(d).tolist()}
    best = np.empty_like(score)
    for k in range(score.shape[1]):
        fitted, best[:, k] = _fit_class(score[:, k], truth[:, k], d, index, rng)
        for name, found in fitted.items():
            maps[name].append(found)
    together = _together(truth - best, best, index)
    refused: dict[str, str] = {}
    for name in maps:
        if why := _why_not(name, score, truth, best, d == name, index):
            refused[name] = why
    return Learned(
        metric="auc" if positive else "macro_auc",
        classes=classes,
        positive=positive,
        maps={name: tuple(found) for name, found in maps.items()},
        shares={name: best[d == name].mean(0) for name in maps},
        refused=refused,
        together=together,
        level=level,
        seed=seed,
        sizes={name: int((d == name).sum()) for name in maps},
    )


def estimate(
    learned: Learned,
    probabilities: ArrayLike,
    device: str,
    groups: ArrayLike | None = None,
    *,
    drift: str = "",
    about: Literal["window", "device"] = "window",
    min_n: int = MIN_N,
    max_width: float = MAX_WIDTH,
    mix: float = 0.5,
) -> Answer:
    """The AUC of one device in one window, before any label is known.

    Args:
        probabilities: (n, K) or (n,), as in `learn`.
        drift: What was found to have changed on this device, in words; then there is no figure. A changed case mix alone is not passed here.
        about: `window`: the AUC that this window's own labels will show. `device`: that of ever more samples like these.
    """
    raw = np.asarray(probabilities, dtype=np.float64)
    n = len(raw)

    def refuse(why: str) -> Answer:
        return Answer(learned.metric, None, None, None, n, False, why)

    if not n:
        return refuse("no samples")
    if device not in learned.maps:
        return refuse("the device is not in the reference")
    if why := learned.refused.get(device):
        return refuse(why)
    if drift:
        return refuse(f"drift on this device: {drift}")
    if not (np.isfinite(raw).all() and raw.min() >= 0 and raw.max() <= 1):
        return refuse("probabilities that are not numbers in [0, 1]")
    p = _checked(raw)
    if p.shape[1] != learned.classes:
        raise DataError("window of another model", where=device, got=f"{p.shape[1]} classes", allowed=f"{learned.classes}")
    if n < min_n:
        return refuse(f"{n} samples, {min_n} needed")
    index = group_index(groups, n)
    if index is not None and int(index.max()) + 1 < MIN_GROUPS:
        return refuse(f"samples of {int(index.max()) + 1} patients, {MIN_GROUPS} needed")
    score, maps = _columns(p, learned.positive), learned.maps[device]
    x = _logit(score)
    outside = max(float(((x[:, k] < m.low - MARGIN) | (x[:, k] > m.high + MARGIN)).mean()) for k, m in enumerate(maps))
    if outside > max(OUTSIDE, 1.5 / n):
        return refuse(f"{outside:.0%} of the probabilities lie outside the reference of this device")
    rng = np.random.default_rng([learned.seed, n, int(p.sum() * 1e6) % (1 << 31)])
    curves = _probabilities(maps, score)
    expected = curves[0].sum(0)
    if (fewest := float(np.minimum(expected, n - expected).min())) < MIN_EXPECTED:
        return refuse(f"{fewest:.1f} samples of a class expected, {MIN_EXPECTED:g} needed")
    shifted = _reweighted(curves, learned.shares[device], index, rng)
    drawn = _window_draws if about == "window" else _device_draws
    parts = [
        drawn(c, score, index, learned.together, count, rng)
        for c, count in ((curves, DRAWS - round(DRAWS * mix)), (shifted, round(DRAWS * mix)))
        if count
    ]
    values = np.concatenate(parts)
    if np.isnan(values).mean() > 0.02:
        return refuse("a class may be absent from the window")
    tail = (1 - learned.level) / 2
    low, middle, high = (float(v) for v in np.nanquantile(values, [tail, 0.5, 1 - tail]))
    if high - low > max_width:
        return refuse(f"the interval would be {high - low:.2f} wide, {max_width:g} at most")
    return Answer(learned.metric, middle, low, high, n, True)


# ---- the window ------------------------------------------------------------------------------------------------------------------------


def _window_draws(curves: Floats, score: Floats, index: Ints | None, together: float, count: int, rng: np.random.Generator) -> Floats:
    """(count,) AUCs of drawn labels; NaN where a class is absent."""
    u = _uniforms(len(score), index, together, count, rng)
    p = curves[1 + np.arange(count) % (len(curves) - 1)]
    if p.shape[2] == 1:
        return _auc_of(u < p[:, :, 0], score[:, 0])
    edges = np.cumsum(p, axis=2)
    answer = (u[:, :, None] > edges[:, :, :-1]).sum(2)
    return np.mean([_auc_of(answer == k, score[:, k]) for k in range(p.shape[2])], axis=0)


def _auc_of(labels: NDArray[np.bool_], score: Floats) -> Floats:
    """(b, n) labels of the same (n,) scores -> (b,) AUC; NaN where a class is absent."""
    from scipy.stats import rankdata

    ranks = rankdata(score)
    positives = labels.sum(1).astype(np.float64)
    pairs = positives * (labels.shape[1] - positives)
    wins = labels @ ranks - positives * (positives + 1) / 2
    return np.where(pairs > 0, wins / np.where(pairs > 0, pairs, 1), np.nan)


def _device_draws(curves: Floats, score: Floats, index: Ints | None, together: float, count: int, rng: np.random.Generator) -> Floats:
    """(count,) expected AUCs of reweighted samples (Bayesian bootstrap over groups)."""
    n = len(score)
    units = n if index is None else int(index.max()) + 1
    w = rng.exponential(size=(count, units))
    w = w if index is None else w[:, index]
    p = curves[1 + np.arange(count) % (len(curves) - 1)]
    return np.mean([_expected_auc(p[:, :, k], w, score[:, k]) for k in range(p.shape[2])], axis=0)


def _expected_auc(p: Floats, w: Floats, score: Floats) -> Floats:
    """(b, n) probabilities and weights -> (b,): positives against negatives by expected numbers, no sample against itself."""
    order = np.argsort(score, kind="stable")
    s, a = score[order], (w * p)[:, order]
    c = (w * (1 - p))[:, order]
    below = np.concatenate([np.zeros((len(p), 1)), np.cumsum(c, 1)], axis=1)
    left, right = np.searchsorted(s, s, side="left"), np.searchsorted(s, s, side="right")
    wins = (a * (below[:, left] + below[:, right])).sum(1) / 2
    itself = (a * c).sum(1)
    return (wins - itself / 2) / (a.sum(1) * c.sum(1) - itself)


def _uniforms(n: int, index: Ints | None, together: float, count: int, rng: np.random.Generator) -> Floats:
    """(count, n) in (0, 1); within a group they are correlated by `together` on the normal scale."""
    if index is None or together <= 0:
        return rng.random((count, n))
    from scipy.special import ndtr

    common = rng.standard_normal((count, int(index.max()) + 1))[:, index]
    return ndtr(np.sqrt(together) * common + np.sqrt(1 - together) * rng.standard_normal((count, n)))


def _reweighted(curves: Floats, before: Floats, index: Ints | None, rng: np.random.Generator) -> Floats:
    """Probabilities if the classes' shares changed and the scores within a class did not.

    Every calibration gets shares of its own, from another resample of the window.
    """
    b, n, k = curves.shape
    full = curves if k > 1 else np.concatenate([1 - curves, curves], axis=2)
    start = before if k > 1 else np.r_[1 - before, before]
    units = n if index is None else int(index.max()) + 1
    w = rng.exponential(size=(b, units))
    w = w if index is None else w[:, index]
    w[0] = 1.0
    w /= w.sum(1, keepdims=True)
    share = np.tile(start, (b, 1))
    for _ in range(25):
        r = full * (share / start)[:, None, :]
        r /= r.sum(2, keepdims=True)
        share = np.einsum("bn,bnk->bk", w, r) + 1e-9
    r = full * (share / start)[:, None, :]
    r /= r.sum(2, keepdims=True)
    return r if k > 1 else r[:, :, 1:]


# ---- calibration -----------------------------------------------------------------------------------------------------------------------


def _basis(score: Floats) -> Floats:
    """(n,) probabilities -> (n, 4): 1, logit, what bends it one way (beta calibration), what steepens its middle against its ends."""
    s = np.clip(score, TINY, 1 - TINY)
    return np.stack([np.ones_like(s), np.log(s) - np.log1p(-s), np.log(s) + np.log1p(-s) + 2 * np.log(2), 4 * s - 2], axis=1)


def _logit(score: Floats) -> Floats:
    s = np.clip(score, TINY, 1 - TINY)
    return np.log(s) - np.log1p(-s)


def _probabilities(maps: Sequence[_Map], score: Floats) -> Floats:
    """(FITS + 1, n, columns) calibrated; over several classes they sum to 1."""
    p = np.stack([_sigmoid(m.theta @ _basis(score[:, k]).T) for k, m in enumerate(maps)], axis=2)
    return p if p.shape[2] == 1 else p / p.sum(2, keepdims=True)


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


def _fit_class(score: Floats, y: Floats, d: NDArray[np.str_], index: Ints, rng: np.random.Generator) -> tuple[dict[str, _Map], Floats]:
    """Maps of all devices for one class, and the best fit's probabilities (n,)."""
    x = _basis(score)
    names, of = np.unique(d, return_inverse=True)
    weak = np.diag([1 / 25.0, 1 / 4.0, 1 / 0.25, 1.0])
    prior = np.array([0.0, 1.0, 0.0, 0.0])
    ones = np.ones((1, len(y)))
    pooled = _newton(x, y, ones, prior[None], weak, prior[None], steps=15)[0]
    times = rng.multinomial(int(index.max()) + 1, np.full(int(index.max()) + 1, 1 / (int(index.max()) + 1)), size=FITS)[:, index].astype(np.float64)
    pooled_fits = _newton(x, y, times, prior[None], weak, np.tile(pooled, (FITS, 1)), steps=4)
    centre_of_all, spread = _between(x, y, of, len(names), pooled)
    precision = np.diag([1 / spread[0], 1 / spread[1], SHAPE, SHAPE])
    maps, best = {}, np.empty(len(y))
    for k, name in enumerate(names.tolist()):
        rows = of == k
        centre = _newton(x[rows], y[rows], ones[:, rows], centre_of_all[None], precision, centre_of_all[None], steps=8)
        priors = pooled_fits - pooled + centre_of_all
        priors[:, :2] += rng.standard_normal((FITS, 2)) * np.sqrt(spread)
        fits = _newton(x[rows], y[rows], times[:, rows], priors, precision, np.tile(centre, (FITS, 1)), steps=6)
        best[rows] = _sigmoid(x[rows] @ centre[0])
        maps[name] = _Map(np.concatenate([centre, fits]), float(x[rows, 1].min()), float(x[rows, 1].max()))
    return maps, best


def _between(x: Floats, y: Floats, of: Ints, count: int, pooled: Floats) -> tuple[Floats, Floats]:
    """Mean over devices (3,) and variance between them (2,) of intercept and slope, by EM with Laplace's approximation.

    The mean of the devices' slopes is steeper than the slope of all samples together wherever intercepts differ. A weak prior keeps the variance
    off zero.
    """
    mean, spread = pooled.copy(), np.full(2, PRIOR_SD**2)
    for _ in range(10):
        precision = np.diag([1 / spread[0], 1 / spread[1], SHAPE, SHAPE])
        found, doubt = np.empty((count, 2)), np.empty((count, 2))
        for k in range(count):
            rows = of == k
            theta = _newton(x[rows], y[rows], np.ones((1, int(rows.sum()))), mean[None], precision, mean[None], steps=6)[0]
            p = _sigmoid(x[rows] @ theta)
            found[k] = theta[:2]
            doubt[k] = np.diag(np.linalg.inv((x[rows].T * (p * (1 - p))) @ x[rows] + precision))[:2]
        mean[:2] = found.mean(0)
        spread = (((found - mean[:2]) ** 2 + doubt).sum(0) + PRIOR_WEIGHT * PRIOR_SD**2) / (count + PRIOR_WEIGHT)
    return mean, spread


def _newton(x: Floats, y: Floats, weights: Floats, prior: Floats, precision: Floats, start: Floats, *, steps: int) -> Floats:
    """Most probable theta (b, 3) of b weighted logistic fits with Gaussian priors; damped, so that far starts do not run away."""
    theta = np.array(start, dtype=np.float64)
    for _ in range(steps):
        p = _sigmoid(theta @ x.T)
        gradient = (weights * (y - p)) @ x - (theta - prior) @ precision
        bend = weights * np.maximum(p * (1 - p), 1e-9)
        hessian = np.einsum("bn,nij->bij", bend, x[:, :, None] * x[:, None, :]) + precision
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        theta += step / np.maximum(1.0, np.abs(step).max(1, keepdims=True) / 2.0)
    return theta


# ---- is the reference fit for it? ------------------------------------------------------------------------------------------------------


def _together(residual: Floats, p: Floats, index: Ints) -> float:
    """How much labels of one group go together beyond their probabilities, on the normal scale, in [0, 1]; 1 where nobody can know."""
    sizes = np.bincount(index)
    if sizes.max() == 1:
        return 1.0
    z = residual / np.sqrt(np.maximum(p * (1 - p), 1e-4))
    sums = np.stack([np.bincount(index, z[:, k]) for k in range(z.shape[1])], axis=1)
    squares = np.stack([np.bincount(index, z[:, k] ** 2) for k in range(z.shape[1])], axis=1)
    phi = (sums**2 - squares).sum() / max(1.0, float((sizes * (sizes - 1)).sum() * z.shape[1]))
    return float(np.clip(np.sin(np.pi / 2 * np.clip(phi, 0, 1)), 0, 0.999))


def _why_not(name: str, score: Floats, truth: Floats, best: Floats, rows: NDArray[np.bool_], index: Ints) -> str:
    """Why this device can never be judged from this reference, or ""."""
    from scipy.stats import chi2

    n = int(rows.sum())
    if n < MIN_LABELS:
        return f"{n} labelled reference samples of this device, {MIN_LABELS} needed"
    fewest = int(min(min(t.sum(), n - t.sum()) for t in truth[rows].T))
    if fewest < MIN_PER_CLASS:
        return f"{fewest} reference samples of a class on this device, {MIN_PER_CLASS} needed"
    for k in range(truth.shape[1]):
        s, y, p, g = score[rows, k], truth[rows, k], best[rows, k], np.unique(index[rows], return_inverse=True)[1]
        if int(g.max()) + 1 < 2 * MIN_GROUPS:
            return f"reference samples of {int(g.max()) + 1} patients on this device, {2 * MIN_GROUPS} needed"
        bins = int(np.clip(n // 25, 4, 10))
        member = np.argsort(np.argsort(s, kind="stable"), kind="stable") * bins // n
        v = np.bincount(member, p * (1 - p), bins)
        # Labels of one patient are no independent evidence: the statistic is divided by how much larger their sums vary.
        inflate = max(1.0, float((np.bincount(g, y - p) ** 2).sum() / v.sum()))
        statistic = float((np.bincount(member, y - p, bins) ** 2 / np.maximum(v, 1e-9)).sum() / inflate)
        if chi2.sf(statistic, bins - 2) < CALIBRATION_P:
            return "the probabilities do not come true on this device's reference"
    return ""


def _checked(probabilities: ArrayLike) -> Floats:
    """(n, K) with K at least 2. Raises DataError."""
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim == 1:
        p = np.stack([1 - p, p], axis=1)
    if p.ndim != 2 or p.shape[1] < 2:
        raise DataError("probabilities of another shape", where="performance", got=p.shape, allowed="(n,) or (n, classes)")
    if not (np.isfinite(p).all() and (p >= 0).all() and (p <= 1).all()):
        raise DataError("probabilities that are not numbers in [0, 1]", where="performance")
    return p


def _columns(p: Floats, positive: tuple[int, ...]) -> Floats:
    return p[:, list(positive)].sum(1, keepdims=True) if positive else p


def _truths(y: Ints, classes: int, positive: tuple[int, ...]) -> Floats:
    if positive:
        return np.isin(y, positive).astype(np.float64)[:, None]
    return (y[:, None] == np.arange(classes)).astype(np.float64)
