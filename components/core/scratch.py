"""`DXFLOW_HOME/scratch`: the one room of files that live as long as a piece of work, of patients as a rule, so not in a folder that everybody shares.

    scratch/<what>-<random>         a folder of one piece of work (0700)
    scratch/<what>-<random>.lock    locked (flock) while that is at work; the kernel lets go of it however the process ends

A kill leaves both; whoever begins the next piece of work, or serves, removes what has no owner any more.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.core.atomic import still_named, take_lock
from components.core.home import home

LOCK = ".lock"


@contextmanager
def room(what: str) -> Iterator[Path]:
    """An empty folder, for its owner alone, that is gone when the block ends.

    Args:
        what: A word for its name, of the product's own: never of a request.

    Raises:
        OSError: The home cannot be written.
    """
    sweep()
    top = _top()
    top.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder, lock = _locked(top, what)
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_name(folder.name + LOCK).unlink(missing_ok=True)
        os.close(lock)


def sweep(*, dry: bool = False) -> list[str]:
    """Remove what killed processes left, and whatever else lies there without a lock; returns the names, sorted. `dry`: tell, and leave it."""
    gone: list[str] = []
    for name in sorted({entry.name.removesuffix(LOCK) for entry in _top().iterdir()} if _top().is_dir() else ()):
        entry = _top() / name
        path = entry.with_name(name + LOCK)
        try:
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:  # a room's lock is there before its folder and goes after it: this one is nobody's, or gone meanwhile
            if entry.exists() or entry.is_symlink():
                gone.append(name)
                _remove(entry, dry)
            continue
        except OSError:
            continue
        try:
            if take_lock(lock) and still_named(path, lock):
                gone.append(name)
                _remove(entry, dry)
                _remove(path, dry)
        finally:
            os.close(lock)
    return gone


def _remove(path: Path, dry: bool) -> None:
    if dry:
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _top() -> Path:
    return home() / "scratch"


def _locked(top: Path, what: str) -> tuple[Path, int]:
    """A new name, and its lock: held before the folder is there, so that no folder is ever without one."""
    while True:
        folder = top / f"{what}-{secrets.token_hex(8)}"
        path = folder.with_name(folder.name + LOCK)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        if take_lock(lock) and still_named(path, lock):  # else somebody's `sweep` came between
            return folder, lock
        os.close(lock)
