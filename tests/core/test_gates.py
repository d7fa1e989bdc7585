"""The verdict: only an interval that lies wholly on one side of a bound says pass or fail."""

from __future__ import annotations

from typing import Any

import pytest

from components.core.gates import judge
from tests.small_run import small_spec

SPEC = small_spec(gates={"auc_low": 0.8, "device_auc_low": 0.6, "calibration_error": 0.1, "min_n": 100, "min_per_class": 30})


def estimate(value: float | None, low: float | None = None, high: float | None = None, n: int = 200) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": n} | ({} if value is not None else {"reason": f"insufficient evidence (n={n})"})


def figures(**changes: Any) -> dict[str, Any]:
    good = {
        "auc": estimate(0.9, 0.85, 0.94), "ece": estimate(0.05, 0.02, 0.08), "n": 200, "classes": {"benign": 120, "malignant": 80},
        "devices": {"a": estimate(0.9, 0.8, 0.95, 120), "b": estimate(0.88, 0.7, 0.95, 80)},
    } | changes  # fmt: skip
    return {
        "metrics": {"auc": good["auc"], "calibration_error": good["ece"]},
        "counts": {"answered": good["n"], "classes": good["classes"]},
        "devices": {key: {"name": f"Maker {key}", "auc": auc} for key, auc in good["devices"].items()},
    }


def test_a_model_that_holds_every_gate_passes():
    found = judge(SPEC, figures(), validation="pass")
    assert (found.verdict, found.reasons) == ("pass", [])
    assert judge(SPEC, figures(), validation="warn").verdict == "pass"


@pytest.mark.parametrize(
    ("change", "validation", "verdict", "words"),
    [
        ({"auc": estimate(0.7, 0.6, 0.79)}, "pass", "fail", "AUC 0.700 (0.600 to 0.790, n=200); needed: lower end at least 0.8"),
        ({"auc": estimate(0.85, 0.79, 0.9)}, "pass", "insufficient evidence", "lower end at least 0.8"),
        ({"auc": estimate(None)}, "pass", "insufficient evidence", "AUC: insufficient evidence (n=200)"),
        ({"ece": estimate(0.2, 0.15, 0.25)}, "pass", "fail", "calibration error"),
        ({"ece": estimate(0.09, 0.05, 0.11)}, "pass", "insufficient evidence", "upper end at most 0.1"),
        ({"devices": {"a": estimate(0.9, 0.8, 0.95), "b": estimate(0.5, 0.4, 0.59)}}, "pass", "fail", "AUC on Maker b"),
        ({"devices": {"a": estimate(0.9, 0.8, 0.95), "b": estimate(0.7, 0.5, 0.85)}}, "pass", "insufficient evidence", "AUC on Maker b"),
        ({"devices": {"a": estimate(None)}}, "pass", "insufficient evidence", "no device has 30 samples"),
        ({"devices": {"unknown": estimate(0.9, 0.8, 0.95)}}, "pass", "insufficient evidence", "device of no sample is known"),
        ({"n": 99}, "pass", "insufficient evidence", "99 test samples"),
        ({"classes": {"benign": 171, "malignant": 29}}, "pass", "insufficient evidence", "29 of 'malignant'"),
        ({}, "fail", "fail", "data validation: fail"),
        ({}, "unknown", "insufficient evidence", "data validation: unknown"),
    ],
)
def test_one_gate_that_does_not_hold_decides(change: dict[str, Any], validation: str, verdict: str, words: str):
    found = judge(SPEC, figures(**change), validation=validation)
    assert found.verdict == verdict
    assert len(found.reasons) == 1
    assert words in found.reasons[0]


@pytest.mark.parametrize("where", ["model", "device"])
@pytest.mark.parametrize("bound", [0.3, 0.5])
def test_what_answers_all_alike_never_passes(where: str, bound: float):
    """One answer for all, or for all of a device, has an AUC of 0.5 with nothing to either side: no bound is so low that this holds it."""
    spec = SPEC.model_copy(update={"gates": SPEC.gates.model_copy(update={"auc_low": bound, "device_auc_low": bound})})
    alike = estimate(0.5, 0.5, 0.5)
    found = judge(spec, figures(**({"auc": alike} if where == "model" else {"devices": {"a": alike}})), validation="pass")
    assert found.verdict == "fail"
    assert found.reasons[0].endswith("0.500 (0.500 to 0.500, n=200); needed: lower end above 0.5")
    assert judge(spec, figures(auc=estimate(0.6, 0.51, 0.7)), validation="pass").verdict == "pass"


def test_a_device_too_small_to_judge_blocks_nothing_while_another_is_judged():
    assert judge(SPEC, figures(devices={"a": estimate(0.9, 0.8, 0.95), "b": estimate(None, n=4)}), validation="pass").verdict == "pass"


def test_without_patient_ids_no_model_passes():
    spec = SPEC.model_copy(update={"split": SPEC.split.model_copy(update={"grouping": "none", "given": True})})
    found = judge(spec, figures(), validation="pass")
    assert found.verdict == "insufficient evidence"
    assert found.reasons == ["no patient ids: training and test may share patients"]


def test_a_failure_is_said_before_what_is_not_known():
    found = judge(SPEC, figures(auc=estimate(0.5, 0.4, 0.6), n=50), validation="pass")
    assert found.verdict == "fail"
    assert [reason.split()[0] for reason in found.reasons] == ["AUC", "50"]
