"""Covariates of a request: what is let in, what is refused and by which words, what the answer and the log say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from components.core.errors import DataError
from components.core.fusion import Fusion, Term
from components.core.inference_log import read_log
from components.core.spec import DiseaseSpec
from serving.covariates import HEADER, MAX_HEADER, of_header, taken
from serving.predictor import Predictor, Query
from tests.serving.small_dicom import ct_slice, image
from tests.serving.small_package import build, lung_nodule, reference
from tests.serving.small_server import free_port, serving, started

SPEC = lung_nodule(normalise={"method": "range", "missing_profile": "pooled"}, covariates=["age_years", "sex"])
FUSION = Fusion("softmax", SPEC.target.classes, SPEC.covariates, (Term("sex", "F", (0.0, 1.0)),), penalty=1.0)
TABLE = reference({"0123456789abcdef": ("SIEMENS", "SOMATOM FORCE")}, patients=3)
ARRAY = image(0)[:52, :52][None].astype(np.float32)
FILE = {"fusion.json": FUSION.to_dict()}


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"weight_kg": 70}, r"instances\[0\].covariates: .*unknown covariates|unknown covariates.*instances\[0\].covariates"),
        ({"body_site": "back"}, "age_years, sex"),
        ({"age_years": "63"}, "covariates.age_years"),
        ({"age_years": True}, "covariates.age_years"),
        ({"age_years": -1}, "covariates.age_years"),
        ({"age_years": 131}, "covariates.age_years"),
        ({"age_years": float("nan")}, "covariates.age_years"),
        ({"sex": "female"}, "covariates.sex"),
        ({"sex": ["F"]}, "covariates.sex"),
        ([], "not covariates by name"),
        ("F", "not covariates by name"),
    ],
)
def test_what_is_not_a_covariate_of_the_model_is_refused_and_never_quoted(told: Any, says: str):
    with pytest.raises(DataError, match=says) as refused:
        taken(told, "instances[0].covariates", SPEC)
    assert not {"weight_kg", "63", "131", "female"} & set(str(refused.value).replace("'", " ").replace(",", " ").split())


def test_ages_over_89_are_one_age_and_null_is_not_told():
    assert taken({"age_years": 97, "sex": None}, "x", SPEC) == {"age_years": 90.0}
    assert taken({"age_years": 63.9, "sex": "F"}, "x", SPEC) == {"age_years": 63.0, "sex": "F"}  # as ingest keeps it
    assert taken({}, "x", SPEC) == {}


def test_a_model_without_covariates_says_so():
    with pytest.raises(DataError, match="takes no covariates"):
        taken({"sex": "F"}, "instances[0].covariates", lung_nodule())


@pytest.mark.parametrize(("text", "says"), [("{", "not JSON"), ("[" * 5000, "too long"), ("[" * MAX_HEADER, "not JSON"), ('"F"', "by name")])
def test_a_header_that_is_no_object_is_refused(text: str, says: str):
    with pytest.raises(DataError, match=says) as refused:
        of_header({HEADER.lower(): text}, SPEC)
    assert HEADER in str(refused.value)


def test_a_package_whose_spec_names_covariates_needs_its_fusion(tmp_path: Path):
    with pytest.raises(DataError, match=r"fusion.json"):
        Predictor(build(tmp_path / "p", SPEC, TABLE), None)
    plain = build(tmp_path / "q", DiseaseSpec.model_validate(SPEC.model_dump() | {"covariates": []}), TABLE)
    assert plain.fusion is None
    assert "covariates" not in Predictor(plain, None).answer([Query(ARRAY)])[0]


def odds(answer: dict[str, Any]) -> float:
    return answer["probabilities"]["malignant"] / answer["probabilities"]["benign"]


def test_a_server_fuses_says_what_it_used_and_logs_it(tmp_path: Path):
    package = build(tmp_path / "package", SPEC, TABLE, more=FILE)
    port = free_port()
    code = serving([package.folder], tmp_path / "log", port=port, allow_synthetic=False)
    told = [{}, {"covariates": {"sex": "F", "age_years": 93}}, {"covariates": {"sex": "M"}}]
    with started(code, tmp_path, port=port, ready="/v2/health/ready") as server:
        url = f"{server.url}/v1/models/lung-nodule:predict"
        reply = httpx.post(url, json={"instances": [{"array": ARRAY.tolist(), **one} for one in told]}, timeout=60)
        plain, woman, man = reply.json()["predictions"]
        assert odds(woman) / odds(plain) == pytest.approx(np.e, rel=1e-6)
        assert man["probabilities"] == plain["probabilities"]
        assert [a["covariates"] for a in (plain, woman, man)] == [
            {"used": [], "not_used": []}, {"used": ["sex"], "not_used": ["age_years"]}, {"used": [], "not_used": ["sex"]},
        ]  # fmt: skip
        headers = {"Content-Type": "application/dicom", "X-Dxflow-Row": "100.5", "X-Dxflow-Column": "99.5"}
        data = ct_slice(image(1))
        bare = httpx.post(url, content=data, headers=headers, timeout=60).json()["predictions"][0]
        with_sex = httpx.post(url, content=data, headers=headers | {HEADER: json.dumps({"sex": "F"})}, timeout=60).json()["predictions"][0]
        assert odds(with_sex) / odds(bare) == pytest.approx(np.e, rel=1e-6)
        data = ct_slice(image(1), PatientSex="F", PatientAge="093Y")
        by_itself = httpx.post(url, content=data, headers=headers, timeout=60).json()["predictions"][0]
        assert by_itself["probabilities"] == with_sex["probabilities"]
        refused = httpx.post(url, json={"instances": [{"array": ARRAY.tolist(), "covariates": {"age_years": 200}}]}, timeout=60)
        assert refused.status_code == 400
        assert "instances[0].covariates.age_years" in refused.json()["error"]
    log = read_log(tmp_path / "log")
    answered = log[log["status"] == "answered"]
    assert answered["cov_sex"].fillna("").tolist() == ["", "F", "M", "", "F", "F"]
    assert answered["cov_age_years"].dropna().tolist() == [90.0, 90.0]
