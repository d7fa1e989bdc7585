"""What is said about how sure an answer is, against known truths."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from components.core.spec import DiseaseSpec
from components.core.uncertainty import COVERAGE, LEAST, Uncertainty
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
            held.append(one["low"] <= truth <= one["high"])
            width.setdefault(n, []).append(one["high"] - one["low"])
    assert np.mean(held) > 0.85
    assert np.mean(width[3200]) < np.mean(width[200]) / 2


def test_test_samples_are_preferred_to_those_that_calibration_saw() -> None:
    mixed = pd.concat([table(400, 1), table(400, 2, slope=0.1, split="val")])
    assert np.array_equal(Uncertainty.learn(lung_nodule(), mixed).lines, Uncertainty.learn(lung_nodule(), table(400, 1)).lines)  # type: ignore[arg-type]


def test_what_the_reference_cannot_support_is_not_said() -> None:
    few = table(400, 1)
    few = few[(few["label"] == 0) | (few["label"].cumsum() < LEAST)]
    (one,) = Uncertainty.learn(lung_nodule(), few).describe(np.array([[0.4, 0.6]]))
    assert one == {"entropy": 0.971, "coverage": None, "set": None, "low": None, "high": None}
    grades = DiseaseSpec.from_toml(CATALOGUE / "retinopathy-grading.toml")
    names = [f"score_{c}" for c in grades.target.classes]
    empty = pd.DataFrame({"label": [], "split": [], "group_id": []} | {name: [] for name in names})
    (one,) = Uncertainty.learn(grades, empty).describe(np.full((1, len(names)), 1 / len(names)))
    assert (one["entropy"], one["set"], one["low"]) == (1.0, None, None)
