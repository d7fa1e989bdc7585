"""Keyed pseudonyms: the same person or scanner always gets the same id, and nobody without the key can turn it back.

HMAC-SHA256 truncated to 64 bits; each kind of identifier has its own domain, so a patient id equal to a serial number gives another id.
DICOM PS3.15 E.3: the retain-device-identity option is met pseudonymously, since a serial number can single out a hospital.

What counts as one spelling is decided by the domain, in `spelling`:

    files       exactly as they are: two names are two files, whatever they differ in
    labels      makers, models, devices, software, sites: NFC, capitals, one blank for many; a scanner is not another one when a service
                engineer types its station's name in small letters
    all others  persons, lesions, studies, ...: NFC, without the blanks and NULs that DICOM pads with (PS3.5 6.2); case and inner blanks count
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import unicodedata

from components.core.errors import ServiceError
from components.core.home import home
from components.core.secret import file_bytes, secret_bytes

UNKNOWN_DEVICE = "unknown"
FILES = frozenset(("sample", "recording", "slide-file", "path", "listing"))
LABELS = frozenset(("device", "software", "site", "manufacturer", "model", "kernel", "word"))
BETWEEN = "\x1f"


def spelling(domain: str, text: str) -> str:
    """The one form of `text` within `domain`; what differs after it is different."""
    if domain in FILES:  # a name may hold the separator itself
        return text.replace("\x1b", "\x1b\x1b").replace(BETWEEN, "\x1b.")
    composed = unicodedata.normalize("NFC", text)
    if domain in LABELS:
        return " ".join(unicodedata.normalize("NFC", composed.upper()).split())
    return composed.replace("\0", " ").replace(BETWEEN, " ").strip()


class Pseudonymiser:
    """Makes ids under one secret key of at least 16 bytes."""

    def __init__(self, key: bytes) -> None:
        if len(key) < 16:
            raise ServiceError("pseudonym key too short", where="DXFLOW_KEY", got=f"{len(key)} bytes", allowed="at least 16")
        self._key = key

    def id(self, domain: str, *parts: str) -> str:
        """16 hexadecimal characters for `parts` within `domain` ("patient", "device", "series", ...)."""
        return self._hash(domain, [spelling(domain, str(part)) for part in parts])

    def forms(self, domain: str, *parts: str) -> frozenset[str]:
        """Every id that `parts` may have had: today's, and those of records that were made before spellings were told apart by domain.

        Until then every part was put in capitals with single blanks and not normalised, so one name had two ids, composed and decomposed.
        A name that was half composed cannot be guessed.
        """
        unicode_forms = [[unicodedata.normalize(form, str(part)) for part in parts] for form in ("NFC", "NFD")]
        old = [[" ".join(part.split()).upper() for part in each] for each in ([str(part) for part in parts], *unicode_forms)]
        return frozenset({self.id(domain, *parts), *(self._hash(domain, each) for each in old)})

    def _hash(self, domain: str, parts: list[str]) -> str:
        text = BETWEEN.join((domain, *parts))  # file names that are no UTF-8 come with surrogates in them
        return hmac.new(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:16]

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
    found = secret_bytes("DXFLOW_KEY")
    if found is not None:
        return Pseudonymiser(found), False
    path = home() / "pseudonym.key"
    if path.exists():
        return Pseudonymiser(file_bytes(path, where=str(path))), False
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
    return Pseudonymiser(file_bytes(path, where=str(path))), made
