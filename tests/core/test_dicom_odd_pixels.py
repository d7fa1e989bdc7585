"""DICOM pixels that mean something else than they look like: palettes, padding, large offsets, frames that differ, codestreams that lie.

Oracles: pydicom's own functions, and numpy on the stored values.
"""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut
from pydicom.sequence import Sequence

from components.core.errors import DataError
from components.core.imaging.codestreams import JP2, announced, codestream_start
from components.core.imaging.dicom import read_dicom
from components.core.imaging.errors import NotUsable
from components.core.imaging.mr_series import read_series
from serving import bodies
from serving.bodies.body import Body
from serving.bodies.dicom import in_dicom_words
from tests.core.test_dicom_image import as_bytes, enhanced, read, refused
from tests.ingest.made import JPEG_2000, PSEUDONYMISER, dataset, lung_nodule, plane
from tests.serving import small_bodies
from tests.serving.small_bodies import BRAIN, FUNDUS, disease

EXAMPLES = settings(max_examples=60, derandomize=True, deadline=None, database=None)
RLE, JPEG = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50"


# Palettes


def descriptor(name: str, entries: int, first: int, bits: int) -> DataElement:
    return DataElement(tag_for_keyword(f"{name}PaletteColorLookupTableDescriptor"), "US", [entries % 65_536, first, bits])


def palette_photograph(
    indices: np.ndarray, tables: list[np.ndarray], *, first: int = 0, bits: int = 16, segments: bool = False, **changes: Any
) -> Dataset:
    d = pydicom.dcmread(io.BytesIO(small_bodies.photograph_dicom()))
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "PALETTE COLOR"
    del d.PlanarConfiguration
    d.Rows, d.Columns = indices.shape
    d.BitsAllocated = d.BitsStored = 8 * indices.dtype.itemsize
    d.HighBit = d.BitsStored - 1
    d.PixelData = indices.tobytes()
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        d[tag_for_keyword(f"{name}PaletteColorLookupTableDescriptor")] = descriptor(name, 256 if segments else len(table), first, bits)
        data = table.astype("<u1" if bits == 8 else "<u2").tobytes()
        setattr(d, f"{'Segmented' if segments else ''}{name}PaletteColorLookupTableData", data + bytes(len(data) % 2))
    for name, value in changes.items():
        if isinstance(value, DataElement):
            d[value.tag] = value
        else:
            setattr(d, name, value)
    return d


def photograph(d: Dataset, **options: Any) -> np.ndarray:
    return read_dicom(as_bytes(d, **options), spec=in_dicom_words(disease(FUNDUS)), pseudonymiser=PSEUDONYMISER).frames[0]


@EXAMPLES
@given(
    seed=st.integers(0, 99), entries=st.sampled_from([2, 100, 255, 256]), first=st.sampled_from([0, 3, 200]), bits=st.sampled_from([8, 16]),
    deep=st.booleans(), packed=st.booleans(),
)  # fmt: skip
def test_a_palette_gives_the_colours_that_pydicom_gives(seed: int, entries: int, first: int, bits: int, deep: bool, packed: bool):
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, 600 if deep else 256, (6, 8)).astype("<u2" if deep else np.uint8)
    tables = [rng.integers(0, 1 << bits, entries) for _ in range(3)]
    d = palette_photograph(indices, tables, first=first, bits=bits)
    places = np.clip(indices.astype(int) - first, 0, entries - 1)
    wanted = np.stack([table[places] for table in tables], axis=2) >> (bits - 8)
    if bits == 16 or not (deep or entries % 2):  # pydicom counts places in the table's own type, so 8 bits wrap, and does not see padding
        np.testing.assert_array_equal(wanted, apply_color_lut(indices, d) >> (bits - 8))
    np.testing.assert_array_equal(photograph(d, compress=RLE if packed else None), wanted)


def test_a_palette_of_all_sixteen_bits_is_read_though_it_is_longer_than_other_values():
    indices = np.array([[0, 1000], [40_000, 65_535]], "<u2")
    tables = [np.arange(65_536) for _ in range(3)]
    d = palette_photograph(indices, tables)
    np.testing.assert_array_equal(photograph(d), np.repeat((indices >> 8)[..., None], 3, axis=2))


