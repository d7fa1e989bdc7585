"""Late fusion: known values, an oracle, and that covariates which carry nothing, or are not told, leave the image model's answer alone."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from components.core import fusion, metrics
from components.core.errors import DataError
from components.core.fusion import Fusion, Number, Term

HALF = np.full((1, 2), 0.5)
SEX = Fusion("softmax", ("benign", "malignant"), ("age_years", "sex"),
    (Term("sex", "F", (-0.5, 0.5)), Term("age_years", "told", (0.0, 0.0)), Term("age_years", "per sd", (0.0, 1.0))),
    {"age_years": Number(50.0, 10.0, 30.0, 70.0)}, 3.0, 0.1, 0.01, 200, 100)  # fmt: skip


def test_a_shift_multiplies_the_odds():
    """sex F: odds times e; sex F at 60 years, one sd above the mean: times e once more."""
    p = np.array([[0.75, 0.25], [0.75, 0.25]])
    got = SEX.apply(p, [{"sex": "F"}, {"sex": "F", "age_years": 60.0}])
    np.testing.assert_allclose(got[:, 1] / got[:, 0], np.array([np.e, np.e**2]) / 3, rtol=1e-12)
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-12)
    several = Fusion("sigmoid", ("a", "b"), ("sex",), (Term("sex", "M", (1.0, -1.0)),))
    q = several.apply([[0.5, 0.2]], [{"sex": "M"}])[0]
    np.testing.assert_allclose(q / (1 - q), [np.e, 0.25 / np.e], rtol=1e-12)


def test_what_is_not_told_or_was_never_seen_leaves_the_very_same_numbers():
    p = np.array([[0.7, 0.3], [0.1, 0.9], [1.0, 0.0]])
    told: list[dict[str, Any]] = [{}, {"sex": None}, {"sex": "O"}]
    np.testing.assert_array_equal(SEX.apply(p, told), p)
    assert [SEX.used(one) for one in told] == [(), (), ()]
    assert SEX.used({"sex": "F", "age_years": 50.0}) == ("age_years", "sex")  # an age at the mean is used: it says "average"


def test_a_missing_age_is_not_an_age_of_zero():
    assert SEX.apply(HALF, [{"age_years": 0.0}])[0, 1] < 0.2
    assert SEX.apply(HALF, [{}])[0, 1] == 0.5


def test_beyond_the_ages_of_validation_the_nearest_of_them_counts():
    old = SEX.apply(np.repeat(HALF, 2, axis=0), [{"age_years": 70.0}, {"age_years": 90.0}])
    assert old[0, 1] == old[1, 1] > 0.5


def test_extreme_scores_stay_probabilities():
    steep = Fusion("softmax", ("a", "b"), ("sex",), (Term("sex", "F", (20.0, -20.0)),))
    np.testing.assert_allclose(steep.apply([[0.0, 1.0], [1e-300, 1.0]], [{"sex": "F"}] * 2), [[0, 1], [0, 1]], atol=1e-12)


def told_by(rng: np.random.Generator, n: int) -> list[dict[str, Any]]:
    return [{"age_years": float(rng.normal(50, 15)), "sex": "FM"[rng.integers(2)]} for _ in range(n)]


def fitted(y: Any, p: Any, told: list[dict[str, Any]], groups: Any = None) -> Fusion:
    return fusion.fit(y, p, told, groups, classes=["benign", "malignant"], names=["age_years", "sex"])


def test_the_weights_are_the_log_ratio_of_how_often_each_class_has_the_word():
    """P(F | malignant) = 0.8, P(F | benign) = 0.2, image model without a clue: F multiplies the odds by 4, M by 1/4."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 1500)
    told = [{"sex": "F" if rng.random() < (0.8 if k else 0.2) else "M"} for k in y]
    found = fitted(y, np.full((len(y), 2), 0.5), told)
    odds = {term.what: np.exp(term.weights[1] - term.weights[0]) for term in found.terms}
    share = {k: np.mean([t["sex"] == "F" for t, label in zip(told, y, strict=True) if label == k]) for k in (0, 1)}
    assert odds["F"] == pytest.approx(share[1] / share[0], rel=0.3)
    assert odds["M"] == pytest.approx((1 - share[1]) / (1 - share[0]), rel=0.3)
    assert found.gain > 0.1
    held = fitted(y[::-1], np.full((len(y), 2), 0.5), told)  # the same words beside other people's labels
    assert held.identity


