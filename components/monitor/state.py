"""What the scheduled monitor remembers: one SQLite file for each model package, changed in one transaction a run.

A run that is killed has not happened: how far the log was read, what was counted and what was alarmed are one commit. Windows are kept as
sketches, so a month or a year is the sum of its days.

The file says which schema it has (`pragma user_version`). An older one is brought up to date within the first transaction, a newer one is refused.

    0   before the number was written; what a sketch counted has no ends, answers of unknown devices were counted at once
    2   `sketch.ends`, table `waiting`
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError, ServiceError
from components.monitor.sketch import TUGS, Counts, Sketch

SCHEMA_VERSION = 2
KEPT = 1000
"""Answers of a device and window that the label-free AUC looks at; more do not make it surer, its calibration is what is in doubt."""
TABLES = """
create table if not exists memory (key text primary key, value text not null);
create table if not exists position (segment integer primary key, records integer not null);
create table if not exists sketch (
  start integer, device text, counts blob not null, tugs blob not null, facts text not null, ends blob, primary key (start, device)
);
create table if not exists waiting (
  number integer primary key, start integer not null, ids blob not null, patients blob not null, events blob not null
);
create table if not exists seen (start integer primary key, ids blob not null);
create table if not exists answer (
  start integer, device text, ids blob not null, patients blob not null, probabilities blob not null, primary key (start, device)
);
create table if not exists history (start integer, device text, row text not null, primary key (start, device));
create table if not exists alarm (id text primary key, alarm text not null);
"""


class State:
    """One model's memory within a transaction. Made by `opened`.

    Args:
        shape: (strata, features, places) of the model's sketches.
        fresh: Nothing was in it before this run.
    """

    def __init__(self, connection: sqlite3.Connection, shape: tuple[int, int, int], *, fresh: bool = False) -> None:
        self._db, self._shape, self.fresh = connection, shape, fresh

    # ---- how far the log was read

    def position(self) -> dict[int, int]:
        """Segment -> records taken."""
        return dict(self._db.execute("select segment, records from position"))

    def advance(self, segment: int, records: int) -> None:
        self._db.execute(
            "insert into position values (?, ?) on conflict (segment) do update set records = records + excluded.records", (segment, records)
        )

    # ---- windows

    def add(self, start: int, device: str, sketch: Sketch, facts: Mapping[str, float]) -> None:
        """Add to a window of a device: counts, and sums (`facts`)."""
        stored = self.sketch(start, device)
        if stored is not None:
            before, sums = stored
            sketch.merge(before)
            facts = {name: sums.get(name, 0.0) + facts.get(name, 0.0) for name in {*sums, *facts}}
        self._db.execute(
            "insert or replace into sketch values (?, ?, ?, ?, ?, ?)",
            (start, device, _packed(sketch.counts), _packed(sketch.tugs), json.dumps(dict(facts)), sketch.ends.astype("<f8").tobytes()),
        )

    def sketch(self, start: int, device: str) -> tuple[Sketch, dict[str, float]] | None:
        found = self._db.execute("select counts, tugs, ends, facts from sketch where start = ? and device = ?", (start, device)).fetchone()
        return None if found is None else (self._sketch(*found[:3]), json.loads(found[3]))

    def _sketch(self, counts: bytes, tugs: bytes, ends: bytes | None) -> Sketch:
        known = np.full((self._shape[1], 2), np.nan) if ends is None else np.frombuffer(ends, "<f8").astype(np.float64).reshape(-1, 2)
        return Sketch(_unpacked(counts, self._shape), _unpacked(tugs, (TUGS,)), known)

    def devices(self, start: int) -> list[str]:
        return [name for (name,) in self._db.execute("select device from sketch where start = ? order by device", (start,))]

    def windows(self) -> list[int]:
        """Starts of all windows with events, ascending."""
        return [start for (start,) in self._db.execute("select start from sketch union select start from waiting order by start")]

    def merged(self, device: str, first: int, last: int) -> Sketch | None:
        """A device's windows from `first` to before `last`, as one."""
        whole: Sketch | None = None
        for row in self._db.execute("select counts, tugs, ends from sketch where device = ? and start >= ? and start < ?", (device, first, last)):
            part = self._sketch(*row)
            if whole is None:
                whole = part
            else:
                whole.merge(part)
        return whole

    # ---- events of windows that are still open

    def add_answers(self, start: int, device: str, ids: NDArray[np.uint64], patients: NDArray[np.uint64], probabilities: NDArray[np.float32]) -> None:
        """Keep the answers with the smallest hashes, at most `KEPT` a device and window: a fair sample, however the events were batched.

        Args:
            ids, patients: (n,) hashes.
            probabilities: (n, K).
        """
        before = self.answers(start, device, probabilities.shape[1])
        ids = np.concatenate([before[0], ids])
        chosen = np.argsort(ids, kind="stable")[:KEPT]
        kept = (ids[chosen], np.concatenate([before[1], patients])[chosen], np.concatenate([before[2], probabilities])[chosen])
        self._db.execute("insert or replace into answer values (?, ?, ?, ?, ?)", (start, device, *(part.tobytes() for part in kept)))

    def answers(self, start: int, device: str, classes: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.float32]]:
        """(ids, patients, probabilities (n, classes)) of an open window's sample."""
        found = self._db.execute("select ids, patients, probabilities from answer where start = ? and device = ?", (start, device)).fetchone()
        if found is None:
            return np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros((0, classes), np.float32)
        return np.frombuffer(found[0], np.uint64), np.frombuffer(found[1], np.uint64), np.frombuffer(found[2], np.float32).reshape(-1, classes)

    def seen(self, start: int) -> NDArray[np.uint64]:
        """Hashes of the answers already counted in an open window, ascending."""
        found = self._db.execute("select ids from seen where start = ?", (start,)).fetchone()
        return np.frombuffer(found[0], np.uint64) if found else np.zeros(0, np.uint64)

    def see(self, start: int, ids: NDArray[np.uint64]) -> None:
        self._db.execute("insert or replace into seen values (?, ?)", (start, np.union1d(self.seen(start), ids).astype(np.uint64).tobytes()))

    def forget(self, start: int) -> None:
        """A judged window takes no more events."""
        self._db.execute("delete from seen where start = ?", (start,))
        self._db.execute("delete from answer where start = ?", (start,))
        self._db.execute("delete from waiting where start = ?", (start,))

    def wait(self, start: int, ids: NDArray[np.uint64], patients: NDArray[np.uint64], events: bytes) -> None:
        """Keep answers until their window is over. ids, patients: (n,) hashes, by which one can be erased; `events`: whatever else, of the same n."""
        self._db.execute("insert into waiting (start, ids, patients, events) values (?, ?, ?, ?)", (start, ids.tobytes(), patients.tobytes(), events))

    def waiting(self, start: int) -> list[tuple[NDArray[np.uint64], NDArray[np.uint64], bytes]]:
        """What waits for the end of a window, in the order it came."""
        found = self._db.execute("select ids, patients, events from waiting where start = ? order by number", (start,))
        return [(np.frombuffer(ids, np.uint64), np.frombuffer(patients, np.uint64), events) for ids, patients, events in found]

    # ---- what was found

    def get(self, key: str, default: Any) -> Any:
        found = self._db.execute("select value from memory where key = ?", (key,)).fetchone()
        return default if found is None else json.loads(found[0])

    def put(self, key: str, value: Any) -> None:
        self._db.execute("insert or replace into memory values (?, ?)", (key, json.dumps(value)))

    def judged(self, start: int, device: str, row: Mapping[str, Any]) -> None:
        self._db.execute("insert or replace into history values (?, ?, ?)", (start, device, json.dumps(dict(row))))

    def rows(self, start: int) -> list[dict[str, Any]]:
        """One judged window of every device."""
        return [json.loads(row) for (row,) in self._db.execute("select row from history where start = ? order by device", (start,))]

    def history(self) -> list[dict[str, Any]]:
        """Every judged window of every device, by time and device."""
        return [json.loads(row) for (row,) in self._db.execute("select row from history order by start, device")]

    def alarms(self) -> list[dict[str, Any]]:
        """All alarms ever raised, open ones first, then by time."""
        found = [json.loads(text) for (text,) in self._db.execute("select alarm from alarm")]
        return sorted(found, key=lambda a: (not a["open"], a["since"], a["id"]))

    def last_seen(self) -> dict[str, int]:
        """Device -> start of its latest window with events."""
        return dict(self._db.execute("select device, max(start) from sketch group by device"))

    def give(self, start: int, device: str, other: str) -> None:
        """A window of one device becomes a part of another one's."""
        found = self.sketch(start, device)
        if found is not None:
            self.add(start, other, *found)
            for table in ("sketch", "answer"):
                self._db.execute(f"delete from {table} where start = ? and device = ?", (start, device))  # noqa: S608 - names of our own

    def drop_alarms(self, devices: Collection[str]) -> None:
        """Forget every alarm of some devices."""
        for alarm in self.alarms() if devices else ():
            if alarm["device_key"] in devices:
                self._db.execute("delete from alarm where id = ?", (alarm["id"],))

    def set_alarm(self, alarm: Mapping[str, Any]) -> None:
        self._db.execute("insert or replace into alarm values (?, ?)", (alarm["id"], json.dumps(dict(alarm))))


