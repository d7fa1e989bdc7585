"""Places and sides in reports and pictures, against the image plane equation of DICOM PS3.3 C.7.6.2.1.1, which is worked out here."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pydicom
import pytest

from components.core.pseudonym import Pseudonymiser
from pipelines import catalog
from serving.pacs.answer import Item, StudyAnswer
from serving.pacs.facts import of_image
from serving.pacs.identity import Identity
from serving.pacs.overlay import oriented, pictures, sentences
from serving.pacs.photograph import Photographs
from serving.pacs.report import sentence
from serving.predictor import Predictor
from serving.said import positive, renamed, said
from tests.pacs.studies import KEY, MIDDLE, KnownNodule, chest, photograph, written
from tests.serving.small_package import CATALOGUE, DiseaseSpec, build, lung_nodule, reference

PSEUDONYMISER = Pseudonymiser(KEY.encode())
c, s = float(np.cos(np.radians(8))), float(np.sin(np.radians(8)))
LYING = {
    "supine": (1, 0, 0, 0, 1, 0), "prone": (-1, 0, 0, 0, -1, 0), "on the right side": (0, -1, 0, 1, 0, 0), "on the left side": (0, 1, 0, -1, 0, 0),
    "flipped left to right": (-1, 0, 0, 0, 1, 0), "flipped front to back": (1, 0, 0, 0, -1, 0), "turned": (c, s, 0, -s, c, 0),
    "oblique": (1, 0, 0, 0, c, s),
}  # fmt: skip


@pytest.fixture(scope="module")
def lung(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    spec = lung_nodule(normalise={"method": "range"})
    return Predictor(build(tmp_path_factory.mktemp("lung") / "p", spec, reference({"a" * 16: ("A", "B")}), synthetic=True), None)


@pytest.fixture(scope="module")
def eye(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    spec = DiseaseSpec.from_toml(CATALOGUE / "retinopathy-screening.toml")
    spec = DiseaseSpec.model_validate(spec.model_dump() | {"abstain": {"outside": 0}, "normalise": {"method": "range"}})
    return Predictor(build(tmp_path_factory.mktemp("eye") / "p", spec, reference({"a" * 16: ("A", "B")}), synthetic=True), None)


def series(orientation: tuple[float, ...], corner: tuple[float, float, float]) -> list[bytes]:
    """The chest with the ball, lying as it is told, its first pixel at `corner`."""
    across, down = np.array(orientation[:3], float), np.array(orientation[3:], float)
    out = []
    for k, data in enumerate(chest()):
        one = pydicom.dcmread(io.BytesIO(data))
        one.ImageOrientationPatient = [float(v) for v in orientation]
        one.ImagePositionPatient = [float(v) for v in np.array(corner) + k * 2.0 * np.cross(across, down)]
        out.append(written(one))
    return out


@pytest.mark.parametrize("lying", LYING)
@pytest.mark.parametrize("corner", [(-40.0, -90.6, -116.0), (300.0, -200.0, 500.0), (-400.0, 250.0, -30.0)])
def test_a_nodules_place_in_the_report_is_the_one_of_the_plane_equation(lung: Predictor, lying: str, corner: tuple[float, float, float]):
    orientation = LYING[lying]
    found = KnownNodule(lung, PSEUDONYMISER).answer(series(orientation, corner))
    across, down = np.array(orientation[:3], float), np.array(orientation[3:], float)
    k, row, column = MIDDLE
    x, y, z = np.array(corner) + k * 2.0 * np.cross(across, down) + across * 0.7 * column + down * 0.7 * row
    rules = lung.spec.pacs
    assert rules is not None
    text = sentence(found.items[0], 1, found, lung.package, rules)
    told = re.search(r"; (.*) of the frame's origin\.", text)
    assert told is not None, text
    words = [(x, "left", "right"), (y, "posterior", "anterior"), (z, "superior", "inferior")]
    assert told[1] == ", ".join(f"{abs(v):.0f} mm {high if v > 0 else low}" for v, high, low in words if round(abs(v)))
    assert "slice 5 of 9 (image number 5)" in text
    assert "(left, posterior, superior)" not in text


def test_a_report_has_what_a_reader_should_weigh_the_answer_with(lung: Predictor):
    found = KnownNodule(lung, PSEUDONYMISER).answer(chest())
    rules = lung.spec.pacs
    assert rules is not None
    item = found.items[0]
    sure = {"entropy": 0.1, "coverage": 0.9, "set": ["benign", "malignant"], "low": None, "high": None}
    seen = {"from": 0.95, "to": 1.0, "n": 8, "k": 8, "groups": 8, "grouping": "patient", "share": 1.0, "low": 0.6306, "high": 1.0, "of": "test"}
    answer = item.answer | {"probabilities": {"benign": 0.0003, "malignant": 0.9997}, "decision": "malignant", "abstain": False, "reasons": []}
    text = sentence(replace(item, answer=answer | {"uncertainty": sure | {"observed": seen}}), 1, found, lung.package, rules)
    for told in (
        "Decision: Malignant.", "Probability of Malignant: over 99 %.", "Of 8 test samples with 95 % or more, 8 were Malignant: at least 63 %",
        "It cannot rule out Benign (with 90 % confidence).", "the model was never tested on it.",
    ):  # fmt: skip
        assert told in text
    assert not re.search(r"\b1\.00|100", text)


def judged(eye: Predictor, *files: bytes) -> StudyAnswer:
    rules = eye.spec.pacs
    assert rules is not None
    return Photographs(eye, rules, PSEUDONYMISER).answer(files)


@pytest.mark.parametrize(
    ("changes", "told", "laterality", "orientation"),
    [
        ({"side": "R"}, "Right eye (OD).", "R", ["L", "F"]), ({"side": "L", "PatientOrientation": ["R", "F"]}, "Left eye (OS).", "L", ["R", "F"]),
        ({"side": "R", "Laterality": "L"}, "", None, ["L", "F"]), ({"side": "", "PatientOrientation": ""}, "", None, []),
        ({"side": "R", "PatientOrientation": ["L", "X"]}, "Right eye (OD).", "R", []),
    ],
)  # fmt: skip
def test_a_picture_says_which_eye_it_is_and_how_it_lies_as_its_source_does_and_invents_neither(
    eye: Predictor, changes: dict[str, Any], told: str, laterality: str | None, orientation: list[str]
):
    found = judged(eye, photograph(**changes))
    rules = eye.spec.pacs
    assert rules is not None
    identity = Identity("2.25.1", eye.package.digest, "images", PSEUDONYMISER)
    (made,) = pictures(found, eye.package, rules, identity, datetime(2026, 1, 2, 3, 4, 5))
    assert made.get("Laterality") == laterality
    assert list(made.PatientOrientation or []) == orientation
    item: Item = found.items[0]
    side = told.rstrip(".")
    assert sentences(item, eye.package, rules, synthetic=False, heat=False, side=side)[0].startswith(told)
    assert (told[:1].lower() + told[1:]).rstrip(".") in sentence(item, 1, found, eye.package, rules)
    assert any("the model was never tested on it" in line for line in sentences(item, eye.package, rules, synthetic=False, heat=False))


@pytest.mark.parametrize(
    ("image", "series_", "side"), [("R", "", "R"), ("", "L", "L"), ("R", "R", "R"), ("R", "L", ""), ("B", "", ""), ("U", "", "")]
)
def test_two_sides_in_one_header_are_none(image: str, series_: str, side: str):
    row = {"00200062": {"vr": "CS", "Value": [image]}, "00200060": {"vr": "CS", "Value": [series_]}}
    assert of_image(row).side == side


@pytest.mark.parametrize("name", [name for name in catalog.names() if catalog.load(name).pacs is not None])
def test_every_answer_of_every_disease_can_be_said_in_the_archives_words(name: str):
    """No two classes are called the same, and each class, alone in the set and decided for, gives its sentences."""
    spec = catalog.load(name)
    assert spec.pacs is not None
    names = {key: code[2] for key, code in spec.pacs.decisions.items()}
    assert len(set(names.values())) == len(names)
    k = len(spec.target.classes)
    for decided in spec.target.classes:
        answer = {
            "abstain": False, "reasons": ["pooled profile used: device without profile"], "decision": decided, "positive": positive(spec),
            "probabilities": {c: 0.9 if c == decided else 0.1 / (k - 1) for c in spec.target.classes}, "operating_point": {"kind": "highest"},
            "uncertainty": {"entropy": 0.2, "coverage": 0.9, "set": [decided], "observed": None, "low": None, "high": None},
        }  # fmt: skip
        told = said(renamed(answer, names))
        assert told.headline == f"The model's answer: {names[decided]}."
        assert "Pooled profile used: device without profile." in told.lines
        assert any(line.startswith("It rules out") for line in told.lines)
        assert not any(re.search(r"\b100 %|\b0 %", line) for line in told.lines)


@pytest.mark.parametrize(
    ("told", "wanted"),
    [(["L", "F"], ["L", "F"]), (["LA", "F"], ["LA", "F"]), ("LF", None), ("L", None), (None, None), (["L"], None), (["L", "X"], None)],
)
def test_the_orientation_of_a_picture_is_two_values_or_none(told: Any, wanted: list[str] | None) -> None:
    """A header's one value `LF`, an oblique direction alone, was taken for two, and the picture went out with an orientation that nobody told."""
    header = pydicom.Dataset()
    if told is not None:
        header.PatientOrientation = told
    assert oriented(header) == wanted
