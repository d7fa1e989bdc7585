"""What a log's folder has to hold: `segments.manifest`, a checked line for whatever became of a segment.

    begun    a writer has it, or had it
    sealed   compacted: SHA-256 and size of `N.parquet`, and what it says of itself (records, damaged, erased, lost)
    empty    it ended without a record and left nothing

A line is on the disk before the file that it tells of has its name: whoever is killed in between leaves the segment in its older form, which the
line before tells of (`Entry.before`), and no compacted segment is ever without its digest. Lines are only added. So a segment that changed is told
from one that was erased from or compacted, and one that is gone from one that never was. It holds no record and nothing of a patient.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from dataclasses import dataclass, field, replace
from io import BufferedReader
from pathlib import Path
from typing import Any

from components.core.inference_log.lines import frame, parse
from components.core.inference_log.losses import Lost

MANIFEST = "segments.manifest"
BEGUN, SEALED, EMPTY = "begun", "sealed", "empty"


@dataclass(frozen=True)
class Facts:
    """What a compacted segment holds: `records`, of which `erased` are empty, and what its `.log` told beside them."""

    records: int = 0
    damaged: int = 0
    erased: int = 0
    lost: Lost = field(default_factory=Lost)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Facts:
        """Raises KeyError, TypeError."""
        return cls(int(raw["records"]), int(raw["damaged"]), int(raw.get("erased", 0)), Lost(**raw["lost"]))


@dataclass(frozen=True)
class Entry:
    """One segment, by its latest line. `sha256` and `facts` are of a sealed one; `before`: the digest that it replaced."""

    state: str
    sha256: str = ""
    facts: Facts = field(default_factory=Facts)
    before: str = ""


def read(folder: Path) -> dict[int, Entry]:
    """Every segment that the log had; none for a log without a manifest. Lines that are torn or changed are left out."""
    found: dict[int, Entry] = {}
    try:
        lines = (folder / MANIFEST).read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return found
    for line in lines:
        raw = parse(line)
        try:
            if raw is None:
                continue
            number, state = int(raw["segment"]), str(raw["state"])
            if state == SEALED:
                entry = Entry(state, str(raw["sha256"]), Facts.from_dict(raw))
                before = found.get(number)
                found[number] = replace(entry, before=before.sha256) if before and before.sha256 != entry.sha256 else entry
            elif state == EMPTY or number not in found:
                found[number] = Entry(state)
        except (KeyError, TypeError, ValueError):
            continue
    return found


def add(folder: Path, number: int, state: str, **facts: Any) -> None:
    """Add a line, on the disk when this returns. Raises OSError; then nothing that counts was added."""
    path = folder / MANIFEST
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        size = os.fstat(handle).st_size
        torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"  # of somebody whom a power cut or a full disk stopped
        line = (b"\n" if torn else b"") + frame({"segment": number, "state": state} | facts)
        if os.write(handle, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)
        if not size:  # its name must survive a power cut too
            room = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(room)
            finally:
                os.close(room)
    finally:
        os.close(handle)


def digest(handle: BufferedReader) -> str:
    """SHA-256 of a file that is open; the handle is left at its start."""
    handle.seek(0)
    found = hashlib.file_digest(handle, "sha256").hexdigest()
    handle.seek(0)
    return found
