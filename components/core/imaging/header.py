"""Read a DICOM header into what an image needs and may keep; nothing in `ImageHeader` identifies a person.

Headers are other people's bytes: sizes are checked before anything is allocated or decoded, and no value of a header reaches a message.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, BinaryIO

from components.core.covariates import of_dicom
from components.core.imaging import plausibility, vocabulary
from components.core.imaging.deidentify import MODALITIES, PHOTOMETRICS, DeviceIdentity, device_identity, shifted_iso, when
from components.core.imaging.errors import NotUsable
from components.core.imaging.fields import BIG_ENDIAN, FLOAT_PIXELS, LONG_VRS, PIXELS, UNDEFINED, Fields, decoded, parse, plausible, quiet
from components.core.imaging.fragments import check_fragments
from components.core.imaging.inflate import check_end
from components.core.imaging.palette import PALETTE, Palette, read_palette
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec

FLAT_SYNTAX = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"}
DEFLATED = "1.2.840.10008.1.2.1.99"
DICOMDIR = "1.2.840.10008.1.3.10"
SYNTHETIC_DATA = 0x0008001C
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Frame:
    """Where one plane lies and how its stored values become the unit. Lengths in mm, directions as in the patient's coordinates."""

    position: Triple | None
    rows_along: Triple | None
    columns_along: Triple | None
    slope: float | None
    intercept: float | None


