"""How many records a segment could not take, kept where a full disk can still be told: in a file whose space was taken beforehand.

Two slots are written in turn, so that a torn write leaves the other one; the larger count that passes its checksum holds.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from components.core.inference_log.lines import frame, parse

SLOT_BYTES = 256


@dataclass(frozen=True)
class Lost:
    """Records that were answered and not written, and the times (ISO 8601, UTC) of the first and the last of them."""

    n: int = 0
    since: str | None = None
    until: str | None = None

    def __add__(self, other: Lost) -> Lost:
        since = min(filter(None, (self.since, other.since)), default=None)
        return Lost(self.n + other.n, since, max(filter(None, (self.until, other.until)), default=None))


class Ledger:
    """The count of one segment. Making it takes the space; raises OSError when there is none."""

    def __init__(self, path: Path) -> None:
        self._total, self._turn = Lost(), 0
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            if os.write(self._file, b"".join(_slot(self._total) for _ in range(2))) != 2 * SLOT_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file)
        except OSError:
            os.close(self._file)
            raise

    def add(self, lost: Lost) -> None:
        """Count `lost` too, on the disk when this returns. After an OSError nothing was added, and it may be tried again."""
        total = self._total + lost
        os.pwrite(self._file, _slot(total), SLOT_BYTES * (self._turn % 2))
        os.fdatasync(self._file)
        self._total, self._turn = total, self._turn + 1

    def close(self) -> None:
        os.close(self._file)


def read_ledger(path: Path) -> Lost:
    """The count of a ledger; none where the file is absent or never got its first bytes."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Lost()
    found = (parse(data[at : at + SLOT_BYTES].rstrip(b" \n") + b"\n") for at in (0, SLOT_BYTES))
    return max((Lost(r["n"], r["since"], r["until"]) for r in found if r), key=lambda lost: lost.n, default=Lost())


def _slot(lost: Lost) -> bytes:
    return frame({"n": lost.n, "since": lost.since, "until": lost.until}).rstrip(b"\n").ljust(SLOT_BYTES - 1) + b"\n"
