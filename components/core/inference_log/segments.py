"""The files of a log: who may write a segment, who may compact it, and what a reader sees while others do.

A writer holds a lock (flock) on its segment for as long as it lives; the kernel lets go of it however the process ends. A segment whose lock can
be taken has no writer any more. A number is used once: `N.parquet` stands for `N.log`, so a new segment never takes a number that either has.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from components.core.atomic import still_named, take_lock
from components.core.inference_log import manifest
from components.core.inference_log.losses import Ledger

LOG, LOST, PARQUET = ".log", ".lost", ".parquet"


def numbers(folder: Path, suffix: str) -> list[int]:
    """Numbers of the files of one kind, ascending."""
    return sorted(int(p.stem) for p in folder.glob(f"[0-9]*{suffix}") if p.stem.isdigit())


def named(folder: Path, number: int, suffix: str) -> Path:
    return folder / f"{number:06d}{suffix}"


def listing(folder: Path) -> list[tuple[int, bool]]:
    """(number, whether compacted), ascending. Logs are listed first: one that is compacted meanwhile is then found in its new form."""
    logs = numbers(folder, LOG)
    compacted = numbers(folder, PARQUET)
    return sorted({n: n in set(compacted) for n in (*logs, *compacted)}.items())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Segment:
    """A new segment under the next free number, locked by this process, with its ledger. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        number = max((*numbers(folder, LOG), *numbers(folder, PARQUET), *manifest.read(folder)), default=0)
        while True:
            number += 1
            path = named(folder, number, LOG)
            try:
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            except FileExistsError:
                continue
            # Between making the file and locking it, a compaction may have taken it for an abandoned one.
            if take_lock(self._file) and still_named(path, self._file) and not named(folder, number, PARQUET).exists():
                break
            os.close(self._file)
        try:
            self.ledger = Ledger(named(folder, number, LOST))
            sync_folder(folder)
        except OSError:
            named(folder, number, LOST).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            os.close(self._file)
            raise
        with suppress(OSError):  # a full disk: the segment is then missed only from its compaction on
            manifest.add(folder, number, manifest.BEGUN)
        self.size, self.broken = 0, False

    def append(self, data: bytes) -> None:
        """Write and sync. After an OSError nothing of `data` is in the segment, or the segment is `broken` and must not be used again."""
        try:
            if os.write(self._file, data) != len(data):  # a full disk takes a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(self._file)  # 0.2 ms on a local disk, so that a power cut loses no answer either
        except OSError:
            try:
                os.ftruncate(self._file, self.size)  # whole lines of a request that was counted as lost must not be read again
            except OSError:
                self.broken = True
            raise
        self.size += len(data)

    def close(self) -> None:
        """Close and let go of the lock."""
        self.ledger.close()
        os.close(self._file)


@contextmanager
def abandoned(folder: Path, number: int) -> Iterator[Path | None]:
    """The segment, locked against other compactions, or None where it has a living writer or is gone already."""
    path = named(folder, number, LOG)
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield None
        return
    try:
        yield path if take_lock(handle) and still_named(path, handle) else None
    finally:
        os.close(handle)


def has_writer(handle: int) -> bool:
    """Whether somebody holds the lock of an open segment."""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(handle, fcntl.LOCK_UN)
    return False
