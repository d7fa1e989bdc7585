"""Figures in words: what stands there is what the number supports, never more."""

from __future__ import annotations

import re

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from scipy.stats import binomtest

from components.core import exact, wording

FEW = settings(max_examples=200, derandomize=True, deadline=None, database=None)
COUNTS = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (8, 8), (2, 2), (41, 41), (3, 20), (0, 122), (17, 40), (999, 1000)])
def test_exact_intervals_are_scipys(k: int, n: int):
    told = binomtest(k, n).proportion_ci(0.95, "exact")
    assert exact.interval(k, n) == pytest.approx((told.low, told.high), abs=1e-9)


def test_known_ends():
    assert exact.interval(8, 8)[0] == pytest.approx(0.6306, abs=1e-4)
    assert exact.interval(2, 2)[0] == pytest.approx(0.1581, abs=1e-4)
    with pytest.raises(ValueError, match="k=3, n=2"):
        exact.interval(3, 2)


@FEW
@given(COUNTS, st.data())
def test_an_interval_in_words_holds_the_share_and_claims_no_more_than_the_exact_one(counts: tuple[int, int], data: st.DataObject):
    k, n = counts
    groups = data.draw(st.integers(1, n))
    low, high = exact.interval(k, n, groups)
    single = binomtest(k, n).proportion_ci(0.95, "exact")
    assert low <= single.low + 1e-9
    assert high >= single.high - 1e-9
    assert low <= k / n <= high
    told = wording.bounds(low, high)
    ends = [int(v) / 100 for v in re.findall(r"(\d+) %", told)]
    said = (0.0, 1.0) if told == "anything" else (ends[0], 1.0) if "least" in told else (0.0, ends[0]) if "most" in told else tuple(ends)
    assert said[0] <= low + 1e-9
    assert said[1] >= high - 1e-9
    assert said[0] <= k / n <= said[1]
    assert said[0] > low - 0.0101
    assert said[1] < high + 0.0101


@FEW
@given(st.floats(0, 1))
def test_no_probability_is_certain_in_words(p: float):
    told = wording.probability(p)
    assert not re.search(r"\b(0|100) %", told)
    value = float(re.sub(r"\D", "", told)) / 100
    assert abs(value - p) <= 0.0101
    assert 0 < wording.percent(p) < 100
    assert (p > 0.99) == told.startswith("over")
    assert (p < 0.01) == told.startswith("under")


@pytest.mark.parametrize(
    ("p", "line", "told"),
    [
        (0.77, 0.466, ("77 %", "47 %")), (0.4652, 0.4671, ("46.5 %", "46.7 %")), (0.998, 0.995, ("99.8 %", "99.5 %")),
        (1.0, 0.9999, ("over 99 %", "over 99 %, just below this probability")),
        (0.0, 0.0001, ("under 1 %", "under 1 %, just above this probability")),
    ],
)  # fmt: skip
def test_a_probability_beside_the_line_is_neither_on_it_nor_certain(p: float, line: float, told: tuple[str, str]):
    assert wording.apart(p, line) == told


def facts(**more: object) -> dict[str, object]:
    usual = {"from": 0.35, "to": 0.45, "n": 30, "k": 6, "groups": 30, "grouping": "patient", "share": 0.2, "of": "test"}
    low, high = exact.interval(int(str((usual | more)["k"])), int(str((usual | more)["n"])))
    return usual | {"low": low, "high": high} | more


def test_sentences_about_what_was_counted():
    assert wording.observed(facts(), "malignant") == "of 30 test samples with 35 % to 45 %, 6 were malignant (20 %; 95 % interval 7 % to 39 %)"
    none = facts(k=0, n=40, groups=40, **{"from": 0.0, "to": 0.02})
    assert wording.observed(none, "malignant") == "of 40 test samples with 2 % or less, 0 were malignant: at most 9 % (95 % interval)"
    one = facts(k=1, n=40, groups=12, of="validation and test")
    assert wording.observed(one, "2 or more").startswith(
        "of 40 validation and test samples of 12 patients with 35 % to 45 %, 1 was 2 or more: at most 14 %"
    )
    lone = facts(low=0.0, high=1.0, groups=1)
    assert wording.observed(lone, "freeze") == "of 30 test samples of 1 patient with 35 % to 45 %, 6 were freeze: too few patients for an interval"


def test_lists_and_sentences():
    assert [wording.either(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a or b", "a, b or c"]
    assert wording.sentence("device without profile") == "Device without profile."
    assert wording.probabilities({"a": 0.004, "b": 0.996}) == "b over 99 %, a under 1 %"
    assert wording.unbroken(["67 %"]) == ("67\u00a0%",)