@contextmanager
def opened(path: Path, shape: tuple[int, int, int]) -> Iterator[State]:
    """The state in `path`; all that is changed within the block is kept, or nothing.

    Args:
        shape: (strata, features, places) of a new state; one that exists keeps its own number of strata.

    Raises:
        ServiceError: Another run holds it.
        DataError: It is no state, or one of another schema or other features.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        try:
            connection.execute("begin immediate")
            version = schema_of(connection, path)
            _migrate(connection, version)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise ServiceError("another run of the monitor is at work", where=str(path)) from None
            raise DataError("the monitor's state cannot be opened", where=str(path), got=type(error).__name__) from None
        except sqlite3.DatabaseError:
            raise DataError("not a state of the monitor", where=str(path)) from None
        state = State(connection, shape)
        wanted = [SCHEMA_VERSION, *shape]
        have = state.get("schema", None)
        if have is not None and have[2:] != wanted[2:]:
            raise DataError("a state of other features", where=str(path), got=have[1:], allowed=wanted[1:])
        state = State(connection, shape if have is None else (have[1], have[2], have[3]), fresh=have is None)
        state.put("schema", wanted if have is None else [SCHEMA_VERSION, *have[1:]])
        yield state
        connection.execute("commit")
    finally:
        connection.close()


def schema_of(connection: sqlite3.Connection, where: Path) -> int:
    """The schema of a state. Raises DataError where a later dxflow made it: what it means by its tables is not known here."""
    version = int(connection.execute("pragma user_version").fetchone()[0])
    if version not in (0, SCHEMA_VERSION):
        raise DataError("a state of another dxflow", where=str(where), got=f"schema {version}", allowed=f"up to {SCHEMA_VERSION}; update dxflow")
    return version


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring the tables up to date, within the transaction that is open."""
    columns = {row[1] for row in connection.execute("pragma table_info(sketch)")}
    if columns and "ends" not in columns:
        connection.execute("alter table sketch add column ends blob")
    for statement in filter(str.strip, TABLES.split(";")):
        connection.execute(statement)
    if version != SCHEMA_VERSION:
        connection.execute(f"pragma user_version = {SCHEMA_VERSION}")


def _packed(counts: Counts) -> bytes:
    return zlib.compress(np.ascontiguousarray(counts, dtype="<i8").tobytes(), 1)


def _unpacked(blob: bytes, shape: tuple[int, ...]) -> Counts:
    return np.frombuffer(zlib.decompress(blob), "<i8").astype(np.int64).reshape(shape)
