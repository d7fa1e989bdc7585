"""Where a NIfTI's voxels lie and what their values are: two forms that agree, or one line; offsets that take off almost all of a value."""

from __future__ import annotations

import gzip
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Image

from components.core.errors import DataError
from components.core.imaging.errors import NotUsable
from components.core.imaging.nifti import Volume, read_volume
from serving import bodies
from serving.bodies.body import Body
from tests.serving import small_bodies
from tests.serving.fuzzing import PSEUDONYMISER
from tests.serving.small_bodies import BRAIN, disease

EXAMPLES = settings(max_examples=80, derandomize=True, deadline=None, database=None)
SHAPE = (6, 7, 8)
DATA = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def read(image: Nifti1Image | bytes) -> Volume:
    return read_volume(io.BytesIO(image if isinstance(image, bytes) else image.to_bytes()), most_voxels=1_000_000)


def turn(x: float, y: float, z: float) -> np.ndarray:
    """Rotation by three angles in degrees."""
    found = np.eye(3)
    for axis, degrees in enumerate((x, y, z)):
        a, b = [n for n in range(3) if n != axis]
        one, angle = np.eye(3), np.deg2rad(degrees)
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        found = one @ found
    return found


def affine(
    rotation: np.ndarray | None = None, *, mm: tuple[float, float, float] = (1, 1.5, 2), at: tuple[float, float, float] = (-20, -30, -40)
) -> np.ndarray:
    found = np.eye(4)
    found[:3, :3] = (np.eye(3) if rotation is None else rotation) @ np.diag(mm)
    found[:3, 3] = at
    return found


def image(sform: np.ndarray, s_code: int, qform: np.ndarray, q_code: int, data: np.ndarray = DATA) -> Nifti1Image:
    found = Nifti1Image(data, sform)
    found.set_sform(sform, s_code)
    found.set_qform(qform, q_code)
    found.header.set_xyzt_units("mm")
    return found


@EXAMPLES
@given(angles=st.tuples(*[st.floats(-180, 180)] * 3), flips=st.tuples(*[st.sampled_from([-1, 1])] * 3), code=st.sampled_from([1, 2, 4]))
def test_forms_that_agree_are_read_as_nibabel_reads_them(angles: Any, flips: Any, code: int):
    """Any rotation and handedness; what rounding does to a quaternion is no contradiction."""
    place = affine(turn(*angles) @ np.diag(flips))
    whole = image(place, code, place, code)
    np.testing.assert_allclose(read(whole).affine, Nifti1Image.from_bytes(whole.to_bytes()).affine, atol=1e-5)
    for codes in ((code, 0), (0, code)):
        np.testing.assert_allclose(read(image(place, codes[0], place, codes[1])).affine, place, atol=1e-3)


@EXAMPLES
@given(angles=st.tuples(*[st.floats(-60, 60)] * 3), axis=st.integers(0, 2), codes=st.sampled_from([(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)]))
def test_forms_that_mirror_each_other_are_never_read(angles: Any, axis: int, codes: tuple[int, int]):
    mirror = np.eye(3)
    mirror[axis, axis] = -1
    with pytest.raises(NotUsable, match="sform and qform contradict each other"):
        read(image(affine(turn(*angles)), codes[0], affine(turn(*angles) @ mirror), codes[1]))


MOVED = {
    "by 2 mm": affine(at=(-18, -30, -40)),
    "turned by 20 degrees": affine(turn(0, 0, 20)),
    "lying on its side": affine(turn(90, 0, 0)),
    "upside down": affine(turn(180, 0, 0)),
}


@pytest.mark.parametrize("name", MOVED)
def test_forms_of_one_space_are_one_and_of_two_spaces_keep_the_head_upright(name: str):
    for codes in ((1, 1), (2, 1), (4, 1)):
        both = image(affine(), codes[0], MOVED[name], codes[1])
        if codes[0] == codes[1] or ("degrees" not in name and "mm" not in name):
            with pytest.raises(NotUsable, match="sform and qform contradict each other"):
                read(both)
        else:  # registered to another scan or a template: nibabel takes the sform too
            np.testing.assert_allclose(read(both).affine, affine())


