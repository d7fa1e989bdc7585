"""What is said about how sure an answer is, against known truths."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from scipy.stats import binomtest

from components.core import wording
from components.core.spec import DiseaseSpec
from components.core.uncertainty import COVERAGE, LEAST, WIDEST, Uncertainty
from tests.serving.small_package import CATALOGUE, lung_nodule


def table(n: int, seed: int, *, slope: float = 1.0, split: str = "test") -> pd.DataFrame:
    """Samples whose true logit is `slope` times the logit that the model says; four of each patient."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 1.5, n)
    y = rng.random(n) < 1 / (1 + np.exp(-slope * logit))
    p = 1 / (1 + np.exp(-logit))
    columns = {"label": y.astype(int), "score_benign": 1 - p, "score_malignant": p, "split": split, "group_id": [f"g{k // 4}" for k in range(n)]}
    return pd.DataFrame(columns)


def probabilities(t: pd.DataFrame) -> np.ndarray:
    return t[["score_benign", "score_malignant"]].to_numpy()


def test_the_set_holds_the_truth_as_often_as_it_says_for_each_class() -> None:
    shares = []
    for seed in range(20):
        known = Uncertainty.learn(lung_nodule(), table(400, seed))
        fresh = table(2000, 1000 + seed)
        sets = [one["set"] for one in known.describe(probabilities(fresh))]
        label = fresh["label"].to_numpy()
        right = np.array([("benign", "malignant")[y] in s for y, s in zip(label, sets, strict=True)])
        shares.append([right[label == k].mean() for k in (0, 1)])
    assert np.mean(shares, axis=0) == pytest.approx([COVERAGE, COVERAGE], abs=0.02)


def test_an_undecided_probability_gives_both_classes_and_a_clear_one_gives_one() -> None:
    known = Uncertainty.learn(lung_nodule(), table(800, 1))
    middle, clear = known.describe(np.array([[0.5, 0.5], [0.001, 0.999]]))
    assert middle["set"] == ["benign", "malignant"]
    assert clear["set"] == ["malignant"]
    assert (middle["entropy"], clear["entropy"] < 0.02, middle["coverage"]) == (1.0, True, COVERAGE)


def test_the_interval_holds_the_true_share_and_shrinks_with_samples() -> None:
    held, width = [], {}
    for n in (200, 3200):
        for seed in range(30):
            known = Uncertainty.learn(lung_nodule(), table(n, seed, slope=1.3))
            (one,) = known.describe(np.array([[0.2, 0.8]]))
            truth = 1 / (1 + np.exp(-1.3 * np.log(4)))
            seen = one["observed"]
            held.append(seen["low"] <= truth <= seen["high"])
            width.setdefault(n, []).append(seen["high"] - seen["low"])
    assert np.mean(held) > 0.85
    assert np.mean(width[3200]) < np.mean(width[200]) / 2


def test_test_samples_are_preferred_to_those_that_calibration_saw() -> None:
    mixed = pd.concat([table(400, 1), table(400, 2, slope=0.1, split="val")])
    asked = np.array([[0.3, 0.7]])
    both, alone = (Uncertainty.learn(lung_nodule(), t).describe(asked)[0] for t in (mixed, table(400, 1)))
    assert both == alone
    assert alone["observed"]["of"] == "test"
    (val,) = Uncertainty.learn(lung_nodule(), table(400, 2, split="val")).describe(asked)
    assert val["observed"]["of"] == "validation and test"


def test_what_the_reference_cannot_support_is_not_said() -> None:
    few = table(400, 1)
    few = few[(few["label"] == 0) | (few["label"].cumsum() < LEAST)]
    (one,) = Uncertainty.learn(lung_nodule(), few).describe(np.array([[0.4, 0.6]]))
    assert (one["entropy"], one["coverage"], one["set"]) == (0.971, None, None)
    (one,) = Uncertainty.learn(lung_nodule(), table(LEAST - 1, 1)).describe(np.array([[0.4, 0.6]]))
    assert one == {"entropy": 0.971, "coverage": None, "set": None, "observed": None, "low": None, "high": None}
    grades = DiseaseSpec.from_toml(CATALOGUE / "retinopathy-grading.toml")
    names = [f"score_{c}" for c in grades.target.classes]
    empty = pd.DataFrame({"label": [], "split": [], "group_id": []} | {name: [] for name in names})
    (one,) = Uncertainty.learn(grades, empty).describe(np.full((1, len(names)), 1 / len(names)))
    assert (one["entropy"], one["set"], one["observed"], one["low"]) == (1.0, None, None, None)


