"""MLflow's SQLite file, whole or absent: MLflow makes its tables one by one, and a kill among them left a file that no later start could open."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from components.core.atomic import atomic_file

PREFIX = "sqlite:///"
log = logging.getLogger("dxflow.registry")


@contextlib.contextmanager
def whole(address: str, make: Callable[[str], object]) -> Iterator[None]:
    """Within the block the file of `address` is there with all its tables, and nobody else opens it for the first time. Other addresses: nothing.

    Args:
        make: Called with another address when there is no file yet: makes all tables and the first experiment there.
    """
    if not address.startswith(PREFIX):
        yield
        return
    path = Path(address.removeprefix(PREFIX))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "w") as lock:  # two first clients at once, as in a comparison's branches, would each make half of it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists() and half_made(path):
            _set_aside(path)
        if not path.exists():
            with atomic_file(path) as partial:
                make(f"{PREFIX}{partial}")
        yield


def half_made(path: Path) -> bool:
    """Whether a kill ended MLflow while it made this file: it holds no experiment, which is made last and which nobody can delete."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute("SELECT count(*) FROM experiments").fetchone()[0] == 0
    except sqlite3.OperationalError as error:
        return error.sqlite_errorcode == sqlite3.SQLITE_ERROR  # no such table; a locked or unreadable file is another matter
    finally:
        connection.close()


def _set_aside(path: Path) -> None:
    """Nothing is in it that anybody wrote; kept all the same, under a name that says so."""
    n = next(n for n in range(1, 10_000) if not path.with_name(f"{path.name}.half-made-{n}").exists())
    for suffix in ("", "-journal", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{path}.half-made-{n}{suffix}")
    log.warning("the model registry's file was left half made by a kill, without anything in it; made anew")
