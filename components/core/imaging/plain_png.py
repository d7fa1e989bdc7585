"""The fast way through a PNG that is nothing but pixels."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

PLAIN, PILLOWS = (b"IHDR", b"IDAT", b"IEND"), (b"eXIf", b"tRNS", b"PLTE", b"acTL")
RAW_PROFILE, XMP = b"Raw profile", b"XML:com.adobe.xmp"  # how text chunks begin that may hold an orientation


def plain_png(image: Any, handle: BinaryIO) -> NDArray[np.uint8] | None:
    """The pixels of a PNG of 8-bit grey or RGB without EXIF, by a decoder that takes 60 % of Pillow's time; None for all others.

    Its checksums were asked for (`png_chunks.py`).
    """
    if image.format != "PNG" or image.mode not in ("L", "RGB"):
        return None
    import imagecodecs

    here = handle.tell()
    handle.seek(0)
    plain = _critical_chunks(handle.read())
    handle.seek(here)  # where Pillow reads on
    if plain is None:
        return None
    try:
        pixels = imagecodecs.png_decode(plain)
    except (imagecodecs.PngError, ValueError):
        return None  # Pillow says what is wrong, or reads it all the same
    wanted = (image.height, image.width, 3)[: 3 if image.mode == "RGB" else 2]
    return pixels if pixels.dtype == np.uint8 and pixels.shape == wanted else None


def _critical_chunks(data: bytes) -> bytes | None:
    """A PNG without the chunks that say nothing of its pixels: the decoder prints warnings about them that may quote the file.

    None where EXIF, XMP, transparency, a palette, animation, interlacing or another depth need Pillow.
    """
    kept, at = [data[:8]], 8  # PNG (ISO/IEC 15948) 5.2 and 5.3: the signature, then length, type, data and CRC of each chunk
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if end > len(data) or kind in PILLOWS or data.startswith((RAW_PROFILE, XMP), at + 8):
            return None
        if kind in PLAIN:
            kept.append(data[at:end])
        elif kind[:1].isupper():  # critical, and unknown
            return None
        if kind == b"IEND":
            head = kept[1]
            return b"".join(kept) if head[4:8] == b"IHDR" and head[16] == 8 and head[17] in (0, 2) and head[18:21] == b"\0\0\0" else None
        at = end
    return None
