"""Damaged files: bits turned, pieces cut, doubled and overwritten, numbers made extreme; some with checksums and packing made good again."""

from __future__ import annotations

import gzip
import random
import struct
import zlib
from collections.abc import Callable, Iterator

from components.core.errors import DataError
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec
from serving import bodies
from serving.bodies.body import Body
from tests.serving import small_bodies
from tests.serving.small_bodies import BRAIN, FUNDUS, GAIT, PIXELS, TABLE, disease
from tests.serving.small_dicom import ct_slice, image
from tests.serving.small_package import lung_nodule

PSEUDONYMISER = Pseudonymiser(b"a key of the tests only")
MARKS = ("miller", "jonathan", "pid-4711", "4711-xyz", "sn-12345")
EXTREMES = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"\xff\xff",
    b"\x7f\xf8",
    b"nan",
    b"1e999",
    b"-1",
    b",",
    b"\n",
    b'"',
)
NAME = b"Miller^Jonathan PID-4711-XYZ"


def _png() -> bytes:
    """With a name in a text chunk."""
    plain = small_bodies.picture("PNG", height=24, width=24)
    text = b"tEXt" + b"Comment\0" + NAME
    return plain[:33] + struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text)) + plain[33:]


def _nifti() -> bytes:
    """With a name in its description."""
    plain = bytearray(small_bodies.nifti(shape=(20, 24, 20), mm=8.0))
    plain[148 : 148 + len(NAME)] = NAME
    return bytes(plain)


def seeds() -> dict[str, tuple[str, DiseaseSpec, list[bytes]]]:
    """{format: (content type, spec, good files)}; each file holds a name somewhere."""
    head = "# device: SN-12345\n# patient: Miller^Jonathan\n"
    packed = ct_slice(image(size=64))
    return {
        "dicom": ("application/dicom", lung_nodule(), [packed, _compressed(packed)]),
        "dicom-photograph": ("application/dicom", disease(FUNDUS), [small_bodies.photograph_dicom(small_bodies.pixels(24, 24))]),
        "png": ("image/png", disease(FUNDUS), [_png()]),
        "jpeg": ("image/jpeg", disease(FUNDUS), [small_bodies.picture("JPEG", height=24, width=24, exif={0x10F: "Miller", 0x110: "SN-12345"})]),
        "nifti": ("application/x-nifti", disease(BRAIN), [_nifti(), gzip.compress(_nifti(), 1)]),
        "recording": ("text/csv", disease(GAIT), [small_bodies.recording(7, head_lines=head), small_bodies.recording(7, label=False)]),
        "table": ("text/csv", disease(TABLE), [small_bodies.table()]),
        "pixels": ("text/csv", disease(PIXELS), [small_bodies.pixel_table()]),
    }


def _compressed(data: bytes) -> bytes:
    """The same slice as lossless JPEG 2000."""
    import io

    import pydicom

    d = pydicom.dcmread(io.BytesIO(data))
    d.compress("1.2.840.10008.1.2.4.90", encoding_plugin="pylibjpeg", generate_instance_uid=False)
    out = io.BytesIO()
    d.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _turned(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _head_turned(data: bytearray, draw: random.Random) -> None:
    """Where headers stand."""
    for _ in range(draw.choice((1, 2, 4))):
        data[draw.randrange(min(len(data), 600))] = draw.randrange(256)


def _extreme(data: bytearray, draw: random.Random) -> None:
    value = draw.choice(EXTREMES)
    at = draw.randrange(min(len(data), draw.choice((64, 400, 2000, len(data)))))
    data[at : at + len(value)] = value


def _cut(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(len(data)) :]


def _gap(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data))
    del data[at : at + draw.choice((1, 2, 7, 100))]


def _doubled(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data))
    piece = data[at : at + draw.choice((1, 4, 50, 1000))]
    data[at:at] = piece * draw.choice((1, 3))


CHANGES: tuple[Callable[[bytearray, random.Random], None], ...] = (_turned, _head_turned, _extreme, _extreme, _cut, _gap, _doubled)


def mutants(good: list[bytes], n: int, seed: int) -> Iterator[bytes]:
    """`n` damaged files, the same for the same seed."""
    draw = random.Random(seed)
    for _ in range(n):
        start = draw.choice(good)
        unpacked = gzip.decompress(start) if start[:2] == b"\x1f\x8b" and draw.random() < 0.7 else None
        data = bytearray(unpacked if unpacked is not None else start)
        for _ in range(draw.choice((1, 1, 2, 3))):
            if data:
                draw.choice(CHANGES)(data, draw)
        found = gzip.compress(bytes(data), 1) if unpacked is not None else bytes(data)
        yield _with_checksums(found) if found[:4] == b"\x89PNG" and draw.random() < 0.7 else found


def _with_checksums(png: bytes) -> bytes:
    """Chunks with right checksums, so that damage gets past them."""
    out, here = bytearray(png[:8]), 8
    while here + 12 <= len(png):
        size = int.from_bytes(png[here : here + 4], "big")
        if here + 12 + size > len(png):
            break
        body = png[here + 4 : here + 8 + size]
        out += png[here : here + 4] + body + struct.pack(">I", zlib.crc32(body))
        here += 12 + size
    return bytes(out + png[here:])


def outcome(kind: str, spec: DiseaseSpec, data: bytes) -> str:
    """What the decoding layer makes of a file: "read", or the reason. Anything but samples of the right shape or one plain line fails."""
    try:
        found = bodies.read(kind, Body(data, row=30.0, column=30.0), spec, PSEUDONYMISER)
    except DataError as error:
        text = str(error)
        assert "\n" not in text
        assert len(text) < 300
        assert not any(mark in text.lower() for mark in MARKS), f"a file is quoted: {kind}"
        return error.what
    assert found
    assert all(q.array.shape == tuple(spec.input.shape) for q in found)
    return "read"
