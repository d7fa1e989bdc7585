"""The kinds of pictures that are read, told by their first bytes: one list for ingest, server, client and references.

A file's suffix, and what a library calls its format, say nothing here: a phone's JPEG is "MPO" to Pillow, and still a JPEG.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PORTABLE = re.compile(rb"P[1-6](?:[ \t\r\n]+|#[^\n]*\n)+\d")  # Netpbm: the magic number, white space or a comment, then the width
BITMAP_HEADS = (12, 40, 52, 56, 64, 108, 124)  # lengths of the second header of a BMP; "BM" alone also starts a table of body mass indices


@dataclass(frozen=True)
class Kind:
    """One kind.

    Args:
        content_type: As a request names it, and as `metadata` of a model lists it.
        others: Other names under which clients send the same thing.
        plugin: The only decoder that such a file is given to.
    """

    name: str
    content_type: str
    others: tuple[str, ...]
    plugin: str


JPEG = Kind("JPEG", "image/jpeg", ("image/jpg", "image/pjpeg", "image/mpo"), "JPEG")
PNG = Kind("PNG", "image/png", ("image/x-png",), "PNG")
TIFF = Kind("TIFF", "image/tiff", ("image/tif", "image/x-tiff"), "TIFF")
BMP = Kind("BMP", "image/bmp", ("image/x-bmp", "image/x-ms-bmp"), "BMP")
PPM = Kind("PGM or PPM", "image/x-portable-anymap", ("image/x-portable-graymap", "image/x-portable-pixmap", "image/x-portable-bitmap"), "PPM")
WEBP = Kind("WebP", "image/webp", (), "WEBP")
KINDS = (JPEG, PNG, TIFF, BMP, PPM, WEBP)
ALIASES = {other: kind.content_type for kind in KINDS for other in kind.others}


def kind_of(head: bytes) -> Kind | None:
    """The kind that a file's first bytes (64 are enough, but for a long comment in a PGM) say; None for anything else."""
    if head.startswith(b"\xff\xd8\xff"):
        return JPEG
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return TIFF
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WEBP
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in BITMAP_HEADS:
        return BMP
    return PPM if PORTABLE.match(head) else None
