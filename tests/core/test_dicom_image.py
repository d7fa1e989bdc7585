"""One DICOM object: what its pixels mean, what may leave its header, and what a damaged or hostile one does."""

from __future__ import annotations

import contextlib
import io
import struct
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from components.core.imaging.codestreams import announced
from components.core.imaging.dicom import DicomImage, NotUsable, read_dicom
from components.core.imaging.header import ImageHeader, read_header
from components.core.imaging.pixels import to_unit, whole_hu
from components.core.pseudonym import Pseudonymiser
from tests.ingest.made import JPEG_2000, PSEUDONYMISER, dataset, lung_nodule, plane

PYDICOM_FILES = Path(pydicom.__file__).parent / "data"


def as_bytes(d: Dataset, *, compress: str | None = None) -> bytes:
    if compress:
        d.compress(compress, generate_instance_uid=False)
    buffer = io.BytesIO()
    d.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def read(d: Dataset | bytes, *, compress: str | None = None, **changes: dict) -> DicomImage:
    data = d if isinstance(d, bytes) else as_bytes(d, compress=compress)
    return read_dicom(data, spec=lung_nodule(**changes), pseudonymiser=PSEUDONYMISER)


def header_of(d: Dataset) -> ImageHeader:
    data = as_bytes(d)
    return read_header(io.BytesIO(data), size=len(data), spec=lung_nodule(), pseudonymiser=PSEUDONYMISER)


def refused(data: Dataset | bytes, **changes: dict) -> NotUsable:
    with pytest.raises(NotUsable) as caught:
        read(data, **changes)
    return caught.value


def stored(values: list[int], *, bits: int, signed: bool, allocated: int = 16, slope: float = 1, intercept: float = 0, high: int = 0) -> Dataset:
    """A 1-row image of these stored values, the bits above set to `high`."""
    mask = (1 << bits) - 1
    raw = np.array([(v & mask) | (high << bits) for v in values], dtype=f"<u{allocated // 8}")
    return dataset(
        hu=np.zeros((1, len(values)), dtype=np.int16), BitsAllocated=allocated, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=int(signed),
        RescaleSlope=slope, RescaleIntercept=intercept, PixelData=raw.tobytes() + b"\0" * (raw.nbytes % 2),
    )  # fmt: skip


def test_hu_are_slope_times_stored_plus_intercept():
    """PS3.3 C.11.1.1.2, in every way that scanners store: unsigned 12 bits, signed 16, halves, 8 bits."""
    assert read(stored([0, 24, 1024, 4095], bits=12, signed=False, intercept=-1024)).frames.tolist() == [[[-1024, -1000, 0, 3071]]]
    assert read(stored([-1000, 0, 400], bits=16, signed=True)).frames.tolist() == [[[-1000, 0, 400]]]
    assert read(stored([0, 2048, 4096], bits=16, signed=False, slope=0.5, intercept=-1024)).frames.tolist() == [[[-1024, 0, 1024]]]
    assert read(stored([0, 100, 250], bits=8, signed=False, allocated=8, slope=4, intercept=-1000)).frames.tolist() == [[[-1000, -600, 0]]]


def test_bits_above_the_stored_ones_are_taken_off():
    """Old files keep overlays in bits 12 to 15; signed values keep their sign."""
    assert read(stored([0, 1024, 4095], bits=12, signed=False, intercept=-1024, high=0b1010)).frames.tolist() == [[[-1024, 0, 3071]]]
    assert read(stored([-1000, -1, 0, 400], bits=12, signed=True, high=0b0101)).frames.tolist() == [[[-1000, -1, 0, 400]]]


def test_padding_becomes_air():
    """Outside the reconstructed circle scanners store a value that is no measurement."""
    assert read(dataset(hu=np.array([[-900, 976]]), PixelPaddingValue=2000)).frames.tolist() == [[[-900, -1000]]]
    ranged = dataset(hu=np.array([[-900, 976, 977]]), PixelPaddingValue=2000, PixelPaddingRangeLimit=2001)
    assert read(ranged).frames.tolist() == [[[-900, -1000, -1000]]]


OFFSETS, PADDINGS = (None, 0.0, -1024.0, -1000.5, 32768.0, -32768.0, 65536.0), (None, (-2000, -1500), (0, 0), (100, 60_000))


