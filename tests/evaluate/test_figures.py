"""Figures from predictions: test rows only, by device, and words where there is too little."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.core import metrics
from components.core.errors import DataError, SpecError
from components.core.operating_point import Decision
from components.evaluate.figures import device_name, recompute, wanted
from tests.small_run import small_spec

SPEC = small_spec()
DECISION = Decision("threshold", SPEC.target.classes, (0.5,), "malignant")


def predictions(n: int = 400, *, seed: int = 0, devices: tuple[str, ...] = ("a" * 16, "b" * 16), shift: float = 1.5) -> pd.DataFrame:
    """Two samples of each patient; half validation, half test."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, n)
    p = 1 / (1 + np.exp(-rng.normal(shift * (2 * label - 1), 1.5)))
    return pd.DataFrame(
        {
            "sample_id": [f"s{i:04d}" for i in range(n)], "group_id": [f"p{i // 2:04d}" for i in range(n)],
            "device_key": [devices[(i // 2) % len(devices)] for i in range(n)], "manufacturer": "Maker", "model": None,
            "split": np.where(np.arange(n) // 2 % 4 < 2, "val", "test"), "label": label, "score_benign": 1 - p, "score_malignant": p,
            "abstain": False,
        }
    )  # fmt: skip


def test_figures_are_of_the_test_rows_only():
    table = predictions()
    test = table[table["split"] == "test"]
    table.loc[table["split"] == "val", "score_malignant"] = 0.5
    found = recompute(table, SPEC, DECISION)
    assert found["metrics"]["auc"]["n"] == len(test)
    assert found["metrics"]["auc"]["value"] == pytest.approx(metrics.auc(test["label"], test["score_malignant"]))
    called = test["score_malignant"] >= 0.5
    assert found["metrics"]["sensitivity"]["value"] == pytest.approx(called[test["label"] == 1].mean())
    assert found["metrics"]["specificity"]["value"] == pytest.approx(1 - called[test["label"] == 0].mean())
    assert found["metrics"]["brier"]["value"] == pytest.approx(((test["score_malignant"] - test["label"]) ** 2).mean())


def test_every_device_has_its_own_figures_and_the_worst_is_named():
    table = predictions(1200)
    noise = (table["device_key"] == "b" * 16).to_numpy()
    p = np.where(noise, np.random.default_rng(1).random(len(table)), table["score_malignant"])
    table["score_malignant"], table["score_benign"] = p, 1 - p
    found = recompute(table, SPEC, DECISION)
    own = table[(table["split"] == "test") & noise]
    assert found["devices"]["b" * 16]["auc"]["value"] == pytest.approx(metrics.auc(own["label"], own["score_malignant"]))
    assert found["devices"]["b" * 16]["n"] == len(own)
    assert found["worst_device"]["key"] == "b" * 16
    assert found["worst_device"]["name"] == "Maker · bbbbbb"
    assert found["worst_device"]["auc"] == found["devices"]["b" * 16]["auc"]


def test_a_small_device_gets_words_and_never_becomes_the_worst():
    table = predictions()
    rare = table["split"].eq("test") & (np.arange(len(table)) > 380)
    table.loc[rare, "device_key"] = "c" * 16
    found = recompute(table, SPEC, DECISION)
    facts = found["devices"]["c" * 16]
    assert facts["auc"] == {"value": None, "low": None, "high": None, "n": int(rare.sum()), "reason": f"insufficient evidence (n={int(rare.sum())})"}
    assert found["worst_device"]["key"] != "c" * 16


def test_a_device_with_one_class_gets_words():
    table = predictions(800)
    table.loc[(table["device_key"] == "b" * 16), "label"] = 0
    found = recompute(table, SPEC, DECISION)["devices"]["b" * 16]
    assert found["n"] >= SPEC.device.min_n
    assert found["auc"]["reason"] == f"insufficient evidence (n={found['n']}, 0 positive, {found['n']} negative)"
    assert found["specificity"]["value"] is not None


def test_too_few_of_a_class_give_no_overall_figure():
    found = recompute(predictions(60), SPEC, DECISION)["metrics"]
    assert found["auc"]["value"] is None
    assert found["auc"]["reason"] == "insufficient evidence (n=28, 15 positive, 13 negative)"


def test_samples_without_an_answer_are_counted_and_left_out():
    table = predictions(800)
    table["abstain"] = table["device_key"] == "b" * 16
    found = recompute(table, SPEC, DECISION)
    assert found["counts"]["test"] == 400
    assert found["counts"]["answered"] == 200
    assert found["coverage"]["value"] == 0.5
    assert found["metrics"]["auc"] == found["devices"]["a" * 16]["auc"]
    assert found["devices"]["b" * 16]["abstained"] == 200
    assert found["devices"]["b" * 16]["n"] == 0


def test_patients_widen_intervals_unless_the_spec_knows_none():
    table = predictions(800)
    patient = np.arange(len(table)) // 8
    rng = np.random.default_rng(2)
    table["group_id"] = [f"p{number}" for number in patient]
    table["label"] = rng.integers(0, 2, 100)[patient]  # one diagnosis and one difficulty a patient
    p = 1 / (1 + np.exp(-(1.5 * table["label"] + rng.normal(0, 1.5, 100)[patient] + rng.normal(0, 0.5, len(table)))))
    table["score_malignant"], table["score_benign"] = p, 1 - p
    given = {"grouping": "none", "given": True}
    grouped, free = (recompute(table, spec, DECISION)["metrics"]["auc"] for spec in (SPEC, small_spec(split=given)))
    assert grouped["value"] == free["value"]
    assert grouped["high"] - grouped["low"] > 1.5 * (free["high"] - free["low"])


def test_baseline_is_what_the_class_shares_alone_would_reach():
    table = predictions()
    share = table.loc[table["split"] == "test", "label"].mean()
    found = recompute(table, SPEC, DECISION)["baseline"]
    assert found["brier"] == pytest.approx(share * (1 - share))
    assert found["accuracy"] == pytest.approx(max(share, 1 - share))


def test_many_classes_have_figures_too():
    spec = small_spec(
        target={"kind": "ordinal", "classes": ["x", "y", "z"], "source": "test"}, metrics=["auc", "accuracy", "qwk", "brier", "calibration_error"]
    )
    rng = np.random.default_rng(3)
    table = predictions(600).drop(columns=["score_benign", "score_malignant"])
    table["label"] = rng.integers(0, 3, len(table))
    p = rng.dirichlet(np.ones(3), len(table)) * 0.5 + 0.5 * np.eye(3)[table["label"]]
    for k, name in enumerate("xyz"):
        table[f"score_{name}"] = p[:, k]
    found = recompute(table, spec, Decision("highest", ("x", "y", "z")))
    assert set(found["metrics"]) == {"auc", "accuracy", "qwk", "brier", "calibration_error"}
    assert all(e["value"] is not None and e["low"] <= e["value"] <= e["high"] for e in found["metrics"].values())
    assert set(found["counts"]["classes"]) == {"x", "y", "z"}


def test_several_labels_at_once_have_figures_too():
    spec = small_spec(target={"kind": "multilabel", "classes": ["x", "y"], "source": "test"}, metrics=["auc", "brier"])
    rng = np.random.default_rng(4)
    table = predictions(400).drop(columns=["score_benign", "score_malignant"])
    for name in "xy":
        table[f"label_{name}"] = rng.integers(0, 2, len(table))
        table[f"score_{name}"] = (rng.random(len(table)) + table[f"label_{name}"]) / 2
    found = recompute(table, spec, Decision("thresholds", ("x", "y"), (0.5, 0.5)))
    assert found["metrics"]["auc"]["value"] > 0.8
    assert found["counts"]["classes"] == {name: int(table.loc[table["split"] == "test", f"label_{name}"].sum()) for name in "xy"}


@pytest.mark.parametrize(("target", "metric"), [({"kind": "multiclass", "classes": ["a", "b", "c"], "source": "t"}, "sensitivity"), (None, "dice")])
def test_a_metric_that_the_target_does_not_have_is_a_spec_error(target: dict[str, Any] | None, metric: str):
    spec = small_spec(metrics=[metric], **({"target": target} if target else {}))
    with pytest.raises(SpecError, match=f"lung-nodule: metrics: no such metric for a .* target; got '{metric}'; allowed: .*auc"):
        wanted(spec)


def test_auc_is_always_among_the_metrics():
    assert wanted(small_spec(metrics=["brier"])) == ("auc", "brier")


def test_no_test_rows_is_a_data_error():
    table = predictions()
    with pytest.raises(DataError, match="no test rows"):
        recompute(table[table["split"] == "val"], SPEC, DECISION)


def test_device_names_tell_scanners_apart():
    same = {"manufacturer": "GE", "model": "X1"}
    assert device_name(same | {"device_key": "0123456789abcdef"}) == "GE X1 · 012345"
    assert device_name({"manufacturer": None, "model": None, "device_key": "0123456789abcdef"}) == "device · 012345"
    assert device_name(same | {"device_key": "unknown"}) == "unknown device"
