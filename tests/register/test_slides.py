"""A package of a disease that aggregates holds all that a slide's answer needs: the tiles' own calibration, the aggregate, the slides'."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest

from components.core import aggregates, calibration
from components.core.dataset import Dataset
from components.core.dataset_writer import Sample
from components.core.devices import normalise
from components.core.erasure import Ids
from components.core.package import ModelPackage
from components.core.spec import DiseaseSpec
from components.evaluate.groups import TINY
from components.evaluate.step import evaluate
from components.register.erasure import changes
from components.register.step import register
from serving.predictor import Predictor, Query
from tests.evaluate.small_kinds import made
from tests.small_run import CATALOGUE

SLIDES, SIDE, TILE = 36, 3, 12


def spec_of() -> DiseaseSpec:
    """breast-metastasis with tiles of 12 pixels, a network of a few weights and a small forest."""
    raw = DiseaseSpec.from_toml(CATALOGUE / "breast-metastasis.toml").model_dump(mode="json")
    raw["input"]["shape"] = [3, TILE, TILE]
    raw["families"] = {"cnn": {"kind": "sun2016-cnn", "epochs": 3, "batch": 16, "lr": 0.02, "options": {"maps": [4], "same": True}}}
    raw["aggregate"]["options"] |= {"trees": 20}
    raw["gates"] |= {"min_n": 6, "min_per_class": 3}
    return DiseaseSpec.model_validate(raw)


def slides() -> list[Sample]:
    """Slides of 3 x 3 tiles; every second one has a lesion of four tiles, which are darker."""
    rng = np.random.default_rng(0)
    found = []
    for slide in range(SLIDES):
        split, tumour = ("train", "val", "test")[slide // 2 % 3], slide % 2
        for place in range(SIDE * SIDE):
            x, y = place % SIDE, place // SIDE
            inside = int(tumour and x < 2 and y < 2)
            row = {
                "sample_id": f"s{slide:03d}-{place}", "group_id": f"g{slide:03d}", "patient_id": f"g{slide:03d}", "series_id": f"g{slide:03d}",
                "device_key": "a" * 16, "manufacturer": "APERIO", "model": "One", "software": "1", "split": split, "synthetic": True,
                "label": inside, "group_label": tumour, "place": [12.0 * x, 12.0 * y], "lesion_id": f"l{slide:03d}" if inside else None,
            }  # fmt: skip
            pixels = rng.normal(170 - 50 * inside + rng.normal(0, 15), 25, (3, TILE, TILE))
            found.append(Sample(row, np.clip(pixels, 0, 255).astype(np.uint8)))
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("slides")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DXFLOW_HOME", str(root / "home"))
        patch.setenv("DXFLOW_DEVICE", "cpu")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("DXFLOW_STORE", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        parts = made(root, spec_of(), rows=slides())
        evaluate(spec_of(), **parts, out=root / "evaluation")
        register(spec_of(), **parts, evaluation=root / "evaluation", package=root / "package")
        yield root, ModelPackage.open(root / "package", allow_synthetic=True)


def test_a_slide_is_answered_from_the_package_as_it_was_evaluated(run: tuple[Path, ModelPackage]):
    root, package = run
    data = Dataset(root / "dataset")
    tiles = data.manifest[data.manifest["split"] == "test"].copy()
    x = normalise(data.read(tiles.index.to_numpy()), package.spec, None, package.reference_profile)
    session = onnxruntime.InferenceSession(str(package.onnx), providers=["CPUExecutionProvider"])
    p = calibration.apply(package.sample_calibration, np.asarray(session.run(["scores"], {"x": x})[0]))
    tiles[["score_normal", "score_tumour"]] = p
    aggregate = aggregates.build(package.spec)
    aggregate.load(package.folder)
    answers = aggregate.apply(tiles)
    shares = answers[["score_normal", "score_tumour"]].to_numpy()
    found = calibration.apply(package.calibration, np.log(np.maximum(shares, TINY)))
    said = pd.read_parquet(root / "evaluation" / "predictions.parquet").query("split == 'test'").set_index("group_id")
    assert len(answers) == SLIDES // 3
    assert np.allclose(found[:, 1], said.loc[answers["group_id"], "score_tumour"], atol=1e-4)
    assert np.allclose(
        p[:, 1], pd.read_parquet(root / "evaluation" / "samples.parquet").set_index("sample_id").loc[tiles["sample_id"], "score_tumour"]
    )


def test_a_served_tile_gets_the_tiles_calibration(run: tuple[Path, ModelPackage]):
    """What the server says of a tile is what evaluation said of it, which the drift reference holds."""
    root, package = run
    data = Dataset(root / "dataset")
    reference = package.reference.set_index("sample_id")
    chosen = data.manifest[data.manifest["split"] == "test"].iloc[:6]
    answers = Predictor(package, None).answer([Query(pixels, "a" * 16) for pixels in data.read(chosen.index.to_numpy())])
    expected = reference.loc[chosen["sample_id"], "score_tumour"].to_numpy()
    assert np.allclose([a["probabilities"]["tumour"] for a in answers], expected, atol=1e-4)
    assert package.sample_calibration != package.calibration


def test_without_an_aggregate_there_is_one_calibration(tmp_path: Path):
    """Packages that were made before, and those of diseases without groups, hold one: it is of samples."""
    folder = tmp_path / "package"
    folder.mkdir()
    told = {"kind": "softmax", "temperature": [2.0], "bias": [0.0, 0.5], "n": 9}
    (folder / "calibration.json").write_text(json.dumps(told))
    package = ModelPackage(folder, {}, "")
    assert package.sample_calibration == package.calibration


def test_the_package_says_what_became_of_each_slide(run: tuple[Path, ModelPackage]):
    """As evaluate has it, of validation and test alone, with the patient, so that one can be taken out."""
    root, package = run
    groups = package.groups
    assert groups is not None
    told = pd.read_parquet(root / "evaluation" / "predictions.parquet")
    told = told[told["split"].isin(("val", "test"))].set_index("sample_id").loc[groups["sample_id"]]
    assert len(groups) == 2 * SLIDES // 3
    np.testing.assert_array_equal(groups[["score_normal", "score_tumour"]].to_numpy(), told[["score_normal", "score_tumour"]].to_numpy())
    assert groups["label"].tolist() == told["label"].tolist()
    assert groups["patient_id"].tolist() == groups["group_id"].tolist()
    assert set(package.reference["group_id"]) == set(groups["group_id"])
    somebody = str(groups["patient_id"][0])
    files, rows = changes(package, Ids(keys=frozenset({somebody})))
    assert (rows["groups.parquet"], rows["reference.parquet"]) == (1, SIDE * SIDE)
    assert somebody.encode() not in files["groups.parquet"]
