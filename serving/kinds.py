"""What kind of file some bytes are, by the marks at their beginning: the server asks where a request does not say, the client before it sends."""

from __future__ import annotations

from components.core.imaging.fields import plausible

HEAD = 512
"""Bytes that are enough to tell."""
CSV, DICOM, NIFTI = "text/csv", "application/dicom", "application/x-nifti"


def sniffed(head: bytes) -> str:
    """The content type that a file's first bytes say: of pictures, DICOM and NIfTI by their marks, else that of text, or ""."""
    if head[128:132] == b"DICM":
        return DICOM
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "image/tiff"
    if head.startswith(b"\x1f\x8b") or head[344:347] == b"n+1" or head[4:7] == b"n+2":
        return NIFTI
    if b"\0" not in head:
        return CSV if head else ""
    return DICOM if plausible(head) else ""  # as old archives keep them: without the 132 bytes before the first element
