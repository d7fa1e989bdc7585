"""Cases for a reader: the sample as the model got it, the answer, and what the reader said of it.

The one place where the server keeps pixels. It is off unless asked for; a case goes when it is too old, when there are too many, or when its patient
is erased. Names in here are keyed hashes; a reader's comment is free text, so it stays here and goes with the case: labels and audit do without it.

    <folder>/incoming/<id>.npz   a case as it was answered: one file, written before the answer leaves, whatever the database is about
    <folder>/cases.db            the list; a thread takes in what has come, when nobody locks it (a backup, an erasure)
    <folder>/pixels/<id>.npz     the same file, when it is on the list
"""

from __future__ import annotations

import atexit
import hashlib
import io
import json
import logging
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.atomic import atomic_file, remove_partials
from components.core.errors import DataError, ServiceError
from serving.predictor import Query
from serving.reading.tables import opened, state_of, urgency
from serving.reading.work_list import ALL, Case, Filter, Page, case_of, page_of, windows_of

MOST, DAYS = 5_000, 30
MAX_COMMENT = 500
AGREE, DISAGREE, OWN = "agree", "disagree", "own reading"
RETRY_S, SHORT_S, WRITE_S = 0.5, 0.2, 5.0
"""How soon a locked list is tried again, and how long a page and a reader's verdict wait for it."""
OLD, MANY = "older than {} days", "more than {} cases"
log = logging.getLogger("dxflow.serving")


@dataclass(frozen=True)
class Reading:
    """What a reader said. `label`: a class, or None where they only commented."""

    time: datetime
    who: str
    verdict: str
    label: str | None
    comment: str


