"""What an S3 server says that an object's bytes are, asked for as they come: objects of other tools have no SHA-256 of ours beside them."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Mapping

ASK = {"x-amz-checksum-mode": "ENABLED"}
"""Headers of a request whose answer shall tell the checksum that the object was stored with; a server that knows none leaves it out."""
MD5 = re.compile(r'"([0-9a-f]{32})"')


class Arriving:
    """The checksum of one answer.

    Args:
        headers: Of the first answer, to a request for the whole object.

    Source:
        Amazon S3 API reference, GetObject (x-amz-checksum-*; those of several parts end in `-<n>`) and Object (ETag: the MD5 of what was stored in
        one part, without encryption or with keys of the store's own).
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._crc, self._wanted_crc = 0, _decoded(headers.get("x-amz-checksum-crc32"), 4)
        self._sha, self._wanted_sha = hashlib.sha256(), _decoded(headers.get("x-amz-checksum-sha256"), 32)
        match = MD5.fullmatch(headers.get("ETag", ""))
        foreign = headers.get("x-amz-server-side-encryption", "AES256") != "AES256" or any("customer-algorithm" in name.lower() for name in headers)
        self._md5, self._wanted_md5 = hashlib.md5(usedforsecurity=False), bytes.fromhex(match[1]) if match and not foreign else None

    @property
    def known(self) -> bool:
        """Whether the server told any."""
        return any((self._wanted_crc, self._wanted_sha, self._wanted_md5))

    def update(self, block: bytes) -> None:
        if self._wanted_crc:
            self._crc = zlib.crc32(block, self._crc)
        if self._wanted_sha:
            self._sha.update(block)
        if self._wanted_md5:
            self._md5.update(block)

    def holds(self) -> bool:
        """Whether all that came is what the server said; True where it said nothing."""
        found = (
            (self._wanted_crc, self._crc.to_bytes(4, "big")),
            (self._wanted_sha, self._sha.digest()),
            (self._wanted_md5, self._md5.digest()),
        )
        return all(wanted is None or wanted == own for wanted, own in found)


def _decoded(text: str | None, length: int) -> bytes | None:
    try:
        found = base64.b64decode(text or "", validate=True)
    except ValueError:
        return None
    return found if len(found) == length else None