@pytest.mark.parametrize("slope", [None, 1.0, 2.0])
@pytest.mark.parametrize("kind", ["<u1", "<i1", "<u2", "<i2", ">u2", ">i2", "<u4"])
def test_the_short_way_to_hu_is_the_long_one(kind: str, slope: float | None):
    header, rng, short_ones = header_of(stored([0], bits=12, signed=False)), np.random.default_rng(0), 0
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    for offset in OFFSETS:
        for padding in PADDINGS:
            for reach in (1, 0.4):  # all that the type holds, and its middle
                raw = rng.integers(int(low * reach), int(high * reach), (4, 5), dtype=np.int64, endpoint=True).astype(kind)
                frame = replace(header.frames[0], slope=slope, intercept=offset)
                image = replace(header, padding=padding, frames=(frame,))
                short = whole_hu(raw, image)
                if short is not None:
                    short_ones += 1
                    assert short.dtype == np.int16
                    np.testing.assert_array_equal(short, to_unit(raw, image, hu=True))
    assert (short_ones > 0) == (slope != 2 and kind != "<u4")


def test_monochrome1_turns_display_values_but_never_hu():
    """MONOCHROME1 says how to show an image: air stays -1000 HU, while a radiograph is turned so that bright is high."""
    ct = dataset(hu=np.array([[-1000, 0]]), PhotometricInterpretation="MONOCHROME1")
    assert read(ct).frames.tolist() == [[[-1000, 0]]]
    film = stored([0, 100, 4095], bits=12, signed=False)
    film.Modality, film.PhotometricInterpretation, film.PixelSpacing = "DX", "MONOCHROME1", [0.2, 0.2]
    x_ray = {"modality": "DX", "unit": "1", "dtype": "float32", "range": [0, 4095]}
    assert read(film, input=x_ray).frames.tolist() == [[[4095, 3995, 0]]]


@pytest.mark.parametrize("syntax", [JPEG_2000, "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80"])
def test_lossless_syntaxes_give_the_same_hu(syntax: str):
    assert np.array_equal(read(dataset(k=3), compress=syntax).frames[0], plane(3))


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_byte_orders_give_the_same_hu(implicit: bool, little: bool):
    d = dataset(k=3)
    d.file_meta.TransferSyntaxUID = {(True, True): "1.2.840.10008.1.2", (False, True): "1.2.840.10008.1.2.1"}.get(
        (implicit, little), "1.2.840.10008.1.2.2"
    )
    if not little:
        d.PixelData = np.frombuffer(d.PixelData, "<u2").astype(">u2").tobytes()
    d["PixelData"].VR = "OW"
    assert np.array_equal(read(d).frames[0], plane(3))


def test_deflated_and_without_preamble():
    """Part 10 is not the only way in: the deflated syntax, and files without preamble and prefix."""
    d = dataset(k=3)
    d.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    assert np.array_equal(read(d).frames[0], plane(3))
    bare = as_bytes(dataset(k=3))[132:]
    assert np.array_equal(read(bare).frames[0], plane(3))


def test_deflated_bomb_is_refused():
    d = dataset(k=3)
    d.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    d.PixelData = b"\0" * 30_000_000
    assert refused(d, limits={"file_mb": 1.0}).reason == "file over limits.file_mb when inflated"


