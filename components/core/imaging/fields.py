"""The elements of a DICOM file up to its pixels: bounded, damage told by its place, values kept as bytes until somebody asks."""

from __future__ import annotations

import io
import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

from components.core.imaging.errors import NotUsable
from components.core.imaging.inflate import inflated, is_deflated
from components.core.spec import DiseaseSpec

HEADER_BYTES = 16 << 20  # read before the pixels; longer values are skipped, not read
VALUE_BYTES = 64 << 10
BIG_ENDIAN = "1.2.840.10008.1.2.2"
UNDEFINED = 0xFFFFFFFF
LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN", b"UT", b"UC", b"UR", b"SQ", b"SV", b"UV")
PIXELS, FLOAT_PIXELS = 0x7FE00010, (0x7FE00008, 0x7FE00009)


def plausible(head: bytes) -> bool:
    """Whether a file may be DICOM: the DICM prefix, or without it a first element of group 2 or 8 with a known VR or a short length."""
    if head[128:132] == b"DICM":
        return True
    if len(head) < 8:
        return False
    for order in "<>":
        group, element, vr, length = struct.unpack(f"{order}HH2sH", head[:8])
        if group in (0x0002, 0x0008) and element < 0x0100:
            if vr in (b"UL", b"UI", b"CS", b"OB", b"SH", b"AE", b"DA", b"TM", b"LO") and length < 0x1000:
                return True
            if order == "<" and struct.unpack("<L", head[4:8])[0] < 0x400:
                return True
    return False


@contextmanager
def quiet() -> Iterator[None]:
    """pydicom warns and logs with header values; none of that may be written anywhere."""
    pydicom_silenced()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@lru_cache(maxsize=1)
