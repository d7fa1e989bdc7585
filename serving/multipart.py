"""A multipart/related answer, split into files as it comes: memory holds one block, however long the parts are.

Source:
    RFC 2046 5.1.1; DICOM PS3.18 8.6.1.2 (WADO-RS answers).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from components.core.errors import DataError

BOUNDARY = re.compile(r"""boundary=("[^"]{1,70}"|[0-9A-Za-z'()+_,./:=?-]{1,70})(?:;|\s|$)""")
MOST_HEADERS = 16_384
NOT_PARTS = "not the multipart answer of WADO-RS"


def boundary_of(content_type: str) -> bytes:
    """The boundary that an answer's Content-Type names. Raises DataError without one."""
    match = BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/related") or not match:
        raise DataError(NOT_PARTS)
    return match[1].strip('"').encode()


def split_parts(blocks: Iterator[bytes], boundary: bytes, folder: Path, *, most: int) -> int:
    """Write each part's content to a file of its own in `folder`; their number.

    Raises:
        DataError: More than `most` parts, headers over 16 KB, or it ends before its last boundary.
    """
    mark = b"\r\n--" + boundary
    held, count, part = b"\r\n", 0, None  # the first boundary may stand at the very start, without a line before it
    state = "preamble"
    try:
        for block in blocks:
            held += block
            while True:
                if state == "headers":
                    if held.startswith(b"--"):
                        return count
                    end = held.find(b"\r\n\r\n")
                    if end < 0:
                        if len(held) > MOST_HEADERS:
                            raise DataError(NOT_PARTS)
                        break
                    if count == most:
                        raise DataError("more parts than allowed", allowed=str(most))
                    part = open(folder / f"{count:05d}", "wb")  # noqa: SIM115 - closed below, or by the outer finally
                    held, count, state = held[end + 4 :], count + 1, "content"
                end = held.find(mark)
                if end < 0:
                    keep = len(mark) - 1
                    _write(part, held[:-keep])
                    held = held[-keep:]
                    break
                _write(part, held[:end])
                part = _closed(part)
                held, state = held[end + len(mark) :], "headers"
        raise DataError("an answer that breaks off")
    finally:
        _closed(part)


def _write(part: IO[bytes] | None, content: bytes) -> None:
    if part is not None:  # before the first boundary there is no part
        part.write(content)


def _closed(part: IO[bytes] | None) -> None:
    if part is not None:
        part.close()
