"""Files and folders that are either whole or absent, whatever kills the writer."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"


@contextmanager
def atomic_file(path: str | os.PathLike[str], *, private: bool = False) -> Iterator[Path]:
    """Yield a sibling path to write; it takes the name `path` only when the block ends without an error. `private`: for its owner alone (0600)."""
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(final)
    try:
        if private:  # whoever opens it to write keeps the mode that it was made with
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield partial
        with open(partial, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(partial, final)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty sibling folder to fill; it replaces `path` only when the block ends without an error."""
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(final)
    partial.mkdir()
    try:
        yield partial
        if final.exists():  # a folder cannot be replaced in one call; the old one steps aside first
            old = _partial(final)
            os.rename(final, old)
            os.rename(partial, final)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial(final: Path) -> Path:
    """A sibling's name that no other writer has: the process id tells who writes it, the token keeps containers apart, where ids repeat."""
    return final.with_name(f"{final.name}.{secrets.token_hex(4)}.{os.getpid()}{PARTIAL}")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file atomically, UTF-8."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def remove_partials(folder: str | os.PathLike[str]) -> int:
    """Delete what killed writers left under `folder`; returns how many entries went. A living process's partial stays."""
    count = 0
    for entry in sorted(Path(folder).rglob(f"*{PARTIAL}")):
        pid = next((part for part in entry.name.split(".")[::-1] if part.isdigit()), "")
        if not entry.exists() or (pid and alive(int(pid))):
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
        count += 1
    return count


def alive(pid: int) -> bool:
    """Whether a process of this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def take_lock(handle: int) -> bool:
    """Lock an open file for this process alone, unless another has it; the kernel lets go of it with the process."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def still_named(path: Path, handle: int) -> bool:
    """Whether `path` is still the file that is open: somebody may have removed it, or put another in its place, before the lock was taken."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False