def enhanced(frames: int = 3) -> Dataset:
    """A multi-frame CT whose frames have their own place and their own rescale."""
    d = dataset(NumberOfFrames=frames, SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1")
    d.PixelData = b"".join(dataset(k=k).PixelData for k in range(frames))
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(d, keyword)
    shared, turn, measures = Dataset(), Dataset(), Dataset()
    turn.ImageOrientationPatient, measures.PixelSpacing, measures.SliceThickness = [1, 0, 0, 0, 1, 0], [0.5, 0.6], 1.5
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [turn], [measures]
    d.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for k in range(frames):
        group, place, values = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient, values.RescaleSlope, values.RescaleIntercept = [1, 2, -5 * k], 1, -1024 + k
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [place], [values]
        groups.append(group)
    d.PerFrameFunctionalGroupsSequence = groups
    return d


@pytest.mark.parametrize("syntax", [None, JPEG_2000])
def test_each_frame_of_an_enhanced_ct_has_its_own_rescale_and_place(syntax: str | None):
    data = as_bytes(enhanced(), compress=syntax)
    image = read(data)
    assert image.frames.shape == (3, 64, 64)
    for k in range(3):
        assert np.array_equal(image.frames[k], plane(k) + k)
    header = read_header(io.BytesIO(data), size=len(data), spec=lung_nodule(), pseudonymiser=PSEUDONYMISER)
    assert [frame.position for frame in header.frames] == [(1, 2, 0), (1, 2, -5), (1, 2, -10)]
    assert image.header.pixel_mm == (0.5, 0.6)
    assert image.header.facts["acq_slice_thickness_mm"] == 1.5


def test_agrees_with_pydicom_on_all_its_files():
    """Where both read a file, the pixels are the same, in 80 files of a dozen transfer syntaxes."""
    anything = {"modality": "image", "unit": "1", "dtype": "float32", "range": [0, 1]}
    specs = [lung_nodule(input=anything | {"shape": [channels, 52, 52]}) for channels in (1, 3)]
    same = 0
    for path in sorted(p for p in PYDICOM_FILES.rglob("*") if p.is_file() and p.stat().st_size < 200_000):
        for spec in specs:
            try:
                image = read_dicom(path, spec=spec, pseudonymiser=PSEUDONYMISER)
            except NotUsable:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                d = pydicom.dcmread(path, force=True)
                try:
                    expected = d.pixel_array.reshape(image.frames.shape)
                except (AttributeError, ValueError):  # pydicom refuses what is read here
                    continue
                if image.frames.ndim == 3:
                    if d.PhotometricInterpretation == "MONOCHROME1":
                        continue
                    expected = expected * float(d.get("RescaleSlope") or 1) + float(d.get("RescaleIntercept") or 0)
            assert np.allclose(image.frames, expected, rtol=1e-5), path.name
            same += 1
    assert same > 100


def test_header_survives_json():
    import json

    data = as_bytes(enhanced())
    header = read_header(io.BytesIO(data), size=len(data), spec=lung_nodule(), pseudonymiser=PSEUDONYMISER)
    assert ImageHeader.from_dict(json.loads(json.dumps(header.to_dict()))) == header


def test_huge_header_is_refused_without_allocating():
    """65535 x 65535 pixels announced, two bytes there."""
    d = dataset()
    d.Rows = d.Columns = 65535
    d.PixelData = b"\0\0"
    data = as_bytes(d)
    refused(data)  # pydicom imports on first use
    tracemalloc.start()
    assert refused(data).reason == "image over limits.pixels_per_image"
    assert refused(data, limits={"pixels_per_image": 2**40}).reason == "truncated: pixels end early"
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_codestream_larger_than_its_header_is_refused():
    """A codec allocates what the codestream says; the DICOM header is what the limits were checked against."""
    data = as_bytes(dataset(), compress=JPEG_2000)
    at = data.index(b"\xff\x4f\xff\x51")
    found = announced(data[at:])
    assert found is not None
    assert (found.rows, found.columns) == (64, 64)
    bomb = data[: at + 8] + struct.pack(">LL", 60_000, 60_000) + data[at + 16 :]
    assert refused(bomb).reason == "codestream of another size than its header"


@pytest.mark.parametrize("tenth", range(1, 10))
@pytest.mark.parametrize("syntax", [None, JPEG_2000])
def test_file_cut_anywhere_is_refused_with_a_reason(tenth: int, syntax: str | None):
    data = as_bytes(dataset(hu=np.random.default_rng(0).integers(-1000, 400, (64, 64))), compress=syntax)
    cut = data[: len(data) * tenth // 10]
    error = refused(cut)
    assert error.reason.startswith("truncated")
    assert error.offset == len(cut)
    assert not error.skipped


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Modality": "MR"}, "another modality than the spec's"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "a localizer"),
        ({"RescaleSlope": None}, "no rescale to HU"),
        ({"RescaleSlope": 0}, "rescale slope of zero"),
        ({"RescaleType": "Z_EFF"}, "rescaled to another unit than HU"),
        ({"PhotometricInterpretation": "PURPLE"}, "unknown photometric interpretation"),
        ({"BitsAllocated": 12}, "bits or samples per pixel outside 8, 16, 32 and 1, 3"),
        ({"Rows": 0}, "header without rows or columns"),
        ({"NumberOfFrames": 4000}, "frames over limits.slices_per_series"),
        ({"PixelData": None}, "truncated: no pixels"),
    ],
)
def test_each_refusal_names_its_reason(change: dict, reason: str):
    assert refused(dataset(**change)).reason == reason


