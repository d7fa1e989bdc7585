"""The writing end: records of a request, on disk before its answer leaves, or counted where the disk does not take them."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from components.core.errors import ServiceError
from components.core.inference_log.lines import frame
from components.core.inference_log.losses import Lost
from components.core.inference_log.segments import Segment

log = logging.getLogger("dxflow.inference_log")

SEGMENT_BYTES = 64 << 20
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""A disk that has no room now may have some later: a log that starts on one counts from the beginning."""


class InferenceLog:
    """Appends records to a segment of its own. Safe to share between threads.

    Args:
        path: Folder of the log; made if absent.
        segment_bytes: A segment beyond this size is closed, which lets it be compacted, and the next one begun.

    Raises:
        ServiceError: The folder cannot be written for another reason than a full disk.
    """

    def __init__(self, path: str | Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.path, self._limit = Path(path), segment_bytes
        self._lock = threading.Lock()
        self._segment: Segment | None = None
        self._unsaved, self._total, self._failing = Lost(), Lost(), False
        try:
            self._begin()
        except OSError as error:
            if error.errno not in FULL:
                raise self._refused(error) from None

    @property
    def lost(self) -> Lost:
        """What this writer could not write since it began."""
        return self._total

    def append(self, records: Sequence[Mapping[str, Any]]) -> bool:
        """Write the records of one request. Where the disk refuses, none of them is in the log, all are counted as lost, and the result is False.

        Raises:
            ValueError: A number is not finite.
        """
        data = b"".join(frame(record) for record in records)
        with self._lock:
            try:
                self._write(data)
            except OSError as error:
                self._count(len(records), error)
                return False
            self._save_losses()
            if self._failing:
                self._failing = False
                log.error("inference log %s: is written again; %d records were lost since the start of this server", self.path, self._total.n)
            return True

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write records, all or none, for who can ask their sender to come again. Raises ServiceError."""
        data = b"".join(frame(record) for record in records)
        with self._lock:
            try:
                self._write(data)
            except OSError as error:
                raise self._refused(error) from None

    def _write(self, data: bytes) -> None:
        segment = self._segment
        if segment is None or segment.broken or (segment.size and segment.size + len(data) > self._limit):
            try:
                segment = self._begin()
            except OSError:
                if segment is None or segment.broken:
                    raise
        segment.append(data)  # also beyond the limit, where the disk had no room for a new segment

    def _begin(self) -> Segment:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        segment, before = Segment(self.path), self._segment
        if before:
            before.close()
        self._segment = segment
        return segment

    def _count(self, n: int, error: OSError) -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        self._total += Lost(n, now, now)
        self._unsaved += Lost(n, now, now)
        self._save_losses()
        if not self._failing:  # once for each outage: a full disk is no reason to fill another one
            self._failing = True
            log.error("inference log %s: cannot be written (%s); answers go out, their records are lost and counted", self.path, error.strerror)

    def _save_losses(self) -> None:
        if self._unsaved.n and self._segment:
            try:
                self._segment.ledger.add(self._unsaved)
            except OSError:
                return
            self._unsaved = Lost()

    def _refused(self, error: OSError) -> ServiceError:
        return ServiceError(f"cannot write the inference log: {error.strerror}", where=str(self.path))

    def close(self) -> None:
        """Close. Losses that no disk has taken yet are tried once more."""
        with self._lock:
            if self._unsaved.n and not self._segment:
                try:
                    self._begin()
                except OSError:
                    log.error("inference log %s: ends with %d lost records that are written nowhere", self.path, self._unsaved.n)
            self._save_losses()
            if self._segment:
                self._segment.close()
                self._segment = None

    def __enter__(self) -> InferenceLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
