"""The checksums of a PNG: each of its chunks has one, and not every decoder asks for it (Pillow skips those of the pixels)."""

from __future__ import annotations

import zlib
from typing import BinaryIO

from components.core.imaging.errors import NotUsable

SIGNATURE_BYTES = 8


def check(handle: BinaryIO) -> None:
    """Ask for the checksum of every chunk up to IEND; the handle is left where it was.

    Raises:
        NotUsable: One does not hold, or IEND is missing.

    Source:
        PNG (ISO/IEC 15948) 5.3: length, type, data, and the CRC-32 of type and data.
    """
    here = handle.tell()
    handle.seek(0)
    data = memoryview(handle.read())
    handle.seek(here)
    at = SIGNATURE_BYTES
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            break
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise NotUsable("damaged PNG: a checksum does not hold", offset=at)
        if data[at + 4 : at + 8] == b"IEND":
            return
        at = end
    raise NotUsable("damaged PNG: it ends early", offset=at)
