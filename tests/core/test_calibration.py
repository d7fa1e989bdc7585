"""Calibration finds what made the labels, and stays moderate where there is little to find."""

from __future__ import annotations

import json

import numpy as np
import pytest

from components.core import calibration, metrics
from components.core.calibration import Calibration
from components.core.errors import DataError


def test_binary_recovers_the_temperature_and_bias_that_made_the_labels():
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 4, (20_000, 2))
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-(scores[:, 1] - scores[:, 0] - 1.5) / 2.5))).astype(int)
    fitted = calibration.fit(labels, scores)
    assert fitted.kind == "softmax"
    assert fitted.temperature[0] == pytest.approx(2.5, rel=0.05)
    assert fitted.bias[1] - fitted.bias[0] == pytest.approx(-1.5, abs=0.15)


def test_binary_equals_logistic_regression_on_the_margin():
    """Platt's scaling is a logistic regression of the label on the margin; priors vanish with n."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(1)
    scores = rng.normal(0, 2, (5000, 2))
    labels = (rng.random(5000) < 1 / (1 + np.exp(-0.7 * (scores[:, 1] - scores[:, 0]) + 0.5))).astype(int)
    margin = (scores[:, 1] - scores[:, 0])[:, None]
    oracle = LogisticRegression(C=np.inf).fit(margin, labels).predict_proba(margin)[:, 1]
    np.testing.assert_allclose(calibration.apply(calibration.fit(labels, scores), scores)[:, 1], oracle, atol=0.005)


def test_multiclass_recovers_temperature_and_biases():
    rng = np.random.default_rng(2)
    scores = rng.normal(0, 3, (30_000, 4))
    bias = np.array([1.0, -1.0, 0.5, -0.5])
    p = np.exp((scores + bias) / 1.8)
    p /= p.sum(1, keepdims=True)
    labels = (rng.random(30_000)[:, None] > p.cumsum(1)).sum(1)
    fitted = calibration.fit(labels, scores)
    assert fitted.temperature[0] == pytest.approx(1.8, rel=0.05)
    np.testing.assert_allclose(fitted.bias, bias, atol=0.15)
    np.testing.assert_allclose(calibration.apply(fitted, scores).sum(1), 1)


def test_multilabel_is_calibrated_class_by_class():
    rng = np.random.default_rng(3)
    scores = rng.normal(0, 2, (20_000, 2))
    labels = (rng.random((20_000, 2)) < 1 / (1 + np.exp(-(scores + [0.5, -2.0]) / [1.5, 0.6]))).astype(np.float32)
    fitted = calibration.fit(labels, scores)
    assert fitted.kind == "sigmoid"
    np.testing.assert_allclose(fitted.temperature, [1.5, 0.6], rtol=0.06)
    np.testing.assert_allclose(fitted.bias, [0.5, -2.0], atol=0.12)
    assert calibration.apply(fitted, scores).sum(1).max() > 1


def test_overconfident_scores_become_calibrated():
    rng = np.random.default_rng(4)
    honest = rng.normal(0, 2, 4000)
    labels = (rng.random(4000) < 1 / (1 + np.exp(-honest))).astype(int)
    scores = np.stack([np.zeros(4000), 6 * honest], axis=1)
    before = metrics.calibration_error(labels[2000:], 1 / (1 + np.exp(-6 * honest[2000:])))
    after = metrics.calibration_error(labels[2000:], calibration.apply(calibration.fit(labels[:2000], scores[:2000]), scores[2000:])[:, 1])
    assert before.low > 0.1
    assert after.value < 0.04


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_ten_separated_samples_give_a_moderate_answer(scale: float):
    """Without priors the slope would be infinite; and the unit of the scores does not matter."""
    scores = scale * np.stack([np.zeros(10), np.r_[-5.0:0, 1.0:6]], axis=1)
    p = calibration.apply(calibration.fit(np.repeat([0, 1], 5), scores), scores)[:, 1]
    assert 0.75 < p[-1] < 0.999
    assert (np.diff(p) > 0).all()
    assert p == pytest.approx(1 - p[::-1], abs=0.12)


def test_one_class_and_constant_scores_stay_finite():
    one = calibration.fit([1, 1, 1], [[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
    assert calibration.apply(one, [[0.0, 2.0]])[0, 1] < 0.99
    constant = calibration.fit([0, 1, 1, 1], np.zeros((4, 2)))
    assert calibration.apply(constant, np.zeros((1, 2)))[0, 1] == pytest.approx(0.7, abs=0.06)


def test_ranks_are_kept():
    rng = np.random.default_rng(5)
    scores = rng.normal(size=(200, 2))
    labels = (scores[:, 1] - scores[:, 0] + rng.normal(size=200) > 0).astype(int)
    p = calibration.apply(calibration.fit(labels, scores), scores)[:, 1]
    assert (np.argsort(p) == np.argsort(scores[:, 1] - scores[:, 0])).all()


def test_extreme_scores_give_probabilities():
    p = calibration.apply(Calibration("softmax", (0.01,), (0.0, 0.0)), [[-1e6, 1e6], [1e6, -1e6]])
    assert p.tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_json_round_trip():
    fitted = calibration.fit([0, 1, 1, 0], [[0.0, 1.0], [0.0, 2.0], [0.0, 0.1], [0.0, -3.0]])
    assert Calibration.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"kind": "isotonic", "temperature": [1], "bias": [0, 0]},
        {"kind": "softmax", "temperature": [0], "bias": [0, 0]},
        {"kind": "sigmoid", "temperature": [1], "bias": [0, 0]},
    ],
)
def test_broken_json_is_a_data_error(raw: dict):
    with pytest.raises(DataError, match="calibration"):
        Calibration.from_dict(raw)


def test_scores_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="do not fit"):
        calibration.fit([0, 1], [[0.0, 1.0]])
    with pytest.raises(DataError, match="not finite"):
        calibration.fit([0], [[0.0, np.nan]])
    with pytest.raises(DataError, match="outside the classes"):
        calibration.fit([2], [[0.0, 1.0]])
    with pytest.raises(DataError, match="another shape"):
        calibration.apply(Calibration("softmax", (1.0,), (0.0, 0.0)), [[1.0, 2.0, 3.0]])
