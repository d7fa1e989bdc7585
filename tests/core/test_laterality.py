"""Places and sides in words, against DICOM's own definition, worked out here from rotations of a patient in a scanner."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from components.core.imaging import laterality

FEW = settings(max_examples=200, derandomize=True, deadline=None, database=None)
ALONG = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "H": (0, 0, 1), "F": (0, 0, -1)}
"""PS3.3 C.7.6.2.1.1: x grows to the left, y to the posterior, z to the head."""
# PS3.3 C.7.3.1.1.2, the patient in the gantry as seen from its front: for each position, where the patient's left, back and head point in gantry
# coordinates (x to the viewer's right, y down, z into the bore).
POSITIONS = {
    "HFS": ((1, 0, 0), (0, 1, 0), (0, 0, 1)), "HFP": ((-1, 0, 0), (0, -1, 0), (0, 0, 1)),
    "FFS": ((-1, 0, 0), (0, 1, 0), (0, 0, -1)), "FFP": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
    "HFDR": ((0, -1, 0), (1, 0, 0), (0, 0, 1)), "HFDL": ((0, 1, 0), (-1, 0, 0), (0, 0, 1)),
    "FFDR": ((0, -1, 0), (-1, 0, 0), (0, 0, -1)), "FFDL": ((0, 1, 0), (1, 0, 0), (0, 0, -1)),
}  # fmt: skip


def test_the_place_that_was_called_left_posterior_superior():
    assert laterality.offset((-7, -57, -108)) == "7 mm right, 57 mm anterior, 108 mm inferior of the frame's origin"
    assert laterality.letters((-7, -57, -108)) == "R 7, A 57, F 108"
    assert laterality.offset((7, 57, 108)) == "7 mm left, 57 mm posterior, 108 mm superior of the frame's origin"
    assert laterality.offset((7, 57, 108), ras=True) == "7 mm right, 57 mm anterior, 108 mm superior of the frame's origin"
    assert laterality.offset((0.4, -0.4, 0)) == "at the frame's origin"
    assert laterality.offset((float("nan"), 0, 0)) == laterality.offset((1, 2)) == ""


@FEW
@given(st.tuples(*[st.floats(-2000, 2000)] * 3))
def test_every_word_of_a_place_is_the_sign_of_its_axis(point: tuple[float, float, float]):
    text = laterality.offset(point)
    said = {word: int(mm) for mm, word in (part.split(" mm ") for part in text.removesuffix(" of the frame's origin").split(", ") if " mm " in part)}
    for value, (low, high) in zip(point, (("right", "left"), ("anterior", "posterior"), ("inferior", "superior")), strict=True):
        if round(abs(value)):
            assert said.pop(high if value > 0 else low) == round(abs(value))
    assert not said
    assert laterality.offset((-point[0], -point[1], point[2]), ras=True) == text


@pytest.mark.parametrize("position", POSITIONS)
def test_the_patients_position_in_the_scanner_moves_no_word(position: str):
    """A slice is built in gantry coordinates and its cosines are brought into the patient's: the marks name where the patient's own sides are."""
    left, back, head = (np.array(axis, float) for axis in POSITIONS[position])
    assert np.linalg.det(np.stack([left, back, head])) == pytest.approx(1), "no patient is mirrored"
    to_patient = np.stack([left, back, head])  # rows: the patient's axes in gantry coordinates
    across, down = to_patient @ np.array([1.0, 0, 0]), to_patient @ np.array([0, 1.0, 0])
    found = laterality.edges([*across, *down])
    assert found is not None
    towards = {"right": np.array([1.0, 0, 0]), "bottom": np.array([0, 1.0, 0]), "left": np.array([-1.0, 0, 0]), "top": np.array([0, -1.0, 0])}
    own = {"L": left, "R": -left, "P": back, "A": -back, "H": head, "F": -head}
    for edge, letter in zip(("left", "right", "top", "bottom"), found, strict=True):
        assert towards[edge] @ own[letter] == pytest.approx(1), f"{position}: {letter} at the {edge} edge"


def test_known_images():
    assert laterality.edges([1, 0, 0, 0, 1, 0]) == ("R", "L", "A", "P"), "axial, as radiologists hang it"
    assert laterality.edges([1, 0, 0, 0, 0, -1]) == ("R", "L", "H", "F"), "coronal"
    assert laterality.edges([0, 1, 0, 0, 0, -1]) == ("A", "P", "H", "F"), "sagittal"
    assert laterality.edges([-1, 0, 0, 0, 1, 0]) == ("L", "R", "A", "P"), "flipped left to right"
    c, s = np.cos(np.radians(30)), np.sin(np.radians(30))
    assert laterality.edges([c, -s, 0, s, c, 0]) == ("RP", "LA", "AR", "PL"), "turned by 30 degrees"
    for broken in (None, [1, 0, 0], [1, 0, 0, 1, 0, 0], [2, 0, 0, 0, 1, 0], [0] * 6, [float("nan")] * 6):
        assert laterality.edges(broken) is None


@FEW
@given(st.integers(0, 2**32 - 1))
def test_the_letters_of_any_orientation_are_those_of_its_largest_cosines(seed: int):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))  # rotations and mirrors alike
    found = laterality.edges([*q[0], *q[1]])
    assert found is not None
    for letters, vector in zip(found, (-q[0], q[0], -q[1], q[1]), strict=True):
        along = {letter: float(np.dot(vector, axis)) for letter, axis in ALONG.items()}
        assert letters[0] == max(along, key=along.__getitem__)
        assert set(letters) == {letters[0]} | {letter for letter, cosine in along.items() if cosine > laterality.OBLIQUE}
        assert [along[x] for x in letters] == sorted((along[x] for x in letters), reverse=True)


@FEW
@given(st.integers(0, 2**32 - 1))
def test_a_volume_in_ras_has_the_marks_of_the_same_image_in_dicom(seed: int):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    affine = np.diag([-1.0, -1.0, 1.0]) @ (q.T * [0.5, 2.0, 3.0])  # axes of LPS as columns, with voxel sizes, to RAS
    assert laterality.edges_of_grid(affine) == laterality.edges([*q[0], *q[1]])


def test_nibabel_agrees_on_the_axes_of_a_volume_that_lies_nearly_straight():
    """Its S and I are our H and F."""
    from itertools import permutations, product

    from nibabel.orientations import aff2axcodes

    names, rng = {"S": "H", "I": "F"}, np.random.default_rng(0)
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        q, r = np.linalg.qr(np.eye(3)[list(order)] * signs + rng.normal(0, 0.02, (3, 3)))
        affine = np.eye(4)
        affine[:3, :3] = q * np.sign(np.diag(r))
        found = laterality.edges_of_grid(affine)
        assert found is not None
        assert (found[1], found[3]) == tuple(names.get(str(code), code) for code in aff2axcodes(affine)[:2])


def dataset(**values: str) -> Dataset:
    found = Dataset()
    for name, value in values.items():
        found[name] = DataElement(name, "CS", value, validation_mode=IGNORE)
    return found


@pytest.mark.parametrize(
    ("codes", "eye", "breast", "other"),
    [
        ({"ImageLaterality": "R"}, "right eye (OD)", "right breast", "right"), ({"Laterality": "L"}, "left eye (OS)", "left breast", "left"),
        ({"FrameLaterality": "B"}, "both eyes (OU)", "both breasts", "both sides"), ({"ImageLaterality": "U"}, "", "", ""), ({}, "", "", ""),
        ({"ImageLaterality": "R", "Laterality": "R"}, "right eye (OD)", "right breast", "right"),
        ({"ImageLaterality": "R", "Laterality": "L"}, "", "", ""), ({"ImageLaterality": "left"}, "", "", ""),
    ],
)  # fmt: skip
def test_paired_organs_are_named_by_what_the_header_says_and_by_nothing_else(codes: dict[str, str], eye: str, breast: str, other: str):
    header = dataset(**codes)
    assert [laterality.organ(header, kind) for kind in ("eye", "breast", "")] == [eye, breast, other]


def test_views_of_a_breast_and_the_frames_of_an_enhanced_object():
    assert laterality.organ(dataset(ImageLaterality="L", ViewPosition="MLO"), "breast") == "left breast, MLO"
    assert laterality.organ(dataset(ImageLaterality="R", ViewPosition="CC"), "breast") == "right breast, CC"
    assert laterality.organ(dataset(ImageLaterality="R", ViewPosition="of Mrs Miller"), "breast") == "right breast"
    assert laterality.organ(dataset(ImageLaterality="R", ViewPosition="CC"), "eye") == "right eye (OD)"
    for frames, told in ((["R", "R"], "R"), (["R", "L"], "")):
        enhanced = Dataset()
        enhanced.PerFrameFunctionalGroupsSequence = Sequence()
        for one in frames:
            group = Dataset()
            group.FrameAnatomySequence = Sequence([dataset(FrameLaterality=one)])
            enhanced.PerFrameFunctionalGroupsSequence.append(group)
        assert laterality.side(enhanced) == told