@dataclass(frozen=True)
class ImageHeader:
    """One image object.

    Args:
        patient, study, series, sop: Pseudonyms; `patient` is None where the header has no patient id.
        pixels_at, pixels_length: Bytes of the value of Pixel Data in the (inflated) file; length -1 where it is encapsulated.
        swapped: 8-bit pixels lie in big endian 16-bit words.
        padding: Stored values from..to that mean "no measurement", or None; as the header has them, also where they lie beyond `bits_stored`.
        frames: One entry for each frame.
        facts: `acq_*` columns of the manifest.
        acquired_at: ISO time, shifted.
        covariates: What the header tells of the covariates that the spec names, by `components/core/covariates.py`; of nobody else anything.
        patient_word: Pseudonym of the patient id's letters without regard to case and blanks: tells ids that differ in no more.
        undated: The header holds dates, and none of them can be read.
        palette: Colours that stored values stand for; None where they are values. A header out of JSON has lost it.
    """

    patient: str | None
    study: str
    series: str
    sop: str
    instance: int
    modality: str | None
    synthetic: bool
    rows: int
    columns: int
    samples: int
    planar: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str | None
    transfer_syntax: str
    deflated: bool
    pixels_at: int
    pixels_length: int
    swapped: bool
    padding: tuple[int, int] | None
    pixel_mm: tuple[float, float] | None
    frames: tuple[Frame, ...]
    device: DeviceIdentity
    facts: dict[str, Any]
    acquired_at: str | None
    covariates: dict[str, Any] = field(default_factory=dict)
    patient_word: str = ""
    undated: bool = False
    palette: Palette | None = field(default=None, compare=False)

    @property
    def encapsulated(self) -> bool:
        return self.transfer_syntax not in FLAT_SYNTAX

    @property
    def acquired(self) -> datetime | None:
        return datetime.fromisoformat(self.acquired_at) if self.acquired_at else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able. (`dataclasses.asdict` copies every value, which costs as much as reading the header.)"""
        return vars(self) | {"frames": [vars(frame) for frame in self.frames], "device": vars(self.device), "palette": None}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> ImageHeader:
        """What `to_dict` gave, also after a trip through JSON."""
        plain: dict[str, Any] = dict(raw)
        plain["frames"] = tuple(Frame(**{k: _tupled(v) for k, v in frame.items()}) for frame in raw["frames"])
        for name in ("padding", "pixel_mm"):
            plain[name] = _tupled(raw[name])
        plain["device"] = DeviceIdentity(**raw["device"])
        return cls(**plain)


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def read_header(handle: BinaryIO, *, size: int, spec: DiseaseSpec, pseudonymiser: Pseudonymiser, tokens: set[str] | None = None) -> ImageHeader:
    """Read one file's header, up to its pixels.

    Args:
        handle: Binary, seekable, at its start.
        size: Length of the file in bytes.
        tokens: Gets the names and ids of people, studies and objects in this header, in capitals, also when it cannot be used.

    Raises:
        NotUsable: The file is not an image that `spec` can use, or is damaged.
    """
    if size == 0:
        raise NotUsable("empty file", offset=0)
    if size > spec.limits.file_mb * 1e6:
        raise NotUsable("file over limits.file_mb")
    if not plausible(handle.read(144)):
        raise NotUsable("not a DICOM file", offset=0)
    handle.seek(0)
    with quiet():
        try:
            parsed, handle, size, deflated = parse(handle, size, spec)
            fields = Fields(parsed)
            if tokens is not None:
                tokens.update(fields.tokens())
            return _image(fields, handle, size, spec, pseudonymiser, deflated=deflated)
        except (NotUsable, MemoryError):
            raise
        except RecursionError:
            raise NotUsable("header unreadable: nested too deeply") from None
        except Exception as error:  # a parser meeting damaged bytes may raise anything; its message may hold a value
            raise NotUsable(f"header unreadable: {type(error).__name__}") from None


def _image(fields: Fields, handle: BinaryIO, size: int, spec: DiseaseSpec, pseudonymiser: Pseudonymiser, *, deflated: bool) -> ImageHeader:
    parsed = fields.parsed
    syntax = parsed.meta.get(0x00020010) or (BIG_ENDIAN if not parsed.little else "1.2.840.10008.1.2" if parsed.implicit else "1.2.840.10008.1.2.1")
    storage = fields.code(0x00080016) or parsed.meta.get(0x00020002, "")
    if parsed.meta.get(0x00020002) == DICOMDIR or 0x00041220 in fields:
        raise NotUsable("a DICOMDIR, not an image", skipped=True)
    at = _pixels(handle, size, fields, syntax, storage)
    modality = fields.code(0x00080060)
    if spec.input.unit == "HU" or spec.input.modality in MODALITIES:
        wanted = {"CT"} if spec.input.unit == "HU" else {"DX", "CR"} if spec.input.modality == "DX" else {spec.input.modality}
        if modality not in wanted:
            raise NotUsable("another modality than the spec's", skipped=True)
        if fields.code(0x00080008, 2) == "LOCALIZER":
            raise NotUsable("a localizer", skipped=True)
    rows, columns = fields.short(0x00280010) or 0, fields.short(0x00280011) or 0
    frames = int(fields.number(0x00280008) or 1)
    if rows * columns > spec.limits.pixels_per_image:
        raise NotUsable("image over limits.pixels_per_image")
    if not 1 <= frames <= spec.limits.slices_per_series:
        raise NotUsable("frames over limits.slices_per_series")
    if not rows or not columns:
        raise NotUsable("header without rows or columns")
    samples, allocated = fields.short(0x00280002) or 1, fields.short(0x00280100) or 0
    stored = fields.short(0x00280101) or allocated
    if at.tag in FLOAT_PIXELS:
        raise NotUsable("floating-point pixels")
    if samples not in (1, 3) or allocated not in (8, 16, 32) or not 1 <= stored <= allocated:
        raise NotUsable("bits or samples per pixel outside 8, 16, 32 and 1, 3")
    photometric = fields.code(0x00280004)
    if photometric not in PHOTOMETRICS:
        raise NotUsable("unknown photometric interpretation")
    supplemental = fields.code(0x00089205) in ("COLOR", "MIXED") and samples == 1 and photometric != PALETTE  # PS3.3 C.7.6.19: colours above the grey
    if supplemental or (photometric == PALETTE and (spec.input.shape[0] != 3 or samples != 1)):
        raise NotUsable("palette colours")
    _check_length(handle, at, rows * columns * samples * allocated // 8 * frames, photometric, syntax, size)
    if deflated:
        check_end(handle, at.start + at.length, size)
    signed = bool(fields.short(0x00280103))
    identity = _device(fields, spec, pseudonymiser)
    series, study, sop = fields.code(0x0020000E), fields.code(0x0020000D), fields.code(0x00080018)
    patient = fields.text(0x00100020)
    shared, own = _groups(fields, frames)
    pixel_mm = _pixel_mm(fields, shared, own, plausibility.pixel_mm(spec.input.modality))
    facts = _acquisition(fields, shared, pseudonymiser) | {
        "acq_pixel_mm": pixel_mm[0] if pixel_mm else None,
        "acq_rows": rows,
        "acq_columns": columns,
        "acq_bits": 8 if photometric == PALETTE else stored,
        "acq_photometric": photometric,
        "acq_transfer_syntax": DEFLATED if deflated else syntax,
        "acq_modality": modality if modality in MODALITIES else None,
    }
    return ImageHeader(
        patient=_id(pseudonymiser, "patient", patient) if patient.strip(" \0") else None,
        patient_word=_id(pseudonymiser, "word", patient), undated=_undated(fields),
        study=_id(pseudonymiser, "study", study), series=_id(pseudonymiser, "series", series or f"{study}/{sop}"), sop=pseudonymiser.id("sop", sop),
        instance=int(fields.number(0x00200013) or 0) & 0x7FFFFFFF, modality=modality if modality in MODALITIES else None,
        synthetic=is_synthetic(fields.code(SYNTHETIC_DATA), fields.text(0x00080070)),
        rows=rows, columns=columns, samples=samples, planar=fields.short(0x00280006) or 0,
        bits_allocated=allocated, bits_stored=stored, high_bit=fields.short(0x00280102) or stored - 1, signed=signed,
        photometric=photometric, transfer_syntax=syntax, deflated=deflated, pixels_at=at.start,
        pixels_length=-1 if at.length == UNDEFINED else at.length, padding=_padding(fields, signed), pixel_mm=pixel_mm,
        swapped=syntax == BIG_ENDIAN and allocated == 8 and at.words,
        frames=_frames(fields, frames, shared, own, spec), device=identity, facts=facts,
        acquired_at=_acquired(fields, pseudonymiser), covariates=_covariates(fields, spec),
        palette=read_palette(fields, handle) if photometric == PALETTE else None,
    )  # fmt: skip


def is_synthetic(flag: str, manufacturer: str) -> bool:
    """Synthetic Data (0008,001C) says so, or the maker is a simulator."""
    return flag.upper() == "YES" or manufacturer.strip().upper().startswith(vocabulary.SYNTHETIC.strip())


@dataclass(frozen=True)
class _Pixels:
    tag: int
    start: int
    length: int
    words: bool = False


def _pixels(handle: BinaryIO, size: int, fields: Fields, syntax: str, storage: str) -> _Pixels:
    """Tag, first byte and length of Pixel Data's value; the handle stands at its tag, or at the end of the file."""
    from pydicom._uid_dict import UID_dictionary

    start = handle.tell()
    head = handle.read(12)
    known = UID_dictionary.get(storage, ("", "", "", "", ""))[0]
    looks_like_image = 0x00280010 in fields or "Image Storage" in known
    if fields.end() > size or (len(head) < 8 and looks_like_image):
        raise NotUsable("truncated: the file ends inside its header" if fields.end() > size else "truncated: no pixels", offset=size)
    if len(head) < 8:
        raise NotUsable("a DICOM object without pixels", skipped=bool(known))
    if syntax not in FLAT_SYNTAX and UID_dictionary.get(syntax, ("", ""))[1] != "Transfer Syntax":
        raise NotUsable("unknown transfer syntax")
    implicit, order = fields.parsed.implicit, fields.order
    group, element = struct.unpack(f"{order}HH", head[:4])
    tag = group << 16 | element
    if tag not in (PIXELS, *FLOAT_PIXELS):
        raise NotUsable("a DICOM object without pixels", offset=start)
    if not implicit and head[4:6] in LONG_VRS:
        if len(head) < 12:
            raise NotUsable("truncated: no pixels", offset=size)
        return _Pixels(tag, start + 12, struct.unpack(f"{order}L", head[8:12])[0], words=head[4:6] == b"OW")
    if not implicit and head[4:6].isalpha():
        raise NotUsable("pixels of a wrong value representation", offset=start)
    return _Pixels(tag, start + 8, struct.unpack(f"{order}L", head[4:8])[0])


