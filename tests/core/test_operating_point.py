"""The operating point is what the spec's rule says, and stays the same decision when another engine rounds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from components.core.errors import DataError, SpecError
from components.core.metrics import quadratic_weighted_kappa
from components.core.operating_point import Decision, choose
from components.core.spec import DiseaseSpec
from tests.small_run import small_spec

LABELS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
P = np.array([0.05, 0.1, 0.2, 0.3, 0.6, 0.7, 0.25, 0.65, 0.8, 0.9])


def two_columns(p: np.ndarray) -> np.ndarray:
    return np.stack([1 - p, p], axis=1)


def with_rule(rule: str, at_least: float = 0.9) -> DiseaseSpec:
    return small_spec(operating_point={"rule": rule, "at_least": at_least})


@pytest.mark.parametrize(
    ("rule", "at_least", "threshold", "sensitivity", "specificity"),
    [
        ("sensitivity", 0.75, 0.625, 0.75, 5 / 6),  # between .65, the third hit, and .6 below it
        ("sensitivity", 0.76, 0.225, 1.0, 0.5),  # one more hit is needed: between .25 and .2
        ("specificity", 0.8, 0.625, 0.75, 5 / 6),
        ("specificity", 1.0, 0.75, 0.5, 1.0),
        ("youden", 0.0, 0.625, 0.75, 5 / 6),
    ],
)
def test_rule_gives_the_threshold_worked_out_by_hand(rule: str, at_least: float, threshold: float, sensitivity: float, specificity: float):
    decision = choose(with_rule(rule, at_least), LABELS, two_columns(P))
    decided = decision.decide(two_columns(P))
    assert decision.threshold == pytest.approx(threshold)
    assert decided[LABELS == 1].mean() == sensitivity
    assert 1 - decided[LABELS == 0].mean() == pytest.approx(specificity)


def test_rounding_of_another_engine_changes_no_decision():
    rng = np.random.default_rng(0)
    p = rng.random(500)
    labels = (rng.random(500) < p).astype(int)
    decision = choose(with_rule("sensitivity"), labels, two_columns(p))
    gap = np.abs(p - decision.threshold).min()
    assert (decision.decide(two_columns(p + 0.9 * gap)) == decision.decide(two_columns(p))).all()


def test_positive_class_may_come_first():
    spec = small_spec(target={"kind": "binary", "classes": ["sick", "well"], "positive": "sick", "source": "test"})
    decision = choose(spec, 1 - LABELS, two_columns(P)[:, ::-1])
    assert decision.names([[0.9, 0.1], [0.1, 0.9]]) == ["sick", "well"]


def test_full_sensitivity_and_full_specificity_are_reachable():
    found = choose(with_rule("sensitivity", 1.0), LABELS, two_columns(P)).decide(two_columns(P))
    assert found[LABELS == 1].all()
    found = choose(with_rule("specificity", 1.0), LABELS, two_columns(P)).decide(two_columns(P))
    assert not found[LABELS == 0].any()


def test_many_classes_take_the_highest():
    spec = small_spec(target={"kind": "ordinal", "classes": ["a", "b", "c"], "source": "test"}, metrics=["qwk"])
    decision = choose(spec, [0, 1, 2], np.eye(3))
    assert decision.kind == "highest"
    assert decision.threshold is None
    assert decision.decide([[0.2, 0.5, 0.3]]).tolist() == [1]


def ordinal(rule: str) -> DiseaseSpec:
    target = {"kind": "ordinal", "classes": ["a", "b", "c"], "source": "test"}
    return small_spec(target=target, metrics=["qwk"], operating_point={"rule": rule})


def test_cut_points_undo_what_unsure_probabilities_do_to_grades():
    """Every sample's probabilities are one part truth in three parts of one third each: the expected grade is then 2/3, 1 or 4/3 for the grades 0,
    1 and 2, and rounding calls them all 1. Cut points between them give every grade back; kappa is 1."""
    labels = np.tile([0, 1, 2], 20)
    p = (np.eye(3)[labels] + 2 / 3) / 3
    decision = choose(ordinal("kappa"), labels, p)
    assert decision.kind == "grades"
    assert decision.decide(p).tolist() == labels.tolist()
    low, high = decision.thresholds
    assert 2 / 3 < low < 1 < high < 4 / 3
    assert Decision.from_dict(json.loads(json.dumps(decision.to_dict()))) == decision
    assert decision.names([[1, 0, 0], [0, 0, 1]]) == ["a", "c"]


def test_cut_points_are_never_worse_on_their_own_samples_than_rounding_or_the_highest():
    rng = np.random.default_rng(3)
    labels = rng.choice(3, 150, p=(0.6, 0.3, 0.1))
    scores = 1.5 * np.eye(3)[labels] + rng.normal(0, 1, (150, 3))
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    kappa = lambda decided: quadratic_weighted_kappa(labels, decided, 3).value
    found = kappa(choose(ordinal("kappa"), labels, p).decide(p))
    assert found >= max(kappa(p.argmax(1)), kappa(np.rint(p @ np.arange(3)).astype(int)))


def test_validation_without_the_outer_grades_still_decides():
    decision = choose(ordinal("kappa"), [1, 1, 1], np.full((3, 3), 1 / 3))
    assert decision.decide(np.full((1, 3), 1 / 3)).shape == (1,)
    raw = json.loads(with_rule("youden").to_json())
    raw["operating_point"]["rule"] = "kappa"
    with pytest.raises(SpecError, match=r"operating_point\.rule"):
        DiseaseSpec.from_json(json.dumps(raw))
    with pytest.raises(DataError, match="out of order"):
        Decision("grades", ("a", "b", "c"), (1.5, 0.5))


def test_labels_of_a_multilabel_target_have_their_own_thresholds():
    spec = small_spec(target={"kind": "multilabel", "classes": ["a", "b"], "source": "test"}, metrics=["auc"])
    labels = np.stack([LABELS, 1 - LABELS], axis=1)
    decision = choose(spec, labels, np.stack([P, 1 - P / 2], axis=1))
    assert len(decision.thresholds) == 2
    assert decision.names([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]) == ["a+b", "a", "none"]


def test_one_class_only_has_no_operating_point():
    with pytest.raises(DataError, match="both classes; got 3 positive of 3"):
        choose(with_rule("sensitivity"), [1, 1, 1], two_columns(P[:3]))


def test_json_round_trip_and_refusals():
    decision = choose(with_rule("sensitivity"), LABELS, two_columns(P))
    assert Decision.from_dict(json.loads(json.dumps(decision.to_dict()))) == decision
    good = decision.to_dict()
    for change in (
        {"thresholds": [0.0]},
        {"thresholds": [float("nan")]},
        {"thresholds": []},
        {"positive": "other"},
        {"kind": "guess"},
        {"classes": None},
    ):
        with pytest.raises(DataError, match="operating point"):
            Decision.from_dict(good | change)
    with pytest.raises(DataError, match="another shape"):
        decision.decide([[0.1, 0.2, 0.7]])
