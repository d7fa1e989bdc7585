"""Age and sex of a DICOM header: the same answer as when the request tells them, nothing where it is impossible, no more than the spec asks for."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.covariates import agreed, of_dicom
from components.core.fusion import TOLD, Fusion, Number, Term
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec
from serving import bodies, queries
from serving.bodies.body import Body
from serving.covariates import HEADER
from serving.pacs.photograph import Photographs
from serving.predictor import Predictor, Query
from serving.records import asked
from tests.pacs.studies import KnownNodule, chest, photograph
from tests.serving.fuzzing import PSEUDONYMISER
from tests.serving.small_bodies import BRAIN, disease, mr_slices
from tests.serving.small_dicom import ct_slice, image
from tests.serving.small_package import CATALOGUE, build, lung_nodule, reference

NAMES = ("age_years", "sex")
SPEC = lung_nodule(normalise={"method": "range", "missing_profile": "pooled"}, covariates=list(NAMES))
TERMS = (Term("sex", "F", (0.0, 1.0)), Term("age_years", TOLD, (0.0, 0.25)), Term("age_years", "per sd", (0.0, 0.5)))
FUSION = Fusion("softmax", SPEC.target.classes, SPEC.covariates, TERMS, {"age_years": Number(60.0, 10.0, 40.0, 80.0)}, penalty=1.0)
TABLE = reference({"0123456789abcdef": ("SIEMENS", "SOMATOM FORCE")}, patients=3)
POINT = {"content-type": "application/dicom", "x-dxflow-row": "100.5", "x-dxflow-column": "99.5"}
IMAGE = image(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(build(tmp_path_factory.mktemp("package") / "p", SPEC, TABLE, more={"fusion.json": FUSION.to_dict()}), None)


def raw(told: dict[str, Any] | None = None, **header: Any) -> Query:
    """The sample of a body that is a DICOM file with `header`, sent with `told`."""
    headers = POINT | ({HEADER.lower(): json.dumps(told)} if told is not None else {})
    (found,) = queries.from_raw(ct_slice(IMAGE, **header), headers, SPEC, PSEUDONYMISER)
    return found


@pytest.mark.parametrize(
    ("age", "years"),
    [("045Y", 45), ("018M", 1), ("100W", 1), ("400D", 1), ("011M", 0), ("093Y", 90), ("130Y", 90), ("131Y", None), ("999Y", None), ("999M", 83)]
    + [("000Y", None), ("45Y", None), ("0045Y", None), ("045y", None), ("-45Y", None), ("045", None), ("", None), ("045Y\\046Y", None)],
)  # fmt: skip
def test_an_age_is_whole_years_of_whatever_it_was_counted_in(age: str, years: float | None):
    assert of_dicom(NAMES, age=age, sex="") == ({} if years is None else {"age_years": float(years)})


@pytest.mark.parametrize(
    ("text", "sex"), [("F", "F"), ("M", "M"), ("O", "O"), ("U", None), ("f", None), ("FEMALE", None), ("F\\M", None), ("", None)]
)
def test_a_sex_is_a_letter_of_the_standard(text: str, sex: str | None):
    assert of_dicom(NAMES, age="", sex=text).get("sex") == sex


def test_a_header_tells_what_a_request_tells(model: Predictor):
    """Parity, bit for bit, of the whole answer; and it differs from the answer without covariates by what the fusion says."""
    told, by_header, bare = raw({"age_years": 70, "sex": "F"}), raw(PatientAge="070Y", PatientSex="F"), raw()
    assert (by_header.covariates, bare.covariates) == ({"age_years": 70.0, "sex": "F"}, {})
    first, second, third = (one | {"request_id": ""} for one in model.answer([told, by_header, bare]))
    assert first == second
    assert first["covariates"] == {"used": ["age_years", "sex"], "not_used": []}
    odds = [one["probabilities"]["malignant"] / one["probabilities"]["benign"] for one in (second, third)]
    assert odds[0] / odds[1] == pytest.approx(np.exp(1 + 0.25 + 0.5), rel=1e-6)
    assert asked(by_header)["covariates"] == asked(told)["covariates"] == {"cov_age_years": 70.0, "cov_sex": "F"}


def test_a_request_goes_before_the_header_name_by_name():
    assert raw({"age_years": 50}, PatientAge="070Y", PatientSex="M").covariates == {"age_years": 50.0, "sex": "M"}
    assert raw({"age_years": None}, PatientAge="070Y").covariates == {"age_years": 70.0}  # null is not told
    document = {"instances": [{"dicom_base64": "", "row": 100.5, "column": 99.5, "covariates": {"sex": "F"}}]}
    document["instances"][0]["dicom_base64"] = base64.b64encode(ct_slice(IMAGE, PatientAge="018M", PatientSex="M")).decode()
    (found,) = queries.from_document(document, SPEC, PSEUDONYMISER)
    assert found.covariates == {"age_years": 1.0, "sex": "F"}


def test_a_file_in_a_tensor_brings_its_own():
    data = ct_slice(IMAGE, PatientAge="070Y", PatientSex="F")
    element = len(data).to_bytes(4, "little") + data
    parameters = {"content_type": "application/dicom", "row": 100.5, "column": 99.5}
    (found,) = queries.from_tensor([1], "BYTES", None, element, parameters, SPEC, PSEUDONYMISER)
    assert found.covariates == {"age_years": 70.0, "sex": "F"}


@pytest.mark.parametrize("header", [{"PatientAge": "999Y", "PatientSex": "U"}, {"PatientAge": "FORTY"}, {"PatientAge": ["045Y", "046Y"]}])
def test_what_is_impossible_counts_as_not_told(model: Predictor, header: dict[str, Any]):
    found = raw(**header)
    assert found.covariates == {}
    assert model.answer([found])[0]["probabilities"] == model.answer([raw()])[0]["probabilities"]


def test_nothing_of_a_person_is_read_that_the_spec_does_not_name():
    data = ct_slice(IMAGE, PatientAge="070Y", PatientSex="F")
    for named in ([], ["sex"]):
        spec = lung_nodule(covariates=named)
        (found,) = queries.from_raw(data, POINT, spec, PSEUDONYMISER)
        assert sorted(found.covariates) == named


def test_slices_that_contradict_each_other_tell_nothing(tmp_path: Path):
    assert agreed([{"sex": "F", "age_years": 70.0}, {"sex": "F"}]) == {"sex": "F"}
    assert agreed([]) == {}
    import io

    import pydicom

    spec = DiseaseSpec.model_validate(disease(BRAIN).model_dump() | {"covariates": NAMES})
    for n, data in enumerate(mr_slices(shape=(30, 36, 16), mm=5.0)):
        d = pydicom.dcmread(io.BytesIO(data))
        d.PatientSex, d.PatientAge = "F", "071Y" if n == 3 else "070Y"
        d.save_as(tmp_path / f"{n}.dcm")
    (found,) = bodies.read("application/dicom", Body(tmp_path), spec, PSEUDONYMISER)
    assert found.covariates == {"sex": "F"}


def test_studies_of_an_archive_bring_them_too(tmp_path: Path):
    """Through the judges of `dxflow pacs`: a chest series and a photograph."""
    model = Predictor(build(tmp_path / "chest", SPEC, TABLE, more={"fusion.json": FUSION.to_dict()}), None)
    found = KnownNodule(model, PSEUDONYMISER).answer(chest(PatientAge="070Y", PatientSex="F"))
    assert found.queries[0].covariates == {"age_years": 70.0, "sex": "F"}
    assert found.items[0].answer["covariates"]["used"] == ["age_years", "sex"]
    plain = DiseaseSpec.from_toml(CATALOGUE / "retinopathy-screening.toml")
    eye = DiseaseSpec.model_validate(plain.model_dump() | {"covariates": NAMES, "abstain": {"outside": 0}})
    fusion = Fusion("softmax", eye.target.classes, eye.covariates, (Term("sex", "F", (0.0, 1.0)),), penalty=1.0)
    seer = Predictor(build(tmp_path / "eye", eye, reference({"a" * 16: ("A", "B")}, patients=3), more={"fusion.json": fusion.to_dict()}), None)
    assert eye.pacs is not None
    told = Photographs(seer, eye.pacs, Pseudonymiser(b"k" * 16)).answer([photograph(PatientAge="055Y", PatientSex="F")])
    assert told.queries[0].covariates == {"age_years": 55.0, "sex": "F"}
    assert told.items[0].answer["covariates"] == {"used": ["sex"], "not_used": ["age_years"]}
