"""Where the files come from: a folder, a single file, `s3://bucket/prefix`, or `package:<package>/<path>` for real data that an installed
Python package ships; listed once, opened one at a time.

Links are followed, to files and to folders, and what a listing says of a file is said of what opening it reads: of a link's target. Every folder
is read once, under its own name where it lies in the source, else under the first link to it; so there are no loops and no file comes twice.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import posixpath
import stat
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from components.core.errors import DataError, SpecError
from components.core.imaging.errors import NotUsable
from components.core.package_data import ALLOWED, local_path


@dataclass(frozen=True)
class Item:
    """One file: path relative to the source, size in bytes (below 0 where it cannot be opened), and what changes when its content changes."""

    path: str
    size: int
    fingerprint: str


@dataclass(frozen=True)
class Links:
    """Links to folders and files of a source, and what could not be followed.

    Args:
        folders: Links to folders that were followed.
        leaving: Of these and of links to files, those whose target lies outside of the source.
        unreadable: Folders, linked or not, that may not be read: nothing is known of their files.
        again: {link: folder} of links to a folder that is read already under that name; both are paths in the source.
    """

    folders: int = 0
    leaving: int = 0
    unreadable: int = 0
    again: dict[str, str] = field(default_factory=dict)


@dataclass
class Source:
    """A listed source; it travels to worker processes, which open files by their number.

    Args:
        root: Folder or `s3://` address; for a single file, its folder.
        items: Sorted by path, so that a file's number is the same in every process and after a kill.
    """

    root: str
    items: list[Item]
    links: Links = field(default_factory=Links)
    _store: Any = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "items": self.items, "links": self.links, "_store": None}

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
        """The file that a table or a header calls `path`, or None.

        Exactly this name, else the only one that is the same text in another Unicode form: a Mac writes "ü" as two characters, a table as one.

        Raises:
            NotUsable: Several files have this name, in other forms than asked for.
        """
        if not hasattr(self, "_numbers"):
            self._numbers = {item.path: n for n, item in enumerate(self.items)}
        for name in (path, self._own(path)):
            if (found := self._numbers.get(name)) is not None:
                return found
        if path.isascii():  # one form only; and then no file can have it in another one
            return None
        if not hasattr(self, "_composed"):
            self._composed: dict[str, list[int]] = defaultdict(list)
            for n, item in enumerate(self.items):
                if not item.path.isascii():
                    self._composed[unicodedata.normalize("NFC", item.path)].append(n)
        alike = self._composed.get(unicodedata.normalize("NFC", self._own(path)), [])
        if len(alike) > 1:
            raise NotUsable("a name that several files have in different Unicode forms")
        return alike[0] if alike else None

    def _own(self, path: str) -> str:
        """`path` with links to folders replaced by the names under which these were read."""
        parts = path.split("/")
        n = 1
        while self.links.again and n < len(parts):
            folder = self.links.again.get("/".join(parts[:n]))
            if folder is None:
                n += 1
            else:  # shorter, or the name of a folder, which no link stands in
                parts, n = [*filter(None, folder.split("/")), *parts[n:]], 1
        return "/".join(parts)

    def why_absent(self, path: str) -> str:
        """What may be behind a path of a table that names no file, as the end of a sentence; "" where nothing is known."""
        if not hasattr(self, "_basenames"):
            self._basenames = {unicodedata.normalize("NFC", posixpath.basename(item.path)) for item in self.items}
            self._stems = {posixpath.splitext(name)[0] for name in self._basenames}
        name = unicodedata.normalize("NFC", posixpath.basename(path))
        if name in self._basenames:
            return ": a file of this name lies in another folder"
        if name in self._stems:
            return ": the name lacks its suffix"
        return ""


def open_source(source: str) -> Source:
    """List a source. Raises DataError when it is absent or holds no file."""
    links = Links()
    if source.startswith("s3://"):
        from components.core.storage import open_store

        items = [Item(entry.key, entry.size, entry.fingerprint) for entry in open_store(source).list("")]
        root = source
    else:
        path = local_path(source)
        if not path.exists():
            raise DataError("no such source", where="--source", got=source, allowed=ALLOWED)
        root = str(path.absolute().parent if path.is_file() else path.absolute())
        if path.is_file():
            items = [_item(root, path.name)]
        else:
            names, links = _names(root)
            items = [_item(root, name) for name in names]
    if not items:
        raise DataError("the source holds no file", where="--source", got=source)
    return Source(root, sorted(items, key=lambda item: item.path.encode("utf-8", "surrogateescape")), links)


def _names(root: str) -> tuple[list[str], Links]:
    """Relative paths of everything that is not a folder. Folders that lie in the source come first, so that they keep their own names."""
    found: list[str] = []
    real = os.path.realpath(root)
    read: dict[tuple[int, int], str] = {}  # folders by device and inode
    waiting = [""]
    linked: list[tuple[int, bytes, str, bool]] = []  # a heap of links and of folders below them: the nearest first, so that it has its own name
    again: dict[str, str] = {}
    folders = leaving = unreadable = 0

    def leaves(name: str) -> bool:
        return not Path(os.path.realpath(os.path.join(root, name))).is_relative_to(real)

    while waiting or linked:
        below = not waiting
        place, by_link = heapq.heappop(linked)[2:] if below else (waiting.pop(), False)
        try:
            facts = os.stat(os.path.join(root, place))
            identity = facts.st_dev, facts.st_ino
            if identity in read:
                again[place] = read[identity]
                continue
            with os.scandir(os.path.join(root, place)) as listing:
                entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        except OSError:
            if not place:
                raise DataError("a source that cannot be read", where="--source") from None
            unreadable += 1
            continue
        read[identity] = place
        folders += by_link
        leaving += by_link and leaves(place)
        for entry in entries:
            name = f"{place}/{entry.name}" if place else entry.name
            link = entry.is_symlink()
            if not os.path.isdir(entry):  # not entry.is_dir(): a link to itself would raise
                found.append(name)
                leaving += link and leaves(name)
            elif link or below:
                heapq.heappush(linked, (name.count("/"), os.fsencode(name), name, link))
            else:
                waiting.append(name)
    return found, Links(folders, leaving, unreadable, again)


def _item(root: str, name: str) -> Item:
    """What `stat` says of the file that opening `name` reads: any of it changes when the content does, also where size and time were kept."""
    try:
        facts = os.stat(os.path.join(root, name))
    except OSError:  # a dangling link, or a file that has just gone
        return Item(name, -1, "absent")
    if not stat.S_ISREG(facts.st_mode):  # opening a pipe would wait for ever
        return Item(name, -1, "irregular")
    return Item(name, facts.st_size, f"{facts.st_mtime_ns}-{facts.st_ctime_ns}-{facts.st_dev}-{facts.st_ino}")
