"""Tests from counts say what the textbook's tests say from values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from components.monitor import two_sample
from components.monitor.sketch import MISSING, Places, Sketch, hashes


def counted(reference: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    places = Places.of({"x": reference})
    sides = []
    for values in (reference, window):
        sketch = Sketch.empty(1, 1)
        sketch.add(places, {"x": values}, hashes(range(len(values))))
        sides.append(sketch.counts[0, :, :MISSING].astype(float))
    return sides[0], sides[1]


def compared(reference: np.ndarray, window: np.ndarray) -> two_sample.Compared:
    before, after = counted(reference, window)
    return two_sample.numbers(before, after, np.array([len(reference)]), np.array([len(window)]))


def test_the_ks_distance_is_scipys_where_every_value_has_a_place() -> None:
    rng = np.random.default_rng(1)
    reference, window = rng.integers(0, 60, 400).astype(float), rng.integers(5, 64, 150).astype(float)
    assert compared(reference, window).distance[0] == pytest.approx(float(np.asarray(stats.ks_2samp(reference, window))[0]), abs=1e-12)


def test_the_location_test_has_the_p_of_its_permutations() -> None:
    rng = np.random.default_rng(2)
    reference, window = rng.normal(0, 1, 120), rng.normal(0.35, 1, 60)
    own = compared(reference, window)
    assert own.kind[0] == 0
    both = np.concatenate([reference, window])
    score = special.ndtri((stats.rankdata(both) - 0.5) / len(both))
    drawn = np.array([score[rng.permutation(len(both))[:60]].mean() for _ in range(20_000)])
    exact = float((np.abs(drawn) >= abs(score[120:].mean())).mean())
    assert own.p[0] * two_sample.WEIGHTS["location"] == pytest.approx(exact, rel=0.15)


def test_location_is_the_shift_in_standard_deviations_and_scale_has_none() -> None:
    rng = np.random.default_rng(3)
    reference = rng.normal(10, 4, 40_000)
    shifted, spread = compared(reference, rng.normal(10 + 0.3 * 4, 4, 40_000)), compared(reference, rng.normal(10, 8, 40_000))
    assert shifted.location[0] == pytest.approx(0.3, abs=0.03)
    assert abs(shifted.scale[0]) < 0.05
    assert abs(spread.location[0]) < 0.03
    assert spread.scale[0] > 0.5


def test_swapping_the_sides_changes_the_sign_only() -> None:
    before, after = counted(np.arange(50.0), np.arange(20.0, 60.0))
    one = two_sample.numbers(before, after, np.array([50.0]), np.array([40.0]))
    other = two_sample.numbers(after, before, np.array([40.0]), np.array([50.0]))
    assert one.location[0] == pytest.approx(-other.location[0])
    assert one.p[0] == pytest.approx(other.p[0])


def test_p_values_are_uniform_or_rarer_when_nothing_happened() -> None:
    rng = np.random.default_rng(4)
    for n in (30, 300):
        p = [float(compared(rng.lognormal(0, 1, 500), rng.lognormal(0, 1, n)).p[0]) for _ in range(600)]
        for level in (0.01, 0.05):
            allowed = 600 * level
            assert np.sum(np.array(p) <= level) <= allowed + 3 * np.sqrt(allowed)


def test_a_constant_feature_says_nothing_and_a_new_constant_says_much() -> None:
    assert compared(np.ones(300), np.ones(40)).p[0] == 1
    assert compared(np.ones(300), np.full(40, 2.0)).p[0] < 1e-6


def test_shares_are_fishers() -> None:
    p = two_sample.shares(np.array([0.02, 0.5]), np.array([0.3, 0.5]), 200, 40)
    table = [[12, 28], [4, 196]]
    one_sided = float(np.asarray(stats.fisher_exact(table, alternative="greater"))[1])
    assert p[0] == pytest.approx(2 * one_sided)
    assert p[1] == 1


def test_benjamini_hochberg_of_the_textbook() -> None:
    """Five p-values, adjusted by hand: p * 5 / rank, then the running minimum from the largest down."""
    assert two_sample.benjamini_hochberg([0.01, 0.04, 0.03, 0.005, 0.5]) == pytest.approx([0.025, 0.05, 0.05, 0.025, 0.5])
    assert list(two_sample.benjamini_hochberg([1.0])) == [1.0]
