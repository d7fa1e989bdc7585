"""Keyed pseudonyms: the same person or scanner always gets the same id, and nobody without the key can turn it back.

HMAC-SHA256 truncated to 64 bits; each kind of identifier has its own domain, so a patient id equal to a serial number gives another id.
DICOM PS3.15 E.3: the retain-device-identity option is met pseudonymously, since a serial number can single out a hospital.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from components.core.errors import ServiceError
from components.core.home import home

UNKNOWN_DEVICE = "unknown"


class Pseudonymiser:
    """Makes ids under one secret key of at least 16 bytes."""

    def __init__(self, key: bytes) -> None:
        if len(key) < 16:
            raise ServiceError("pseudonym key too short", where="DXFLOW_KEY", got=f"{len(key)} bytes", allowed="at least 16")
        self._key = key

    def id(self, domain: str, *parts: str) -> str:
        """16 hexadecimal characters for `parts` within `domain` ("patient", "device", "series", ...)."""
        text = "\x1f".join((domain, *(" ".join(str(p).split()).upper() for p in parts)))
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:16]

    def number(self, domain: str, below: int) -> int:
        """An integer in [0, below) that depends on the key alone, e.g. the date offset of a site."""
        return int.from_bytes(hmac.new(self._key, domain.encode(), hashlib.sha256).digest()[:8], "big") % below

    @property
    def fingerprint(self) -> str:
        """8 hexadecimal characters that tell keys apart without revealing them."""
        return self.id("fingerprint")[:8]


def load_pseudonymiser() -> tuple[Pseudonymiser, bool]:
    """The key from `DXFLOW_KEY`, else the file `DXFLOW_KEY_FILE`, else `home()/pseudonym.key`, made at first use.

    Returns:
        The pseudonymiser, and whether a key was generated just now (the caller warns: losing it makes new pseudonyms).
    """
    text = os.environ.get("DXFLOW_KEY")
    if text:
        return Pseudonymiser(text.encode()), False
    named = os.environ.get("DXFLOW_KEY_FILE")
    path = Path(named) if named else home() / "pseudonym.key"
    if path.exists():
        return Pseudonymiser(path.read_bytes().strip()), False
    if named:
        raise ServiceError("no such key file", where="DXFLOW_KEY_FILE", got=named)
    path.parent.mkdir(parents=True, exist_ok=True)
    key = secrets.token_hex(32).encode()
    # Two processes may come here at once: the link takes the name once, and everybody reads what it holds.
    own = path.with_name(f"{path.name}.{os.getpid()}")
    with open(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as handle:
        handle.write(key)
    try:
        os.link(own, path)
        made = True
    except FileExistsError:
        made = False
    own.unlink()
    return Pseudonymiser(path.read_bytes().strip()), made
