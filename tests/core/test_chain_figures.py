"""Dice and FROC against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from components.core.dice import dice
from components.core.errors import DataError
from components.core.froc_scans import Scan, froc, match, sensitivities


def test_dice_of_known_masks():
    a = np.array([1, 1, 1, 0, 0])
    assert dice(a, [0, 1, 1, 1, 0]) == pytest.approx(2 * 2 / 6)
    assert dice(a, 1 - a) == 0
    assert dice(a, a) == dice([0], [0]) == 1
    with pytest.raises(DataError, match="different shapes"):
        dice(a, a[:3])


def test_matching_follows_the_rules_of_the_challenge():
    """One lesion at 0 with radius 3 is marked twice, one at 20 not at all; one mark lies on an open finding and one on nothing."""
    marks = [[1, 0, 0], [2.9, 0, 0], [40, 0, 0], [60, 0, 0], [3.1, 0, 0]]
    scan = match(marks, [0.4, 0.7, 0.9, 0.8, 0.2], [[0, 0, 0], [20, 0, 0]], [3, 3], [[41, 0, 0]], [2])
    assert scan.hits.tolist() == [0.7, -np.inf]
    assert scan.best.tolist() == [1, -1]
    assert sorted(scan.alarms.tolist()) == [0.2, 0.8]


def scan(hits: list[float], alarms: list[float]) -> Scan:
    return Scan(np.array(hits), np.array(alarms), np.zeros(len(hits), dtype=np.int64))


def test_sensitivity_at_each_rate_of_false_alarms():
    """Two scans: at 1/2 a scan one alarm (0.8) is allowed, so lesions above the next one's 0.5 count; at 1/8 none, so above 0.8."""
    scans = [scan([0.9, 0.6], [0.8]), scan([0.4, -np.inf], [0.5, 0.3])]
    assert sensitivities(scans, [0.125, 0.5, 1.0, 8.0]).tolist() == [0.25, 0.5, 0.75, 0.75]


def test_a_lesion_that_ties_with_the_next_alarm_is_not_counted():
    assert sensitivities([scan([0.5], [0.5])], [0.125]).tolist() == [0.0]


def test_perfect_marks_give_one_with_an_interval_of_one():
    made = froc([scan([0.9], []) for _ in range(8)])
    assert (made["mean"].value, made["mean"].low, made["mean"].high, made["mean"].n) == (1, 1, 1, 8)
    assert list(made) == ["0.125", "0.25", "0.5", "1", "2", "4", "8", "mean"]


def test_the_interval_is_over_scans_and_too_few_give_none():
    made = froc([scan([0.9] * 10, []) if k % 2 else scan([-np.inf] * 10, []) for k in range(10)])["1"]
    assert made.value == 0.5
    assert made.low is not None
    assert made.high is not None
    assert made.low <= 0.3  # one coin for each scan, not for each of 100 lesions, where the interval would be 0.40 to 0.60
    assert made.high >= 0.7
    assert froc([scan([0.9], [])] * 3)["mean"].value is None
