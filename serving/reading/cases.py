"""Cases for a reader: the sample as the model got it, the answer, and what the reader said of it.

The one place where the server keeps pixels. It is off unless asked for; a case goes when it is too old, when there are too many, or when its patient
is erased. Names in here are keyed hashes; a reader's comment is free text, so it stays here and goes with the case: labels and audit do without it.
"""

from __future__ import annotations

import io
import json
import secrets
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.atomic import atomic_file
from components.core.errors import DataError, ServiceError
from serving.predictor import Query

MOST, DAYS = 5_000, 30
MAX_COMMENT = 500
AGREE, DISAGREE, OWN = "agree", "disagree", "own reading"
_TABLES = """
create table if not exists cases (
  id text primary key, time text not null, disease text not null, request_id text not null, patient text, study text, urgency real not null,
  answer text not null, query text not null, read integer not null default 0);
create index if not exists by_urgency on cases (read, urgency desc, time);
create table if not exists readings (
  case_id text not null references cases(id) on delete cascade, time text not null, who text not null, verdict text not null, label text,
  comment text not null);
create view if not exists listed as select cases.*, case when json_extract(answer, '$.part.window') is null then id
  else substr(request_id, 1, 32) || '/' || coalesce(json_extract(answer, '$.part.file'), '') end as recording from cases;
"""
"""Windows of one recording share a request, and in it the file. Samples of one request that are no windows may be of different patients."""


@dataclass(frozen=True)
class Case:
    """One of the list. `answer` is what the client got; of a recording's windows `list` gives the most urgent one, and `windows` says how many."""

    id: str
    time: datetime
    disease: str
    request_id: str
    urgency: float
    answer: Mapping[str, Any]
    read: bool
    windows: int = 1


@dataclass(frozen=True)
class Reading:
    """What a reader said. `label`: a class, or None where they only commented."""

    time: datetime
    who: str
    verdict: str
    label: str | None
    comment: str


