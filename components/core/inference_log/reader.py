"""The reading end: every record of a log once, whether its segment is still written, abandoned or compacted.

A segment that cannot be read, or is gone, costs its own records and nobody else's: it is named and counted (`Tally.unread`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sized
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from components.core.errors import DataError
from components.core.inference_log import events, manifest, tables
from components.core.inference_log.lines import parse
from components.core.inference_log.losses import Lost, read_ledger
from components.core.inference_log.manifest import EMPTY, SEALED, Facts
from components.core.inference_log.sealed import Opened, opened
from components.core.inference_log.segments import LOG, LOST, PARQUET, has_writer, listing, named

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow.parquet as pq

BATCH = 1000
Part = TypeVar("Part", bound=Sized)


@dataclass(frozen=True)
class Unread:
    """A segment whose records are not read.

    Args:
        segment: Its file's name.
        why: `damaged`; `missing`; `no digest`: it is read, but the manifest has lost what its bytes should be.
        records: How many could not be read; None where nobody knows.
    """

    segment: str
    why: str
    records: int | None

    def __str__(self) -> str:
        if self.why == "no digest":
            return f"segment {self.segment} of the log is read without its digest, which the manifest has lost"
        count = "an unknown number of" if self.records is None else f"{self.records}"
        return f"segment {self.segment} of the log is {self.why}: {count} records cannot be read"


@dataclass
class Tally:
    """What reading found beside the records: `damaged` ones, which are torn, changed or in a segment that cannot be read, and what no disk took.

    `erased` of the `records` are empty (erasure.py). `unread`: segments to tell of. `unverified`: segments of an older version, without checksums.
    """

    records: int = 0
    damaged: int = 0
    lost: Lost = field(default_factory=Lost)
    erased: int = 0
    unread: list[Unread] = field(default_factory=list)
    unverified: list[str] = field(default_factory=list)

    def add(self, facts: Facts) -> None:
        self.records, self.damaged, self.erased = self.records + facts.records, self.damaged + facts.damaged, self.erased + facts.erased
        self.lost += facts.lost

    def miss(self, segment: str, why: str, facts: Facts | None, given: int = 0) -> None:
        """Count a segment that cannot be read; `given` of its records were, before that showed."""
        if facts is None:
            self.unread.append(Unread(segment, why, None))
            return
        records = max(0, facts.records - facts.erased - given)  # erased ones may be among those that were given
        self.unread.append(Unread(segment, why, records))
        self.damaged += facts.damaged + records
        self.lost += facts.lost

    def tell(self) -> list[str]:
        """Lines of text, for people."""
        told = [str(one) for one in self.unread]
        if self.lost.n:
            told.append(f"{self.lost.n} answers are not in the log: it could not be written from {self.lost.since} to {self.lost.until}")
        if lines := self.damaged - sum(one.records or 0 for one in self.unread):
            told.append(f"{lines} {'lines of the log are' if lines > 1 else 'line of the log is'} torn or changed and left out")
        return told


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


def batches(path: str | Path, tally: Tally | None = None) -> Iterator[pd.DataFrame]:
    """The log as tables of at most `BATCH` rows, in the order of the segments: memory does not grow with the log.

    Columns as in `read_log`, but the halves of a request that a collector took are rows of their own (`events.py`).

    Args:
        tally: Filled on the way.

    Raises:
        DataError: There is no such log.
    """
    for _, table in in_segments(path, tally or Tally()):
        gone = table["status"].eq(tables.ERASED)
        yield table[~gone].reset_index(drop=True) if gone.any() else table


def in_segments(path: str | Path, tally: Tally, done: Mapping[int, int] | None = None) -> Iterator[tuple[int, pd.DataFrame]]:
    """As `batches`, each table with the number of its segment; a table never spans two.

    Args:
        done: Segment -> records that nobody asks for any more; of a compacted segment that has no others only the digest is read.
    """

    def of_table(number: int, segment: Opened) -> Iterator[pd.DataFrame]:
        over = done is not None and done.get(number, 0) >= segment.facts.records > 0
        return iter(()) if over else _from_parquet(segment.file)

    return _each(_folder(path), tally, lambda log: _from_lines(log, tally), of_table)


def _each(
    folder: Path, tally: Tally, of_lines: Callable[[Path], Iterator[Part]], of_table: Callable[[int, Opened], Iterator[Part]]
) -> Iterator[tuple[int, Part]]:
    """(segment, part) of every segment that can be read, whichever form it has; `tally` is told of the others.

    Args:
        of_lines: Parts of a `.log`; counts its lines itself.
        of_table: Parts of a compacted segment.
    """
    known, given = manifest.read(folder), 0
    listed = listing(folder)  # after the manifest: what that names was there, and is still, in one form or the other
    for number, compacted in listed:
        if not compacted:
            before, lost = (tally.records, tally.damaged, tally.erased), read_ledger(named(folder, number, LOST))
            try:
                for part in of_lines(named(folder, number, LOG)):
                    yield number, part
                tally.lost += lost
                continue
            except FileNotFoundError:  # compacted meanwhile; raised on opening, before anything was given
                tally.records, tally.damaged, tally.erased = before
        given, held = 0, None
        try:
            with opened(folder, number, known) as segment:
                held = segment.facts
                for part in of_table(number, segment):
                    given += len(part)
                    yield number, part
                tally.add(held)
                _doubts(named(folder, number, PARQUET).name, segment, tally)
        except FileNotFoundError:
            _missing(folder, number, tally)
        except DataError:
            held = known[number].facts if number in known and known[number].state == SEALED else held
            tally.records += given
            tally.miss(named(folder, number, PARQUET).name, "damaged", held, given)
    for number in sorted(set(known) - {number for number, _ in listed}):
        _missing(folder, number, tally)


def _doubts(name: str, segment: Opened, tally: Tally) -> None:
    if segment.checked and not segment.digest:
        tally.unread.append(Unread(name, "no digest", 0))
    elif not segment.digest:
        tally.unverified.append(name)


def _missing(folder: Path, number: int, tally: Tally) -> None:
    """Tell of a segment that is not there, unless it ended without a record; the manifest is read again, since that may have just happened."""
    entry = manifest.read(folder).get(number)
    if entry is not None and entry.state != EMPTY and not any(named(folder, number, suffix).exists() for suffix in (LOG, PARQUET)):
        sealed = entry.state == SEALED
        tally.miss(named(folder, number, PARQUET if sealed else LOG).name, "missing", entry.facts if sealed else None)


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


def _from_parquet(file: pq.ParquetFile) -> Iterator[pd.DataFrame]:
    kept, strange = tables.known_columns(file)
    for batch in file.iter_batches(BATCH, columns=kept):
        table = batch.to_pandas()
        if strange:
            table[tables.STRANGE], strange = [float(strange), *[float("nan")] * (len(table) - 1)], 0
        yield tables.typed(table)


def _folder(path: str | Path) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise DataError("no inference log", where=str(folder), allowed="the folder that the server writes")
    return folder


def read_log(path: str | Path, *, keep: Callable[[pd.DataFrame], pd.DataFrame] | None = None) -> pd.DataFrame:
    """All records of a log as a table with at least `COLUMNS`, in the order they were written.

    Args:
        keep: Applied to each batch before they are joined, so that a part of a long log does not need the memory of all of it.

    Returns:
        The table. `attrs`: `damaged` counts the records that are torn or changed, or in a segment that cannot be read, and are left out; `unread` the
        segments to tell of, as `Unread`'s fields; `lost` the records that no disk took, with `lost_since` and `lost_until` (ISO 8601, UTC, or
        None); `told` says all of it in lines of text.

    Raises:
        DataError: There is no such log.
    """
    tally = Tally()
    parts = [part if keep is None else keep(part) for part in batches(path, tally)]
    table = events.paired(tables.joined(parts))
    table.attrs |= _attributes(tally)
    return table


def _attributes(tally: Tally) -> dict[str, Any]:
    return {
        "damaged": tally.damaged, "lost": tally.lost.n, "lost_since": tally.lost.since, "lost_until": tally.lost.until,
        "unread": [asdict(one) for one in tally.unread], "unverified": list(tally.unverified), "told": tally.tell(),
    }  # fmt: skip


def summary(path: str | Path) -> dict[str, Any]:
    """Counts of a log and its alarms, without its records: `records`, `alarms` (lines of text), and what `read_log` has as `attrs`.

    Every compacted segment's digest is read.

    Raises:
        DataError: There is no such log.
    """
    tally = Tally()

    def count(log: Path) -> Iterator[tuple[()]]:
        for _ in lines(log, tally):
            yield ()

    for _ in _each(_folder(path), tally, count, lambda number, segment: iter(())):
        pass
    return {"records": tally.records - tally.erased, "alarms": tally.tell()} | {k: v for k, v in _attributes(tally).items() if k != "told"}
