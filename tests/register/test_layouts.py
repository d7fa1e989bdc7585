"""Folds, external sets and layouts that no server takes yet still make a package that opens, with a drift reference of its own samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.core import acquisition_changes, image_quality
from components.core.dataset_writer import Sample, write_dataset
from components.core.operating_point import Decision
from components.core.package import ModelPackage
from components.core.spec import DiseaseSpec
from components.evaluate.step import evaluate
from components.register import drift_reference
from components.register.step import register
from tests.evaluate.small_kinds import CLINIC, FOLDS, GRADES, made, spec_of
from tests.small_run import CATALOGUE


@pytest.fixture(scope="module", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DXFLOW_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("DXFLOW_DEVICE", "cpu")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("DXFLOW_STORE", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


def packed(spec: DiseaseSpec, root: Path, **options: Any) -> tuple[dict[str, Any], ModelPackage]:
    run = made(root, spec, **options)
    evaluate(spec, **run, out=root / "evaluation")
    record = register(spec, **run, evaluation=root / "evaluation", package=root / "package")
    return record, ModelPackage.open(root / "package", allow_synthetic=True)


def test_a_model_with_folds_and_external_sets(tmp_path: Path):
    split = {"grouping": "patient", "train": 0.5, "val": 0.25, "test": 0.25, "folds": FOLDS}
    target = {"kind": "ordinal", "classes": GRADES, "positive": "mild"}
    spec = spec_of(target, split=split, external=[CLINIC, {"name": "away", "source": "away"}], metrics=["auc", "qwk"])
    record, package = packed(spec, tmp_path, groups=60, outside=8)
    assert record["alias"] == "candidate"
    reference = package.reference
    assert set(reference["split"]) == {"val"}  # what the served model itself answered, of its own source
    assert reference["sample_id"].is_unique
    assert set(reference["decision"]) <= set(GRADES)
    told = json.loads((tmp_path / "package/operating_point.json").read_text())
    assert (told["kind"], len(told["folds"])) == ("highest", FOLDS)
    card = (tmp_path / "package/card.md").read_text()
    assert "Figures over 3 folds" in card
    assert "| clinic | auc |" in card
    assert "external set away" in card
    assert not (tmp_path / "package/folds").exists()


@pytest.mark.parametrize(("disease", "shape", "options"), [
    ("alzheimer-smri", [1, 16, 16, 16], {"pretrain_epochs": 0}),
    ("parkinson-fog", None, {}),
])  # fmt: skip
def test_volumes_and_windows(disease: str, shape: list[int] | None, options: dict[str, Any], tmp_path: Path):
    raw = DiseaseSpec.from_toml(CATALOGUE / f"{disease}.toml").model_dump(mode="json")
    raw["split"] |= {"folds": 1, "train": 0.5, "val": 0.25, "test": 0.25}
    raw["external"], raw["stages"], raw["covariates"] = [], [], []
    raw["input"]["shape"] = shape or raw["input"]["shape"]
    family = raw["families"][raw["default_family"]]
    family |= {"epochs": 1, "batch": 16, "options": family["options"] | options}
    raw["families"], raw["default_family"] = {"cnn": family}, "cnn"
    spec = DiseaseSpec.model_validate(raw)
    record, package = packed(spec, tmp_path, groups=32)
    assert record["alias"] == "candidate"
    names = list(image_quality.names(spec))
    assert np.isfinite(package.reference[names].to_numpy(dtype=float)).all()
    assert package.simulated is not None
    assert set(package.simulated["cause"]) == {"", *acquisition_changes.possible(spec)}
    assert np.isfinite(package.simulated[names].to_numpy(dtype=float)).all()
    onnx = json.loads((tmp_path / "package/model.json").read_text())["onnx"]
    assert onnx["input"]["shape"] == [None, *spec.input.shape]


def test_a_table_has_a_reference_and_no_simulated_changes(tmp_path: Path):
    spec = DiseaseSpec.from_toml(CATALOGUE / "breast-cytology.toml")
    rng = np.random.default_rng(0)
    rows = [
        Sample(
            {"sample_id": f"s{n:02d}", "group_id": f"p{n:02d}", "device_key": "unknown", "label": n % 2, "split": ("train", "val", "test")[n % 3]}
            | {"synthetic": True},
            rng.normal(10, 2, spec.input.shape).astype(spec.input.dtype),
        )
        for n in range(12)
    ]
    write_dataset(tmp_path / "dataset", spec, rows, count=len(rows), quarantine=[], provenance={"reader": "image-csv"})
    scores = {f"score_{name}": [0.5] * 12 for name in spec.target.classes}
    told = {"manufacturer": None, "model": None, "abstain": False}
    predictions = pd.DataFrame([r.row | told for r in rows]).assign(**scores)
    decision = Decision("highest", tuple(spec.target.classes))
    (tmp_path / "package").mkdir()
    drift_reference.write(tmp_path / "package", spec, tmp_path / "dataset", tmp_path / "features", predictions, decision)
    assert sorted(p.name for p in (tmp_path / "package").iterdir()) == ["outside.json", "reference.parquet"]
    table = pd.read_parquet(tmp_path / "package/reference.parquet")
    assert set(table["split"]) == {"val"}  # it has folds
    assert np.isfinite(table[list(image_quality.names(spec))].to_numpy(dtype=float)).all()
