"""The codes of the diseases' reports, against tables that others made and against the check digit that SNOMED CT gives its codes."""

from __future__ import annotations

import pytest
from pydicom.sr.codedict import Collection

from components.core.pacs_rules import Code
from components.core.spec import DiseaseSpec
from serving.pacs import codes
from serving.pacs.codes import SCHEME
from tests.serving.small_package import CATALOGUE

RETINOPATHY = {
    "4855003": "Diabetic retinopathy",
    "312903003": "Mild nonproliferative diabetic retinopathy",
    "312904009": "Moderate nonproliferative diabetic retinopathy",
    "312905005": "Severe nonproliferative diabetic retinopathy",
    "59276001": "Proliferative diabetic retinopathy",
}
"""Looked up in NLM's value sets 2.16.840.1.113883.3.526.3.327, as of 2021, for the first, and .3.526.3.1283, as of 2025, for the others, whose
full names are "retinopathy due to diabetes mellitus (disorder)" and "mild nonproliferative retinopathy due to ..."."""
DEMENTIA = {"26929004": "Alzheimer's disease", "386805003": "Mild cognitive disorder"}
"""Looked up as the displays of `http://snomed.info/sct` codings in public FHIR conditions, several of each."""
LOOKED_UP = RETINOPATHY | DEMENTIA
OURS = [value for value in vars(codes).values() if isinstance(value, tuple)]


def codes_of(file: str) -> list[Code]:
    rules = DiseaseSpec.from_toml(CATALOGUE / file).pacs
    return [rules.finding, rules.site, rules.probability, *rules.decisions.values()] if rules else []


USED = sorted({code for file in CATALOGUE.glob("*.toml") for code in codes_of(file.name)} | set(OURS))


@pytest.mark.parametrize("code", [c for c in USED if c[1] in ("SCT", "DCM") and c[0] not in LOOKED_UP], ids=" ".join)
def test_a_code_of_dicoms_own_lists_has_the_meaning_that_stands_there(code: Code):
    """pydicom's dictionary is made from DICOM PS3.16."""
    found = Collection(code[1])
    assert code[2].lower() in {concept.meaning.lower() for name in found.dir() if (concept := getattr(found, name)).value == code[0]}


def test_what_no_list_of_dicom_has_is_what_was_looked_up_and_each_grade_of_retinopathy_has_its_own():
    assert {value: meaning for value, _, meaning in USED if value in LOOKED_UP} == LOOKED_UP
    rules = DiseaseSpec.from_toml(CATALOGUE / "retinopathy-grading.toml").pacs
    assert rules is not None
    for grade in ("mild", "moderate", "severe", "proliferative"):
        assert RETINOPATHY[rules.decisions[grade][0]].lower().startswith(grade)


def times(a: int, b: int) -> int:
    """In the group of turns (0 to 4) and reflections (5 to 9) of a pentagon."""
    turned = (a + b) % 5 if a < 5 else (a - b) % 5
    return turned + 5 * ((a < 5) != (b < 5))


def checks(digits: str) -> bool:
    """Whether a code ends in its check digit.

    Source:
        Verhoeff, Error Detecting Decimal Codes, 1969; SNOMED CT Release File Specification, Check-digit computation.
    """
    step, moved, total = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4), list(range(10)), 0
    for digit in reversed(digits):
        total = times(total, moved[int(digit)])
        moved = [moved[k] for k in step]
    return total == 0


def test_every_snomed_code_ends_in_its_check_digit_and_one_with_a_wrong_or_swapped_digit_does_not():
    assert checks("2363")  # of the literature: 236 and its check digit 3
    used = [value for value, scheme, _ in USED if scheme == "SCT"]
    assert len(used) > 10
    for value in used:
        assert checks(value), value
        assert not any(checks(value[:k] + str((int(value[k]) + 1) % 10) + value[k + 1 :]) for k in range(len(value)))


def test_what_no_list_has_is_ours_by_its_scheme():
    assert {scheme for _, scheme, _ in USED} <= {"SCT", "DCM", "UMLS", SCHEME}
