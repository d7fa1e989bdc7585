"""Which images of a study a model is asked about: each rule alone, and doubt, which is no answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from components.core.pacs_rules import PacsRules
from pipelines import catalog
from serving.pacs.facts import ImageFacts, of_image
from serving.pacs.selection import Choice, Declined, choose, slice_mm

LUNG, EYE, HEAD = (catalog.load(name).pacs for name in ("lung-nodule", "retinopathy-screening", "alzheimer-smri"))
assert LUNG is not None
assert EYE is not None
assert HEAD is not None


def slice_(k: int, *, series: str = "1", step_mm: float = 2.0, **changes: Any) -> ImageFacts:
    made = ImageFacts(
        sop=f"{series}.{k}", sop_class="1.2.840.10008.5.1.4.1.1.2", series=series, modality="CT", image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
        body_part="CHEST", position=(0.0, 0.0, k * step_mm), orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0), pixel_mm=(0.7, 0.7), rows=512, columns=512,
        samples=1, frames=1, burned_in=None, contrast=False, side="", described="", patient="P",
    )  # fmt: skip
    return replace(made, **changes)


def chest(n: int = 12, **changes: Any) -> list[ImageFacts]:
    return [slice_(k, **changes) for k in range(n)]


def eye(sop: str, side: str, **changes: Any) -> ImageFacts:
    made = slice_(0, series="e", modality="OP", sop_class="1.2.840.10008.5.1.4.1.1.77.1.5.1", image_type=("ORIGINAL", "PRIMARY"), body_part="")
    return replace(made, sop=sop, side=side, position=None, orientation=None, **changes)


def reasons(*series: list[ImageFacts], rules: PacsRules = LUNG) -> tuple[str, ...]:
    found = choose({str(n): images for n, images in enumerate(series)}, rules)
    assert isinstance(found, Declined)
    return found.reasons


def test_the_one_fitting_series_is_chosen_beside_others():
    found = choose(
        {"1": chest(), "2": chest(series="2", image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")), "3": chest(series="3", modality="SR")}, LUNG
    )
    assert isinstance(found, Choice)
    assert {i.series for i in found.images} == {"1"}
    assert len(found.images) == 12


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "image type LOCALIZER (1 series)"),
        ({"image_type": ("DERIVED", "SECONDARY", "MPR")}, "image type DERIVED (1 series)"),
        ({"sop_class": "1.2.840.10008.5.1.4.1.1.7"}, "another kind of object (1 series)"),
        ({"body_part": "HEAD"}, "another body part (1 series)"),
        ({"burned_in": True}, "burned-in annotation (1 series)"),
        ({"frames": 30}, "several frames in one object (1 series)"),
        ({"orientation": (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)}, "not axial (1 series)"),
        ({"orientation": None}, "images without position or orientation (1 series)"),
        ({"position": None}, "images without position or orientation (1 series)"),
        ({"step_mm": 5.0}, "slices 5.00 mm apart, allowed 0.3 to 3 mm (1 series)"),
        ({"step_mm": 0.1}, "slices 0.10 mm apart, allowed 0.3 to 3 mm (1 series)"),
        ({"step_mm": 0.0}, "several images at one position (1 series)"),
    ],
)
def test_a_series_that_breaks_one_rule_is_declined_with_it(changes: dict[str, Any], reason: str):
    assert reasons(chest(**changes)) == (reason,)


def test_a_study_of_another_modality_does_not_concern_the_model():
    found = choose({"1": chest(modality="MR")}, LUNG)
    assert found == Declined(("no series of the modality",), concerned=False)


def test_an_unnamed_body_part_is_no_objection():
    assert isinstance(choose({"1": chest(body_part="")}, LUNG), Choice)


def test_missing_slices_are_counted():
    assert reasons([s for s in chest(14) if s.sop not in ("1.5", "1.8", "1.9")]) == ("3 slices missing (1 series)",)


def test_too_few_and_too_many_images_are_declined():
    assert reasons(chest(7)) == ("7 images, allowed 8 to 2000 (1 series)",)
    assert reasons(chest(2001, step_mm=0.5)) == ("2001 images, allowed 8 to 2000 (1 series)",)


def test_mixed_orientations_sizes_and_kinds_in_one_series_are_doubt():
    turned = slice_(99, orientation=(0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    assert reasons([*chest(), turned]) == ("mixed orientations (1 series)",)
    assert reasons([*chest(), slice_(12, rows=256)]) == ("mixed sizes or pixel spacings (1 series)",)
    assert reasons([*chest(), slice_(12, body_part="HEAD")]) == ("1 of its images break rules that the others keep (1 series)",)


def test_a_localizer_inside_the_series_is_left_out():
    found = choose({"1": [*chest(), slice_(99, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))]}, LUNG)
    assert isinstance(found, Choice)
    assert len(found.images) == 12


def test_the_finest_series_is_chosen_and_two_equal_ones_are_doubt():
    fine, coarse = chest(24, series="f", step_mm=1.0), chest(series="c")
    found = choose({"c": coarse, "f": fine}, LUNG)
    assert isinstance(found, Choice)
    assert slice_mm(found.images) == 1.0
    assert reasons(coarse, chest(series="d")) == ("2 series fit equally well",)


def test_contrast_and_sequence_are_asked_for_where_the_rules_say_so():
    without = LUNG.model_copy(update={"contrast": "without"})
    assert reasons(chest(contrast=True), rules=without) == ("contrast agent (1 series)",)
    assert reasons(chest(), rules=LUNG.model_copy(update={"contrast": "with"})) == ("no contrast agent (1 series)",)
    named = LUNG.model_copy(update={"sequence": ("mprage", "t1")})
    assert reasons(chest(described="axial flair"), rules=named) == ("another sequence, or none named (1 series)",)
    assert isinstance(choose({"1": chest(described="sag mprage 1mm")}, named), Choice)


def test_one_photograph_of_each_eye_is_chosen():
    found = choose({"e": [eye("1", "R"), eye("2", "L")]}, EYE)
    assert isinstance(found, Choice)
    assert [i.sop for i in found.images] == ["2", "1"]
    assert isinstance(choose({"e": [eye("1", "")]}, EYE), Choice)


def test_several_photographs_of_one_eye_are_doubt():
    assert reasons([eye("1", "R"), eye("2", "R"), eye("3", "L")], rules=EYE) == ("2 images of one side fit equally well",)
    assert reasons([eye("1", ""), eye("2", "")], rules=EYE) == ("2 images of no named side fit equally well",)
    assert reasons([eye("1", "R"), eye("2", "")], rules=EYE) == ("1 images name no side, others do",)


def test_facts_come_from_the_json_of_a_header_and_oddities_are_absent():
    said = {
        "00080018": ("UI", "1.2"), "00080060": ("CS", "ct"), "00080008": ("CS", "ORIGINAL", "primary"), "00200032": ("DS", 1, "2.5", -3),
        "00200037": ("DS", 1, 0, 0), "00280301": ("CS", "YES"), "00280030": ("DS", "NaN", 1), "00200062": ("CS", "X"),
        "00100010": ("PN", {"Alphabetic": "A"}), "00280010": ("US", 512),
    }  # fmt: skip
    row = {tag: {"vr": vr, "Value": values} for tag, (vr, *values) in said.items()} | {"00280008": "nonsense", "00180015": {"vr": "CS"}}
    found = of_image(row)
    assert (found.sop, found.modality, found.image_type, found.position) == ("1.2", "CT", ("ORIGINAL", "PRIMARY"), (1.0, 2.5, -3.0))
    assert (found.orientation, found.pixel_mm, found.burned_in, found.side, found.rows, found.frames) == (None, None, True, "", 512, 1)


def head(n: int = 160, *, series: str = "1", step_mm: float = 1.0, **changes: Any) -> list[ImageFacts]:
    """A sagittal MPRAGE."""
    usual: dict[str, Any] = {
        "modality": "MR", "sop_class": "1.2.840.10008.5.1.4.1.1.4", "image_type": ("ORIGINAL", "PRIMARY", "M", "ND"), "body_part": "HEAD",
        "orientation": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0), "described": "t1_mprage_sag", "acquisition": "3D", "echo_ms": 2.98, "pixel_mm": (1.0, 1.0),
    }  # fmt: skip
    return [slice_(k, series=series, **usual | {"position": (k * step_mm, 0.0, 0.0)} | changes) for k in range(n)]


@pytest.mark.parametrize("described", ["t1_mprage_sag_p2_iso", "sag 3d fspgr bravo", "t1w_3d_tfe", "mp-rage"])
@pytest.mark.parametrize("body_part", ["HEAD", "BRAIN", ""])
def test_a_3d_t1_series_of_a_head_is_chosen_in_whatever_plane_among_the_others_of_its_study(described: str, body_part: str):
    for plane in ((0.0, 1.0, 0.0, 0.0, 0.0, -1.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)):
        along = np.cross(plane[:3], plane[3:])
        wanted = [
            replace(i, orientation=plane, position=tuple((k * along).tolist())) for k, i in enumerate(head(described=described, body_part=body_part))
        ]
        study = {
            "t1": wanted,
            "flair": head(series="flair", described="t2_space_dark-fluid_sag flair", echo_ms=388.0),
            "t2": head(24, series="t2", step_mm=5.0, described="t2_tse_tra", acquisition="2D", echo_ms=91.0),
            "after": head(series="after", contrast=True),
            "survey": head(3, series="survey", image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")),
        }
        found = choose(study, HEAD)
        assert isinstance(found, Choice)
        assert [i.series for i in found.images] == ["1"] * 160


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"described": "gre field sag"}, "another sequence, or none named (1 series)"),
        ({"described": ""}, "another sequence, or none named (1 series)"),
        ({"described": "t1_mprage_sag post gd"}, "its description says post (1 series)"),
        ({"described": "mp2rage_t1 uni"}, "its description says mp2rage (1 series)"),
        ({"described": "t1 map"}, "its description says map (1 series)"),
        ({"acquisition": "2D"}, "not acquired in 3D, or not said (1 series)"),
        ({"acquisition": ""}, "not acquired in 3D, or not said (1 series)"),
        ({"echo_ms": 105.0}, "echo time 105.0 ms, allowed 0.5 to 12 ms (1 series)"),
        ({"echo_ms": None}, "no echo time (1 series)"),
        ({"contrast": True}, "contrast agent (1 series)"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "P", "ND")}, "image type P (1 series)"),
        ({"image_type": ("DERIVED", "SECONDARY", "MPR")}, "image type DERIVED (1 series)"),
        ({"body_part": "CSPINE"}, "another body part (1 series)"),
        ({"step_mm": 5.0}, "slices 5.00 mm apart, allowed 0.5 to 2 mm (1 series)"),
        ({"n": 40}, "40 images, allowed 60 to 512 (1 series)"),
        ({"frames": 160, "n": 1}, "several frames in one object (1 series)"),
        ({"burned_in": True}, "burned-in annotation (1 series)"),
        ({"sop_class": "1.2.840.10008.5.1.4.1.1.4.1"}, "another kind of object (1 series)"),
    ],
)
def test_on_doubt_about_a_head_there_is_no_answer(changes: dict[str, Any], reason: str):
    assert reasons(head(**changes), rules=HEAD) == (reason,)


def test_two_heads_that_are_as_fine_as_each_other_are_doubt():
    """A scanner may store a series with its brightness evened out beside the plain one."""
    assert reasons(head(), head(series="2"), rules=HEAD) == ("2 series fit equally well",)


def test_acquisition_type_and_echo_time_come_from_the_header():
    row = {"00180023": {"vr": "CS", "Value": ["3D"]}, "00180081": {"vr": "DS", "Value": [2.98]}}
    assert (of_image(row).acquisition, of_image(row).echo_ms) == ("3D", 2.98)
    assert (of_image({}).acquisition, of_image({}).echo_ms) == ("", None)
