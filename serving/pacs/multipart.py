"""Bodies of several DICOM files, as DICOMweb sends them (multipart/related, RFC 2387)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

from components.core.errors import ServiceError

DICOM = "application/dicom"


def boundary_of(content_type: str) -> bytes:
    """Raises ServiceError where the header names none."""
    match = re.search(r'boundary="?([^";]+)"?', content_type)
    if match is None or not content_type.lower().startswith("multipart/related"):
        raise ServiceError("answers with another type than multipart/related", where="PACS")
    return match[1].strip().encode("ascii", "replace")


def split(body: bytes | bytearray, boundary: bytes) -> list[bytes]:
    """The parts' contents.

    Raises:
        ServiceError: The closing line is missing: the answer was cut off.
    """
    mark = b"--" + boundary
    at = body.find(mark)
    parts: list[bytes] = []
    while at >= 0:
        start = at + len(mark)
        if body[start : start + 2] == b"--":
            return parts
        content = body.find(b"\r\n\r\n", start)
        end = body.find(b"\r\n" + mark, start)
        if content < 0 or end < 0:
            break
        parts.append(bytes(body[content + 4 : max(end, content + 4)]))
        at = end + 2
    raise ServiceError("the answer was cut off", where="PACS")


def joined(files: Sequence[bytes]) -> tuple[bytes, str]:
    """A body, and its Content-Type."""
    while any((boundary := secrets.token_hex(16)).encode() in file for file in files):
        pass
    body = b"".join(b"--%s\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % (boundary.encode(), file) for file in files)
    return body + b"--%s--\r\n" % boundary.encode(), f'multipart/related; type="{DICOM}"; boundary={boundary}'