@pytest.mark.parametrize("qfac", [-1.0, 0.0, 1.0, 7.0])
def test_a_qform_without_a_handedness_is_right_handed(qfac: float):
    """nifti1.h, method 2: pixdim[0] is -1 or 1, anything else counts as 1."""
    place = affine(turn(10, 20, 30))
    raw = bytearray(image(place, 0, place, 1).to_bytes())
    raw[76:80] = np.float32(qfac).tobytes()
    wanted = place @ np.diag([1, 1, -1 if qfac < 0 else 1, 1])
    np.testing.assert_allclose(read(bytes(raw)).affine, wanted, atol=1e-3)


@pytest.mark.parametrize("intent", ["label", "t test", "z score", "vector", 1006, "rgb vector"])
def test_labels_statistics_and_vectors_are_no_image(intent: str | int):
    one = image(affine(), 1, affine(), 1)
    one.header.set_intent(intent, (3,) if intent == "t test" else (), allow_unknown=True)
    with pytest.raises(NotUsable, match="labels, statistics or vectors"):
        read(one)


@EXAMPLES
@given(dtype=st.sampled_from(["<i4", "<u4", "<i8", "<f8", "<i2", "<u2", ">i4"]), power=st.integers(0, 30), slope=st.sampled_from([1.0, 0.5, 0.125]))
def test_a_large_offset_takes_nothing_off_a_value(dtype: str, power: int, slope: float):
    """As nibabel scales, at double precision."""
    offset = (1 << (power if np.dtype(dtype).itemsize > 2 else min(power, 14))) - 1
    stored = (np.arange(np.prod(SHAPE)).reshape(SHAPE) * 3 + offset).astype(dtype)
    one = Nifti1Image(stored, affine(), dtype=stored.dtype)
    one.set_qform(affine(), 1)
    one.header.set_xyzt_units("mm")
    raw = bytearray(one.to_bytes())
    order = ">" if one.header.endianness == ">" else "<"
    raw[112:120] = np.array([slope, -offset * slope], dtype=f"{order}f4").tobytes()
    wanted = np.asarray(Nifti1Image.from_bytes(bytes(raw)).dataobj, dtype=np.float64)
    np.testing.assert_allclose(read(bytes(raw)).data, wanted, atol=1e-3, rtol=0)


def test_the_specs_limit_is_the_servers():
    """A head of 37.7 million voxels (0.5 mm) lies within the default of 100 million and is answered; the limit that is in force is named."""
    spec = disease(BRAIN)
    assert spec.limits.pixels_per_image >= 160 * 460 * 512
    whole = small_bodies.nifti(shape=(40, 48, 40))
    assert len(bodies.read(None, Body(whole), spec, PSEUDONYMISER)) == 1
    limits = {"limits": spec.limits.model_copy(update={"pixels_per_image": 40 * 48 * 40 - 1})}
    with pytest.raises(DataError, match=r"more voxels than limits\.pixels_per_image"):
        bodies.read(None, Body(whole), spec.model_copy(update=limits), PSEUDONYMISER)
    claim = small_bodies.nifti_claim((160, 460, 512), b"", datatype=4, bits=16)
    with pytest.raises(DataError, match="fewer voxels than the header says"):  # past the limit: only its voxels are missing
        bodies.read(None, Body(claim), spec, PSEUDONYMISER)


@pytest.mark.parametrize("offset", [1e9, 1e30])
def test_values_too_large_to_differ_are_one_line(offset: float):
    raw = bytearray(small_bodies.nifti())
    raw[112:120] = np.array([1, offset], "<f4").tobytes()
    with pytest.raises(DataError, match=r"values too large for their differences|one value throughout"):
        bodies.read(None, Body(bytes(raw)), disease(BRAIN), PSEUDONYMISER)


def test_a_small_head_may_pack_into_as_little_as_it_will():
    """Below 8 MiB any head is read, packed or not, at the server as at ingest."""
    raw = bytearray(small_bodies.nifti())
    voxels = np.frombuffer(raw, "<i2", offset=352).copy()
    raw[352:] = (voxels > 300).astype("<i2").tobytes()  # no noise: packs over a hundred times
    packed = gzip.compress(bytes(raw), 9)
    assert len(raw) > 100 * len(packed)
    found = [bodies.read(None, Body(data), disease(BRAIN), PSEUDONYMISER)[0].array for data in (bytes(raw), packed)]
    np.testing.assert_array_equal(found[0], found[1])
