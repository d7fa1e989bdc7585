"""What the monitor keeps of single answers: late labels, and hashes of the answers of windows that are still open. Counts stay; they are nobody's."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.core.erasure import Ids
from components.core.errors import DataError, ServiceError
from components.monitor.late_labels import LabelStore
from components.monitor.sketch import hashes
from components.monitor.state import schema_of
from components.monitor.unknown_devices import without


def erase_labels(state: Path, ids: Ids, *, dry: bool) -> dict[str, int]:
    """Disease -> late labels of the patient's answers that went."""
    found: dict[str, int] = {}
    for folder in sorted(state.glob("*/labels")):
        count = sum(_named(path, ids.requests) for path in folder.glob("*.jsonl"))
        if count:
            found[folder.parent.name] = count if dry else LabelStore(folder, ()).erase(ids.requests)
    for path in sorted(state.glob("*/inbox/*.csv*")):  # a reader's verdict that the monitor has not taken, yet or at all: one answer a file
        if any(request in path.read_text(encoding="utf-8", errors="replace") for request in ids.requests):
            found[path.parents[1].name] = found.get(path.parents[1].name, 0) + 1
            if not dry:
                path.unlink()
    return found


def _named(path: Path, samples: frozenset[str]) -> int:
    return sum(json.loads(line)["sample"] in samples for line in path.read_text(encoding="utf-8").splitlines())


def erase_memory(state: Path, ids: Ids, *, dry: bool) -> dict[str, int]:
    """`<disease>/<database>` -> hashes of the patient's answers that went. Freed pages are overwritten, so that no byte of them stays.

    Raises:
        ServiceError: The monitor is at work. DataError: No database of the monitor.
    """
    return {f"{path.parent.name}/{path.name}": n for path in sorted(state.glob("*/*.db")) if (n := _forget(path, ids, dry=dry))}


def _forget(path: Path, ids: Ids, *, dry: bool) -> int:
    samples, patients = (hashes(sorted(values)) for values in (ids.requests, ids.keys))
    count = 0
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    try:
        connection.execute("pragma secure_delete = on")
        connection.execute("begin" if dry else "begin immediate")
        version = schema_of(connection, path)
        for start, blob in connection.execute("select start, ids from seen").fetchall():
            seen = np.frombuffer(blob, np.uint64)
            kept = seen[~np.isin(seen, samples)]
            if len(kept) < len(seen):
                count += len(seen) - len(kept)
                connection.execute("update seen set ids = ? where start = ?", (kept.tobytes(), start)) if not dry else None
        for start, device, blob, who, p in connection.execute("select start, device, ids, patients, probabilities from answer").fetchall():
            answers, whose = np.frombuffer(blob, np.uint64), np.frombuffer(who, np.uint64)
            kept = ~(np.isin(answers, samples) | np.isin(whose, patients))
            if not kept.all():
                count += int((~kept).sum())
                rows = np.frombuffer(p, np.float32).reshape(len(answers), -1)[kept]
                values = (answers[kept].tobytes(), whose[kept].tobytes(), rows.tobytes(), start, device)
                if not dry:
                    connection.execute("update answer set ids = ?, patients = ?, probabilities = ? where start = ? and device = ?", values)
        if version:
            count += _forget_waiting(connection, samples, patients, dry=dry)
        connection.execute("commit")
        if count and not dry:
            connection.execute("vacuum")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise ServiceError("the monitor is at work, try again", where=str(path)) from None
        raise DataError("the monitor's state cannot be opened", where=str(path), got=type(error).__name__) from None
    except sqlite3.DatabaseError:
        raise DataError("not a state of the monitor", where=str(path)) from None
    finally:
        connection.close()
    return count


def _forget_waiting(connection: sqlite3.Connection, samples: NDArray[np.uint64], patients: NDArray[np.uint64], *, dry: bool) -> int:
    count = 0
    for number, ids, who, events in connection.execute("select number, ids, patients, events from waiting").fetchall():
        answers, whose = np.frombuffer(ids, np.uint64), np.frombuffer(who, np.uint64)
        kept = ~(np.isin(answers, samples) | np.isin(whose, patients))
        count += int((~kept).sum())
        if not kept.all() and not dry:
            values = (answers[kept].tobytes(), whose[kept].tobytes(), without(events, ~kept), number)
            connection.execute("update waiting set ids = ?, patients = ?, events = ? where number = ?", values)
    return count