@pytest.mark.parametrize("data", [b"", b"hello, this is text\n" * 50, b"\0" * 1000, b"\x89PNG\r\n\x1a\n" + b"\0" * 500, b"\x08\x00"])
def test_foreign_bytes_are_refused(data: bytes):
    assert refused(data).reason in ("empty file", "not a DICOM file")


def test_random_damage_is_always_a_reason():
    """Any byte may be wrong: the answer is an image or one line, never another exception."""
    rng = np.random.default_rng(5)
    for data in (as_bytes(dataset()), as_bytes(dataset(), compress=JPEG_2000), as_bytes(enhanced())):
        for _ in range(60):
            damaged = bytearray(data)
            for at in rng.integers(0, min(len(data), 3000), 5):
                damaged[at] = rng.integers(256)
            with contextlib.suppress(NotUsable):
                assert read(bytes(damaged)).frames.ndim == 3


def test_deep_nesting_is_refused():
    """A sequence in a sequence in a sequence: ten thousand times."""
    level = struct.pack("<HH2sHL", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    head = as_bytes(dataset(PixelData=None))
    assert refused(head + level * 10_000).reason == "header unreadable: nested too deeply"


def test_identity_is_pseudonymous_and_names_come_from_the_vocabulary():
    image = read(
        dataset(InstitutionName="General Hospital", SoftwareVersions="VB42", ConvolutionKernel="B30f", KVP=120, ExposureTime=500, XRayTubeCurrent=80)
    )
    device = image.header.device
    assert device.key == PSEUDONYMISER.id("device", "SIEMENS", "Sensation 16", "123", "")
    assert (device.manufacturer, device.model) == ("SIEMENS", "SENSATION 16")
    assert device.site == PSEUDONYMISER.id("site", "General Hospital")
    assert device.software == PSEUDONYMISER.id("software", "VB42")
    assert image.header.facts["acq_kernel"] == "B30F"
    assert image.header.facts["acq_kvp"] == 120
    assert image.header.facts["acq_exposure_mas"] == 40
    odd = read(dataset(Manufacturer="Doe & Sons", ManufacturerModelName="Jane's own", ConvolutionKernel="JANE"))
    assert odd.header.device.manufacturer == f"other-{PSEUDONYMISER.id('manufacturer', 'DOE & SONS')[:8]}"
    assert odd.header.device.model is not None
    assert odd.header.device.model.startswith("other-")
    assert odd.header.facts["acq_kernel"].startswith("other-")


def test_no_device_field_is_the_unknown_device():
    image = read(dataset(Manufacturer=None, ManufacturerModelName=None, DeviceSerialNumber=None))
    assert image.header.device.key == "unknown"
    assert (image.header.device.manufacturer, image.header.device.software, image.header.device.site) == (None, "", None)


def test_dates_keep_their_distance_and_lose_their_value():
    """PS3.15 option 113107: one offset for each key, at least a day into the past."""
    first, second = read(dataset(StudyDate="20240229", StudyTime="101112")), read(dataset(StudyDate="20240301", StudyTime="101113.5"))
    assert first.header.acquired is not None
    assert second.header.acquired is not None
    assert (second.header.acquired - first.header.acquired).total_seconds() == 86401.5
    assert first.header.acquired.year < 2024 or first.header.acquired.month < 3
    other = read_dicom(as_bytes(dataset()), spec=lung_nodule(), pseudonymiser=Pseudonymiser(b"another key of 16 bytes"))
    assert other.header.acquired != first.header.acquired
    assert read(dataset(StudyDate="2024", StudyTime="")).header.acquired is None


@pytest.mark.parametrize(
    ("change", "synthetic"),
    [({}, False), ({"SyntheticData": "YES"}, True), ({"SyntheticData": "NO"}, False), ({"Manufacturer": "SYNTHETIC Alpha"}, True)],
)
def test_synthetic_images_say_so(change: dict, synthetic: bool):
    assert read(dataset(**change)).header.synthetic is synthetic


def test_no_warning_and_no_log_carries_a_value(caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder):
    """pydicom warns about invalid values by printing them."""
    d = as_bytes(dataset(StudyDate="20240229", PatientBirthDate="19570314"))
    for good, bad in ((b"20240229", b"SECRETXX"), (b"19570314", b"SECRETYY"), (b"1.2.3\0", b"SECRET")):
        d = d.replace(good, bad)
    read(d)
    assert not recwarn.list
    assert not caplog.records
