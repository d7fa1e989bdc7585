"""A window whose data are broken is told apart from a device that drifts."""

from __future__ import annotations

import pandas as pd

from components.monitor.window_checks import failed, tallies


def answers(n: int, **columns: object) -> pd.DataFrame:
    made = {"device_key": "a" * 16, "abstain": False, "score_benign": 0.3, "score_malignant": 0.7, "mean": 1.0, "sd": 2.0}
    return pd.DataFrame([made | columns for _ in range(n)])


def counted(part: pd.DataFrame) -> dict[str, float]:
    return tallies(part, classes=("benign", "malignant"), figures=("mean", "sd"), unknown="unknown")


def test_good_answers_miss_nothing() -> None:
    sums = counted(pd.concat([answers(20), answers(5, abstain=True, score_benign=None, score_malignant=None)]))
    assert sums == {"n_without_device": 0, "n_without_figures": 0, "n_without_probabilities": 0, "n_bad_probabilities": 0, "asked": 25}
    assert failed({"a": sums}) == {}


def test_each_defect_is_counted_and_told_with_its_share_and_device() -> None:
    broken = pd.concat(
        [answers(15), answers(2, score_malignant=0.9), answers(3, mean=None, sd=None), answers(5, score_benign=None, score_malignant=None)]
    )
    sums = counted(broken)
    assert (sums["n_bad_probabilities"], sums["n_without_figures"], sums["n_without_probabilities"]) == (2, 3, 5)
    found = failed({"bad": sums | {"errors": 25.0}, "good": counted(answers(20))})
    assert found == {
        "bad": [
            "6 % of the answers have no image figures",
            "10 % of the decided answers have no probabilities",
            "4 % of the answers have probabilities outside [0, 1] or with another sum than 1",
            "50 % of the requests were refused or failed",
        ]
    }


def test_few_answers_say_nothing() -> None:
    assert failed({"a": counted(answers(3, score_malignant=5.0))}) == {}
    assert failed({"a": counted(answers(10, score_malignant=5.0))}) == {
        "a": ["100 % of the answers have probabilities outside [0, 1] or with another sum than 1"]
    }
