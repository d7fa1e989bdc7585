"""Metrics and their intervals against known values, scikit-learn, and simulation."""

from __future__ import annotations

import numpy as np
import pytest

from components.core import metrics
from components.core.errors import DataError
from components.core.metrics import Estimate

# Hanley and McNeil, Radiology 1982: 109 CT images rated 1 to 5 by one reader; columns are the counts of each rating.
NORMAL, ABNORMAL = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)


def hanley() -> tuple[np.ndarray, np.ndarray]:
    ratings = np.repeat(np.r_[1:6, 1:6], NORMAL + ABNORMAL)
    return np.repeat([0, 1], [sum(NORMAL), sum(ABNORMAL)]), ratings


def noisy(n: int, seed: int, *, shift: float = 1.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, tied scores and group numbers (about 4 samples each)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    return labels, np.round(rng.normal(shift * labels, 1), 1), rng.integers(0, n // 4, n)


def test_auc_of_hanley_and_mcneil():
    """Published: area .893."""
    assert metrics.auc(*hanley()) == pytest.approx(0.8932, abs=5e-5)


def test_delong_variance_of_hanley_and_mcneil():
    """Published for these ratings: DeLong standard error .0307. The interval is that error on the logit scale."""
    estimate = metrics.auc_interval(*hanley())
    logit = np.log(estimate.value / (1 - estimate.value))
    half = 1.959964 * 0.0307 / (estimate.value * (1 - estimate.value))
    assert np.log(estimate.low / (1 - estimate.low)) == pytest.approx(logit - half, abs=0.01)
    assert np.log(estimate.high / (1 - estimate.high)) == pytest.approx(logit + half, abs=0.01)
    assert estimate.n == 109


def test_auc_counts_a_tie_one_half():
    assert metrics.auc([0, 1], [3, 3]) == 0.5
    assert metrics.auc([0, 0, 1, 1], [1, 2, 2, 3]) == 3.5 / 4


def test_auc_equals_scikit_learn_with_ties():
    from sklearn.metrics import roc_auc_score

    labels, scores, _ = noisy(2000, 1)
    assert metrics.auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_roc_equals_scikit_learn():
    from sklearn.metrics import roc_curve

    labels, scores, _ = noisy(500, 2)
    for ours, theirs in zip(metrics.roc(labels, scores), roc_curve(labels, scores, drop_intermediate=False), strict=True):
        np.testing.assert_allclose(ours, theirs)


def test_auc_refuses_what_it_cannot_rank():
    with pytest.raises(DataError, match="both classes"):
        metrics.auc([1, 1], [0.1, 0.2])
    with pytest.raises(DataError, match="not finite; got 1 of 2"):
        metrics.auc([0, 1], [0.1, float("nan")])
    with pytest.raises(DataError, match="length"):
        metrics.auc([0, 1], [0.1])
    with pytest.raises(DataError, match="0 and 1"):
        metrics.auc([0, 2], [0.1, 0.2])


def test_bootstrap_auc_equals_auc_of_the_resample():
    """The vectorised weights give what counting every drawn sample gives."""
    labels, scores, _ = noisy(60, 3)
    draws = np.random.default_rng(0).integers(0, 60, 60)
    weights = np.bincount(draws, minlength=60).astype(np.float32)[None]
    assert metrics.weighted_auc(labels.astype(bool), scores)(weights)[0] == pytest.approx(metrics.auc(labels[draws], scores[draws]), abs=1e-6)


def test_perfect_separation_still_has_an_interval():
    """Twenty against twenty without an error does not prove an AUC of 1; more samples prove more."""
    few = metrics.auc_interval([0] * 20 + [1] * 20, range(40))
    many = metrics.auc_interval([0] * 200 + [1] * 200, range(400))
    assert (few.value, few.high) == (1.0, 1.0)
    assert 0.85 < few.low < many.low < 1
    mirrored = metrics.auc_interval([1] * 20 + [0] * 20, range(40))
    assert (mirrored.low, mirrored.high) == pytest.approx((0, 1 - few.low))


def test_perfect_separation_of_many_classes_still_has_an_interval():
    labels = np.repeat([0, 1, 2], 20)
    estimate = metrics.macro_auc(labels, np.eye(3)[labels])
    assert estimate.value == 1
    assert 0.8 < estimate.low < 0.95


def coverage(shift: float, n: int, per_group: int, runs: int) -> float:
    """Share of simulated studies whose interval contains the true AUC, Phi(shift / sqrt 2)."""
    from statistics import NormalDist

    true, hits = NormalDist().cdf(shift / np.sqrt(2)), 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(2 * n // per_group), per_group)
        labels = (rng.random(len(group)) < 0.5).astype(int)
        scores = shift * labels + np.sqrt(0.5) * (rng.normal(size=group.max() + 1)[group] + rng.normal(size=len(group)))
        estimate = metrics.auc_interval(labels, scores, group if per_group > 1 else None)
        hits += estimate.low <= true <= estimate.high
    return hits / runs


@pytest.mark.parametrize("shift", [1.0, 3.3])
def test_delong_interval_covers_the_truth(shift: float):
    """Also at AUC .99, where Wald intervals fail: 95 % within what 400 simulated studies can tell."""
    assert 0.92 <= coverage(shift, 30, 1, 400) <= 0.995


def test_cluster_interval_covers_the_truth(monkeypatch: pytest.MonkeyPatch):
    """Ten correlated samples a group, where an interval that ignores groups is far too narrow."""
    monkeypatch.setattr(metrics, "REPLICATES", 300)
    assert 0.90 <= coverage(1.0, 60, 10, 150) <= 0.99


def test_groups_widen_the_interval_when_samples_repeat():
    """Every sample five times over is no more evidence than once; without its groups it looks like five times as much."""
    labels, scores, _ = noisy(80, 4)
    once = metrics.auc_interval(labels, scores)
    five = [np.repeat(v, 5) for v in (labels, scores, np.arange(80))]
    grouped, blind = metrics.auc_interval(*five), metrics.auc_interval(*five[:2])
    assert grouped.high - grouped.low == pytest.approx(once.high - once.low, rel=0.15)
    assert blind.high - blind.low < 0.6 * (once.high - once.low)


def test_the_same_data_give_the_same_interval():
    data = noisy(200, 5)
    assert metrics.auc_interval(*data) == metrics.auc_interval(*data)


def test_groups_that_never_repeat_change_nothing():
    labels, scores, _ = noisy(100, 6)
    assert metrics.auc_interval(labels, scores, [f"g{i}" for i in range(100)]) == metrics.auc_interval(labels, scores)


def test_too_few_give_words_and_no_number():
    estimate = metrics.auc_interval([0, 0, 0, 1], [1, 2, 3, 4], min_per_class=2)
    assert estimate == Estimate(None, None, None, 4, "insufficient evidence (n=4, 1 positive, 3 negative)")
    few_patients = metrics.auc_interval([0, 1] * 30, range(60), [0, 1, 2] * 20)
    assert few_patients.value is None
    assert "3 independent groups" in (few_patients.reason or "")
    assert metrics.sensitivity([0, 0], [0, 0]).value is None
    assert metrics.share([True] * 10, [0] * 10).value is None
    assert Estimate.from_dict(estimate.to_dict()) == estimate


def test_paired_difference_sees_what_two_intervals_cannot():
    """A slightly better score on the same samples: the intervals overlap widely, the paired difference excludes zero."""
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 2, 600)
    base = rng.normal(1.2 * labels, 1)
    better = base + 0.25 * labels + rng.normal(0, 0.1, 600)
    difference = metrics.paired_auc_difference(labels, better, base)
    assert difference.value == pytest.approx(metrics.auc(labels, better) - metrics.auc(labels, base))
    assert difference.low > 0
    assert metrics.auc_interval(labels, better).low < metrics.auc_interval(labels, base).high
    assert metrics.paired_auc_difference(labels, base, base).value == 0
    grouped = metrics.paired_auc_difference(labels, better, base, np.arange(600) // 2)
    assert grouped.high - grouped.low == pytest.approx(difference.high - difference.low, rel=0.25)


def test_wilson_interval_of_a_textbook_share():
    """Newcombe, Stat Med 1998, table I: 81 of 263 gives .2553 to .3662; 0 of 20 gives 0 to .1611."""
    estimate = metrics.share([True] * 81 + [False] * 182)
    assert (estimate.low, estimate.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert metrics.share([False] * 20).high == pytest.approx(0.1611, abs=5e-5)


def test_sensitivity_counts_positives_and_specificity_negatives():
    labels, decisions = [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 1]
    assert (metrics.sensitivity(labels, decisions).value, metrics.sensitivity(labels, decisions).n) == (0.75, 4)
    assert (metrics.specificity(labels, decisions).value, metrics.specificity(labels, decisions).n) == (0.5, 2)


def test_grouped_share_is_worth_its_groups():
    """Twenty patients with ten equal samples each are twenty samples."""
    hits = np.arange(20) % 4 > 0
    grouped = metrics.share(np.repeat(hits, 10), np.repeat(np.arange(20), 10))
    alone = metrics.share(hits)
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert metrics.share([True] * 200, np.repeat(np.arange(20), 10)).low == pytest.approx(metrics.share([True] * 20).low)


def test_brier_accuracy_kappa_and_macro_auc_equal_scikit_learn():
    from sklearn.metrics import brier_score_loss, cohen_kappa_score, roc_auc_score

    rng = np.random.default_rng(8)
    labels = rng.integers(0, 4, 400)
    probabilities = rng.dirichlet(np.ones(4), 400) + 0.5 * np.eye(4)[labels]
    probabilities /= probabilities.sum(1, keepdims=True)
    predicted = np.where(rng.random(400) < 0.5, labels, rng.integers(0, 4, 400))
    assert metrics.brier(labels == 0, probabilities[:, 0]).value == pytest.approx(brier_score_loss(labels == 0, probabilities[:, 0]))
    assert metrics.accuracy(labels, predicted).value == pytest.approx((labels == predicted).mean())
    kappa = metrics.quadratic_weighted_kappa(labels, predicted, 4)
    assert kappa.value == pytest.approx(cohen_kappa_score(labels, predicted, weights="quadratic"), abs=1e-6)
    macro = metrics.macro_auc(labels, probabilities)
    assert macro.value == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"))
    for estimate in (kappa, macro):
        assert estimate.low < estimate.value < estimate.high


def test_calibration_error_of_known_distance():
    """Half the events happen where 80 % and 20 % were promised: the error is .3; what comes true as promised has nearly none."""
    off = metrics.calibration_error([1, 0] * 500, [0.8] * 500 + [0.2] * 500)
    assert off.value == pytest.approx(0.3, abs=1e-6)
    assert off.low < 0.3 < off.high
    rng = np.random.default_rng(9)
    promised = rng.random(5000)
    good = metrics.calibration_error(rng.random(5000) < promised, promised)
    assert good.value < 0.03
    assert good.low < 0.015
    assert metrics.calibration_error([0, 1], [0.5, 0.5]).reason == "insufficient evidence (n=2, at least 50 needed)"


def test_top_class_calibration_of_many_classes():
    probabilities = np.tile([0.7, 0.2, 0.1], (300, 1))
    assert metrics.calibration_error(np.repeat([0, 1, 2], 100), probabilities).value == pytest.approx(0.7 - 1 / 3, abs=1e-6)


def test_roc_band_holds_the_curve():
    labels, scores, groups = noisy(400, 10)
    grid = np.linspace(0.05, 0.95, 10)
    low, high = metrics.roc_band(labels, scores, grid, groups, replicates=200)
    rate, hits, _ = metrics.roc(labels, scores)
    curve = np.interp(grid, rate, hits)
    assert ((low <= curve) & (curve <= high)).all()
    assert (high - low).max() < 0.3


def test_student_quantile_within_one_percent_of_scipy():
    from scipy.stats import t

    for freedom in (4, 9, 30, 200):
        assert metrics._t(0.95, freedom) == pytest.approx(t.ppf(0.975, freedom), rel=0.01)
