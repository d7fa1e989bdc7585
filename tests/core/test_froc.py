"""CAMELYON16's lesion figure against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from components.core.errors import DataError
from components.core.froc import RATES, froc, marks, slide

FAR = [(100.0 * n, 0.0) for n in range(6)]  # tiles that are no neighbours


def test_a_mark_takes_its_neighbourhood():
    """Three tiles in a row, 48 apart: the middle one is highest and within 50 of both others."""
    places = [(0, 0), (48, 0), (96, 0), (300, 0)]
    assert marks(places, [0.6, 0.9, 0.8, 0.7], near=50).tolist() == [1, 3]
    assert marks(places, [0.6, 0.9, 0.8, 0.7], near=10).tolist() == [1, 2, 3, 0]
    assert marks(places, [0.6, 0.01, 0.02, 0.03], near=10).tolist() == [0]


def test_the_best_mark_of_a_lesion_counts_and_the_others_are_no_false_positives():
    found = slide(FAR, [0.9, 0.8, 0.7, 0.6, 0.0, 0.0], ["a", "a", None, "b", "c", None], near=50)
    assert found.hits.tolist() == [0.9, 0.6, -np.inf]  # a, b, c: c has no mark
    assert found.alarms.tolist() == [0.7]


def test_ignored_lesions_count_neither_way():
    found = slide(FAR[:3], [0.9, 0.8, 0.7], ["itc", "a", None], near=50, ignored={"itc"})
    assert found.hits.tolist() == [0.8]
    assert found.alarms.tolist() == [0.7]


def test_sensitivity_at_each_rate_by_hand():
    """Four slides, so rates 1/4, 1/2, 1, 2, ... allow 1, 2, 4, 8, ... false positives. Alarms .95 .85 .75 .55 .5; lesions .9 .8 .6 .3.

    At most one above: threshold over .85, one lesion of four. Two: over .75, two. Four: over .5, three. More: all four.
    """
    slides = [
        slide(FAR[:3], [0.9, 0.95, 0.85], ["a", None, None], near=50),
        slide(FAR[:2], [0.8, 0.75], ["b", None], near=50),
        slide(FAR[:3], [0.6, 0.3, 0.55], ["c", "d", None], near=50),
        slide(FAR[:1], [0.5], [None], near=50),
        slide([(0, 0)], [0.01], [None], near=50),
    ]
    assert RATES == (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    found = froc(slides)  # five slides: 1.25 -> 1, 2.5 -> 2, 5 -> all five alarms, so every lesion that has a mark
    values = [found[f"{rate:g}"].value for rate in RATES]
    assert values == [0.25, 0.5, 1.0, 1.0, 1.0, 1.0]
    mean = found["mean"]
    assert mean.value == pytest.approx((0.25 + 0.5 + 4) / 6)
    assert mean.low is not None and mean.high is not None and mean.value is not None  # noqa: PT018
    assert mean.low <= mean.value <= mean.high
    assert mean.n == 4


def test_perfect_marks_reach_one_and_no_marks_zero():
    good = [slide([(0, 0)], [0.9], ["a"], near=1) for _ in range(6)]
    none = [slide([(0, 0)], [0.0], ["a"], near=1) for _ in range(6)]
    assert froc(good)["mean"].value == 1
    assert froc(none)["mean"].value == 0


def test_too_few_slides_or_no_lesion_give_no_number():
    assert froc([slide([(0, 0)], [0.9], ["a"], near=1)])["mean"].value is None
    assert froc([slide([(0, 0)], [0.9], [None], near=1)] * 8)["mean"].value is None


def test_places_without_probabilities_are_refused():
    with pytest.raises(DataError, match="differ in number"):
        marks([(0, 0)], [0.1, 0.2], near=1)
