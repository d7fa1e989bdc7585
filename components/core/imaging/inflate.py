"""The deflated transfer syntax, inflated to a bound: a megabyte of zeros packs into a kilobyte."""

from __future__ import annotations

import io
import struct
import zlib
from typing import BinaryIO

from components.core.imaging.errors import NotUsable

DEFLATED = b"1.2.840.10008.1.2.1.99"
EXPLICIT = b"1.2.840.10008.1.2.1\0"
LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
UNPACKED_FREELY = 8 << 20
"""Bytes that any file may unpack to, however short it is: an empty image packs into nothing."""
MOST_EXPANSION = 100
"""How many times its own length a file may unpack to beyond that, at ingest and at the server. Images of patients pack 2 to 40 times, a bomb 1000
times."""


def is_deflated(handle: BinaryIO) -> bool:
    """Whether a Part 10 file's meta information names the deflated syntax; the handle is left at its start."""
    handle.seek(0)
    head = handle.read(4096)
    handle.seek(0)
    return head[128:132] == b"DICM" and DEFLATED in head


def inflated(handle: BinaryIO, most: int) -> tuple[BinaryIO, int]:
    """The same file in explicit little endian, and its length.

    Args:
        most: Bytes that the data set may take.

    Raises:
        NotUsable: It takes more, ends early, or is followed by something else. A raw deflate stream has no checksum: a flipped bit that
            leaves it a whole stream, and its data set whole (`check_end`), is not seen.

    Source:
        DICOM PS3.5 A.5: all that follows the file meta information is one raw deflate stream, padded with a zero byte to an even length.
    """
    handle.seek(132)
    head = handle.read(12)
    group, element, vr, _, length = struct.unpack("<HH2sHL", head)  # tag, VR, 4, the length
    if (group, element, vr) != (2, 0, b"UL"):
        raise NotUsable("deflated file without the length of its meta information", offset=132)
    start = 144 + length
    handle.seek(start)
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = unpacker.decompress(handle.read(), most)
    except zlib.error:
        raise NotUsable("damaged: not a deflate stream", offset=start) from None
    if not unpacker.eof and len(body) >= most:
        raise NotUsable("file over limits.file_mb when inflated")
    if not unpacker.eof:
        raise NotUsable("damaged: the deflate stream ends early", offset=start)
    if unpacker.unused_data.strip(b"\0"):
        raise NotUsable("damaged: something follows the end of the deflate stream", offset=start)
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(EXPLICIT)) + EXPLICIT
    whole = b"\0" * 128 + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(meta)) + meta + body
    return io.BytesIO(whole), len(whole)


def check_end(handle: BinaryIO, at: int, size: int) -> None:
    """What stands behind the pixels of an inflated file, from `at` on, must be whole elements up to its end: damage moves them.

    Raises:
        NotUsable: It is not.

    Source:
        DICOM PS3.5 7.1.2: tag, VR, and a length of 2 bytes, or after 2 reserved bytes of 4.
    """
    while at < size:
        handle.seek(at)
        head = handle.read(12)
        if len(head) < 8 or not head[4:6].isalpha() or int.from_bytes(head[:2], "little") < 0x7FE0:
            break
        long = head[4:6] in LONG_VRS
        if long and head[8:12] == b"\xff\xff\xff\xff":  # a sequence that says where it ends: signatures
            return
        at += 12 + int.from_bytes(head[8:12], "little") if long else 8 + int.from_bytes(head[6:8], "little")
    if at != size:
        raise NotUsable("damaged: the deflated data set does not end where its pixels do", offset=at)
