"""Families side by side: known correlations, an ensemble that gains and one that does not, and a choice that never looks at test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.core.errors import DataError
from components.core.spec import DiseaseSpec
from components.evaluate.compare import VOTE, compare
from pipelines.compare import budgeted
from tests.small_run import small_spec

N = 400


def spec_with(*families: str, **kinds: str) -> DiseaseSpec:
    raw = json.loads(small_spec().to_json())
    raw["families"] = {name: {"kind": kinds.get(name, "sun2016-cnn"), "epochs": 3} for name in families}
    raw["default_family"] = families[0]
    return DiseaseSpec.from_json(json.dumps(raw))


def write(root: Path, scores: dict[str, np.ndarray], labels: np.ndarray, val_auc: dict[str, float]) -> dict[str, Any]:
    """Folders as train and evaluate leave them, for families with given scores of the second class."""
    places: dict[str, Any] = {"evaluations": [], "models": [], "costs": []}
    for n, (family, s) in enumerate(scores.items()):
        evaluation, model, cost = root / f"e{n}", root / f"m{n}", root / f"c{n}.json"
        evaluation.mkdir()
        model.mkdir()
        estimate = {"value": 0.5 + n / 100, "low": 0.4, "high": 0.9, "n": N}
        figures = {"family": family, "synthetic": True, "metrics": {"auc": estimate}, "verdict": "pass"}
        (evaluation / "metrics.json").write_text(json.dumps(figures))
        (model / "model.json").write_text(
            json.dumps({"family": family, "n_parameters": 10 + n, "best": {"val_auc": val_auc[family], "val_loss": 1.0}})
        )
        cost.write_text(json.dumps({"family": family, "seconds": 1.0 + n, "peak_mb": 100.0}))
        pd.DataFrame(
            {
                "sample_id": [f"s{i:04d}" for i in range(N)], "group_id": [f"g{i:04d}" for i in range(N)], "split": "test", "abstain": False,
                "label": labels, "score_benign": 1 - s, "score_malignant": s,
            }
        ).to_parquet(evaluation / "predictions.parquet")  # fmt: skip
        places["evaluations"].append(evaluation)
        places["models"].append(model)
        places["costs"].append(cost)
    return places


@pytest.fixture
def drawn() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Two families with errors of their own, and a third that is the first again."""
    draw = np.random.default_rng(3)
    y = draw.permutation(np.arange(N) % 2)
    logit = lambda: 1.2 * (2 * y - 1) + draw.normal(0, 1.5, N)
    a, b = (1 / (1 + np.exp(-logit())) for _ in "ab")
    return y, {"a": a, "b": b, "c": a.copy()}


def test_families_that_err_apart_gain_by_voting_and_copies_do_not(tmp_path: Path, drawn):
    y, scores = drawn
    apart = compare(spec_with("a", "b"), **write(tmp_path, {k: scores[k] for k in "ab"}, y, {"a": 0.8, "b": 0.7}), out=tmp_path / "out")
    (vote,) = apart["ensembles"]
    assert (vote["name"], vote["best_member"], vote["verdict"]) == (VOTE, "a", "better than its best member")
    (tmp_path / "2").mkdir()
    copies = compare(spec_with("a", "c"), **write(tmp_path / "2", {k: scores[k] for k in "ac"}, y, {"a": 0.8, "c": 0.7}), out=tmp_path / "out2")
    (vote,) = copies["ensembles"]
    assert vote["gain"]["value"] == 0
    assert vote["verdict"] == "no gain shown"


def test_errors_correlate_as_they_were_drawn(tmp_path: Path, drawn):
    y, scores = drawn
    found = compare(spec_with("a", "b", "c"), **write(tmp_path, scores, y, dict.fromkeys("abc", 0.5)), out=tmp_path / "out")
    table = np.array(found["correlation"]["values"])
    assert table[0, 2] == 1
    assert abs(table[0, 1]) < 0.15  # independent draws: standard error 1 / sqrt(400) = 0.05
    residual = lambda s: np.where(y == 1, 1 - s, s)
    assert table[0, 1] == pytest.approx(np.corrcoef(residual(scores["a"]), residual(scores["b"]))[0, 1], abs=1e-4)


def test_the_choice_is_validations_whatever_test_says(tmp_path: Path, drawn):
    y, scores = drawn
    places = write(tmp_path, {"a": scores["a"], "b": y * 1.0}, y, {"a": 0.8, "b": 0.7})  # b is perfect on test
    found = compare(spec_with("a", "b"), **places, out=tmp_path / "out")
    assert [(row["family"], row["chosen"]) for row in found["families"]] == [("a", True), ("b", False)]
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "SYNTHETIC DATA" in page
    table = pd.read_csv(tmp_path / "out" / "compare.csv")
    assert list(table["parameters"]) == [10, 11]
    assert list(table["auc"]) == [0.5, 0.51]


def test_a_trained_ensemble_is_held_against_its_own_members(tmp_path: Path, drawn):
    y, scores = drawn
    raw = json.loads(spec_with("a", "b", "c").to_json())
    raw["families"]["c"] |= {"kind": "soft-voting", "options": {"members": ["a", "b"]}}
    places = write(tmp_path, scores | {"c": (scores["a"] + scores["b"]) / 2}, y, {"a": 0.7, "b": 0.8, "c": 0.9})
    found = compare(DiseaseSpec.from_json(json.dumps(raw)), **places, out=tmp_path / "out")
    vote, trained = found["ensembles"]
    assert (vote["members"], trained["members"], trained["best_member"]) == (["a", "b"], ["a", "b"], "b")
    assert trained["gain"] == vote["gain"]


def test_families_without_a_common_sample_are_refused(tmp_path: Path, drawn):
    y, scores = drawn
    places = write(tmp_path, {k: scores[k] for k in "ab"}, y, {"a": 0.8, "b": 0.7})
    path = places["evaluations"][0] / "predictions.parquet"
    pd.read_parquet(path).assign(abstain=True).to_parquet(path)
    with pytest.raises(DataError, match="no test sample in common"):
        compare(spec_with("a", "b"), **places, out=tmp_path / "out")


def test_every_family_gets_the_default_familys_epochs():
    raw = json.loads(spec_with("a", "b").to_json())
    raw["families"]["b"]["epochs"] = 77
    spec = DiseaseSpec.from_json(json.dumps(raw))
    assert {f.epochs for f in budgeted(spec, None).families.values()} == {3}
    assert {f.epochs for f in budgeted(spec, 9).families.values()} == {9}