def test_a_palette_in_segments_is_what_pydicom_makes_of_it():
    segments = np.array([0, 2, 100, 200, 1, 200, 60_000, 0, 3, 7, 8, 9, 1, 51, 65_280])
    indices = np.arange(256, dtype=np.uint8).reshape(16, 16)
    d = palette_photograph(indices, [segments] * 3, segments=True)
    wanted = apply_color_lut(indices, d).astype(int) / 256
    assert np.abs(photograph(d) - wanted).max() <= 1
    bomb = palette_photograph(indices, [np.array([0, 1, 5] + [2, 60_000, 0, 0] * 8000)] * 3, segments=True)
    with pytest.raises(NotUsable, match="in segments that point at others"):
        photograph(bomb)


@pytest.mark.parametrize("change", [{"red": descriptor("Red", 9, 0, 16)}, {"RedPaletteColorLookupTableData": b"\0\0"},
                                    {"blue": descriptor("Blue", 256, 0, 12)}])  # fmt: skip
def test_a_palette_that_is_not_whole_is_one_line(change: dict[str, Any]):
    tables = [np.arange(256) * 257 for _ in range(3)]
    with pytest.raises(NotUsable, match="palette colours"):
        photograph(palette_photograph(np.zeros((4, 4), np.uint8), tables, **change))


def test_colours_are_no_measurement():
    """A palette, or a supplemental one above the grey values, where a spec wants grey."""
    tables = [np.arange(256) * 257 for _ in range(3)]
    ct = palette_photograph(np.zeros((4, 4), np.uint8), tables, Modality="CT", RescaleSlope=1, RescaleIntercept=-1024)
    assert refused(ct).reason == "palette colours"
    assert refused(dataset(PixelPresentation="COLOR")).reason == "palette colours"
    slices = [pydicom.dcmread(io.BytesIO(one)) for one in small_bodies.mr_slices()[:3]]
    for one in slices:
        one.PhotometricInterpretation = "PALETTE COLOR"
    with pytest.raises(NotUsable, match="palette colours"):
        read_series([as_bytes(one) for one in slices], spec=in_dicom_words(disease(BRAIN)), pseudonymiser=PSEUDONYMISER, most_expansion=100)


def test_the_server_answers_a_palette_as_the_same_photograph_in_rgb():
    indices = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    tables = [np.random.default_rng(n).integers(0, 65_536, 256) for n in range(3)]
    d = palette_photograph(indices, tables)
    rgb = small_bodies.photograph_dicom((apply_color_lut(indices, d) >> 8).astype(np.uint8))
    one, other = (bodies.read("application/dicom", Body(data), disease(FUNDUS), PSEUDONYMISER)[0] for data in (as_bytes(d), rgb))
    np.testing.assert_array_equal(one.array, other.array)


# Padding and offsets


@EXAMPLES
@given(
    bits=st.integers(9, 16), signed=st.booleans(), seed=st.integers(0, 99), overlay=st.booleans(), beyond=st.booleans(),
    limit=st.sampled_from([None, 3]), intercept=st.sampled_from([-1024, 0, -8192]),
)  # fmt: skip
def test_padding_is_air_wherever_it_lies_and_nothing_else_is(
    bits: int, signed: bool, seed: int, overlay: bool, beyond: bool, limit: int | None, intercept: int
):
    """Measurements of `bits` bits; padding among them or beyond, as 16 bits can hold it; overlays in the bits above where padding is none of them."""
    rng = np.random.default_rng(seed)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    values = rng.integers(low, high, (5, 7), endpoint=True)
    outside = [-32_768, low - 5] if signed else [65_532, 60_000 if bits < 15 else 65_000]
    padding = int(rng.choice(outside)) if beyond and bits < 16 else int(values[0, 0])
    until = padding if limit is None else min(padding + limit, 32_767 if signed else 65_535)
    padded = rng.random((5, 7)) < 0.4
    raw = np.where(padded, padding, values)
    words = raw.astype("<i2" if signed else "<u2").view("<u2").copy()
    beyond = not low <= padding <= high
    if overlay and not beyond and until <= high:
        mask = (1 << bits) - 1
        words = (words & mask) | (rng.integers(0, 1 << (16 - bits), (5, 7)).astype("<u2") << bits if bits < 16 else 0)
    kind = "SS" if signed else "US"
    d = dataset(
        hu=np.zeros((5, 7), np.int16), BitsStored=bits, HighBit=bits - 1, PixelRepresentation=int(signed), RescaleIntercept=intercept,
        PixelData=words.astype("<u2").tobytes(),
    )  # fmt: skip
    d.add_new(0x00280120, kind, padding)
    if limit is not None:
        d.add_new(0x00280121, kind, until)
    is_padding = padded | ((values >= padding) & (values <= until))
    wanted = np.where(is_padding, -1000, np.clip(raw + intercept, -32_768, 32_767))
    np.testing.assert_array_equal(read(d).frames[0], wanted)


