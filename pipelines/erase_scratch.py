"""`DXFLOW_HOME/scratch`: files of requests that are at work, and what a kill left of them. Whose they are cannot be told, so all that nobody holds
goes."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from pathlib import Path

from components.core.atomic import alive

NUMBER = re.compile(r"(?<![0-9A-Za-z])[0-9]{1,7}(?![0-9A-Za-z])")


def sweep(folder: Path, *, dry: bool) -> list[str]:
    """Remove every entry that no living process holds; returns their names, sorted.

    An entry is held while a process has a lock (flock) on it, on anything in it or on `<entry>.lock`, or while its name bears the id of a process
    that runs here.
    """
    gone = []
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if _held(entry):
            continue
        gone.append(entry.name)
        if dry:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    return gone


def _held(entry: Path) -> bool:
    if any(alive(int(number)) for number in NUMBER.findall(entry.name) if int(number) > 1):
        return True
    owner = entry.with_name(entry.name.removesuffix(".lock"))  # a lock file goes with what it locks
    near = [owner, owner.with_name(f"{owner.name}.lock")]
    return any(_locked(path) for path in (*near, *(owner.rglob("*") if owner.is_dir() and not owner.is_symlink() else ())))


def _locked(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:  # gone, a link, or a socket
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
