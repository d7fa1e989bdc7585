"""What a failing disk looks like from far away: libraries wrap SQLite's and the system's own errors until they seem defects of the program."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator

from components.core.errors import ServiceError

SYSTEM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
SQLITE = {
    sqlite3.SQLITE_FULL: "no space left on device",
    sqlite3.SQLITE_READONLY: "a database that may not be written",
    sqlite3.SQLITE_IOERR: "a database's disk fails",
    sqlite3.SQLITE_CANTOPEN: "a database cannot be opened",
    sqlite3.SQLITE_BUSY: "a database is held by another program",
    sqlite3.SQLITE_LOCKED: "a database is held by another program",
    sqlite3.SQLITE_CORRUPT: "a damaged database",
    sqlite3.SQLITE_NOTADB: "a file that is no database",
}
PRIMARY = 0xFF  # SQLite's extended codes hold the primary one in their last byte: https://sqlite.org/rescode.html


def of_disk(error: BaseException, *, where: str | None = None) -> ServiceError | None:
    """The line for somebody who can make room or mend the disk; None for an error of another kind.

    Args:
        error: Looked through with all its causes, and with what SQLAlchemy holds in `orig`.
        where: Whose work it was. The error's own path may be named after a patient, so it is not told.
    """
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in SYSTEM:
            return ServiceError(os.strerror(one.errno).lower(), where=where, allowed="room in DXFLOW_HOME, DXFLOW_STORE and TMPDIR")
        code = getattr(one, "sqlite_errorcode", None)
        if isinstance(one, sqlite3.Error) and isinstance(code, int) and code & PRIMARY in SQLITE:
            return ServiceError(SQLITE[code & PRIMARY], where=where, allowed="room in DXFLOW_HOME, and databases that nobody holds or changes")
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, each once."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = getattr(one, "orig", None)
        left += [one.__cause__, one.__context__, inner if isinstance(inner, BaseException) else None]