class CaseStore:
    """Safe to share between threads, and a folder between processes.

    Raises:
        ServiceError: The folder cannot be written, is locked, holds another thing, or one of a newer dxflow.
    """

    def __init__(self, folder: Path, *, most: int = MOST, days: float = DAYS) -> None:
        self.folder, self._most, self._days = folder, most, days
        self._reads, self._writes = threading.Lock(), threading.Lock()
        self.lost = 0
        """Cases that no disk took since the start."""
        self._failing = False
        self._come, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        try:
            for name in ("pixels", "incoming"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
            remove_partials(folder / "incoming")
            self._writer = opened(folder / "cases.db")
            self._db = opened(folder / "cases.db", wait_s=WRITE_S)
        except (OSError, sqlite3.DatabaseError) as error:
            raise ServiceError("cases cannot be kept", where=str(folder), got=_kind(error)) from None
        if self.waiting():
            self._come.set()

    def keep(self, query: Query, answer: Mapping[str, Any], positive: Sequence[str], now: datetime, heat: NDArray[np.floating] | None = None) -> None:
        """`add`, where a disk that takes nothing stops no answer: it is counted, and told once."""
        try:
            self.add(query, answer, positive, now, heat)
            self._failing = False
        except OSError as error:
            self.lost += 1
            if not self._failing:
                log.error("cases cannot be kept for the reading page: %s", error.strerror)
            self._failing = True

    def add(self, query: Query, answer: Mapping[str, Any], positive: Sequence[str], now: datetime, heat: NDArray[np.floating] | None = None) -> str:
        """Keep a sample and its answer; returns the case's id. It is on the disk then, and on the list soon. Of a slide its view is kept, not its
        tiles. Raises OSError.

        Args:
            positive: The classes that make a case urgent.
            heat: (h, w) in [0, 1] of a slide, which cannot be made again from what is kept.
        """
        name = secrets.token_hex(16)
        shown = np.asarray(query.array, dtype=np.float32) if query.tiles is None else query.tiles.view.transpose(2, 0, 1)
        kept = {
            "device_key": query.device_key, "manufacturer": query.manufacturer, "device_model": query.device_model, "software": query.software,
            "acquisition": dict(query.acquisition), "source": query.source, "covariates": dict(query.covariates), "edges": query.edges,
        }  # fmt: skip
        request, part = str(answer["request_id"]), answer.get("part") or {}
        row = {
            "id": name, "time": now.isoformat(), "disease": str(answer["disease"]), "request_id": request, "patient": query.patient,
            "study": query.study, "urgency": urgency(answer, positive), "state": state_of(answer, positive), "answer": json.dumps(answer),
            "query": json.dumps(kept), "recording": f"{request[:32]}/{part.get('file', '')}" if "window" in part else name,
            "image": None if "window" in part else _image(shown, query, answer),
        }  # fmt: skip
        arrays: dict[str, Any] = {"array": shown, "row": np.frombuffer(json.dumps(row).encode(), np.uint8)}
        if heat is not None:
            arrays["heat"] = np.round(255 * heat).astype(np.uint8)
        data = io.BytesIO()
        np.savez_compressed(data, **arrays)
        with atomic_file(self._incoming(name)) as partial:
            partial.write_bytes(data.getvalue())
        self._wake()
        return name

    def waiting(self) -> int:
        """Cases that are kept and not on the list yet."""
        return sum(1 for _ in (self.folder / "incoming").glob("*.npz"))

    def take_in(self, *, wait_s: float = 0.0) -> bool:
        """Put on the list what has come; False where it is locked for longer than `wait_s`."""
        with self._writes:
            self._writer.execute(f"pragma busy_timeout = {int(1000 * wait_s)}")
            try:
                come = sorted((_mtime(path), path) for path in (self.folder / "incoming").glob("*.npz"))
                for _, path in come:
                    self._take(path)
                if come:
                    self._tidy(now())
            except (sqlite3.Error, OSError) as error:  # locked, or the disk is full: they wait
                if not _locked(error):
                    log.error("cases wait for the reading page: %s", _kind(error))
                return False
            return True

    def _take(self, path: Path) -> None:
        try:
            row = _row(path)
        except _Damaged:  # nobody can tell whose it is, so it must not stay
            self.lost += 1
            log.error("a case for the reading page was damaged on the disk and is removed")
            path.unlink(missing_ok=True)
            return
        if row is None:  # another process has taken it, or it is no case
            return
        name, same = row["id"], None
        with _transaction(self._writer) as db:
            if not path.exists():  # taken, or erased since it was read
                return
            if db.execute("select 1 from asks where id = ?", (name,)).fetchone() is None:
                same = db.execute("select id from cases where image = ? limit 1", (row["image"],)).fetchone() if row["image"] else None
                if same is None:
                    columns = ("id", "time", "disease", "request_id", "patient", "study", "urgency", "answer", "query", "state", "recording", "image")
                    marks = ", ".join("?" * len(columns))
                    db.execute(f"insert into cases ({', '.join(columns)}) values ({marks})", [row[c] for c in columns])  # noqa: S608 - names of ours
                db.execute("insert into asks values (?, ?, ?, ?)", (name, same[0] if same else name, row["request_id"], row["time"]))
            own = db.execute("select 1 from cases where id = ?", (name,)).fetchone()
        try:
            if own:
                os.replace(path, self._pixels(name))
            else:
                path.unlink()
        except FileNotFoundError:  # another process did
            pass

    def _wake(self) -> None:
        if self._thread is None:
            with self._writes:
                if self._thread is None and not self._stop.is_set():
                    self._thread = threading.Thread(target=self._work, name="cases", daemon=True)
                    self._thread.start()
                    atexit.register(self.close)
        self._come.set()

    def _work(self) -> None:
        while True:
            self._come.wait()
            if self._stop.is_set():
                return
            self._come.clear()
            if not self.take_in() and not self._stop.wait(RETRY_S):
                self._come.set()

    def page(self, chosen: Filter = ALL, *, number: int = 1, size: int | None = None) -> Page:
        """A page of the list, with what is on all of it. See `Page`."""
        self.take_in(wait_s=SHORT_S)
        with self._read() as db:
            return page_of(db, chosen, number, size)

    def list(self, *, read: bool = False) -> list[Case]:
        """All of it, the most urgent first; of equal ones the oldest first. A recording is one of the list, whatever the number of its windows."""
        return list(self.page(Filter(read=read)).cases)

    def recording(self, name: str) -> list[Case]:
        """All windows, read or not, of the recording that the case is one of, in order of time; raises DataError where there is none."""
        self.take_in()
        with self._read() as db:
            found = windows_of(db, name)
        if not found:
            raise DataError("no such recording, or it is no longer kept", where="case")
        return found

    def counts(self) -> tuple[int, int]:
        """(open, read), as `list` counts: a recording with windows of both is one of both."""
        found = self.page(size=1)
        return found.open, found.read

    def get(self, name: str) -> tuple[Case, Query, list[Reading]]:
        """A case, its sample and its readings, the newest first; of a slide its view stands for the sample. Raises DataError where there is none."""
        with self._read() as db:
            found = case_of(db, name)
        if found is None:  # it may be on its way: whoever takes it in has done so, or it is done here
            self.take_in()
            with self._read() as db:
                found = case_of(db, name)
        if found is None:
            raise DataError("no such case, or it is no longer kept", where="case")
        case, query = found
        with self._read() as db:
            sql = "select time, who, verdict, label, comment from readings where case_id = ? order by time desc"
            told = db.execute(sql, (case.id,)).fetchall()
        array = self._kept(case.id, "array")
        if array is None:
            raise DataError("the pixels of this case are gone", where="case")
        readings = [Reading(datetime.fromisoformat(t), *rest) for t, *rest in told]
        return case, Query(array=array, **query), readings

    def heat(self, name: str) -> NDArray[np.uint8] | None:
        """(h, w) that was kept with a slide; None for everything else."""
        return self._kept(name, "heat")

    def removed(self) -> list[tuple[str, int, datetime]]:
        """(why, how many, when last) of cases that went with nobody having read them."""
        with self._read() as db:
            return [(why, n, datetime.fromisoformat(last)) for why, n, last in db.execute("select reason, n, last from removed order by reason")]

    def _kept(self, name: str, what: str) -> NDArray[Any] | None:
        for path in (self._pixels(name), self._incoming(name), self._pixels(name)):  # it may move meanwhile
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError:
                return None
            try:
                with np.load(io.BytesIO(data), allow_pickle=False) as found:
                    return found[what]
            except Exception:  # a damaged archive may raise anything
                return None
        return None

    def tell(self, name: str, reading: Reading) -> None:
        """Add what a reader said; the case moves to those that were read. Raises ServiceError where the list stays locked."""
        with self._write() as db:
            if not db.execute("update cases set read = 1, read_at = ? where id = ?", (reading.time.isoformat(), name)).rowcount:
                raise DataError("no such case, or it is no longer kept", where="case")
            row = (name, reading.time.isoformat(), reading.who, reading.verdict, reading.label, reading.comment[:MAX_COMMENT])
            db.execute("insert into readings values (?,?,?,?,?,?)", row)

    def erase(self, patients: frozenset[str], requests: frozenset[str] = frozenset(), *, dry: bool = False) -> int:
        """Remove all cases of these patients (keyed hashes), or with these ids of answers; returns how many. Raises ServiceError: it is locked."""
        if not self.take_in(wait_s=30):
            raise ServiceError("the cases are locked by another program, try again", where=str(self.folder))
        with self._read() as db:
            listed = db.execute("select cases.id, patient, asks.request_id from cases join asks on case_id = cases.id").fetchall()
        names = _named([*listed, *_unlisted(self.folder, {row[0] for row in listed})], patients, requests)
        if names and not dry:
            with self._write() as db:
                self._remove(db, names)
            with self._writes, _told(self.folder):
                self._writer.execute("vacuum")
                self._writer.execute("pragma wal_checkpoint(truncate)")
        return len(names)

    def close(self) -> None:
        self._stop.set()
        self._come.set()
        if self._thread is not None:
            self._thread.join(2 * RETRY_S)
            atexit.unregister(self.close)
        with self._writes:
            self._writer.close()
        with self._reads:
            self._db.close()

    def figures(self) -> Iterator[Any]:
        """For Prometheus: `dxflow_reading_cases_lost_total`, `dxflow_reading_cases_waiting`."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        yield CounterMetricFamily("dxflow_reading_cases_lost", "Cases that the reading page could not keep since the start.", value=self.lost)
        yield GaugeMetricFamily("dxflow_reading_cases_waiting", "Cases that are kept and not on the reading list yet.", value=self.waiting())

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        with self._reads, _told(self.folder):
            yield self._db

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._writes, _told(self.folder):
            self._writer.execute(f"pragma busy_timeout = {int(1000 * WRITE_S)}")
            with _transaction(self._writer) as db:
                yield db

    def _tidy(self, at: datetime) -> None:
        oldest = (at - timedelta(days=self._days)).isoformat()
        with _transaction(self._writer) as db:
            old = [n for (n,) in db.execute("select id from cases where time < ?", (oldest,))]
            spare = db.execute("select count(*) from cases").fetchone()[0] - len(old) - self._most
            # Those that were read first, then the least urgent.
            order = "select id from cases where time >= ? order by read desc, urgency, time limit ?"
            many = [n for (n,) in db.execute(order, (oldest, spare))] if spare > 0 else []
            for reason, names in ((OLD.format(self._days), old), (MANY.format(f"{self._most:,}"), many)):
                unread = sum(db.execute("select 1 from cases where id = ? and not read", (n,)).fetchone() is not None for n in names)
                if unread:
                    add = "insert into removed values (?, ?, ?) on conflict (reason) do update set n = n + excluded.n, last = excluded.last"
                    db.execute(add, (reason, unread, at.isoformat()))
            self._remove(db, [*old, *many])

    def _remove(self, db: sqlite3.Connection, names: Sequence[str]) -> None:
        for name in names:
            for path in (self._pixels(name), self._incoming(name)):
                path.unlink(missing_ok=True)
        for table, column in (("readings", "case_id"), ("asks", "case_id"), ("cases", "id")):
            db.executemany(f"delete from {table} where {column} = ?", [(n,) for n in names])  # noqa: S608 - names of ours

    def _pixels(self, name: str) -> Path:
        if len(name) != 32 or not set(name) <= set("0123456789abcdef"):
            raise DataError("no such case, or it is no longer kept", where="case")
        return self.folder / "pixels" / f"{name}.npz"

    def _incoming(self, name: str) -> Path:
        return self.folder / "incoming" / self._pixels(name).name


def erase(folder: Path, patients: frozenset[str], requests: frozenset[str], *, dry: bool) -> int:
    """`CaseStore.erase` of a folder, if there is one; a server beside it goes on. A dry one changes nothing, not even an older version of it.

    Files without their list count too: a kill, or somebody who took a damaged list away, leaves them.
    """
    if not folder.is_dir():
        return 0
    if dry:
        if not (folder / "cases.db").exists():
            return len(_named(_unlisted(folder, set()), patients, requests))
        with _told(folder):
            db = sqlite3.connect(folder / "cases.db")
            try:
                listed = db.execute("select id, patient, request_id from cases").fetchall()
                more = db.execute("select 1 from sqlite_master where name = 'asks'").fetchone()
                listed += db.execute("select case_id, null, request_id from asks").fetchall() if more else []
            finally:
                db.close()
        return len(_named([*listed, *_unlisted(folder, {row[0] for row in listed})], patients, requests))
    store = CaseStore(folder)
    try:
        return store.erase(patients, requests, dry=dry)
    finally:
        store.close()


def _named(rows: Any, patients: frozenset[str], requests: frozenset[str]) -> list[str]:
    return sorted({name for name, patient, request in rows if patient in patients or request in requests})


def _unlisted(folder: Path, known: Set[str]) -> list[tuple[str, str | None, str]]:
    """(id, patient, request) of files of cases that are on no list, or not yet."""
    paths = [*(folder / "incoming").glob("*.npz"), *(path for path in (folder / "pixels").glob("*.npz") if path.stem not in known)]
    rows: list[dict[str, Any]] = []
    for path in paths:
        with suppress(_Damaged):  # the list counts it and takes it away: nobody can say whose it is
            rows += [row] if (row := _row(path)) else []
    return [(row["id"], row["patient"], row["request_id"]) for row in rows]


def _image(shown: NDArray[Any], query: Query, answer: Mapping[str, Any]) -> str:
    """Equal for the same sample of the same patient and device with the same answer of the same package: asked again, it is the same case."""
    told = [answer.get(key) for key in ("disease", "digest", "decision", "abstain", "reasons")]
    told += [(answer.get("uncertainty") or {}).get("set"), query.patient, query.study, query.device_key, dict(query.covariates), answer.get("part")]
    head = json.dumps([*told, str(shown.dtype), shown.shape], default=str, sort_keys=True)
    return hashlib.sha256(head.encode() + np.ascontiguousarray(shown).tobytes()).hexdigest()


class _Damaged(Exception):
    """Not the file that `add` wrote."""


def _row(path: Path) -> dict[str, Any] | None:
    """None for a file that is gone, or that cannot be read now. Raises _Damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            row = json.loads(found["row"].tobytes())
    except Exception:  # a damaged archive may raise anything
        raise _Damaged from None
    if not isinstance(row, dict) or row.get("id") != path.stem:
        raise _Damaged
    return row


def _mtime(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _kind(error: BaseException) -> str:
    return "locked by another program" if isinstance(error, sqlite3.Error) and _locked(error) else type(error).__name__


def _locked(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    db.execute("begin immediate")
    try:
        yield db
        db.execute("commit")
    except BaseException:
        db.execute("rollback")
        raise


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        what = "are locked by another program, try again" if _locked(error) else "cannot be read or written"
        raise ServiceError(f"the cases {what}", where=str(folder), got=None if _locked(error) else type(error).__name__) from None


def now() -> datetime:
    return datetime.now(UTC)