def counted(p: np.ndarray, positive: np.ndarray, group: list[str] | None = None) -> Uncertainty:
    t = pd.DataFrame({"label": positive.astype(int), "score_benign": 1 - p, "score_malignant": p, "split": "test"})
    return Uncertainty.learn(lung_nodule(), t.assign(group_id=group or [f"g{n}" for n in range(len(p))]))


def asked(known: Uncertainty, p: float) -> dict[str, Any]:
    return known.describe(np.array([[1 - p, p]]))[0]


def test_what_is_said_of_a_probability_near_one_is_what_was_counted_there() -> None:
    """41 of 41 is at least 91 % (Clopper and Pearson); it was said to be 98.8 % to 99.9 % of a line through everything."""
    p = np.concatenate([np.linspace(0.01, 0.5, 200), np.linspace(0.901, 0.999, 41)])
    one = asked(counted(p, p > 0.3), 0.997)
    seen = one["observed"]
    assert (seen["k"], seen["n"], seen["from"], seen["to"]) == (41, 41, 0.9, 1.0)
    assert seen["low"] == pytest.approx(0.025 ** (1 / 41), abs=1e-4)
    assert wording.observed(seen, "malignant") == "of 41 test samples with 90 % or more, 41 were malignant: at least 91 % (95 % interval)"
    few = asked(counted(p[:-33], p[:-33] > 0.3), 0.997)
    assert few["observed"] is None, "8 samples within a quarter support nothing"


def test_an_interval_that_excludes_the_probability_is_not_shown_as_its_own() -> None:
    p = np.linspace(0.3, 0.5, 200)
    one = asked(counted(p, np.arange(200) % 10 == 0), 0.4)
    assert (one["low"], one["high"]) == (None, None)
    seen = one["observed"]
    assert seen["low"] <= seen["share"] <= seen["high"] < 0.4
    agrees = asked(counted(p, np.arange(200) % 5 < 2), 0.4)
    assert agrees["low"] <= 0.4 <= agrees["high"]


def test_samples_of_one_patient_count_as_one_patient() -> None:
    p = np.concatenate([np.linspace(0.01, 0.5, 60), np.linspace(0.91, 0.99, 60)])
    many, few = asked(counted(p, p > 0.6), 0.95), asked(counted(p, p > 0.6, [f"g{n % 3}" for n in range(120)]), 0.95)
    assert few["observed"]["low"] == pytest.approx(0.025 ** (1 / 3), abs=1e-4)
    assert many["observed"]["low"] > 0.9
    told = wording.observed(few["observed"], "malignant")
    assert "test samples of 3 patients with" in told
    assert told.endswith(": too few patients for an interval")


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(st.integers(1, 400), st.integers(0, 2**32 - 1), st.floats(0, 1), st.sampled_from([0.05, 1, 20]))
def test_whatever_is_counted_can_be_counted_again_by_the_reader(n: int, seed: int, p: float, spread: float) -> None:
    """Only from `from`, `to` and the samples; ends never narrower than scipy's exact ones of the same counts, and never empty of their share."""
    rng = np.random.default_rng(seed)
    own = rng.beta(spread, spread, n)
    label, group = rng.random(n) < own**2, [f"g{k}" for k in rng.integers(0, max(1, n // 2), n)]
    one = asked(counted(own, label, group), p)
    seen = one["observed"]
    if seen is None:
        lying_near = np.sum(abs(own - p) <= WIDEST)
        assert lying_near < LEAST
        return
    inside = (own >= seen["from"]) & (own <= seen["to"])
    assert seen["from"] <= p <= seen["to"]
    assert (seen["n"], seen["k"]) == (inside.sum(), label[inside].sum())
    assert seen["n"] >= LEAST
    exact = binomtest(int(seen["k"]), int(seen["n"])).proportion_ci(0.95, "exact")
    assert seen["low"] <= exact.low + 5e-5
    assert seen["high"] >= exact.high - 5e-5
    assert seen["low"] - 1e-4 <= seen["share"] <= seen["high"] + 1e-4
    assert one["low"] is None or one["low"] <= p <= one["high"]
