"""What a model server answered: one record per answered sample, on disk before the answer leaves.

A log is a folder of segments `000001.log`, `000002.log`, ... Each line is one record, `<CRC-32 of the JSON, 8 hexadecimal digits> <JSON>`.
A process opens a segment of its own and only appends to it, one synced write per request, so a kill at any moment leaves at most one torn line
at the end of one segment; the reader tells it by its checksum, skips it and counts it.

The writer is the server, the reader is the drift step: that is why the format stands here, below both.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from components.core.errors import DataError, ServiceError

if TYPE_CHECKING:
    import pandas as pd

SEGMENT_BYTES = 64 << 20
IMAGE_FEATURES = ("mean", "sd", "p01", "p50", "p99", "noise_sd", "sharpness")
"""Per-sample figures of `components/core/devices.py`, in the spec's unit (sharpness: unitless)."""

COLUMNS: dict[str, str] = {
    "time": "datetime64[us, UTC]", "request_id": "str", "model": "str", "version": "str", "digest": "str", "source": "str",
    "device_key": "str", "manufacturer": "str", "device_model": "str", "device_status": "str", "profile": "str",
    "patient": "str", "series": "str", "decision": "str", "abstain": "bool", "reasons": "object", "latency_ms": "float64",
    **dict.fromkeys(IMAGE_FEATURES, "float64"),
}  # fmt: skip
"""Columns that every frame of `read_log` has. `score_<class>` and `acq_*` come beside them. `patient` and `series` are keyed hashes."""


class InferenceLog:
    """Appends records to a segment of its own. Safe to share between threads.

    Args:
        path: Folder of the log; made if absent.
        segment_bytes: A segment beyond this size is closed and the next one begun.
    """

    def __init__(self, path: str | Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.path, self._limit = Path(path), segment_bytes
        self._lock = threading.Lock()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._file = self._next_segment()
        except OSError as error:
            raise ServiceError(f"cannot write the inference log: {error.strerror}", where=str(self.path)) from None

    def _next_segment(self) -> int:
        """A new file under the next free number; two servers on one folder never share one."""
        number = max((int(p.stem) for p in self.path.glob("[0-9]*.log") if p.stem.isdigit()), default=0) + 1
        while True:
            try:
                self._size = 0
                return os.open(self.path / f"{number:06d}.log", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            except FileExistsError:
                number += 1

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write the records of one request, all or (for the reader) a damaged line.

        Raises:
            ServiceError: The folder does not take them; the answer must not leave then.
        """
        data = b"".join(frame(record) for record in records)
        with self._lock:
            try:
                if self._size and self._size + len(data) > self._limit:
                    os.close(self._file)
                    self._file = self._next_segment()
                if os.write(self._file, data) != len(data):  # a full disk takes a part; what comes next starts in a fresh segment
                    self._size = self._limit
                    raise ServiceError("inference log took a part of a record", where=str(self.path))
                os.fdatasync(self._file)  # 0.2 ms on a local disk, so that a power cut loses no answer either
                self._size += len(data)
            except OSError as error:
                raise ServiceError(f"cannot write the inference log: {error.strerror}", where=str(self.path)) from None

    def close(self) -> None:
        """Flush to the disk and close."""
        with self._lock:
            if self._file >= 0:
                os.fsync(self._file)
                os.close(self._file)
                self._file = -1

    def __enter__(self) -> InferenceLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def frame(record: Mapping[str, Any]) -> bytes:
    """One record as its line. Raises ValueError for a number that is not finite: JSON has no such number."""
    body = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def records(path: str | Path) -> Iterator[dict[str, Any] | None]:
    """Every record in the order of the segments; None stands for a damaged line. Raises DataError when there is no such log."""
    folder = Path(path)
    if not folder.is_dir():
        raise DataError("no inference log", where=str(folder), allowed="the folder that the server writes")
    for segment in sorted(folder.glob("[0-9]*.log")):
        with open(segment, "rb") as handle:
            for line in handle:
                yield _parse(line)


def _parse(line: bytes) -> dict[str, Any] | None:
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


def read_log(path: str | Path) -> pd.DataFrame:
    """All records of a log as a table with at least `COLUMNS`, in the order they were written.

    `frame.attrs["damaged"]` counts the lines that were torn or changed and are left out.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    damaged = 0
    for record in records(path):
        if record is None:
            damaged += 1
            continue
        row = {key: value for key, value in record.items() if key not in ("scores", "image", "acquisition")}
        row |= {f"score_{name}": value for name, value in (record.get("scores") or {}).items()}
        row |= record.get("image") or {}
        row |= record.get("acquisition") or {}
        rows.append(row)
    table = pd.DataFrame(rows)
    for name, kind in COLUMNS.items():
        if name not in table:
            table[name] = pd.Series([None] * len(table), dtype="object")
        if kind == "str":
            table[name] = table[name].astype("string")
        elif kind == "bool":
            table[name] = table[name].eq(True)
        elif kind == "object":
            table[name] = table[name].astype("object")
        elif name == "time":
            table[name] = pd.to_datetime(table[name], utc=True, format="ISO8601")
        else:
            table[name] = pd.to_numeric(table[name]).astype("float64")
    table.attrs["damaged"] = damaged
    return table