def pydicom_silenced() -> Any:
    """pydicom, with logging and validation of values off."""
    import logging

    import pydicom
    from pydicom import config

    config.settings.reading_validation_mode = config.IGNORE
    for name in ("pydicom", "pylibjpeg", "openjpeg", "libjpeg"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [logging.NullHandler()]
        logger.propagate = False
        logger.setLevel(logging.CRITICAL + 1)
    return pydicom


class _Limited(io.RawIOBase):
    """A handle that refuses to read on after `HEADER_BYTES`."""

    name = None  # pydicom asks for it

    def __init__(self, handle: BinaryIO) -> None:
        self._handle, self._left = handle, HEADER_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._handle.seek(offset, whence)

    def tell(self) -> int:
        return self._handle.tell()

    def readinto(self, buffer: Any) -> int:
        data = self._handle.read(min(len(buffer), self._left + 1))  # a length in a damaged header may ask for gigabytes
        self._left -= len(data)
        if self._left < 0:
            raise NotUsable("header over 16 MB")
        buffer[: len(data)] = data
        return len(data)


@dataclass(frozen=True)
class _Parsed:
    """Elements before the pixels, by tag; `dataset` only where there are functional groups or the file is unusual."""

    elements: dict[int, Any]
    meta: dict[int, str]
    implicit: bool
    little: bool
    dataset: Any = None


def parse(handle: BinaryIO, size: int, spec: DiseaseSpec) -> tuple[_Parsed, BinaryIO, int, bool]:
    """The elements, and a handle on the (inflated) file that stands at Pixel Data's tag."""
    deflated = is_deflated(handle)
    if deflated:
        handle, size = inflated(handle, inflate_limit(spec))
    parsed = _parse_regular(handle) or _parse_any(handle)
    return parsed, handle, size, deflated


def _parse_regular(handle: BinaryIO) -> _Parsed | None:
    """A Part 10 file in order, without building data sets, which costs three times the parsing; None for any other."""
    from pydicom.filereader import data_element_generator

    head = handle.read(4096)
    meta, start = _meta(head)
    syntax = meta.get(0x00020010, "")
    if not syntax.startswith("1.2.840.10008."):
        return None
    implicit, little = syntax == "1.2.840.10008.1.2", syntax != BIG_ENDIAN
    vr = head[start + 4 : start + 6]
    if start + 8 > len(head) or implicit == (vr.isalpha() and vr.isupper()):
        return None
    handle.seek(start)
    limited = io.BufferedReader(_Limited(handle), 32 << 10)  # type: ignore[arg-type]
    try:
        found = data_element_generator(limited, implicit, little, stop_when=_at_pixels, defer_size=VALUE_BYTES)
        elements = {int(element.tag): element for element in found}
    except (EOFError, struct.error, ValueError, KeyError):
        return None
    if 0x52009229 in elements or 0x52009230 in elements:
        return None
    handle.seek(limited.tell())
    return _Parsed(elements, meta, implicit, little)


def _meta(head: bytes) -> tuple[dict[int, str], int]:
    """UIDs of the file meta information, and where the data set starts; ({}, 0) without a DICM prefix."""
    found: dict[int, str] = {}
    here = 132
    if head[128:132] != b"DICM":
        return {}, 0
    while here + 12 <= len(head):
        group, element, vr, length = struct.unpack("<HH2sH", head[here : here + 8])
        if group != 2:
            return found, here
        here += 8
        if vr in LONG_VRS:
            length = struct.unpack("<L", head[here : here + 4])[0]
            here += 4
        if vr == b"UI":
            found[group << 16 | element] = head[here : here + length].strip(b" \0").decode("ascii", "replace")
        here += length
    return {}, 0


def _parse_any(handle: BinaryIO) -> _Parsed:
    """Whatever pydicom can still read."""
    from pydicom.filereader import read_partial

    handle.seek(0)
    limited = io.BufferedReader(_Limited(handle), 32 << 10)  # type: ignore[arg-type]
    dataset = read_partial(limited, stop_when=_at_pixels, defer_size=VALUE_BYTES, force=True)  # type: ignore[arg-type]
    handle.seek(limited.tell())
    meta = {int(e.tag): str(e.value).strip(" \0") for e in dataset.file_meta}
    implicit, little = dataset.original_encoding
    return _Parsed({int(tag): element for tag, element in dataset.items()}, meta, bool(implicit), little is not False, dataset)


def inflate_limit(spec: DiseaseSpec) -> int:
    """Bytes that a deflated file may take when inflated."""
    return int(min(spec.limits.file_mb * 1e6, 8.0 * spec.limits.pixels_per_image + HEADER_BYTES))


def _at_pixels(tag: int, vr: str | None, length: int) -> bool:
    return tag >= FLOAT_PIXELS[0]


class Fields:
    """Values of a parsed header straight from their bytes: converting every element through pydicom costs more than parsing them."""

    def __init__(self, parsed: _Parsed) -> None:
        self.parsed = parsed
        self.order = "<" if parsed.little else ">"

    def __contains__(self, tag: int) -> bool:
        return tag in self.parsed.elements

    def raw(self, tag: int) -> bytes:
        """The bytes of a top-level element; b"" where it is absent, long, or a sequence."""
        value = getattr(self.parsed.elements.get(tag), "value", None)
        return value if isinstance(value, bytes) else b""

    def short(self, tag: int) -> int | None:
        """An US element."""
        data = self.raw(tag)
        return int(struct.unpack(f"{self.order}H", data[:2])[0]) if len(data) >= 2 else None

    def numbers(self, tag: int) -> list[float]:
        """A DS, IS or FD element's values; [] unless all are finite."""
        data = self.raw(tag)
        try:
            values = [float(part.strip(b" \0")) for part in data.split(b"\\")] if data.strip(b" \0") else []
        except ValueError:
            return []
        return values if all(map(math.isfinite, values)) else []

    def number(self, tag: int) -> float | None:
        values = self.numbers(tag)
        return values[0] if values else None

    def code(self, tag: int, place: int = 0) -> str:
        """A CS or UI value as ASCII, "" where it is anything else; still to be checked against its terms."""
        parts = self.raw(tag).split(b"\\")
        return parts[place].strip(b" \0").decode("ascii", "replace") if place < len(parts) else ""

    def text(self, tag: int) -> str:
        """A text element in its character set, values joined by a backslash; for hashing and vocabularies only."""
        return decoded(self.raw(tag), self.raw(0x00080005))

    def tokens(self) -> set[str]:
        """Names and ids in capitals, whole and by their parts."""
        return set().union(*(_words(self.raw(tag), self.raw(0x00080005)) for tag in TOKEN_TAGS))

    def end(self) -> int:
        """Where the last element says that it ends."""
        last = self.parsed.elements[max(self.parsed.elements)] if self.parsed.elements else None
        place, length = getattr(last, "value_tell", None) or getattr(last, "file_tell", None) or 0, getattr(last, "length", 0)
        return place + length if length != UNDEFINED else place


TOKEN_TAGS = (
    0x00100010, 0x00100020, 0x00101000, 0x00101001, 0x00101005, 0x00101060, 0x00100030, 0x00080050, 0x00200010, 0x00080018, 0x0020000D,
    0x0020000E, 0x00200052, 0x00080090, 0x00081048, 0x00081050, 0x00081060, 0x00081070, 0x00104000, 0x00081030, 0x0008103E, 0x00080080,
)  # fmt: skip
"""Names and ids of people; birth date; accession number and study id; UIDs; physicians and operators; comments, descriptions, institution."""


@lru_cache(maxsize=4096)
def decoded(value: bytes, charset: bytes) -> str:
    """Text in the header's character set (PS3.5 6.1), or as Latin-1 where that fails: it is never shown, only compared and hashed."""
    if not value.strip(b" \0"):
        return ""
    from pydicom.charset import convert_encodings, decode_bytes

    try:
        codecs = convert_encodings([part.strip(b" \0").decode("ascii") for part in charset.split(b"\\")] or [""])
        text = decode_bytes(value, codecs, {0x5C, 0x5E, 0x3D})
    except (LookupError, UnicodeError, ValueError):
        text = value.decode("latin-1")
    return text.strip(" \0")


@lru_cache(maxsize=4096)
def _words(value: bytes, charset: bytes) -> frozenset[str]:
    plain = " ".join(decoded(value, charset).translate(_MARKS).split()).upper()
    return frozenset({plain, *plain.split()} - {""})


_MARKS = {ord(mark): " " for mark in "^=\\\0"}
