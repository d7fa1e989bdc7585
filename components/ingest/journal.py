"""What an ingest has done so far, in one SQLite file that survives kill -9: every finished task with all that it found.

Nothing in it identifies a person: files are numbers of the source's listing, everything else is what may stand in a dataset.
The arrays of a task lie beside it in `arrays/<task>`, one after the other.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Unit = Literal["file", "row"]
"""What a reader counts: files, or rows of a table (and files that stand for one row each)."""
TABLES = """
CREATE TABLE IF NOT EXISTS done (task TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS found (kind TEXT, grp TEXT, file INTEGER, body TEXT);
CREATE INDEX IF NOT EXISTS found_by ON found (kind, grp, file);
CREATE TABLE IF NOT EXISTS rejected (file INTEGER, reason TEXT, offset INTEGER, skipped INTEGER);
CREATE TABLE IF NOT EXISTS samples (sample_id TEXT, task TEXT, place INTEGER, row TEXT);
CREATE INDEX IF NOT EXISTS samples_by ON samples (sample_id, task, place);
CREATE TABLE IF NOT EXISTS words (hash TEXT, length INTEGER, PRIMARY KEY (hash, length)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (name TEXT, n INTEGER);
"""


@dataclass(frozen=True)
class Rejected:
    """One thing that cannot be used.

    Args:
        file: Number of the file in the source's listing.
        reason: A fixed phrase without values.
        offset: Byte, or line of a table, where it shows.
        skipped: In order, but not meant here: listed, not counted as damage.
    """

    file: int
    reason: str
    offset: int | None = None
    skipped: bool = False


@dataclass
class Outcome:
    """All that one task found; it crosses from the worker to the journal.

    Args:
        found: (kind, group, file number, JSON-able body), for the reader's later stages.
        samples: Manifest rows, in the order of the task's arrays.
        words: (keyed hash, length) of names and ids that must not appear in a path.
        notes: Counts worth telling.
    """

    found: list[tuple[str, str, int, Any]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    words: set[tuple[str, int]] = field(default_factory=set)
    notes: dict[str, int] = field(default_factory=dict)


class Journal:
    """The file, opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "arrays").mkdir(exist_ok=True)
        self._db = sqlite3.connect(folder / "journal.db", isolation_level=None)
        # Safe against kill -9; a power cut may lose it, and then ingest starts again.
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.executescript(TABLES)

    def close(self) -> None:
        self._db.close()

    def done(self, task: str) -> bool:
        return self._db.execute("SELECT 1 FROM done WHERE task = ?", (task,)).fetchone() is not None

    def record(self, task: str, outcome: Outcome) -> None:
        """Keep one task's outcome, all of it or nothing."""
        self._db.execute("BEGIN")
        self._db.execute("INSERT INTO done VALUES (?)", (task,))
        self._db.executemany("INSERT INTO found VALUES (?, ?, ?, ?)", ((k, g, f, json.dumps(b)) for k, g, f, b in outcome.found))
        self._db.executemany("INSERT INTO rejected VALUES (?, ?, ?, ?)", ((r.file, r.reason, r.offset, r.skipped) for r in outcome.rejected))
        self._db.executemany(
            "INSERT INTO samples VALUES (?, ?, ?, ?)", ((s["sample_id"], task, i, json.dumps(s)) for i, s in enumerate(outcome.samples))
        )
        self._db.executemany("INSERT OR IGNORE INTO words VALUES (?, ?)", sorted(outcome.words))
        self._db.executemany("INSERT INTO notes VALUES (?, ?)", sorted(outcome.notes.items()))
        self._db.execute("COMMIT")

    def record_once(self, task: str, outcome: Outcome) -> None:
        """`record`, unless an earlier run did."""
        if not self.done(task):
            self.record(task, outcome)

    def groups(self, kind: str) -> list[str]:
        """All groups of one kind of finding, sorted."""
        return [group for (group,) in self._db.execute("SELECT DISTINCT grp FROM found WHERE kind = ? ORDER BY grp", (kind,))]

    def found(self, kind: str, group: str) -> list[tuple[int, Any]]:
        """(file number, body) of one group, by file."""
        rows = self._db.execute("SELECT file, body FROM found WHERE kind = ? AND grp = ? ORDER BY file, body", (kind, group))
        return [(file, json.loads(body)) for file, body in rows]

    def alike(self, kind: str) -> int:
        """How many groups of one kind of finding hold findings that differ."""
        query = "SELECT COUNT(*) FROM (SELECT 1 FROM found WHERE kind = ? GROUP BY grp HAVING COUNT(DISTINCT body) > 1)"
        return self._db.execute(query, (kind,)).fetchone()[0]

    def rejected(self) -> Iterator[Rejected]:
        """One for each file and reason, sorted."""
        query = "SELECT file, reason, MIN(offset), MIN(skipped) FROM rejected GROUP BY file, reason, offset ORDER BY file, reason, offset"
        for file, reason, offset, skipped in self._db.execute(query):
            yield Rejected(file, reason, offset, bool(skipped))

    def reasons(self, unit: Unit) -> list[tuple[str, int, bool]]:
        """(reason, units, whether they were only skipped), the commonest first and what was skipped last.

        A unit that was refused for several reasons counts once, as damage if any of them is, so that the counts add up.
        """
        query = """SELECT substr(told, 2), COUNT(*) AS n, substr(told, 1, 1) AS skipped
            FROM (SELECT MIN(skipped || reason) AS told FROM rejected GROUP BY file, iif(?, offset, 0))
            GROUP BY told ORDER BY skipped, n DESC, told"""
        return [(reason, n, skipped == "1") for reason, n, skipped in self._db.execute(query, (unit == "row",))]

    def refused(self, unit: Unit) -> int:
        """Files, or rows and files of one row each, that gave no sample; with those that were only skipped."""
        return sum(n for _, n, _ in self.reasons(unit))

    def damaged(self, unit: Unit) -> int:
        """`refused` without what was only skipped."""
        return sum(n for _, n, skipped in self.reasons(unit) if not skipped)

    def count(self) -> int:
        """How many samples there are."""
        return self._db.execute("SELECT COUNT(*) FROM samples").fetchone()[0]

    def collisions(self) -> int:
        """Samples whose id another one has already."""
        return self._db.execute("SELECT COUNT(*) - COUNT(DISTINCT sample_id) FROM samples").fetchone()[0]

    def samples(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """(task, place, row) by sample_id. An id that stands there twice is for the caller to refuse: see `collisions`."""
        for task, place, row in self._db.execute("SELECT task, place, row FROM samples ORDER BY sample_id, task, place"):
            yield task, place, json.loads(row)

    def words(self) -> set[tuple[str, int]]:
        return set(self._db.execute("SELECT hash, length FROM words"))

    def notes(self) -> dict[str, int]:
        return dict(self._db.execute("SELECT name, SUM(n) FROM notes GROUP BY name ORDER BY name"))

    def arrays_of(self, task: str) -> Path:
        return arrays_path(self.folder, task)


def arrays_path(folder: Path, task: str) -> Path:
    """Where the arrays of one task lie."""
    return folder / "arrays" / task


def pieces(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of at most `size`."""
    piece: list[Any] = []
    for item in items:
        piece.append(item)
        if len(piece) == size:
            yield piece
            piece = []
    if piece:
        yield piece