@EXAMPLES
@given(seed=st.integers(0, 99), power=st.integers(0, 31), signed=st.booleans(), slope=st.sampled_from([1.0, 0.5, 0.125]))
def test_a_large_offset_takes_nothing_off_the_value(seed: int, power: int, signed: bool, slope: float):
    """32 bits stored: slope * stored + intercept, as numpy has it at double precision."""
    rng = np.random.default_rng(seed)
    hu = rng.integers(-1000, 3000, (4, 6))
    offset = (1 << power) - 1 if power > 1 else 0
    stored = np.rint((hu + (offset if power < 31 or not signed else offset >> 1)) / slope).astype(np.int64)
    limits = np.iinfo(np.int32 if signed else np.uint32)
    if not limits.min <= stored.min() <= stored.max() <= limits.max:
        stored = np.rint(hu - hu.min()).astype(np.int64)
    intercept = -float(stored.min() * slope) - 500
    d = dataset(
        hu=np.zeros((4, 6), np.int16), BitsAllocated=32, BitsStored=32, HighBit=31, PixelRepresentation=int(signed), RescaleSlope=slope,
        RescaleIntercept=f"{intercept:.10g}", PixelData=stored.astype("<i4" if signed else "<u4").tobytes(),
    )  # fmt: skip
    wanted = np.rint(stored * slope + float(f"{intercept:.10g}"))
    np.testing.assert_array_equal(read(d).frames[0], wanted)
    patch = read(d, input={"spacing_mm": None, "shape": [1, 2, 2]}).patch((1.5, 2.5))
    np.testing.assert_array_equal(patch[0], wanted[1:3, 2:4])


def test_bits_above_the_stored_ones_are_taken_off_after_rle_too():
    words = ((np.arange(64, dtype="<u2") + 1000) | 0xA000).reshape(8, 8).astype("<u2")
    d = dataset(hu=np.zeros((8, 8), np.int16), BitsStored=12, HighBit=11, PixelData=words.tobytes())
    assert np.array_equal(read(d, compress=RLE).frames[0], (words & 0xFFF).astype(int) - 1024)


# Frames that differ


def measured(spacings: list[list[float] | None], *, shared: list[float] | None = None, top: list[float] | None = None) -> Dataset:
    d = enhanced(len(spacings))
    del d.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    if top:
        d.PixelSpacing = top
    for group, spacing in zip(d.PerFrameFunctionalGroupsSequence, spacings, strict=True):
        if spacing:
            one = Dataset()
            one.PixelSpacing = spacing
            group.PixelMeasuresSequence = Sequence([one])
    if shared:
        one = Dataset()
        one.PixelSpacing = shared
        d.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = Sequence([one])
    return d


def test_the_spacing_is_the_frames_own_or_there_is_none():
    assert read(measured([[0.7, 0.8]] * 3)).header.pixel_mm == (0.7, 0.8)
    assert read(measured([[0.7, 0.8]] * 3, shared=[2, 2], top=[1.5, 1.5])).header.pixel_mm == (0.7, 0.8)
    assert read(measured([None] * 3, shared=[2, 2], top=[1.5, 1.5])).header.pixel_mm == (2, 2)
    assert read(measured([None] * 3, top=[1.5, 1.5])).header.pixel_mm == (1.5, 1.5)
    for spacings in ([[0.7, 0.8], [0.7, 0.8], [0.7, 0.81]], [None, None, [0.7, 0.7]], [[2, 2], None, None]):
        assert refused(measured(spacings, shared=[0.9, 0.9])).reason == "frames of several pixel spacings"


