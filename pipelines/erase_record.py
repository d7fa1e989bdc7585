"""What is kept of an erasure: a line of `erasures.jsonl`, and a signed event of the audit log that names that line by its digest.

Time, counts and a random token; nothing that is made from the patient: who has the key could try all patients. The event is what tells a lawful
erasure from tampering, so it is written with the audit's key in a file of its own, whether a server runs or not.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from components.core.errors import SpecError
from components.core.home import home
from serving.access.audit import LOG, PUBLIC, Audit, check, signing_key

ACTION = "erasure"


def ready(heads: Path) -> None:
    """Before anything goes: can the event be written?

    Raises:
        SpecError: The log's heads are elsewhere. ServiceError: No usable key, or not the log's own.
    """
    check(heads, signing_key())
    if any(_audit().glob(f"*{LOG}")) and not (heads / PUBLIC).exists():
        raise SpecError("the heads of the audit log are kept elsewhere", where=str(heads), allowed="--audit-heads FOLDER, as dxflow serve was told")


def write(token: str, counts: Mapping[str, int], heads: Path) -> None:
    """Both, once for each token, however often an erasure was cut off. Raises ServiceError."""
    line = _line(token) or _added({"at": datetime.now(UTC).isoformat(timespec="seconds"), "erasure": token, **counts})
    if not any(_holds(path, token.encode()) for path in _audit().glob(f"*{LOG}")):
        with Audit(_audit(), heads, signing_key()) as audit:
            audit.append(ACTION, erasure=token, record=hashlib.sha256(line).hexdigest(), **counts)


def _audit() -> Path:
    return home() / "audit"


def _line(token: str) -> bytes | None:
    """The token's line as it stands, without its end; a torn one is none."""
    path = home() / "erasures.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return next((line for line in lines if f'"{token}"'.encode() in line), None)


def _added(record: Mapping[str, int | str]) -> bytes:
    data = json.dumps(record).encode()
    handle = os.open(home() / "erasures.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        size = os.fstat(handle).st_size
        torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        os.write(handle, b"\n" * torn + data + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)
    return data


def _holds(path: Path, data: bytes) -> bool:
    if path.stat().st_size == 0:
        return False
    with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as found:
        return found.find(data) >= 0
