"""From samples to groups, and from a model and a reader to one score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.core import aggregates, reader_combination
from components.core.aggregates import forest_arrays, group_table
from components.core.errors import DataError, SpecError
from components.core.metrics import auc
from components.core.spec import DiseaseSpec

SPEC = Path(__file__).parents[2] / "pipelines" / "diseases" / "breast-metastasis.toml"


def spec_of(method: str, target: dict[str, Any] | None = None, **options: Any) -> DiseaseSpec:
    raw = json.loads(DiseaseSpec.from_toml(SPEC).to_json())
    raw["aggregate"] = {"method": method, "options": options}
    raw["target"] |= target or {}
    raw["metrics"] = ["auc"]
    return DiseaseSpec.from_json(json.dumps(raw))


def samples(p: dict[str, list[float]], **columns: Any) -> pd.DataFrame:
    """Groups with the probability of `tumour` of each sample, in a row of tiles 10 microns wide."""
    rows = [{"group_id": g, "score_normal": 1 - v, "score_tumour": v, "place": [10.0 * n, 0.0]} for g, vs in p.items() for n, v in enumerate(vs)]
    return pd.DataFrame(rows).assign(**columns)


def slides(n: int, seed: int = 0) -> pd.DataFrame:
    """n slides of 8 x 8 tiles; in every second one a block of 3 x 3 stands out."""
    draw = np.random.default_rng(seed)
    rows = []
    for s in range(n):
        p = draw.uniform(0, 0.4, (8, 8))
        if s % 2:
            p[2:5, 3:6] = draw.uniform(0.6, 1, (3, 3))
        rows += [
            {"group_id": f"s{s:02d}", "label": int(s % 2), "group_label": s % 2, "place": [48.0 * x, 48.0 * y],
             "score_normal": 1 - p[y, x], "score_tumour": p[y, x]}
            for y in range(8) for x in range(8)
        ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_plain_rules_by_hand():
    table = samples({"b": [0.2, 0.6, 0.7], "a": [0.1, 0.1]})
    for method, tumour in (("mean", [0.1, 0.5]), ("max", [0.1, 0.7]), ("majority-vote", [0.0, 2 / 3])):
        one = aggregates.build(spec_of(method))
        found = one.apply(table)
        assert found["group_id"].tolist() == ["a", "b"]
        assert np.allclose(found["score_tumour"], tumour)
        assert np.allclose(found["score_normal"], 1 - found["score_tumour"])
        assert not one.trained


def test_a_group_is_what_its_source_says_else_positive_by_one_sample():
    spec = spec_of("mean")
    table = samples({"a": [0.1, 0.2], "b": [0.1, 0.2], "c": [0.1]}, label=[0, 1, 0, 1, 0], group_label=[0, 0, np.nan, np.nan, np.nan])
    assert group_table.labels(table, spec) == {"a": 0, "b": 1, "c": 0}
    ordinal = spec_of("mean", {"kind": "ordinal", "classes": ["normal", "tumour", "more"], "positive": "tumour"})
    with pytest.raises(DataError, match="different labels"):
        group_table.labels(table.drop(columns="group_label"), ordinal)


def test_heatmap_forest_learns_keeps_and_loads(tmp_path: Path):
    spec = spec_of("heatmap-forest", trees=30)
    one = aggregates.build(spec)
    one.fit(slides(20), seed=1)
    test = slides(10, seed=5)
    found = one.apply(test)
    assert auc([s % 2 for s in range(10)], found["score_tumour"]) == 1
    one.save(tmp_path)
    again = aggregates.build(spec)
    again.load(tmp_path)
    assert np.array_equal(again.apply(test)["score_tumour"], found["score_tumour"])
    assert [path.name for path in tmp_path.iterdir()] == ["aggregate.safetensors"]
    same = aggregates.build(spec)
    same.fit(slides(20), seed=1)
    assert np.array_equal(same.apply(test)["score_tumour"], found["score_tumour"])


def test_arrays_answer_as_the_forest_that_they_came_from():
    from sklearn.ensemble import RandomForestClassifier

    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(60, 5)).astype(np.float32), draw.integers(0, 3, 60)
    kept = forest_arrays.grow(x, y, 3, trees=20, leaf=2, seed=4)
    own = RandomForestClassifier(20, min_samples_leaf=2, class_weight="balanced", random_state=4).fit(x, y)
    other = draw.normal(size=(40, 5)).astype(np.float32)
    assert np.allclose(forest_arrays.probabilities(kept, other), own.predict_proba(other), atol=1e-6)


def test_out_of_fold_answers_come_from_forests_that_have_not_seen_the_group():
    """With labels at random a forest knows its own groups and cannot know others."""
    spec = spec_of("heatmap-forest", trees=30, leaf=1)
    table = slides(40)
    truth = dict(zip(sorted(table["group_id"].unique()), np.random.default_rng(3).integers(0, 2, 40), strict=True))
    table["group_label"] = table["group_id"].map(truth)
    one = aggregates.build(spec)
    one.fit(table, seed=0)
    y = [truth[g] for g in sorted(truth)]
    inside, outside = one.apply(table), group_table.out_of_fold(lambda: aggregates.build(spec), table, spec, seed=0)
    assert outside["group_id"].tolist() == sorted(truth)
    assert auc(y, inside["score_tumour"]) > 0.95
    assert auc(y, outside["score_tumour"]) < 0.75


def test_what_does_not_fit_is_one_line(tmp_path: Path):
    with pytest.raises(SpecError, match=r"no such method.*majority-vote"):
        aggregates.build(spec_of("median"))
    with pytest.raises(SpecError, match="unknown option"):
        aggregates.build(spec_of("mean", trees=3))
    with pytest.raises(SpecError, match="a heat-map is of one class"):
        aggregates.build(spec_of("heatmap-forest", {"kind": "multiclass", "classes": ["normal", "tumour", "more"]}))
    one = aggregates.build(spec_of("heatmap-forest"))
    with pytest.raises(DataError, match="never fitted"):
        one.apply(slides(2))
    with pytest.raises(DataError, match="both classes"):
        one.fit(slides(9).query("group_label == 0"), seed=0)
    (tmp_path / "aggregate.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DataError, match="no readable aggregate"):
        one.load(tmp_path)


def test_a_forest_with_a_loop_is_refused(tmp_path: Path):
    from safetensors.numpy import load_file, save

    one = aggregates.build(spec_of("heatmap-forest", trees=3))
    one.fit(slides(12), seed=0)
    one.save(tmp_path)
    arrays = load_file(tmp_path / "aggregate.safetensors")
    inner = np.flatnonzero(arrays["feature"] >= 0)
    arrays["left"][inner[0]] = inner[0]
    (tmp_path / "aggregate.safetensors").write_bytes(save(arrays))
    with pytest.raises(DataError, match="loop"):
        aggregates.build(spec_of("heatmap-forest", trees=3)).load(tmp_path)


Y = np.array([1, 1, 1, 1, 0, 0, 0, 0])
MODEL = np.array([0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.3, 0.3])  # misses two positives
READER = np.array([1, 1, 4, 4, 1, 1, 0, 0])  # finds those, but not the model's
"""Each alone: AUC 1/2 x 1 + 1/2 x 1/4 = .625 and 1/2 x 3/4 + 1/2 x 1 = .875; together every positive is above every negative."""


@pytest.mark.parametrize("method", ["logistic", "ranks"])
def test_two_that_fail_on_other_cases_are_better_together(method: Any):
    assert auc(Y, MODEL) == 0.625
    assert auc(Y, READER) == 0.875
    fitted = reader_combination.fit(Y, MODEL, READER, method=method)
    together = fitted.apply(MODEL, READER)
    assert auc(Y, together) == 1
    assert ((together >= 0) & (together <= 1)).all()


def test_a_reader_who_says_nothing_leaves_the_model_alone():
    fitted = reader_combination.fit(Y, READER, np.zeros(8))
    assert auc(Y, fitted.apply(READER, np.zeros(8))) == auc(Y, READER)


def test_mean_of_ranks_by_hand():
    """Validation's scores 1..4 and 10..40: 2.5 has two of four below, 40 three and a half."""
    fitted = reader_combination.fit([0, 0, 1, 1], [1, 2, 3, 4], [10, 20, 30, 40], method="ranks")
    assert fitted.apply([2.5], [40.0]) == pytest.approx((0.5 + 0.875) / 2)


def test_a_combination_needs_both_classes():
    with pytest.raises(DataError, match="both classes"):
        reader_combination.fit([1, 1], [0.1, 0.2], [1, 2])
