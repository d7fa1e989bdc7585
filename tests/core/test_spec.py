"""The spec says what is wrong in one line, and can carry every disease of the survey."""

from __future__ import annotations

import copy
import json
import tomllib
from typing import Any

import pytest

from components.core.errors import SpecError
from components.core.spec import DiseaseSpec
from pipelines import catalog

BASE: dict[str, Any] = tomllib.loads((catalog.FOLDER / "lung-nodule.toml").read_text(encoding="utf-8"))


def made(**changes: Any) -> DiseaseSpec:
    raw = copy.deepcopy(BASE)
    for path, value in changes.items():
        part = raw
        *parents, last = path.split("__")
        for name in parents:
            part = part.setdefault(name, {})
        if value is None:
            part.pop(last)
        else:
            part[last] = value
    return DiseaseSpec.from_json(json.dumps(raw), where="x.toml")


@pytest.mark.parametrize("name", catalog.names())
def test_every_disease_of_the_catalogue_survives_the_round_trip(name: str) -> None:
    """A spec travels as JSON between steps and comes out equal, with an equal digest."""
    spec = catalog.load(name)
    again = DiseaseSpec.from_json(spec.to_json())
    assert again == spec
    assert again.digest == spec.digest


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"input__spacing_cm": [0.07, 0.07]}, ["x.toml: input.spacing_cm", "unknown key", "spacing_mm"]),
        ({"input__modality": None}, ["x.toml: input.modality", "missing key"]),
        ({"input__unit": "1"}, ["x.toml: input.unit", "got 1", "'HU'"]),
        ({"input__spacing_mm": [-1, 0.7]}, ["input.spacing_mm.0", "-1", "greater than 0"]),
        ({"input__range": [400, -1000]}, ["input.range", "low < high"]),
        ({"input__shape": [52, 52]}, ["input.shape", "3 numbers"]),
        ({"gates__auc_low": 1.5}, ["gates.auc_low", "1.5", "less than or equal to 1"]),
        ({"families__cnn__epoch": 3}, ["families.cnn.epoch", "unknown key", "epochs"]),
        ({"default_family": "resnet"}, ["default_family", "resnet", "cnn"]),
        ({"target__positive": "cancer"}, ["target.positive", "cancer", "malignant"]),
        ({"split__train": 0.9}, ["split.train", "sum of 1"]),
        ({"split__grouping": "none"}, ["split.given", "given split"]),
        ({"resources__train__gpu": -1}, ["resources.train.gpu", "-1"]),
        ({"resources__traain": {"gpu": 1}}, ["resources", "traain"]),
    ],
)
def test_a_wrong_key_value_or_unit_is_named_with_what_is_allowed(change: dict[str, Any], says: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        made(**change)
    text = str(caught.value)
    assert "\n" not in text
    for part in says:
        assert part in text


def test_a_file_under_another_name_is_refused(tmp_path: Any) -> None:
    path = tmp_path / "other.toml"
    path.write_text((catalog.FOLDER / "lung-nodule.toml").read_text())
    with pytest.raises(SpecError, match=r"other\.toml: name.*'lung-nodule'.*'other'"):
        DiseaseSpec.from_toml(path)


def test_text_that_is_no_toml_is_named_with_its_line(tmp_path: Any) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("name = \n")
    with pytest.raises(SpecError, match=r"broken\.toml: not TOML.*line 1"):
        DiseaseSpec.from_toml(path)


INPUTS: dict[str, dict[str, Any]] = {
    "volume": {"modality": "MR", "reader": "nifti", "layout": "volume",
        "shape": [1, 96, 112, 96], "unit": "1", "range": [0, 1], "spacing_mm": [2, 2, 2]},
    "tiles": {
        "modality": "histology", "reader": "slide", "layout": "tiles", "shape": [3, 256, 256], "dtype": "uint8", "unit": "1", "range": [0, 255],
        "microns_per_pixel": 0.5, "storage": "reference",
    },
    "window": {"modality": "sensor", "reader": "sensor-csv", "layout": "window", "shape": [9, 102],
        "unit": "mg", "range": [-4000, 4000], "rate_hz": 40, "window_s": 2.56},
    "table": {"modality": "tabular", "reader": "csv", "layout": "table", "shape": [30], "unit": "1", "range": [-10, 10]},
}  # fmt: skip
LATER: dict[str, dict[str, Any]] = {
    "A1: three classes, volumes, pre-trained elsewhere, five folds": {
        "input": INPUTS["volume"],
        "target": {"kind": "multiclass", "classes": ["AD", "MCI", "NC"], "source": "ADNI"},
        "split": {"grouping": "subject", "folds": 5},
        "families": {"cae": {"kind": "cae3d"}, "net": {"kind": "cae3d-classifier"}},
        "default_family": "net",
        "external": [{"name": "caddementia", "source": "doi:10.1016/j.neuroimage.2015.01.048", "role": "pretrain"}],
        "stages": [
            {"name": "pretrain", "family": "cae", "objective": "reconstruct", "data": "caddementia"},
            {"name": "classify", "family": "net", "after": ["pretrain"]},
        ],
    },
    "B2: tiles of slides, then geometry of the heat-map, then a forest": {
        "input": INPUTS["tiles"],
        "target": {"kind": "binary", "classes": ["normal", "tumour"], "positive": "tumour", "source": "CAMELYON16"},
        "split": {"grouping": "slide"},
        "families": {"googlenet": {"kind": "googlenet"}, "forest": {"kind": "random-forest"}},
        "default_family": "googlenet",
        "stages": [{"name": "tile", "family": "googlenet"}, {"name": "slide", "family": "forest", "after": ["tile"], "input": "heatmap"}],
        "metrics": ["auc", "froc"],
    },
    "L3: ten mutations at once": {
        "input": INPUTS["tiles"],
        "target": {"kind": "multilabel", "classes": [f"gene{n}" for n in range(10)], "source": "TCGA"},
        "split": {"grouping": "patient"},
        "families": {"inception": {"kind": "inception-v3"}},
        "default_family": "inception",
    },
    "R2: ordinal grades": {
        "input": {"modality": "fundus", "reader": "npz", "layout": "image", "shape": [3, 28, 28], "dtype": "uint8", "unit": "1", "range": [0, 255]},
        "target": {"kind": "ordinal", "classes": ["0", "1", "2", "3", "4"], "source": "grades"},
        "split": {"grouping": "patient"},
        "families": {"cnn": {"kind": "sun2016-cnn"}},
        "default_family": "cnn",
        "metrics": ["qwk", "macro_auc"],
        "external": [{"name": "messidor-2", "source": "doi:10.5566/ias.1155"}],
    },
    "S1: a taxonomy whose leaves are trained": {
        "input": {"modality": "dermoscopy", "reader": "image-csv", "layout": "image",
            "shape": [3, 299, 299], "dtype": "uint8", "unit": "1", "range": [0, 255]},
        "target": {
            "kind": "hierarchical", "classes": ["mel", "bcc", "nv"],
            "parents": {"mel": "malignant", "bcc": "malignant", "nv": "benign"}, "source": "HAM10000",
        },
        "split": {"grouping": "lesion"},
        "families": {"inception": {"kind": "inception-v3"}},
        "default_family": "inception",
    },
    "P1: windows of a sensor, one subject left out at a time": {
        "input": INPUTS["window"],
        "target": {"kind": "binary", "classes": ["walk", "freeze"], "positive": "freeze", "source": "annotation"},
        "split": {"grouping": "subject", "folds": 21},
        "families": {"cnn": {"kind": "cnn1d"}},
        "default_family": "cnn",
    },
    "X1: a map of pixels": {
        "input": {"modality": "MR", "reader": "dicom-mp", "layout": "volume",
            "shape": [3, 16, 96, 96], "unit": "1", "range": [0, 1], "spacing_mm": [3, 0.5, 0.5]},
        "target": {"kind": "dense", "classes": ["background", "cancer"], "source": "biopsy points"},
        "split": {"grouping": "patient", "folds": 10},
        "families": {"hed": {"kind": "holistically-nested"}},
        "default_family": "hed",
        "metrics": ["auc", "dice"],
    },
    "breast cytology: a table": {
        "input": INPUTS["table"],
        "target": {"kind": "binary", "classes": ["benign", "malignant"], "positive": "malignant", "source": "Wisconsin"},
        "split": {"grouping": "patient"},
        "families": {"dbn": {"kind": "dbn"}},
        "default_family": "dbn",
        "covariates": ["age_years"],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LATER)
def test_the_contract_carries_the_diseases_still_to_come(name: str) -> None:
    """Multi-class, multi-label, ordinal, hierarchical and dense targets; volumes, tiles, windows; stages; external and pre-training sets."""
    raw = {"name": "later", "title": name, "sources": ["doi:10.0/0"], "device": {"key": ["Manufacturer"]}, **LATER[name]}
    spec = DiseaseSpec.from_json(json.dumps(raw))
    assert DiseaseSpec.from_json(spec.to_json()) == spec
    assert spec.n_scores == len(LATER[name]["target"]["classes"])


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (
            "A1: three classes, volumes, pre-trained elsewhere, five folds",
            {"stages": [{"name": "late", "family": "net", "after": ["never"]}]},
            "stages.late.after",
        ),
        ("A1: three classes, volumes, pre-trained elsewhere, five folds", {"external": []}, "stages.pretrain.data"),
        (
            "S1: a taxonomy whose leaves are trained",
            {"target": {"kind": "hierarchical", "classes": ["a", "b"], "parents": {"a": "c"}, "source": "x"}},
            "target.parents",
        ),
        (
            "B2: tiles of slides, then geometry of the heat-map, then a forest",
            {"input": {**INPUTS["tiles"], "microns_per_pixel": None}},
            "microns_per_pixel",
        ),
        ("P1: windows of a sensor, one subject left out at a time", {"input": {**INPUTS["window"], "rate_hz": None}}, "rate_hz"),
        ("breast cytology: a table", {"covariates": ["age"]}, "covariates: not allowed; got 'age'; allowed: age_years, sex, body_site"),
        ("breast cytology: a table", {"covariates": ["sex", "sex"]}, "allowed: distinct names"),
        ("breast cytology: a table", {"covariates": ["sex"], "aggregate": {"method": "mean"}}, "none where groups answer"),
        ("X1: a map of pixels", {"covariates": ["sex"]}, "none where pixels are the target"),
    ],
)
def test_a_part_that_does_not_fit_the_others_is_refused(name: str, change: dict[str, Any], says: str) -> None:
    raw = {"name": "later", "title": "t", "sources": ["doi:10.0/0"], "device": {"key": ["Manufacturer"]}, **LATER[name], **change}
    with pytest.raises(SpecError) as caught:
        DiseaseSpec.from_json(json.dumps(raw))
    assert says in str(caught.value)
