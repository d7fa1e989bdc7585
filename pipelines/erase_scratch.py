"""`DXFLOW_HOME/scratch`: files of requests that are at work, and what a kill left of them. Whose they are cannot be told, so all that nobody holds
goes."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from components.core.atomic import alive

NUMBER = re.compile(r"(?<![0-9A-Za-z])[0-9]{1,7}(?![0-9A-Za-z])")
LOCK = ".lock"


def sweep(folder: Path, *, dry: bool) -> list[str]:
    """Remove every entry that no living process holds; returns their names, sorted.

    An entry is held while a process has a lock (flock) on it, on anything in it or on `<entry>.lock`, or while its name bears the id of a process
    that runs here. A lock goes with what it locks, and is ours meanwhile.
    """
    gone = []
    for name in sorted({entry.name.removesuffix(LOCK) for entry in folder.iterdir()} if folder.is_dir() else ()):
        entry = folder / name
        with _ours(entry) as free:
            if not free:
                continue
            gone.append(name)
            if dry:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
            entry.with_name(name + LOCK).unlink(missing_ok=True)
    return gone


@contextmanager
def _ours(entry: Path) -> Iterator[bool]:
    """Whether nobody holds it; within the block nobody else can."""
    if any(alive(int(number)) for number in NUMBER.findall(entry.name) if int(number) > 1):
        yield False
        return
    near = [entry.with_name(entry.name + LOCK), entry, *(entry.rglob("*") if entry.is_dir() and not entry.is_symlink() else ())]
    with ExitStack() as stack:
        yield all(_locked(path, stack) for path in near)


def _locked(path: Path, stack: ExitStack) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:  # gone, a link, or a socket: nobody locks that
        return True
    stack.callback(os.close, handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
