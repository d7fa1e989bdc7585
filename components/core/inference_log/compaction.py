"""Segments without a writer become Parquet: about a tenth of the size, and columns instead of lines.

A process may be killed at any point of this. Until `N.parquet` has its name and is on the disk, `N.log` is the segment; from then on `N.parquet`
is, and what is left of `N.log` and `N.lost` is rubbish that the next compaction removes. Lines are read twice, first for the columns, then in
batches for the values, so that memory does not grow with the segment.
"""

from __future__ import annotations

import errno
import json
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core.atomic import PARTIAL, atomic_file
from components.core.errors import ServiceError
from components.core.inference_log import tables
from components.core.inference_log.erasure import quiet
from components.core.inference_log.losses import read_ledger
from components.core.inference_log.reader import BATCH, META, Tally, lines
from components.core.inference_log.segments import LOG, LOST, PARQUET, abandoned, named, numbers, sync_folder

if TYPE_CHECKING:
    import pyarrow as pa


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
                final = named(folder, number, PARQUET)
                if not final.exists():
                    found = _columns(segment)
                    if found is not None:
                        _write(segment, final, *found, stop)
                        count += 1
                sync_folder(folder)
                named(folder, number, LOST).unlink(missing_ok=True)  # first, since the segment is what the next compaction finds
                segment.unlink()
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


def _write(segment: Path, final: Path, columns: set[str], as_text: set[str], tally: Tally, stop: threading.Event | None) -> None:
    """Write `final`, whole or not at all."""
    import pyarrow.parquet as pq

    about = {"records": tally.records, "damaged": tally.damaged, "erased": tally.erased, "lost": asdict(tally.lost)}
    schema = tables.schema(columns, as_text).with_metadata({META: json.dumps(about).encode()})
    with atomic_file(final) as partial:
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            rows: list[dict[str, Any]] = []
            for record in lines(segment, Tally(), abandoned=True):
                rows.append(tables.row(record))
                if len(rows) == BATCH:
                    writer.write_table(_arrow(rows, as_text, schema))
                    rows = []
                    if stop and stop.is_set():
                        raise _Stopped
            if rows:
                writer.write_table(_arrow(rows, as_text, schema))
        if pq.read_metadata(partial).num_rows != tally.records:
            raise OSError(errno.EIO, "the compacted segment does not hold what was read")


def _arrow(rows: list[dict[str, Any]], as_text: set[str], schema: pa.Schema) -> pa.Table:
    import pandas as pd
    import pyarrow as pa

    table = tables.typed(pd.DataFrame(rows), as_text).reindex(columns=schema.names)
    return pa.Table.from_pandas(table, schema=schema, preserve_index=False)
