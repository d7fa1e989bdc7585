"""What a JPEG, JPEG-LS or JPEG 2000 codestream announces, read before a decoder allocates or works for it.

Decoders believe the codestream and not the header around it, so the codestream is what has to be checked.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from components.core.imaging.errors import NotUsable

MOST_SCANS = 100
"""Of one JPEG. Encoders write 1 to 12, optimisers up to 30; each takes a pass over the whole picture however few bytes it has, so that half a
megabyte of empty scans can keep a processor for minutes. (libjpeg-turbo's own fuzzers stop at 500.)"""
SCANS_OF_LARGEST = 16
"""Scans that the largest picture may have: scans times pixels stay within this many times the limit on pixels."""
MOST_TILES = 4096
"""Of a JPEG 2000: its decoder takes about 6 KB for each before it looks at one."""
SCAN = b"\xff\xda"  # the marker that a scan starts with
SOC_SIZ = b"\xff\x4f\xff\x51"
JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
_MARKER = re.compile(rb"\xff+([\x01\xc0-\xcf\xd8-\xfe])")  # not stuffing (FF00, in JPEG-LS FF00..FF7F), not a restart marker
_FRAMES = frozenset((0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7))


@dataclass(frozen=True)
class Announced:
    """Size, components and bits that a codestream announces.

    Args:
        signed: JPEG 2000 says so of its values; None for JPEG, which does not say it.
        scans, tiles: Of a JPEG, of a JPEG 2000; 1 for the other.
    """

    rows: int
    columns: int
    components: int
    bits: int
    signed: bool | None
    scans: int = 1
    tiles: int = 1


def announced(data: bytes) -> Announced | None:
    """What is announced; None where it is no codestream of these kinds.

    Raises:
        NotUsable: It contradicts itself, or would cost more than a picture can need.
    """
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    start = codestream_start(data)
    return None if start is None else _jpeg_2000(data, start)


def codestream_start(data: bytes) -> int | None:
    """Where a JPEG 2000 codestream starts: at once, or in the first `jp2c` box of a JP2 file. None where there is none.

    Source:
        ISO/IEC 15444-1 I.4: length, type and, where the length is 1, an extended length; 0 is "to the end".
    """
    if data.startswith(SOC_SIZ):
        return 0
    if not data.startswith(JP2):
        return None
    here = 0
    while here + 8 <= len(data):
        length, kind = struct.unpack(">L4s", data[here : here + 8])
        head = 8
        if length == 1 and here + 16 <= len(data):
            head, length = 16, struct.unpack(">Q", data[here + 8 : here + 16])[0]
        if kind == b"jp2c":
            return here + head if data.startswith(SOC_SIZ, here + head) else None
        if length < head:  # 0, the last box, is no codestream either
            return None
        here += length
    return None


def _jpeg_2000(data: bytes, start: int) -> Announced | None:
    """SIZ, ISO/IEC 15444-1 A.5.1."""
    if len(data) < start + 42:
        return None
    right, bottom, left, top, wide, high, tile_left, tile_top, components = struct.unpack(">8LH", data[start + 8 : start + 42])
    each = data[start + 42 : start + 42 + 3 * components]
    if right <= left or bottom <= top or not wide or not high or not components or len(each) < 3 * components:
        raise NotUsable("a codestream whose sizes contradict each other")
    tiles = -(-(right - tile_left) // wide) * -(-(bottom - tile_top) // high)
    depths = {each[3 * n] for n in range(components)}
    if len(depths) != 1 or any(each[3 * n + place] != 1 for n in range(components) for place in (1, 2)):
        raise NotUsable("a codestream whose components differ")
    depth = depths.pop()
    return Announced(bottom - top, right - left, components, (depth & 0x7F) + 1, bool(depth & 0x80), tiles=tiles)


def _jpeg(data: bytes) -> Announced | None:
    """Every marker up to the end of the image, ISO/IEC 10918-1 B.1."""
    here, scans = 2, 0
    frame: tuple[int, int, int, int] | None = None
    while (found := _MARKER.search(data, here)) is not None:
        marker, here = data[found.end() - 1], found.end()
        if marker == 0xD9:
            break
        if marker in (0x01, 0xD8):
            continue
        if marker in (0xDC, 0xDE):
            raise NotUsable("a JPEG that gives its size later, or in several layers")
        length = int.from_bytes(data[here : here + 2], "big")
        if marker in _FRAMES:
            if frame is not None:
                raise NotUsable("a JPEG that gives its size twice")
            if len(data) < here + 8:
                return None
            frame = struct.unpack(">BHHB", data[here + 2 : here + 8])
        scans += marker == 0xDA
        if scans > MOST_SCANS:
            raise NotUsable(f"a JPEG of over {MOST_SCANS} scans")
        here += max(length, 2)
    if frame is None:
        return None
    bits, rows, columns, components = frame
    return Announced(rows, columns, components, bits, None, scans)


def check_work(found: Announced, *, most_pixels: int) -> None:
    """Raises NotUsable where there are more tiles, or more scans times pixels, than images need."""
    if found.tiles > MOST_TILES:
        raise NotUsable(f"a codestream of over {MOST_TILES} tiles")
    if found.scans > 1 and found.scans * found.rows * found.columns > SCANS_OF_LARGEST * most_pixels:
        raise NotUsable("a JPEG of more scans than its size allows")
