"""Covariates from the feature store to the report, the package and the server: one disease whose images are weak and whose patients' sex tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.core.dataset import Dataset
from components.core.errors import DataError
from components.core.fusion import Fusion
from components.core.package import ModelPackage
from components.core.spec import DiseaseSpec
from components.evaluate.step import evaluate
from components.monitor.watched import Watched
from components.register.step import register
from feature_store.store import write_profiles
from feature_store.views import write_view
from tests.evaluate.small_kinds import made, samples, spec_of

GRADES = ["none", "mild", "severe"]
TREE = {"kind": "hierarchical", "classes": GRADES, "parents": {"none": "well", "mild": "ill", "severe": "ill"}, "positive": "ill"}
UNTOLD = 9  # every so many patients nothing is known


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("fused")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"DXFLOW_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "DXFLOW_HOME": str(root / "home"), "DXFLOW_KEY": "tests only"}.items():
            patch.setenv(name, value)
        spec = spec_of(TREE, covariates=["age_years", "sex"], metrics=["auc", "accuracy"])
        rows = [s for s in samples(spec, groups=240, spread=4.0) if s.row["sample_id"].endswith("-0")]
        steps = made(root, spec, rows=rows)
        steps["features"].rmdir()
        write_profiles(steps["features"], [])
        rng = np.random.default_rng(0)
        people = []
        for s in rows:
            tells = (s.row["label"] > 0) == (rng.random() < 0.9)
            people.append({"patient_id": s.row["patient_id"], "age_years": float(rng.integers(30, 90)), "sex": "F" if tells else "M"})
        people = [one for n, one in enumerate(people) if n % UNTOLD]
        write_view(steps["features"], "covariates", people)
        figures = evaluate(spec, **steps, out=root / "out")
        yield spec, steps, figures, root / "out", {one["patient_id"]: one for one in people}


def test_the_report_says_what_they_add_on_the_same_samples(run: Any):
    _, _, figures, out, _ = run
    found = figures["covariates"]
    assert found["fused"]
    assert found["auc"]["difference"]["low"] > 0.02
    assert found["auc"]["fused"] == pytest.approx(figures["metrics"]["auc"]["value"], abs=1e-12)
    assert found["auc"]["fused"] - found["auc"]["image"] == pytest.approx(found["auc"]["difference"]["value"], abs=1e-12)
    assert found["brier"]["difference"]["high"] < 0
    assert found["within_devices"]["parts"] == 1  # all test patients come from one device
    assert found["told"]["sex"] == found["told"]["age_years"] == found["n"] - 6
    assert any(line.startswith("sex F: weight of") for line in found["words"])
    page = (out / "report.html").read_text()
    assert "What the covariates add" in page
    assert f"{found['auc']['difference']['value']:+.3f}" in page
    assert json.loads((out / "metrics.json").read_text())["covariates"] == found


def test_who_told_nothing_gets_the_image_models_answer(run: Any):
    spec, _, _, out, _ = run
    table = pd.read_parquet(out / "predictions.parquet")
    fused, image = (table[[f"{kind}score_{name}" for name in GRADES]].to_numpy() for kind in ("", "image_"))
    untold = (table["told"] == "").to_numpy()
    assert untold.sum() > 10
    np.testing.assert_array_equal(fused[untold], image[untold])
    assert np.abs(fused[~untold] - image[~untold]).max(1).min() > 1e-6
    assert set(table["told"]) == {"", "age_years+sex"}
    assert not {name for name in table.columns if name.startswith("cov_")}  # names of covariates, never their values
    assert spec.covariates == Fusion.from_json((out / "fusion.json").read_text()).covariates


@pytest.mark.parametrize("view", [None, []])
def test_a_store_without_the_view_is_an_error_and_one_without_rows_is_the_image_alone(run: Any, tmp_path: Path, view: list[dict[str, Any]] | None):
    spec, steps, figures, _, _ = run
    write_profiles(tmp_path / "features", [], views=None if view is None else {"covariates": view})
    given = steps | {"features": tmp_path / "features"}
    if view is None:
        with pytest.raises(DataError, match="no view 'covariates'"):
            evaluate(spec, **given, out=tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return
    found = evaluate(spec, **given, out=tmp_path / "out")
    assert not found["covariates"]["fused"]
    assert found["covariates"]["auc"]["difference"]["value"] == 0
    assert found["covariates"]["auc"]["image"] == pytest.approx(figures["covariates"]["auc"]["image"], abs=1e-12)
    assert "answers by the image alone" in (tmp_path / "out" / "report.html").read_text()


def test_the_package_keeps_it_and_a_server_answers_as_evaluate_did(run: Any, tmp_path: Path):
    from serving.predictor import Predictor, Query

    spec, steps, figures, out, people = run
    register(spec, **steps, evaluation=out, package=tmp_path / "package")
    package = ModelPackage.open(tmp_path / "package", allow_synthetic=True)
    assert package.fusion == Fusion.from_json((out / "fusion.json").read_text())
    reference = package.reference.set_index("sample_id")
    data = Dataset(steps["dataset"])
    expected = pd.read_parquet(out / "predictions.parquet").set_index("sample_id")
    expected = expected[expected["split"] == "test"]
    place = {sample: n for n, sample in enumerate(data.manifest["sample_id"])}
    own = [people.get(data.manifest["patient_id"].iloc[place[s]], {}) for s in expected.index]
    told = [{name: one[name] for name in spec.covariates if name in one} for one in own]
    arrays = data.read(np.array([place[s] for s in expected.index]))
    answers = Predictor(package, None).answer([Query(a, covariates=t) for a, t in zip(arrays, told, strict=True)])
    got = np.array([[a["probabilities"][name] for name in GRADES] for a in answers])
    np.testing.assert_allclose(got, expected[[f"score_{name}" for name in GRADES]].to_numpy(), atol=1e-5)
    assert [a["covariates"]["used"] for a in answers] == [list(t) for t in told]
    for name in spec.covariates:
        kept = [None if pd.isna(v) else v for v in reference.loc[expected.index, f"cov_{name}"]]
        assert kept == [t.get(name) for t in told]
    assert "cov_body_site" not in reference
    assert not [name for name in Watched.of(package).groups if name.startswith("cov_")]  # case mix, no figure to alarm about
    assert f"by the image alone the AUC is {figures['covariates']['auc']['image']:.3f}" in package.card


def test_folds_fit_their_own_and_a_disease_without_covariates_has_none(tmp_path: Path):
    spec = DiseaseSpec.model_validate(
        spec_of({"kind": "binary", "classes": ["none", "severe"], "positive": "severe"}, covariates=["sex"],
                split={"grouping": "patient", "train": 0.5, "val": 0.25, "test": 0.25, "folds": 3}).model_dump()
    )  # fmt: skip
    steps = made(tmp_path, spec, rows=samples(spec, groups=72))
    steps["features"].rmdir()
    write_profiles(steps["features"], [], views={"covariates": []})
    figures = evaluate(spec, **steps, out=tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "fusion.json").read_text())
    assert [f["fold"] for f in kept["folds"]] == [0, 1, 2]
    assert (figures["covariates"]["folds"], figures["covariates"]["folds_fused"]) == (3, 0)