class CaseStore:
    """Safe to share between threads.

    Raises:
        ServiceError: The folder cannot be written, or holds another thing.
    """

    def __init__(self, folder: Path, *, most: int = MOST, days: float = DAYS) -> None:
        self.folder, self._most, self._days = folder, most, days
        self._lock = threading.Lock()
        try:
            (folder / "pixels").mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
            self._db = sqlite3.connect(folder / "cases.db", check_same_thread=False)
            self._db.executescript("pragma journal_mode=wal; pragma secure_delete=on; pragma foreign_keys=on;" + _TABLES)
        except (OSError, sqlite3.DatabaseError) as error:
            raise ServiceError("cases cannot be kept", where=str(folder), got=type(error).__name__) from None

    def add(self, query: Query, answer: Mapping[str, Any], positive: Sequence[str], now: datetime, heat: NDArray[np.floating] | None = None) -> str:
        """Keep a sample and its answer; returns the case's id. Of a slide its view is kept, not its tiles.

        Args:
            positive: The classes that make a case urgent.
            heat: (h, w) in [0, 1] of a slide, which cannot be made again from what is kept.
        """
        name = secrets.token_hex(16)
        data = io.BytesIO()
        shown = np.asarray(query.array, dtype=np.float32) if query.tiles is None else query.tiles.view.transpose(2, 0, 1)
        arrays: dict[str, Any] = {"array": shown} | ({} if heat is None else {"heat": np.round(255 * heat).astype(np.uint8)})
        np.savez_compressed(data, **arrays)
        with atomic_file(self._pixels(name)) as partial:
            partial.write_bytes(data.getvalue())
        kept = {
            "device_key": query.device_key, "manufacturer": query.manufacturer, "device_model": query.device_model, "software": query.software,
            "acquisition": dict(query.acquisition), "source": query.source, "covariates": dict(query.covariates), "edges": query.edges,
        }  # fmt: skip
        row = (
            name, now.isoformat(), str(answer["disease"]), str(answer["request_id"]), query.patient, query.study, urgency(answer, positive),
            json.dumps(answer), json.dumps(kept),
        )  # fmt: skip
        with self._lock, self._db:
            self._db.execute(
                "insert into cases (id, time, disease, request_id, patient, study, urgency, answer, query) values (?,?,?,?,?,?,?,?,?)", row
            )
        self._tidy(now)
        return name

    def list(self, *, read: bool = False, most: int = 200) -> list[Case]:
        """The most urgent first; of equal ones the oldest first. A recording is one of the list, whatever the number of its windows."""
        with self._lock:
            rows = self._db.execute(
                "select id, time, disease, request_id, max(urgency), answer, read, count(*) from listed where read = ? "
                "group by recording order by 5 desc, time limit ?",
                (int(read), most),
            ).fetchall()  # the other columns are those of the row with the largest urgency: SQLite's promise where max() stands alone
        return [_case(row) for row in rows]

    def recording(self, name: str) -> list[Case]:
        """All windows, read or not, of the recording that the case is one of, in order of time; raises DataError where there is none."""
        with self._lock:
            rows = self._db.execute(
                "select id, time, disease, request_id, urgency, answer, read from listed where recording = "
                "(select recording from listed where id = ?) order by json_extract(answer, '$.part.window')",
                (name,),
            ).fetchall()
        if not rows:
            raise DataError("no such recording, or it is no longer kept", where="case")
        return [_case(row) for row in rows]

    def counts(self) -> tuple[int, int]:
        """(open, read), as `list` counts: a recording with windows of both is one of both."""
        with self._lock:
            found = dict(self._db.execute("select read, count(distinct recording) from listed group by read").fetchall())
        return found.get(0, 0), found.get(1, 0)

    def get(self, name: str) -> tuple[Case, Query, list[Reading]]:
        """A case, its sample and its readings, the newest first; of a slide its view stands for the sample. Raises DataError where there is none."""
        with self._lock:
            row = self._db.execute("select id, time, disease, request_id, urgency, answer, read, query from cases where id = ?", (name,)).fetchone()
            told = self._db.execute(
                "select time, who, verdict, label, comment from readings where case_id = ? order by time desc", (name,)
            ).fetchall()
        if row is None:
            raise DataError("no such case, or it is no longer kept", where="case")
        array = self._kept(name, "array")
        if array is None:
            raise DataError("the pixels of this case are gone", where="case")
        readings = [Reading(datetime.fromisoformat(t), *rest) for t, *rest in told]
        return _case(row[:7]), Query(array=array, **json.loads(row[7])), readings

    def heat(self, name: str) -> NDArray[np.uint8] | None:
        """(h, w) that was kept with a slide; None for everything else."""
        return self._kept(name, "heat")

    def _kept(self, name: str, what: str) -> NDArray[Any] | None:
        try:
            with np.load(self._pixels(name), allow_pickle=False) as found:
                return found[what]
        except (OSError, ValueError, KeyError):
            return None

    def tell(self, name: str, reading: Reading) -> None:
        """Add what a reader said; the case moves to those that were read."""
        with self._lock, self._db:
            known = self._db.execute("update cases set read = 1 where id = ?", (name,)).rowcount
            if not known:
                raise DataError("no such case, or it is no longer kept", where="case")
            row = (name, reading.time.isoformat(), reading.who, reading.verdict, reading.label, reading.comment[:MAX_COMMENT])
            self._db.execute("insert into readings values (?,?,?,?,?,?)", row)

    def erase(self, patients: frozenset[str], requests: frozenset[str] = frozenset(), *, dry: bool = False) -> int:
        """Remove all cases of these patients (keyed hashes), or with these ids of answers; returns how many."""
        with self._lock:
            rows = self._db.execute("select id, patient, request_id from cases").fetchall()
            names = [name for name, patient, request in rows if patient in patients or request in requests]
            if names and not dry:
                self._remove(names)
                self._db.execute("vacuum")
                self._db.execute("pragma wal_checkpoint(truncate)")
        return len(names)

    def close(self) -> None:
        self._db.close()

    def _tidy(self, now: datetime) -> None:
        oldest = (now - timedelta(days=self._days)).isoformat()
        with self._lock:
            old = [n for (n,) in self._db.execute("select id from cases where time < ?", (oldest,))]
            spare = self._db.execute("select count(*) from cases").fetchone()[0] - len(old) - self._most
            if spare > 0:  # those that were read first, then the least urgent
                order = "select id from cases where time >= ? order by read desc, urgency, time limit ?"
                old += [n for (n,) in self._db.execute(order, (oldest, spare))]
            if old:
                self._remove(old)

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            self._pixels(name).unlink(missing_ok=True)
        with self._db:
            for table, column in (("readings", "case_id"), ("cases", "id")):
                self._db.executemany(f"delete from {table} where {column} = ?", [(n,) for n in names])  # noqa: S608 - names of ours

    def _pixels(self, name: str) -> Path:
        if len(name) != 32 or not set(name) <= set("0123456789abcdef"):
            raise DataError("no such case, or it is no longer kept", where="case")
        return self.folder / "pixels" / f"{name}.npz"


def erase(folder: Path, patients: frozenset[str], requests: frozenset[str], *, dry: bool) -> int:
    """`CaseStore.erase` of a folder, if there is one; a server beside it goes on."""
    if not (folder / "cases.db").exists():
        return 0
    store = CaseStore(folder)
    try:
        return store.erase(patients, requests, dry=dry)
    finally:
        store.close()


def urgency(answer: Mapping[str, Any], positive: Sequence[str]) -> float:
    """2 to 3: the decision is positive, by its probability; 1: nobody but the reader can tell; 0 to 1: the rest."""
    if answer["abstain"]:
        return 1.0
    p = sum(v for name, v in answer["probabilities"].items() if name in positive) if positive else 0.0
    decided = str(answer["decision"]).split("+")
    return float(p) + (2.0 if set(decided) & set(positive) else 0.0)


def _case(row: Sequence[Any]) -> Case:
    name, time, disease, request_id, urgent, answer, read, *windows = row
    return Case(name, datetime.fromisoformat(time), disease, request_id, urgent, json.loads(answer), bool(read), *windows)


def now() -> datetime:
    return datetime.now(UTC)