def test_a_frame_that_is_rescaled_to_another_unit_is_no_ct():
    d = enhanced(3)
    d.PerFrameFunctionalGroupsSequence[2].PixelValueTransformationSequence[0].RescaleType = "OD"
    assert refused(d).reason == "rescaled to another unit than HU"


# Codestreams that lie


def boxed(codestream: bytes, *before: tuple[bytes, bytes]) -> bytes:
    """A JP2 file: signature, some boxes, the codestream (ISO/IEC 15444-1, annex I)."""
    boxes = [(b"ftyp", b"jp2 \0\0\0\0jp2 "), *before, (b"jp2c", codestream)]
    return JP2 + b"".join(struct.pack(">L4s", 8 + len(body), kind) + body for kind, body in boxes)


def codestream(d: Dataset | None = None) -> bytes:
    """JPEG 2000 of `plane(0)`."""
    d = d or dataset()
    d.compress(JPEG_2000, generate_instance_uid=False)
    return pydicom.encaps.get_frame(d.PixelData, 0, number_of_frames=1)


def encapsulated(frame: bytes, syntax: str = JPEG_2000, **changes: Any) -> bytes:
    d = dataset(**changes)
    d.file_meta.TransferSyntaxUID = syntax
    d.PixelData = encapsulate([frame])
    d["PixelData"].is_undefined_length = True
    return as_bytes(d)


def resized(stream: bytes, side: int) -> bytes:
    at = stream.index(b"\xff\x4f\xff\x51")
    return stream[: at + 8] + struct.pack(">LLLLLL", side, side, 0, 0, side, side) + stream[at + 32 :]


def test_the_codestream_in_boxes_is_found_by_its_box():
    plain = codestream()
    for before in ((), ((b"free", plain[:60]),), ((b"free", b"x" * 9000), (b"uuid", plain))):
        whole = boxed(plain, *before)
        assert codestream_start(whole) == len(whole) - len(plain)
        np.testing.assert_array_equal(read(encapsulated(whole)).frames[0], plane(0))
    long = JP2 + struct.pack(">L4sQ", 1, b"free", 16 + 5) + b"abcde" + struct.pack(">L4s", 0, b"jp2c") + plain
    assert codestream_start(long) == len(long) - len(plain)
    for cut in (
        JP2,
        boxed(plain)[:30],
        boxed(b"nothing"),
        JP2 + struct.pack(">L4s", 0, b"free") + plain,
        JP2 + struct.pack(">L4s", 4, b"free") + plain,
    ):
        assert codestream_start(cut) is None


@pytest.mark.parametrize("side", [65, 12_000, 30_000, 1 << 31])
def test_a_decoy_before_the_codestream_deceives_nobody(side: int):
    lying = encapsulated(boxed(resized(codestream(), side), (b"free", codestream()[:80])))
    tracemalloc.start()
    began = time.process_time()
    assert refused(lying).reason == "codestream of another size than its header"
    assert (time.process_time() - began < 1, tracemalloc.get_traced_memory()[1] < 50 << 20) == (True, True)
    tracemalloc.stop()


def changed(stream: bytes, at: int, new: bytes) -> bytes:
    """SIZ overwritten; `at` counts from its marker."""
    start = stream.index(b"\xff\x51")
    return stream[: start + at] + new + stream[start + at + len(new) :]


@pytest.mark.parametrize(
    ("at", "new", "says"),
    [
        (22, struct.pack(">LL", 1, 1), "over 4096 tiles"),
        (6, struct.pack(">L", 0), "sizes contradict each other"),
        (38, struct.pack(">H", 2), "components"),
        (40, b"\x1f", "other components or bits"),
        (40, b"\x8f", "signed values under a header of unsigned ones"),
    ],
    ids=["tiles", "no width", "components", "32 bits", "signed"],
)
def test_what_else_a_codestream_announces_must_be_its_headers(at: int, new: bytes, says: str):
    big = dataset(hu=np.zeros((80, 80), np.int16))
    data = encapsulated(changed(codestream(big), at, new), Rows=80, Columns=80)
    assert says in refused(data).reason


