"""What became of each study and model, on disk before anything that it speaks of: the loop may be killed at any point.

A study is a keyed hash here, so is its patient (`dxflow erase` finds them by it): nothing in the file says who they are. What is needed to store
back, the study's UID, is asked of the archive again, whose list of studies is hashed and compared.

    arriving    seen; judged when it has not changed for a while
    working     claimed; found so after a kill, it is due at once
    judged      the answers are in the inference log; reports are about to be stored
    answered    the report is in the archive
    declined    no answer, with reasons: rules say so, or the images cannot be used
    failed      given up after several attempts, with reasons
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from components.core.errors import ServiceError

ARRIVING, WORKING, JUDGED, ANSWERED, DECLINED, FAILED = "arriving", "working", "judged", "answered", "declined", "failed"
STATES = (ARRIVING, WORKING, JUDGED, ANSWERED, DECLINED, FAILED)
DEAD = (DECLINED, FAILED)


@dataclass
class Entry:
    """One study for one model.

    Args:
        study, patient: Keyed hashes; `patient` is "" where the archive names none.
        digest: Of the model package; `model` is its name.
        images: Fingerprint of all images that are not ours, at the last look; `since` is when it changed last.
        counts: Series and images at the last look, ours too, as the archive's list tells them.
        logged, answered: Fingerprint of the images whose answers are in the inference log, or whose report is in the archive; or "".
        made_at: ISO time that stands in the objects of the answer under way or given, so that making them again gives the same.
        attempts: That ended in an error or a kill, since the last success.
        next_at, since: Seconds since 1970.
    """

    study: str
    digest: str
    model: str
    patient: str = ""
    state: str = ARRIVING
    images: str = ""
    counts: str = ""
    since: float = 0.0
    logged: str = ""
    answered: str = ""
    made_at: str = ""
    attempts: int = 0
    next_at: float = 0.0
    reasons: tuple[str, ...] = ()


COLUMNS = tuple(f.name for f in fields(Entry))
SCHEMA = f"CREATE TABLE IF NOT EXISTS entries ({', '.join(COLUMNS)}, PRIMARY KEY (study, digest))"


class Ledger:
    """The file. One process at a time writes it (`alone`); others may read.

    Raises:
        ServiceError: It is no ledger, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
            path.chmod(0o600)
            self._db.execute("PRAGMA secure_delete = ON")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute(SCHEMA)
            self._db.execute("SELECT " + ", ".join(COLUMNS) + " FROM entries LIMIT 1")  # noqa: S608 - names of our own
        except (sqlite3.Error, OSError) as error:
            raise ServiceError("not a ledger, or not to be written", where=str(path), got=type(error).__name__) from None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def get(self, study: str, digest: str) -> Entry | None:
        rows = self._read("WHERE study = ? AND digest = ?", study, digest)
        return rows[0] if rows else None

    def all(self, states: tuple[str, ...] = STATES) -> list[Entry]:
        """Entries in these states, those that changed last at the end."""
        return self._read(f"WHERE state IN ({', '.join('?' * len(states))}) ORDER BY since, study, digest", *states)

    def put(self, entry: Entry) -> None:
        """Write one entry; it is on the disk when this returns."""
        values = asdict(entry) | {"reasons": json.dumps(entry.reasons)}
        marks = ", ".join("?" * len(COLUMNS))
        with self._told():
            self._db.execute(f"INSERT OR REPLACE INTO entries VALUES ({marks})", [values[name] for name in COLUMNS])  # noqa: S608

    def drop(self, entry: Entry) -> None:
        """Keep nothing of it."""
        with self._told():
            self._db.execute("DELETE FROM entries WHERE study = ? AND digest = ?", (entry.study, entry.digest))

    def compact(self) -> None:
        """Leave no byte of what was dropped."""
        with self._told():
            self._db.execute("VACUUM")

    def retry(self, state: tuple[str, ...] = DEAD) -> int:
        """Put what was declined or given up back in the line. Returns how many."""
        marks = ", ".join("?" * len(state))
        with self._told():
            done = self._db.execute(f"UPDATE entries SET state = '{ARRIVING}', attempts = 0, next_at = 0 WHERE state IN ({marks})", state)  # noqa: S608
        return done.rowcount

    def counts(self) -> Mapping[tuple[str, str], int]:
        """Entries by (model, state)."""
        with self._told():
            rows = self._db.execute("SELECT model, state, COUNT(*) FROM entries GROUP BY model, state").fetchall()
        return {(model, state): n for model, state, n in rows}

    def _read(self, where: str, *values: object) -> list[Entry]:
        with self._told():
            rows = self._db.execute(f"SELECT {', '.join(COLUMNS)} FROM entries {where}", values).fetchall()  # noqa: S608 - values are bound
        return [Entry(*row[:-1], reasons=tuple(json.loads(row[-1]))) for row in rows]

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise ServiceError("the ledger cannot be read or written", where=str(self.path), got=type(error).__name__) from None


def erase(path: Path, patients: frozenset[str], studies: frozenset[str], *, dry: bool) -> int:
    """Take what belongs to these keyed hashes out of a ledger, if there is one; freed pages are overwritten. Returns how many entries.

    A study that is still in the archive is seen again by the next pass, which finds its report there: the archive is where a patient goes first.
    """
    if not path.exists():
        return 0
    with Ledger(path) as ledger:
        own = [e for e in ledger.all() if e.patient in patients or e.study in studies]
        for entry in [] if dry else own:
            ledger.drop(entry)
        if own and not dry:
            ledger.compact()
    return len(own)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Within the block no other loop works on this ledger. Raises ServiceError when one does."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError("another dxflow pacs works with this ledger", where=str(path)) from None
        yield
