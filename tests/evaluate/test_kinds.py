"""Targets of more than two classes, folds and external sets, from folders to page; every figure from the predictions alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.core import metrics
from components.core.errors import DataError, SpecError
from components.core.operating_point import Decision
from components.core.spec import DiseaseSpec
from components.evaluate.figures import recompute
from components.evaluate.step import evaluate
from feature_store.training import load_split
from tests.evaluate.small_kinds import CLINIC, FOLDS, GRADES, made, spec_of
from tests.evaluate.test_evaluate import Page

ORDINAL = {"kind": "ordinal", "classes": GRADES, "positive": "mild"}
TREE = {"kind": "hierarchical", "classes": GRADES, "parents": {"none": "well", "mild": "ill", "severe": "ill"}, "positive": "ill"}
FOLDED = {"grouping": "patient", "train": 0.5, "val": 0.25, "test": 0.25, "folds": FOLDS}


@pytest.fixture(scope="module", autouse=True)
def _cpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DXFLOW_DEVICE", "cpu")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> tuple[DiseaseSpec, dict[str, Path], dict[str, Any], Path]:
    root = tmp_path_factory.mktemp("folded")
    spec = spec_of(ORDINAL, split=FOLDED, external=[CLINIC, {"name": "away", "source": "away"}],
                   metrics=["auc", "sensitivity", "specificity", "qwk", "accuracy", "macro_auc", "pairwise_auc"])  # fmt: skip
    run = made(root, spec, groups=72, outside=12)
    return spec, run, evaluate(spec, **run, out=root / "out"), root / "out"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[DiseaseSpec, dict[str, Any], Path]:
    root = tmp_path_factory.mktemp("tree")
    spec = spec_of(TREE, metrics=["auc", "accuracy", "sensitivity"])
    leak = [{"id": "copies_across", "section": "Leakage", "status": "warn", "says": "No image stands in two splits", "seen": "3 samples"}]
    return spec, evaluate(spec, **made(root, spec, groups=120, checks=leak), out=root / "out"), root / "out"


def table_of(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "predictions.parquet")


def test_every_sample_is_answered_once_by_a_model_that_never_saw_its_group(folded: Any):
    spec, run, figures, out = folded
    table = table_of(out)
    test = table[table["split"] == "test"]
    assert len(test) == figures["counts"]["test"] == 120
    assert test["sample_id"].is_unique
    assert set(test["fold"]) == {0, 1, 2}
    assert table.loc[table["split"] != "test", "fold"].isna().all()
    for fold in range(FOLDS):
        rows = load_split(spec, run["dataset"], run["features"], "test", fold=fold).rows
        assert set(test.loc[test["fold"] == fold, "sample_id"]) == set(rows["sample_id"])
    counts = table["split"].value_counts().to_dict()
    assert counts == {"test": 120, "val": 30, "external-clinic": 24}


def test_out_of_fold_answers_are_those_of_the_folds_own_weights_and_validation(folded: Any):
    """The same figures by hand: load a fold's weights, calibrate on its validation groups, score its test groups."""
    from components.core import calibration, models

    spec, run, _, out = folded
    estimator = models.build(spec, "cnn")
    estimator.load(run["model"] / "folds" / "001")
    part = {name: load_split(spec, run["dataset"], run["features"], name, fold=1) for name in ("val", "test")}
    fitted = calibration.fit(part["val"].samples.labels, estimator.scores(part["val"].samples.all()))
    p = calibration.apply(fitted, estimator.scores(part["test"].samples.all()))
    table = table_of(out)
    own = table[table["fold"] == 1].set_index("sample_id").loc[part["test"].rows["sample_id"]]
    np.testing.assert_allclose(own[[f"score_{g}" for g in GRADES]].to_numpy(), p, atol=1e-6)
    told = json.loads((out / "calibration.json").read_text())
    assert [f["fold"] for f in told["folds"]] == [0, 1, 2]
    assert told["folds"][1]["temperature"] == pytest.approx(list(fitted.temperature))
    assert told["temperature"] != told["folds"][1]["temperature"]  # what is served has its own


def test_figures_of_folds_are_recomputable_from_the_predictions(folded: Any):
    spec, _, figures, out = folded
    decision = Decision.from_dict(json.loads((out / "operating_point.json").read_text()))
    again = recompute(table_of(out), spec, decision)
    for name, value in again.items():
        assert json.loads(json.dumps(value)) == json.loads(json.dumps(figures[name])), name
    test = table_of(out)
    test = test[test["split"] == "test"]
    positive = test["label"].to_numpy(dtype=int) >= 1
    assert figures["metrics"]["auc"]["value"] == pytest.approx(metrics.auc(positive, test["score_mild"] + test["score_severe"]))
    assert figures["metrics"]["sensitivity"]["value"] == pytest.approx((test["decided"][positive] >= 1).mean())
    assert figures["metrics"]["specificity"]["value"] == pytest.approx((test["decided"][~positive] == 0).mean())
    assert figures["metrics"]["auc"]["value"] > 0.7


def test_folds_have_values_and_their_mean(folded: Any):
    figures = folded[2]
    assert [f["fold"] for f in figures["folds"]] == [0, 1, 2]
    assert sum(f["n"] for f in figures["folds"]) == 120
    values = [f["metrics"]["auc"] for f in figures["folds"]]
    assert figures["over_folds"]["auc"] == {"mean": pytest.approx(np.mean(values)), "sd": pytest.approx(np.std(values, ddof=1)), "folds": 3}