def test_signed_values_are_read_where_the_header_says_so_and_refused_where_not():
    """-1000 HU, not 32767: a signed codestream under PixelRepresentation 0 says two things."""
    hu = np.arange(-1000, -1000 + 4096, dtype=np.int16).reshape(64, 64)
    d = dataset(hu=np.zeros((64, 64), np.int16), PixelRepresentation=1, RescaleIntercept=0, PixelData=hu.astype("<i2").tobytes())
    data = as_bytes(d, compress=JPEG_2000)
    np.testing.assert_array_equal(read(data).frames[0], hu)
    turned = pydicom.dcmread(io.BytesIO(data))
    turned.PixelRepresentation = 0
    assert refused(as_bytes(turned)).reason == "codestream of signed values under a header of unsigned ones"


def jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95, **options)
    return out.getvalue()


def eight_bits(frame: bytes, side: int = 64) -> bytes:
    return encapsulated(frame, JPEG, BitsAllocated=8, BitsStored=8, HighBit=7, Rows=side, Columns=side)


def test_scans_and_sizes_of_jpeg_are_checked_in_dicom_too():
    grey = np.zeros((64, 64), np.uint8)
    assert read(eight_bits(jpeg(grey))).frames.max() == -1024
    assert refused(eight_bits(jpeg(grey), side=63)).reason == "codestream of another size than its header"
    assert "other components" in refused(eight_bits(jpeg(np.dstack([grey] * 3)))).reason
    assert refused(eight_bits(b"\0" * 900)).reason == "no codestream where one should start"
    slow = jpeg(grey, progressive=True)
    last = slow.rindex(b"\xff\xda")
    slow = slow[:last] + slow[last:-2] * 120 + b"\xff\xd9"
    assert refused(eight_bits(slow)).reason == "a JPEG of over 100 scans"
    twice = jpeg(grey)
    at = twice.index(b"\xff\xc0")
    assert refused(eight_bits(twice[:at] + twice[at : at + 13] + twice[at:])).reason == "a JPEG that gives its size twice"


@EXAMPLES
@given(noise=st.binary(max_size=300), start=st.sampled_from([b"", b"\xff\xd8", b"\xff\x4f\xff\x51", JP2]))
def test_any_bytes_announce_something_nothing_or_a_reason(noise: bytes, start: bytes):
    try:
        found = announced(start + noise)
    except NotUsable:
        return
    assert found is None or min(found.rows, found.columns, found.components) >= 0


def test_a_frame_in_several_fragments_is_one_frame():
    frame = codestream()
    d = dataset()
    d.file_meta.TransferSyntaxUID = JPEG_2000
    d.PixelData = encapsulate([frame], fragments_per_frame=3)
    d["PixelData"].is_undefined_length = True
    np.testing.assert_array_equal(read(d).frames[0], plane(0))


# Copies


def test_byte_equal_copies_in_a_series_are_read_once_and_another_image_under_one_uid_is_refused():
    slices = small_bodies.mr_slices()
    words = in_dicom_words(disease(BRAIN))

    def volume(files: list[bytes]) -> np.ndarray:
        return read_series(files, spec=words, pseudonymiser=PSEUDONYMISER, most_expansion=100).volume.data

    np.testing.assert_array_equal(volume([*slices, *(bytes(bytearray(one)) for one in slices)]), volume(slices))
    other = bytearray(slices[3])
    other[-1] ^= 1
    with pytest.raises(DataError, match="two images under one SOP instance UID"):
        volume([*slices, bytes(other)])


def test_the_specs_limits_are_the_servers():
    """A slice of over 8 million pixels and a spec that allows it; and one that the spec does not."""
    side = 2950
    data = as_bytes(dataset(hu=np.zeros((side, side), np.int16)))
    found = bodies.read("application/dicom", Body(data, row=100, column=100), lung_nodule(), PSEUDONYMISER)
    assert (found[0].array == 0).all()
    with pytest.raises(DataError, match="image over limits"):
        bodies.read("application/dicom", Body(data, row=1, column=1), lung_nodule(limits={"pixels_per_image": side * side - 1}), PSEUDONYMISER)
