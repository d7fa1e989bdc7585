"""What kind of file some bytes are, by the marks at their beginning: the server asks where a request does not say, the client before it sends.

Pictures are told by `components/core/imaging/picture_kinds.py`, as ingest tells them.
"""

from __future__ import annotations

from components.core.imaging.fields import plausible
from components.core.imaging.picture_kinds import KINDS, kind_of

HEAD = 512
"""Bytes that are enough to tell."""
CSV, DICOM, NIFTI = "text/csv", "application/dicom", "application/x-nifti"
TAKEN = f"DICOM, {', '.join(kind.name for kind in KINDS)}, NIfTI, CSV"
"""What a server may take, for messages."""


def sniffed(head: bytes) -> str:
    """The content type that a file's first bytes say: of pictures, DICOM and NIfTI by their marks, else that of text, or ""."""
    if head[128:132] == b"DICM":
        return DICOM
    if (picture := kind_of(head)) is not None:
        return picture.content_type
    if head.startswith(b"\x1f\x8b") or head[344:347] == b"n+1" or head[4:7] == b"n+2":
        return NIFTI
    if b"\0" not in head:
        return CSV if head else ""
    return DICOM if plausible(head) else ""  # as old archives keep them: without the 132 bytes before the first element
