"""Segments without a writer become Parquet: about a tenth of the size, and columns instead of lines.

A process may be killed at any point of this. Until `N.parquet` has its name and is on the disk, `N.log` is the segment; from then on `N.parquet`
is, and what is left of `N.log` and `N.lost` is rubbish that the next compaction removes. Lines are read three times, first for the columns, then in
batches for the values, then to compare what was written, so that memory does not grow with the segment.

What each line's CRC-32 promised goes on being promised: pages have checksums, the manifest the digest of the file (manifest.py), and no `N.log` goes
before both were read back. Segments of an older version, which have neither, get their digest here, as they are found.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core.atomic import PARTIAL, atomic_file
from components.core.errors import DataError, ServiceError
from components.core.inference_log import manifest, tables
from components.core.inference_log.erasure import quiet
from components.core.inference_log.losses import read_ledger
from components.core.inference_log.reader import BATCH, Tally, lines
from components.core.inference_log.sealed import CHECKED, META, opened
from components.core.inference_log.segments import LOG, LOST, PARQUET, abandoned, named, numbers, sync_folder

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("dxflow.inference_log")


def compact(path: str | Path, *, stop: threading.Event | None = None) -> int:
    """Compact every segment that has no living writer. Several processes may do this at once, and beside writers and readers.

    Args:
        stop: Once set, the segment at hand is left as it is.

    Returns:
        How many segments were compacted.

    Raises:
        ServiceError: The folder cannot be written, or the disk is full; the segments that are left lose nothing.
    """
    folder, count = Path(path), 0
    try:
        for number in numbers(folder, LOG):
            with quiet(folder, alone=False) as may, abandoned(folder, number) as segment:
                if segment is None or not may:
                    continue
                for rubbish in folder.glob(f"{number:06d}{PARQUET}.*{PARTIAL}"):  # its maker had this lock, so it is gone
                    rubbish.unlink()
                found = None if _holds(folder, number) else _columns(segment)
                if found is not None:
                    _write(folder, number, segment, *found, stop)
                    count += 1
                elif not named(folder, number, PARQUET).exists():
                    manifest.add(folder, number, manifest.EMPTY)
                sync_folder(folder)
                named(folder, number, LOST).unlink(missing_ok=True)  # first, since the segment is what the next compaction finds
                segment.unlink()
        _adopt(folder)
    except _Stopped:
        pass
    except OSError as error:
        raise ServiceError(f"cannot compact the inference log: {error.strerror}", where=str(folder)) from None
    return count


def _columns(segment: Path) -> tuple[set[str], set[str], Tally] | None:
    """The columns of a segment, those of them that are text, and what else there is to tell; None when there is nothing at all."""
    tally, columns, as_text = Tally(), set[str](), set[str]()
    for record in lines(segment, tally, abandoned=True):
        row = tables.row(record)
        columns |= row.keys()
        as_text |= tables.texts([row])
    tally.lost = read_ledger(segment.with_suffix(LOST))
    return (columns, as_text, tally) if tally.records or tally.damaged or tally.lost.n else None


class _Stopped(Exception):
    """Somebody set `stop`."""


def _holds(folder: Path, number: int) -> bool:
    """Whether `N.parquet` is there, as it was written: then only the rest of `N.log` is left to remove."""
    try:
        with opened(folder, number, manifest.read(folder)) as segment:
            return segment.digest
    except (FileNotFoundError, DataError):
        return False


def _write(folder: Path, number: int, segment: Path, columns: set[str], as_text: set[str], tally: Tally, stop: threading.Event | None) -> None:
    """Write `N.parquet`, whole or not at all, and read it back."""
    import pyarrow.parquet as pq

    facts = {"records": tally.records, "damaged": tally.damaged, "erased": tally.erased, "lost": asdict(tally.lost)}
    schema = tables.schema(columns, as_text).with_metadata({META: json.dumps(facts | {CHECKED: True}).encode()})
    with atomic_file(named(folder, number, PARQUET), private=True) as partial:
        with pq.ParquetWriter(partial, schema, compression="zstd", write_page_checksum=True) as writer:
            for table in _tables(segment, as_text, schema, stop):
                writer.write_table(table)
        with open(partial, "rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # what is read back comes from the disk
            _compare(handle, _tables(segment, as_text, schema, stop))
            manifest.add(folder, number, manifest.SEALED, sha256=manifest.digest(handle), **facts)


def _tables(segment: Path, as_text: set[str], schema: pa.Schema, stop: threading.Event | None) -> Iterator[pa.Table]:
    """The segment's records, `BATCH` at a time."""
    rows: list[dict[str, Any]] = []
    for record in lines(segment, Tally(), abandoned=True):
        rows.append(tables.row(record))
        if len(rows) == BATCH:
            yield _arrow(rows, as_text, schema)
            rows = []
            if stop and stop.is_set():
                raise _Stopped
    if rows:
        yield _arrow(rows, as_text, schema)


def _compare(handle: BufferedReader, wanted: Iterator[pa.Table]) -> None:
    """Raises OSError where the file holds something else than `wanted`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(handle, page_checksum_verification=True) as file:
            batches = file.iter_batches(BATCH)  # a table that was written is a row group of its own, so the pieces are the same
            same = all(pa.Table.from_batches([batch]).equals(table) for batch, table in zip(batches, wanted, strict=True))
    except (pa.ArrowException, ValueError):
        same = False
    if not same:
        raise OSError(errno.EIO, "the compacted segment does not hold what was read")


def _adopt(folder: Path) -> None:
    """Give segments of an older version their digest; one that cannot be read, or that once had a digest, is left to be told of."""
    known, adopted = manifest.read(folder), 0
    for number in numbers(folder, PARQUET):
        if number in known and known[number].sha256:
            continue
        with quiet(folder, alone=False) as may, suppress(DataError, FileNotFoundError), opened(folder, number, known) as segment:
            if may and not segment.checked and not segment.digest:
                for _ in segment.file.iter_batches(BATCH):
                    pass
                with open(named(folder, number, PARQUET), "rb") as handle:
                    manifest.add(folder, number, manifest.SEALED, sha256=manifest.digest(handle), **asdict(segment.facts))
                adopted += 1
    if adopted:
        log.warning("inference log %s: %d segments of an older version had no digest; what they held until now is unverified", folder, adopted)


def _arrow(rows: list[dict[str, Any]], as_text: set[str], schema: pa.Schema) -> pa.Table:
    import pandas as pd
    import pyarrow as pa

    table = tables.typed(pd.DataFrame(rows), as_text).reindex(columns=schema.names)
    return pa.Table.from_pandas(table, schema=schema, preserve_index=False)