def _check_length(handle: BinaryIO, at: _Pixels, expected: int, photometric: str, syntax: str, size: int) -> None:
    """The pixels that the header promises must be in the file, before anything is allocated for them."""
    if syntax not in FLAT_SYNTAX:
        if at.length != UNDEFINED and at.start + at.length > size:
            raise NotUsable("truncated: pixels end early", offset=size)
        check_fragments(handle, start=at.start, end=size if at.length == UNDEFINED else at.start + at.length, closed=at.length == UNDEFINED)
        return
    if photometric == "YBR_FULL_422":
        expected = expected // 3 * 2
    if at.length == UNDEFINED:
        raise NotUsable("encapsulated pixels in a native transfer syntax", offset=at.start)
    if at.start + expected > size:
        raise NotUsable("truncated: pixels end early", offset=size)
    if at.length < expected:
        raise NotUsable("fewer pixels than rows and columns", offset=at.start)


def _device(fields: Fields, spec: DiseaseSpec, pseudonymiser: Pseudonymiser) -> DeviceIdentity:
    return _identity(
        pseudonymiser, tuple(fields.raw(_tag(keyword)) for keyword in spec.device.key), fields.raw(0x00080070), fields.raw(0x00081090),
        fields.raw(0x00181020), fields.raw(0x00080080), fields.raw(0x00080005),
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _identity(
    pseudonymiser: Pseudonymiser, key: tuple[bytes, ...], manufacturer: bytes, model: bytes, software: bytes, site: bytes, charset: bytes
) -> DeviceIdentity:
    """Slices of a series agree in all of this, so it is worked out once."""
    return device_identity(
        pseudonymiser, key=tuple(decoded(value, charset) for value in key), manufacturer=decoded(manufacturer, charset),
        model=decoded(model, charset), software=decoded(software, charset), site=decoded(site, charset),
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _id(pseudonymiser: Pseudonymiser, domain: str, value: str) -> str:
    return pseudonymiser.id(domain, value)


@lru_cache(maxsize=256)
def _tag(keyword: str) -> int:
    from pydicom.datadict import tag_for_keyword

    from components.core.errors import SpecError

    tag = tag_for_keyword(keyword)
    if tag is None:
        raise SpecError("not a DICOM keyword", where="device.key", got=f"'{keyword}'", allowed="e.g. Manufacturer, DeviceSerialNumber")
    return int(tag)


def _covariates(fields: Fields, spec: DiseaseSpec) -> dict[str, Any]:
    """Nothing of a person is read where the spec does not ask for it."""
    if not spec.covariates:
        return {}
    age, sex = (fields.raw(tag).strip(b" \0").decode("ascii", "replace") for tag in (0x00101010, 0x00100040))
    return of_dicom(spec.covariates, age=age, sex=sex)


def _padding(fields: Fields, signed: bool) -> tuple[int, int] | None:
    """Pixel Padding Value and its Range Limit (PS3.3 C.7.5.1.1.2), in stored values."""
    values = []
    for tag in (0x00280120, 0x00280121):
        data = fields.raw(tag)
        if len(data) >= 2:
            values.append(int(struct.unpack(f"{fields.order}{'h' if signed else 'H'}", data[:2])[0]))
    return (min(values), max(values)) if values else None


def _groups(fields: Fields, frames: int) -> tuple[Any, list[Any]]:
    """Shared and per-frame functional groups of a multi-frame object, or None and []."""
    dataset = fields.parsed.dataset if fields.parsed.dataset is not None else {}
    shared, own = dataset.get("SharedFunctionalGroupsSequence"), dataset.get("PerFrameFunctionalGroupsSequence")
    if own and len(own) != frames:
        raise NotUsable("functional groups and frames differ in number")
    return (shared[0] if shared else None), list(own or [])


def _macro(sequence: str, shared: Any, own: Any) -> Any:
    """One functional group macro: the frame's own, else the shared one, else None."""
    for place in (own, shared):
        items = place.get(sequence) if place is not None else None
        if items:
            return items[0]
    return None


def _floats(item: Any, keyword: str, n: int) -> tuple[float, ...] | None:
    value = item.get(keyword) if item is not None else None
    if value is None or value == "":
        return None
    try:
        values = tuple(float(v) for v in (value if n > 1 else [value]))
    except (TypeError, ValueError):
        return None
    return values if len(values) == n and all(map(math.isfinite, values)) else None


def _pixel_mm(fields: Fields, shared: Any, own: list[Any], limits: plausibility.Range) -> tuple[float, float] | None:
    top = fields.numbers(0x00280030) or fields.numbers(0x00181164)
    found = {_floats(_macro("PixelMeasuresSequence", shared, one), "PixelSpacing", 2) or tuple(top) for one in (own or [None])}
    if len(found) > 1:
        raise NotUsable("frames of several pixel spacings")
    values = found.pop()
    if len(values) != 2 or min(values) <= 0:
        return None
    if not (min(values) >= limits[0] and max(values) <= limits[1]):
        raise NotUsable(f"pixel spacing beyond {limits[0]:g} to {limits[1]:g} mm")
    return values[0], values[1]


def _frames(fields: Fields, count: int, shared: Any, own: list[Any], spec: DiseaseSpec) -> tuple[Frame, ...]:
    top = Frame(_triple(fields.numbers(0x00200032)), *_directions(fields.numbers(0x00200037)), fields.number(0x00281053), fields.number(0x00281052))
    if spec.input.unit == "HU" and fields.code(0x00281054) not in ("", "HU", "US"):
        raise NotUsable("rescaled to another unit than HU", skipped=True)
    if spec.input.unit == "HU" and any(_rescale_type(shared, one) not in ("", "HU", "US") for one in (own or [None])):
        raise NotUsable("rescaled to another unit than HU", skipped=True)
    frames = (top,) * count if shared is None and not own else tuple(_group_frame(shared, own[i] if own else None, top) for i in range(count))
    for frame in frames:
        if spec.input.unit == "HU" and (frame.slope is None or frame.intercept is None):
            raise NotUsable("no rescale to HU")
        if frame.slope == 0:
            raise NotUsable("rescale slope of zero")
        if spec.input.unit == "HU" and not plausibility.SLOPE_HU[0] <= abs(frame.slope or 0) <= plausibility.SLOPE_HU[1]:
            raise NotUsable(f"rescale slope beyond {plausibility.SLOPE_HU[0]:g} to {plausibility.SLOPE_HU[1]:g} HU")
    return frames


def _group_frame(shared: Any, own: Any, top: Frame) -> Frame:
    place = _floats(_macro("PlanePositionSequence", shared, own), "ImagePositionPatient", 3)
    turn = _floats(_macro("PlaneOrientationSequence", shared, own), "ImageOrientationPatient", 6)
    values = _macro("PixelValueTransformationSequence", shared, own)
    slope, intercept = _floats(values, "RescaleSlope", 1), _floats(values, "RescaleIntercept", 1)
    along = _directions(list(turn)) if turn else (top.rows_along, top.columns_along)
    return Frame(
        _triple(list(place)) if place else top.position, *along, slope[0] if slope else top.slope, intercept[0] if intercept else top.intercept
    )


def _rescale_type(shared: Any, own: Any) -> str:
    item = _macro("PixelValueTransformationSequence", shared, own)
    return str(item.get("RescaleType") or "").strip() if item is not None else ""


def _triple(values: list[float]) -> Triple | None:
    return (values[0], values[1], values[2]) if len(values) == 3 else None


def _directions(values: list[float]) -> tuple[Triple | None, Triple | None]:
    """Image Orientation (Patient) as two unit vectors at right angles, or two None."""
    if len(values) != 6:
        return None, None
    a, b = (values[0], values[1], values[2]), (values[3], values[4], values[5])
    if abs(math.hypot(*a) - 1) > 1e-2 or abs(math.hypot(*b) - 1) > 1e-2 or abs(sum(x * y for x, y in zip(a, b, strict=True))) > 1e-2:
        return None, None
    return a, b


def _acquisition(fields: Fields, shared: Any, pseudonymiser: Pseudonymiser) -> dict[str, Any]:
    """How the image was made."""
    exposure = fields.number(0x00181152)
    if exposure is None and (micro := fields.number(0x00181153)) is not None:
        exposure = micro / 1000
    if exposure is None and (current := fields.number(0x00181151)) is not None and (time := fields.number(0x00181150)) is not None:
        exposure = current * time / 1000
    kvp, kernel, thickness = fields.number(0x00180060), fields.text(0x00181210).split("\\")[0], fields.number(0x00180050)
    if shared is not None:
        kvp = kvp if kvp is not None else (_floats(_macro("CTXRayDetailsSequence", shared, None), "KVP", 1) or (None,))[0]
        exposure = exposure if exposure is not None else (_floats(_macro("CTExposureSequence", shared, None), "ExposureInmAs", 1) or (None,))[0]
        thickness = (
            thickness if thickness is not None else (_floats(_macro("PixelMeasuresSequence", shared, None), "SliceThickness", 1) or (None,))[0]
        )
        item = _macro("CTReconstructionSequence", shared, None)
        kernel = kernel or str(item.get("ConvolutionKernel") or "" if item is not None else "").split("\\")[0]
    return {
        "acq_kvp": kvp,
        "acq_exposure_mas": exposure,
        "acq_kernel": vocabulary.kernel(kernel, pseudonymiser),
        "acq_slice_thickness_mm": thickness,
    }


DATES = (0x0008002A, 0x00080022, 0x00080023, 0x00080021, 0x00080020)


def _undated(fields: Fields) -> bool:
    return not any(when(fields.code(tag), "") for tag in DATES) and any(fields.code(tag) for tag in DATES)


def _acquired(fields: Fields, pseudonymiser: Pseudonymiser) -> str | None:
    zone = fields.code(0x00080201)
    found = when(fields.code(0x0008002A), "", zone)
    for date, time in ((0x00080022, 0x00080032), (0x00080023, 0x00080033), (0x00080021, 0x00080031), (0x00080020, 0x00080030)):
        found = found or when(fields.code(date), fields.code(time), zone)
    return shifted_iso(found, pseudonymiser)
