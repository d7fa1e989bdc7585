"""A hospital's own words for device, patient and study: the hash of ingest, in every way in, and nowhere the word."""

from __future__ import annotations

import base64
import unicodedata
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from components.core.errors import DataError
from components.core.pseudonym import UNKNOWN_DEVICE, Pseudonymiser
from components.core.spec import DiseaseSpec
from components.ingest.readers.image_csv import row_facts
from pipelines.erase_plan import keys_of
from serving import handles
from serving.predictor import Predictor, Query
from serving.queries import from_document, from_raw, from_tensor
from tests.serving import small_bodies
from tests.serving.small_dicom import PATIENT_ID, ct_slice, image
from tests.serving.small_package import CATALOGUE, build, lung_nodule, reference

KEY = Pseudonymiser(b"a key of the tests only")
EYE = DiseaseSpec.from_toml(CATALOGUE / "retinopathy-screening.toml")
FEW = settings(max_examples=150, derandomize=True, deadline=None, database=None)
WORDS = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=handles.MOST).filter(str.strip)


def trained(device: str, patient: str) -> dict[str, Any]:
    """What ingest keeps of a row of a table."""
    return row_facts(EYE, {"device": device, "patient": patient}, KEY)


def ways(**words: str) -> dict[str, Query]:
    """One sample told in each way that there is."""
    picture, array = small_bodies.picture(), np.zeros(EYE.input.shape, np.float32)
    headers = {"content-type": "image/png"} | {handles.HEADERS[name].lower(): word.encode().decode("latin-1") for name, word in words.items()}
    encoded = base64.b64encode(picture).decode()
    shape = [1, *EYE.input.shape]
    return {
        "header": from_raw(picture, headers, EYE, KEY)[0],
        "file": from_document({"instances": [{"file_base64": encoded, **words}]}, EYE, KEY)[0],
        "array": from_document({"instances": [{"array": array.tolist(), **words}]}, EYE, KEY)[0],
        "files of v2": from_tensor([1], "BYTES", [encoded], None, words, EYE, KEY)[0],
        "numbers of v2": from_tensor(shape, "FP32", None, array.astype("<f4").tobytes(), words, EYE, KEY)[0],
    }


@pytest.mark.parametrize("device", ["SITE-2", "Gerät 7", "  camera  room 3 ", "00124b0014b7e6aX", "ä" * handles.MOST, "相机"])
def test_a_word_is_the_device_of_training_in_every_way_in(device: str):
    wanted = trained(device.strip(), "P 17")
    for way, query in ways(device=device, patient="P 17", study="Study/9").items():
        assert query.device_key == wanted["device_key"], way
        assert query.patient == wanted["patient_id"], way
        assert query.patient in keys_of("P 17", KEY), f"{way}: erase looks for another patient"
        assert query.study == KEY.id("study", "Study/9"), way


@FEW
@given(WORDS, WORDS)
def test_any_word_is_hashed_as_ingest_hashes_it_and_stands_in_nothing_that_is_kept(device: str, patient: str):
    fields, told = handles.of_fields({"device": device, "patient": patient, "row": 3}, "instances[0]", KEY)
    wanted = trained(device.strip(), patient.strip())
    assert fields == {"row": 3}
    assert (told.device or UNKNOWN_DEVICE) == wanted["device_key"]
    assert told.patient == wanted["patient_id"]
    assert all(value is None or handles.HASHED.fullmatch(value) for value in (told.device, told.patient, told.study))
    assert handles.of_headers({"x-dxflow-device": handles.quoted(device, "--device")}, KEY).device == told.device


@FEW
@given(st.one_of(st.text(max_size=3 * handles.MOST), st.none(), st.integers(), st.booleans(), st.lists(st.text())), st.sampled_from(handles.NAMES))
def test_what_is_no_word_is_refused_in_a_line_that_does_not_repeat_it(value: Any, name: str):
    fine = isinstance(value, str) and 1 <= len(value.strip()) <= handles.MOST
    fine = fine and not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in value.strip())
    if fine or value is None:
        handles.of_fields({name: value}, "instances[0]", KEY)
        return
    with pytest.raises(DataError) as error:
        handles.of_fields({name: value}, "instances[0]", KEY)
    assert str(error.value) == f"instances[0].{name}: not a word; allowed: {handles.WORD}"


@pytest.mark.parametrize("word", ["unknown", " Unknown ", "UNKNOWN"])
def test_unknown_is_no_device_here_nor_in_training(word: str):
    assert trained(word.strip(), "P")["device_key"] == UNKNOWN_DEVICE
    assert {query.device_key for way, query in ways(device=word).items() if way not in ("header", "file", "files of v2")} == {UNKNOWN_DEVICE}


def test_hashes_go_on_working_where_they_are_called_so():
    key = "0123456789abcdef"
    assert handles.of_fields({"device_key": key}, "i", KEY)[1].device == key
    assert handles.of_headers({"x-dxflow-device-key": key}, KEY).device == key
    assert handles.of_headers({"x-dxflow-device": f'"{key}"'}, KEY).device == trained(key, "P")["device_key"] != key
    for headers, told in (
        ({"x-dxflow-device": key}, "a word or a keyed hash?"), ({"x-dxflow-device-key": "Miller"}, "not a device key"),
        ({"x-dxflow-device": "Miller", "x-dxflow-device-key": key}, "the device twice"), ({"x-dxflow-patient": "\xff\xfe"}, "not UTF-8"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=r"header X-Dxflow-") as error:
            handles.of_headers(headers, KEY)
        assert told in str(error.value)
        assert "Miller" not in str(error.value)


def test_a_patient_who_is_not_the_files_own_is_refused_since_erasing_either_would_leave_the_other():
    spec, slice_ = lung_nodule(), ct_slice(image())
    headers = {"content-type": "application/dicom", "x-dxflow-row": "40", "x-dxflow-column": "40"}
    (own,) = from_raw(slice_, headers | {"x-dxflow-patient": PATIENT_ID}, spec, KEY)
    assert own.patient == KEY.id("patient", PATIENT_ID)
    with pytest.raises(DataError) as error:
        from_raw(slice_, headers | {"x-dxflow-patient": "Miller"}, spec, KEY)
    assert str(error.value) == "header X-Dxflow-Patient: another patient than the sample's own; allowed: the same, or none"


@pytest.mark.parametrize(("devices", "abstains"), [({UNKNOWN_DEVICE: ("", "")}, False), ({"a" * 16: ("A", "B"), UNKNOWN_DEVICE: ("", "")}, True)])
def test_a_device_that_nobody_told_is_unknown_whatever_training_had(tmp_path: Any, devices: dict[str, tuple[str, str]], abstains: bool):
    """It was called known where training had none that was named. A model that wants tested devices only refuses it where it knows any."""
    x = np.random.default_rng(0).normal(-500, 50, (1, 52, 52)).astype(np.float32)
    for strict in (False, True):
        spec = lung_nodule(normalise={"method": "range"}, abstain={"outside": 0, "unseen_device": strict})
        model = Predictor(build(tmp_path / f"p{strict}", spec, reference(devices)), None)
        unknown, unseen = model.answer([Query(x), Query(x, device_key="c" * 16)])
        assert (unknown["device"]["status"], unseen["device"]["status"]) == ("unknown", "unseen")
        assert (unknown["abstain"], unseen["abstain"]) == (strict and abstains, strict)
