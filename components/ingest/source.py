"""Where the files come from: a folder, a single file, `s3://bucket/prefix`, or `package:<package>/<path>` for real data that an installed
Python package ships; listed once, opened one at a time."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from components.core.errors import DataError, SpecError
from components.core.package_data import ALLOWED, local_path


@dataclass(frozen=True)
class Item:
    """One file: path relative to the source, size in bytes, and what changes when its content changes."""

    path: str
    size: int
    fingerprint: str


@dataclass
class Source:
    """A listed source; it travels to worker processes, which open files by their number.

    Args:
        root: Folder or `s3://` address; for a single file, its folder.
        items: Sorted by path, so that a file's number is the same in every process and after a kill.
    """

    root: str
    items: list[Item]
    _store: Any = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "items": self.items, "_store": None}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all paths, sizes and fingerprints."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(f"{item.path}\0{item.size}\0{item.fingerprint}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    @property
    def bytes(self) -> int:
        return sum(item.size for item in self.items)

    def open(self, number: int) -> BinaryIO:
        """A seekable handle on file `number`. Raises OSError when it cannot be read, ServiceError when the store is away."""
        item = self.items[number]
        if not self.root.startswith("s3://"):
            return open(os.path.join(self.root, item.path), "rb")
        if self._store is None:
            from components.core.storage import open_store

            self._store = open_store(self.root)
        try:
            return self._store.open_read(item.path, foreign=True)
        except (DataError, SpecError):  # a checksum that does not hold, a name that no store of ours would give
            raise OSError("unreadable object") from None

    def number(self, path: str) -> int | None:
        """The file at `path`, or None."""
        if not hasattr(self, "_numbers"):
            self._numbers = {item.path: n for n, item in enumerate(self.items)}
        return self._numbers.get(path)


def open_source(source: str) -> Source:
    """List a source. Raises DataError when it is absent or holds no file."""
    if source.startswith("s3://"):
        from components.core.storage import open_store

        items = [Item(entry.key, entry.size, entry.fingerprint) for entry in open_store(source).list("")]
        root = source
    else:
        path = local_path(source)
        if not path.exists():
            raise DataError("no such source", where="--source", got=source, allowed=ALLOWED)
        root = str(path.absolute().parent if path.is_file() else path.absolute())
        items = [_item(root, path.name)] if path.is_file() else [_item(root, name) for name in _names(root)]
    if not items:
        raise DataError("the source holds no file", where="--source", got=source)
    return Source(root, sorted(items, key=lambda item: item.path.encode("utf-8", "surrogateescape")))


def _names(root: str) -> list[str]:
    """Relative paths of everything that is not a folder; links to folders are not followed, so there are no loops."""
    found: list[str] = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not os.path.islink(os.path.join(folder, name))]
        found.extend(os.path.relpath(os.path.join(folder, name), root) for name in files)
    return found


def _item(root: str, name: str) -> Item:
    try:
        facts = os.stat(os.path.join(root, name))
    except OSError:  # a dangling link, or a file that has just gone
        return Item(name, -1, "absent")
    if not stat.S_ISREG(facts.st_mode):  # opening a pipe would wait for ever
        return Item(name, -1, "irregular")
    return Item(name, facts.st_size, str(facts.st_mtime_ns))
