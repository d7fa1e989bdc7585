"""The store that is a folder.

<root>/<key>                      the object; it takes its name by a rename
<root>/.dxflow-sha256/<key>       its SHA-256; two lines, old and new, while it is being replaced
<root>/.dxflow-sha256/.lock       held shared to open an object with its checksum, held alone to replace one
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from components.core.atomic import PARTIAL, write_text
from components.core.errors import DataError, ServiceError, SpecError
from components.core.storage import CHUNK, SUMS, Entry, Hashing, Store


class FolderStore(Store):
    """A folder, made at the first write."""

    def __init__(self, root: Path) -> None:
        self.root, self.uri = root, root.as_uri()

    def _put(self, local: Path, key: str, sha256: str) -> None:
        final = self._path(key)
        with _disk(self._uri(key)):
            with self._lock(alone=True):  # so that nobody prunes the folder before it holds a file
                final.parent.mkdir(parents=True, exist_ok=True)
                handle, name = tempfile.mkstemp(suffix=PARTIAL, dir=final.parent)
            try:
                with open(handle, "wb") as sink, open(local, "rb") as source:
                    shutil.copyfileobj(source, sink, CHUNK)
                    os.fchmod(sink.fileno(), 0o644)
                    sink.flush()
                    os.fsync(sink.fileno())
                with self._lock(alone=True):
                    write_text(self._sum(key), "\n".join((*self._sums(key), sha256)))
                    os.replace(name, final)
                    write_text(self._sum(key), sha256)
            finally:
                Path(name).unlink(missing_ok=True)

    def _read(self, key: str, sink: Hashing) -> tuple[str, ...]:
        try:
            with _disk(self._uri(key)):
                with self._lock(alone=False):
                    source, sums = open(self._path(key), "rb"), self._sums(key)  # noqa: SIM115 - closed below, outside the lock
                with source:
                    shutil.copyfileobj(source, sink, CHUNK)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise DataError("no such object in the store", where=self._uri(key)) from None
        return sums

    def _list(self, prefix: str) -> Iterator[Entry]:
        top = self.root / prefix.rpartition("/")[0]
        found = []
        for folder, folders, files in os.walk(top):
            here = Path(folder)
            if here == self.root:
                folders[:] = [name for name in folders if name != SUMS]
            found += [(here / name).relative_to(self.root).as_posix() for name in files if not name.endswith(PARTIAL)]
        for key in sorted((key for key in found if key.startswith(prefix)), key=str.encode):
            with suppress(FileNotFoundError):  # deleted while we walk
                status = (self.root / key).stat()
                sums = self._sums(key)
                yield Entry(key, status.st_size, sums[-1] if sums else f"{status.st_size}-{status.st_mtime_ns}")

    def _holds(self, key: str) -> bool:
        return self._path(key).is_file()

    def _delete(self, key: str) -> None:
        path = self._path(key)
        if not path.is_file():
            return
        with _disk(self._uri(key)), self._lock(alone=True):
            for gone, top in ((path, self.root), (self._sum(key), self.root / SUMS)):
                gone.unlink(missing_ok=True)
                with suppress(OSError):  # an empty folder would be in the way of an object of its name
                    for parent in gone.parents:
                        if parent == top:
                            break
                        parent.rmdir()

    def _uri(self, key: str) -> str:
        return (self.root / key).as_uri()

    def _path(self, key: str) -> Path:
        path = self.root / key
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise SpecError("key leads out of the store through a link", got=repr(key))
        return path

    def _sum(self, key: str) -> Path:
        return self.root / SUMS / key

    def _sums(self, key: str) -> tuple[str, ...]:
        try:
            return tuple(self._sum(key).read_text(encoding="utf-8").split())
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return ()

    @contextmanager
    def _lock(self, *, alone: bool) -> Iterator[None]:
        path = self.root / SUMS / ".lock"
        if alone:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not path.exists():  # a read-only copy of a store
            yield
            return
        with open(path, "ab" if alone else "rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield


@contextmanager
def _disk(where: str) -> Iterator[None]:
    """A full or forbidden disk, as one line."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise
    except OSError as error:
        raise ServiceError("the store's folder cannot be used", where=where, got=error.strerror) from None
