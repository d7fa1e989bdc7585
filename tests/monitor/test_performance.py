"""The AUC that is expected without labels: right where its assumptions hold, silent where they do not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from components.core.errors import DataError
from components.core.metrics import auc
from components.monitor.performance import Learned, estimate, learn

Floats = NDArray[np.float64]


def drawn(n: int, seed: int, *, spread: float = 1.5, base: float = 0.0) -> tuple[Floats, NDArray[np.int64]]:
    """Calibrated probabilities, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-(base + spread * rng.standard_normal(n))))
    return p, (rng.random(n) < p).astype(np.int64)


@pytest.fixture(scope="module")
def learned() -> Learned:
    p, y = drawn(6000, 0)
    return learn(p, y, np.repeat(["a", "b"], 3000))


def expected_auc(p: Floats) -> float:
    """Of infinitely many labels: every pair weighs p_i (1 - p_j)."""
    w = p[:, None] * (1 - p)[None, :]
    return float((w * ((p[:, None] > p) + 0.5 * (p[:, None] == p))).sum() / w.sum())


def test_calibrated_probabilities_give_the_auc_that_they_promise(learned: Learned) -> None:
    p, y = drawn(1000, 1)
    found = estimate(learned, p, "a")
    assert found.judged
    assert found.value == pytest.approx(expected_auc(p), abs=0.02)
    assert found.low is not None
    assert found.high is not None
    assert found.low < auc(y, p) < found.high


def test_a_device_whose_probabilities_are_steeper_than_true_is_seen_through() -> None:
    """The ranks are the same, so the AUC is; probabilities taken at their word would promise more."""
    p, y = drawn(3000, 2, spread=1.0)
    steep = 1 / (1 + np.exp(-2.5 * np.log(p / (1 - p))))
    found = estimate(learn(steep[:2000], y[:2000], ["a"] * 2000), steep[2000:], "a")
    assert found.value == pytest.approx(expected_auc(p[2000:]), abs=0.03)
    assert expected_auc(steep[2000:]) > expected_auc(p[2000:]) + 0.08


def test_patients_with_several_samples_make_it_less_sure() -> None:
    rng = np.random.default_rng(3)
    p = np.repeat(drawn(300, 4)[0], 4)
    y = np.repeat((rng.random(300) < p[::4]).astype(np.int64), 4)  # one patient, one truth
    group = np.repeat(np.arange(300), 4)
    together = learn(p, y, ["a"] * 1200, group)
    found = [estimate(together, p, "a", g, max_width=1) for g in (None, group)]
    width = [f.high - f.low for f in found if f.high is not None and f.low is not None]
    assert width[1] > 1.2 * width[0]


@pytest.mark.parametrize(
    ("probabilities", "device", "options", "reason"),
    [
        (drawn(20, 5)[0], "a", {}, "20 samples, 30 needed"),
        (drawn(100, 5)[0], "unheard", {}, "the device is not in the reference"),
        (drawn(100, 5)[0], "a", {"drift": "noise +38 %"}, "drift on this device: noise +38 %"),
        (np.full(100, 0.999999), "a", {}, "100% of the probabilities lie outside the reference of this device"),
        (np.full(0, 0.5), "a", {}, "no samples"),
        (np.r_[drawn(99, 5)[0], np.nan], "a", {}, "probabilities that are not numbers in [0, 1]"),
        (np.full(100, 0.02), "a", {}, "of a class expected, 5 needed"),
        (drawn(60, 6)[0], "a", {"max_width": 0.05}, "wide, 0.05 at most"),
    ],
)
def test_where_nothing_can_be_known_nothing_is_said(learned: Learned, probabilities: Floats, device: str, options: dict, reason: str) -> None:
    found = estimate(learned, probabilities, device, **options)
    assert (found.judged, found.value, found.low, found.high) == (False, None, None, None)
    assert reason in found.reason


def test_a_reference_that_contradicts_itself_judges_nobody() -> None:
    p, y = drawn(800, 7)
    bent = np.where(p > 0.5, 1 - (1 - p) / 4, p / 4)
    bumpy = np.where((p > 0.4) & (p < 0.6), 1 - p, bent)  # no smooth calibration mends a hole in the middle
    y = np.where((p > 0.4) & (p < 0.6), 1, y)
    assert "do not come true" in estimate(learn(bumpy, y, ["a"] * 800), bumpy[:200], "a").reason
    few = learn(p[:40], y[:40], ["a"] * 40)
    assert estimate(few, p[:100], "a").reason == "40 labelled reference samples of this device, 60 needed"


def test_several_classes_are_judged_by_the_mean_over_one_against_the_rest() -> None:
    rng = np.random.default_rng(8)
    logits = 1.3 * rng.standard_normal((1500, 3))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y = (p.cumsum(1) < rng.random((1500, 1))).sum(1)
    found = estimate(learn(p[:1000], y[:1000], ["a"] * 1000), p[1000:], "a")
    truth = np.mean([auc(y[1000:] == k, p[1000:, k]) for k in range(3)])
    assert found.metric == "macro_auc"
    assert found.low is not None
    assert found.high is not None
    assert found.low < truth < found.high


def test_what_is_no_probability_or_no_label_is_one_line() -> None:
    with pytest.raises(DataError, match="not numbers in"):
        learn([0.2, 1.4], [0, 1], ["a", "a"])
    with pytest.raises(DataError, match="labels outside the classes"):
        learn([0.2, 0.4], [0, 2], ["a", "a"])
    with pytest.raises(DataError, match="do not fit"):
        learn([0.2, 0.4], [0], ["a", "a"])
