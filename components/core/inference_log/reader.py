"""The reading end: every record of a log once, whether its segment is still written, abandoned or compacted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core.errors import DataError
from components.core.inference_log import events, tables
from components.core.inference_log.lines import parse
from components.core.inference_log.losses import Lost, read_ledger
from components.core.inference_log.segments import LOG, LOST, PARQUET, has_writer, listing, named

if TYPE_CHECKING:
    import pandas as pd

BATCH = 1000
META = b"dxflow"


@dataclass
class Tally:
    """What reading found beside the records: `damaged` lines, which are torn or changed and left out, and what writers could not write.

    `erased` of the `records` are empty (erasure.py).
    """

    records: int = 0
    damaged: int = 0
    lost: Lost = field(default_factory=Lost)
    erased: int = 0

    def add(self, other: Tally) -> None:
        self.records, self.damaged, self.erased = self.records + other.records, self.damaged + other.damaged, self.erased + other.erased
        self.lost += other.lost


def lines(path: Path, tally: Tally, *, abandoned: bool = False) -> Iterator[dict[str, Any]]:
    """The records of one `.log`. Raises FileNotFoundError when it was compacted meanwhile. `abandoned`: the caller knows it has no writer."""
    with open(path, "rb") as handle:
        for line in handle:
            record = parse(line)
            if record is not None:
                tally.records += 1
                tally.erased += record.get("status") == tables.ERASED
                yield record
            elif (
                line.endswith(b"\n") or abandoned or not has_writer(handle.fileno())
            ):  # the last line of a living writer is not torn, but not there yet
                tally.damaged += 1


def facts(path: Path) -> Tally:
    """What a compacted segment says of itself. Raises DataError."""
    import pyarrow.parquet as pq

    with readable(path):
        found = json.loads((pq.read_metadata(path).metadata or {})[META])
        return Tally(found["records"], found["damaged"], Lost(**found["lost"]), found.get("erased", 0))


@contextmanager
def readable(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
        raise DataError("a compacted segment cannot be read", where=str(path), got=type(error).__name__) from None


def _folder(path: str | Path) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise DataError("no inference log", where=str(folder), allowed="the folder that the server writes")
    return folder


def batches(path: str | Path, tally: Tally | None = None) -> Iterator[pd.DataFrame]:
    """The log as tables of at most `BATCH` rows, in the order of the segments: memory does not grow with the log.

    Columns as in `read_log`, but the halves of a request that a collector took are rows of their own (`events.py`).

    Args:
        tally: Filled on the way.

    Raises:
        DataError: There is no such log, or a compacted segment is damaged.
    """
    for _, table in in_segments(path, tally or Tally()):
        gone = table["status"].eq(tables.ERASED)
        yield table[~gone].reset_index(drop=True) if gone.any() else table


def in_segments(path: str | Path, tally: Tally, done: Mapping[int, int] | None = None) -> Iterator[tuple[int, pd.DataFrame]]:
    """As `batches`, each table with the number of its segment; a table never spans two.

    Args:
        done: Segment -> records that nobody asks for any more; a compacted segment that has no others is not opened.
    """
    folder = _folder(path)
    for number, compacted in listing(folder):
        if not compacted:
            before = Tally(tally.records, tally.damaged, tally.lost, tally.erased)
            lost = read_ledger(named(folder, number, LOST))
            try:
                for table in _from_lines(named(folder, number, LOG), tally):
                    yield number, table
                tally.lost += lost
                continue
            except FileNotFoundError:  # raised on opening, before anything was given
                tally.records, tally.damaged, tally.erased = before.records, before.damaged, before.erased
        final = named(folder, number, PARQUET)
        if not final.exists():  # an empty segment leaves none
            continue
        own = facts(final)
        if done is not None and done.get(number, 0) >= own.records > 0:
            tally.add(own)
            continue
        for table in _from_parquet(final, tally):
            yield number, table


def _from_lines(path: Path, tally: Tally) -> Iterator[pd.DataFrame]:
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for record in lines(path, tally):
        rows.append(tables.row(record))
        if len(rows) == BATCH:
            yield tables.typed(pd.DataFrame(rows))
            rows = []
    if rows:
        yield tables.typed(pd.DataFrame(rows))


def _from_parquet(path: Path, tally: Tally) -> Iterator[pd.DataFrame]:
    import pyarrow.parquet as pq

    own = facts(path)
    with readable(path), pq.ParquetFile(path) as file:
        kept, strange = tables.known_columns(file)
        for batch in file.iter_batches(BATCH, columns=kept):
            table = batch.to_pandas()
            if strange:
                table[tables.STRANGE], strange = [float(strange), *[float("nan")] * (len(table) - 1)], 0
            yield tables.typed(table)
    tally.add(own)


def read_log(path: str | Path, *, keep: Callable[[pd.DataFrame], pd.DataFrame] | None = None) -> pd.DataFrame:
    """All records of a log as a table with at least `COLUMNS`, in the order they were written.

    Args:
        keep: Applied to each batch before they are joined, so that a part of a long log does not need the memory of all of it.

    Returns:
        The table. `attrs`: `damaged` counts the lines that were torn or changed and are left out; `lost` the records that no disk took, with
        `lost_since` and `lost_until` (ISO 8601, UTC, or None).

    Raises:
        DataError: There is no such log, or a compacted segment is damaged.
    """
    tally = Tally()
    parts = [part if keep is None else keep(part) for part in batches(path, tally)]
    table = events.paired(tables.joined(parts))
    table.attrs |= {"damaged": tally.damaged, "lost": tally.lost.n, "lost_since": tally.lost.since, "lost_until": tally.lost.until}
    return table


def summary(path: str | Path) -> dict[str, Any]:
    """Counts of a log and its alarms, without its records: `records`, `damaged`, `lost`, `lost_since`, `lost_until`, `alarms` (lines of text).

    Raises:
        DataError: There is no such log, or a compacted segment is damaged.
    """
    folder, tally = _folder(path), Tally()
    for number, compacted in listing(folder):
        final = named(folder, number, PARQUET)
        try:
            if not compacted:
                lost = read_ledger(named(folder, number, LOST))
                for _ in lines(named(folder, number, LOG), tally):
                    pass
                tally.lost += lost
                continue
        except FileNotFoundError:
            pass
        if final.exists():
            own = facts(final)
            tally.add(own)
    alarms = []
    if tally.lost.n:
        alarms.append(f"{tally.lost.n} answers are not in the log: it could not be written from {tally.lost.since} to {tally.lost.until}")
    if tally.damaged:
        alarms.append(f"{tally.damaged} lines of the log are torn or changed and left out")
    return {
        "records": tally.records - tally.erased, "damaged": tally.damaged, "lost": tally.lost.n, "lost_since": tally.lost.since,
        "lost_until": tally.lost.until, "alarms": alarms,
    }  # fmt: skip