def test_an_external_set_is_answered_by_the_registered_model_and_fits_nothing(folded: Any):
    spec, _, figures, out = folded
    assert figures["external"]["clinic"]["n"] == 24
    assert figures["external"]["clinic"]["metrics"]["auc"]["n"] == 24
    assert figures["external"]["away"]["missing"] is True
    assert figures["external"]["away"]["metrics"]["auc"]["value"] is None
    without = spec_of(ORDINAL, split=FOLDED, external=[CLINIC, {"name": "away", "source": "away"}], metrics=list(spec.metrics))
    table = table_of(out)
    rest = recompute(table[table["split"] != "external-clinic"], without, Decision("highest", tuple(GRADES)))
    assert rest["metrics"] == figures["metrics"]


def test_the_page_of_folds_shows_folds_and_external_sets(folded: Any):
    text = (folded[3] / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.outside == []
    assert "cross-validation in 3 folds, cut by patient" in text
    assert ">Folds</h2>" in text
    assert "mean ± sd over folds" in text
    assert f"± {folded[2]['over_folds']['auc']['sd']:.3f}" in text
    assert ">External sets</h2>" in text
    assert "not in the source" in text
    assert "none / mild" in text  # a pair of classes
    assert "mild + severe" in text  # what positive means


def test_coarse_classes_are_sums_of_their_leaves(tree: Any):
    spec, figures, out = tree
    test = table_of(out)
    test = test[test["split"] == "test"]
    ill = (test["score_mild"] + test["score_severe"]).to_numpy()
    np.testing.assert_allclose(ill + test["score_none"], 1)
    truth = test["label"].to_numpy(dtype=int) > 0
    assert figures["coarse"]["classes"]["ill"]["auc"]["value"] == pytest.approx(metrics.auc(truth, ill))
    assert figures["coarse"]["metrics"]["accuracy"]["value"] == pytest.approx(((ill > 0.5) == truth).mean())
    assert figures["metrics"]["auc"]["value"] == figures["coarse"]["classes"]["ill"]["auc"]["value"]
    assert np.sum(figures["coarse"]["confusion"]) == len(test)
    assert spec.positive_indices == (1, 2)


def test_leakage_that_validation_found_stands_on_the_page(tree: Any):
    assert tree[1]["leakage"] == [{"id": "copies_across", "says": "No image stands in two splits", "seen": "3 samples"}]
    text = (tree[2] / "report.html").read_text()
    assert "training may know" in text
    assert "not held: No image stands in two splits (3 samples)" in text  # at its gate
    assert tree[1]["verdict"] == "insufficient evidence"
    assert text.index("<strong>Leakage</strong>") < text.index('aria-label="Figures"')


def test_a_class_absent_from_test_is_insufficient_evidence(tmp_path: Path):
    spec = spec_of({"kind": "multiclass", "classes": GRADES}, metrics=["auc", "accuracy", "pairwise_auc"])
    figures = evaluate(spec, **made(tmp_path, spec, groups=80, absent=1), out=tmp_path / "out")
    assert figures["counts"]["classes"]["mild"] == 0
    assert figures["metrics"]["auc"]["value"] is None
    assert "insufficient evidence" in figures["metrics"]["pairwise_auc"]["reason"]
    assert figures["metrics"]["accuracy"]["value"] is not None
    assert figures["classes"]["none"]["auc"]["value"] is not None
    assert [p["auc"]["value"] is None for p in figures["pairs"]] == [True, False, True]
    assert figures["verdict"] != "pass"


def test_leave_one_group_out_survives_groups_of_one_class(tmp_path: Path):
    """Twelve subjects; a fold's test may hold one class, and its figure is then absent, not wrong."""
    spec = spec_of(
        {"kind": "binary", "classes": ["still", "freeze"], "positive": "freeze"},
        split={"grouping": "subject", "train": 0.5, "val": 0.25, "test": 0.25, "folds": "group"},
        metrics=["auc", "sensitivity"],
    )
    figures = evaluate(spec, **made(tmp_path, spec, groups=12), out=tmp_path / "out")
    assert len(figures["folds"]) == 12
    known = [f for f in figures["folds"] if f["metrics"]["auc"] is not None]
    assert 0 < len(known) < 12
    assert all(0 in f["counts"].values() for f in figures["folds"] if f["metrics"]["auc"] is None)
    assert figures["over_folds"]["auc"]["folds"] == len(known)
    assert "one for each subject" in (tmp_path / "out/report.html").read_text()


def test_a_model_of_other_folds_is_one_line(folded: Any, tmp_path: Path):
    spec, run, _, _ = folded
    model = tmp_path / "model"
    model.mkdir()
    for file in run["model"].iterdir():
        if file.is_file():
            (model / file.name).write_bytes(file.read_bytes())
    facts = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(facts | {"folds": facts["folds"][:2]}))
    with pytest.raises(DataError, match=r"other folds.*2 in the model.*3"):
        evaluate(spec, **(run | {"model": model}), out=tmp_path / "out")


def test_a_metric_that_needs_a_positive_class_says_so():
    spec = spec_of({"kind": "multiclass", "classes": GRADES}, metrics=["sensitivity"])
    with pytest.raises(SpecError, match=r"no such metric for a multiclass target.*sensitivity"):
        recompute(pd.DataFrame({"split": ["test"]}), spec, Decision("highest", tuple(GRADES)))
