"""One record as one line that tells by itself whether it is whole: `<CRC-32 of the JSON, 8 hexadecimal digits> <JSON>`."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any


def frame(record: Mapping[str, Any]) -> bytes:
    """One record as its line. Raises ValueError for a number that is not finite: JSON has no such number."""
    body = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def parse(line: bytes) -> dict[str, Any] | None:
    """The record of a line, or None where the line is torn or changed."""
    if not line.endswith(b"\n") or line[8:9] != b" ":
        return None
    body = line[9:-1]
    try:
        if int(line[:8], 16) != zlib.crc32(body):
            return None
        record = json.loads(body)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