def test_a_covariate_that_alone_separates_the_classes_is_found():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 120)
    p = np.full((120, 2), 0.5)
    told = [{"age_years": float(rng.normal(70 if k else 40, 3)), "sex": "F"} for k in y]
    found = fitted(y, p, told)
    assert metrics.auc(y, found.apply(p, told)[:, 1]) > 0.99
    assert (found.n, found.groups) == (120, 120)


@pytest.mark.parametrize("seed", range(4))
def test_covariates_that_carry_nothing_fall_back_to_the_image_alone(seed: int):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, 80)
    p = np.clip(0.5 + 0.2 * (2 * y - 1) + rng.normal(0, 0.15, 80), 0.02, 0.98)
    p = np.stack([1 - p, p], axis=1)
    found = fitted(y, p, told_by(rng, 80))
    assert found.identity
    np.testing.assert_array_equal(found.apply(p, told_by(rng, 80)), p)


def test_a_patients_samples_never_help_to_judge_each_other():
    """20 samples of each of 50 patients, each patient of one class and one age: seen sample by sample, ages would tell the patients apart."""
    rng = np.random.default_rng(3)
    label, age = rng.integers(0, 2, 50), rng.normal(50, 15, 50)
    of = np.repeat(np.arange(50), 20)
    told: list[dict[str, Any]] = [{"age_years": float(age[i]), "sex": "FM"[i % 2]} for i in of]
    found = fitted(label[of], np.full((1000, 2), 0.5), told, of.tolist())
    assert found.groups == 50
    assert found.identity


def test_the_regression_is_scikit_learns():
    """With an image model that knows nothing, its minimum is that of a multinomial logistic regression without intercept, C = 1 / penalty."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(4)
    design, y = rng.normal(size=(200, 3)), rng.integers(0, 3, 200)
    mine = fusion._regression("softmax", np.eye(3)[y], np.full((200, 3), 1 / 3), design, 10.0)
    other = LogisticRegression(C=0.1, fit_intercept=False, tol=1e-8, max_iter=1000).fit(design, y).coef_.T
    np.testing.assert_allclose(mine, other, atol=1e-3)


def test_too_few_groups_or_nothing_told_is_no_fusion():
    rng = np.random.default_rng(5)
    y = np.arange(fusion.MIN_GROUPS - 1) % 2
    told = [{"sex": "FM"[k]} for k in y]
    assert fitted(y, np.full((len(y), 2), 0.5), told).identity
    assert fitted(rng.integers(0, 2, 100), np.full((100, 2), 0.5), [{}] * 100).identity


def test_it_survives_json_and_refuses_what_is_none():
    assert Fusion.from_json(json.dumps(SEX.to_dict())) == SEX
    none = Fusion("softmax", ("a", "b"), ("sex",))
    assert Fusion.from_json(json.dumps(none.to_dict())) == none
    raw = SEX.to_dict()
    for change in (
        {"covariates": ["name"]}, {"kind": "other"}, {"numbers": {}}, {"terms": [{"covariate": "sex", "what": "F", "weights": [1.0]}]},
        {"terms": [{"covariate": "sex", "what": "F", "weights": [1.0, 1e9]}]}, {"terms": [{"covariate": "sex", "what": "F", "weights": [1.0, "x"]}]},
        {"n": None},
    ):  # fmt: skip
        with pytest.raises(DataError):
            Fusion.from_dict(raw | change)
    with pytest.raises(DataError, match="not JSON"):
        Fusion.from_json("{")
    with pytest.raises(DataError, match="do not fit"):
        SEX.apply(HALF, [])
