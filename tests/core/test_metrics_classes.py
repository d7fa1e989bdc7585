"""Pairs of classes and coarse classes against sums that can be done by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from components.core import metrics
from components.core.metrics_classes import coarse_names, coarse_of, coarse_probabilities, pairs, pairwise_auc
from components.core.models.family_figures import validation_figures
from tests.small_run import small_spec


def drawn(n: int = 300, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    s = rng.normal(0, 1, (n, classes)) + 1.2 * np.eye(classes)[y]
    p = np.exp(s)
    return y, p / p.sum(1, keepdims=True)


def brute(y: np.ndarray, p: np.ndarray, a: int, b: int) -> float:
    """Every sample of b against every sample of a."""
    score = p[:, b] / (p[:, a] + p[:, b])
    wins = [(score[i] > score[j]) + 0.5 * (score[i] == score[j]) for i in np.flatnonzero(y == b) for j in np.flatnonzero(y == a)]
    return float(np.mean(wins))


def test_each_pair_is_judged_on_its_own_samples():
    y, p = drawn(120)
    found = pairs(y, p)
    assert set(found) == set(combinations(range(4), 2))
    for (a, b), estimate in found.items():
        assert estimate.value == pytest.approx(brute(y, p, a, b))
        assert estimate.n == int(np.isin(y, (a, b)).sum())


def test_the_mean_over_pairs_is_hand_and_tills():
    y, p = drawn()
    found = pairwise_auc(y, p)
    values = [e.value for e in pairs(y, p).values() if e.value is not None]
    assert found.value == pytest.approx(np.mean(values))
    assert 0.5 < (found.low or 0) < (found.value or 0) < (found.high or 0) < 1


def test_of_two_classes_it_is_the_auc():
    y, p = drawn(classes=2)
    assert pairwise_auc(y, p).value == pytest.approx(metrics.auc(y, p[:, 1]))


def test_it_is_blind_to_how_common_a_class_is():
    """Drawing one class tenfold changes the macro AUC's comparisons, not the pairs'."""
    y, p = drawn()
    times = np.where(y == 0, 10, 1)
    many, q = np.repeat(y, times), np.repeat(p, times, axis=0)
    assert pairwise_auc(many, q).value == pytest.approx(pairwise_auc(y, p).value)


def test_the_interval_contains_the_truth_about_as_often_as_it_says():
    """60 studies of 150 samples; the truth from 20 000. Of 60 intervals of 95 %, fewer than 52 would hold with probability 0.005."""
    truth = pairwise_auc(*drawn(20_000, 3, seed=999)).value or 0
    found = [pairwise_auc(*drawn(150, 3, seed=seed)) for seed in range(60)]
    assert sum((e.low or 0) <= truth <= (e.high or 0) for e in found) >= 52


def test_an_absent_class_gives_no_number():
    y, p = drawn()
    y = np.where(y == 2, 1, y)
    assert pairwise_auc(y, p).value is None
    found = pairs(y, p)
    assert [pair for pair, e in found.items() if e.value is None] == [(0, 2), (1, 2), (2, 3)]


def test_repeated_groups_widen_the_interval():
    """Every sample three times over says nothing new; an interval that knows the groups stays as wide."""
    y, p = drawn(100, 3)
    thrice, q, groups = np.repeat(y, 3), np.repeat(p, 3, axis=0), np.repeat(np.arange(100), 3)
    blind, knowing, once = pairwise_auc(thrice, q), pairwise_auc(thrice, q, groups), pairwise_auc(y, p)

    def width(e: metrics.Estimate) -> float:
        return (e.high or 0) - (e.low or 0)

    assert width(blind) < 0.7 * width(knowing)
    assert width(knowing) == pytest.approx(width(once), rel=0.15)


def test_leaves_sum_to_their_parent():
    parents = {"a": "x", "b": "y", "c": "x"}
    spec = small_spec(target={"kind": "hierarchical", "classes": ["a", "b", "c"], "parents": parents, "source": "t"}, metrics=["auc"])
    p = np.array([[0.2, 0.3, 0.5], [0.7, 0.1, 0.2]])
    assert coarse_names(spec) == ("x", "y")
    assert coarse_of(spec).tolist() == [0, 1, 0]
    np.testing.assert_allclose(coarse_probabilities(spec, p), [[0.7, 0.3], [0.9, 0.1]])


def test_models_are_chosen_by_the_auc_that_is_reported():
    """Ordinal, positive from the middle grade on: the area of the summed probability, whatever the other classes do."""
    target = {"kind": "ordinal", "classes": ["none", "mild", "severe"], "positive": "mild", "source": "t"}
    spec = small_spec(target=target, metrics=["auc"])
    y, p = drawn(classes=3)
    found = validation_figures(spec, y, np.log(p).astype(np.float32))
    assert found["val_auc"] == pytest.approx(metrics.auc(y >= 1, p[:, 1] + p[:, 2]), abs=1e-6)
    spec = small_spec(target=target | {"positive": None}, metrics=["auc"])
    mean = np.mean([metrics.auc(y == k, p[:, k]) for k in range(3)])
    assert validation_figures(spec, y, np.log(p).astype(np.float32))["val_auc"] == pytest.approx(mean, abs=1e-6)
