"""Where packages and reports live: a folder, or a prefix in a bucket of any S3 server, behind one contract.

    file      put_file, get_file, open_read    SHA-256 kept beside the object and verified before a byte of it is used
    folder    put_folder, get_folder           `<key>/.dxflow.json` {"files": {path: sha256}}, written last, read first

A half-written object or folder is never seen through this contract. Keys are relative paths with "/" between their parts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO
from urllib.parse import unquote, urlsplit

from components.core.atomic import PARTIAL, atomic_dir, atomic_file
from components.core.errors import DataError, SpecError
from components.core.home import home

MANIFEST = ".dxflow.json"
SUMS = ".dxflow-sha256"
CHUNK = 1 << 20
IN_MEMORY = 16 << 20
AT_ONCE = 4


@dataclass(frozen=True)
class Entry:
    """One stored object.

    Args:
        key: Relative to the store.
        size: In bytes.
        fingerprint: Changes when the content changes; comparable within one store only.
    """

    key: str
    size: int
    fingerprint: str


class Store(ABC):
    """The contract; `open_store` makes one.

    Raises:
        DataError: A key is absent, or its content is not what was stored.
        SpecError: A key or URI is not allowed.
        ServiceError: The store is away, refuses, or is not there.
    """

    uri: str

    @abstractmethod
    def _put(self, local: Path, key: str, sha256: str) -> None:
        """Store a file so that it appears whole or not at all."""

    @abstractmethod
    def _read(self, key: str, sink: Hashing) -> tuple[str, ...]:
        """Write all of an object's bytes to `sink`.

        Returns:
            The SHA-256 that it was stored with; several, of which one must hold; or none for an object that another tool wrote.
        """

    @abstractmethod
    def _list(self, prefix: str) -> Iterator[Entry]: ...

    @abstractmethod
    def _holds(self, key: str) -> bool: ...

    @abstractmethod
    def _delete(self, key: str) -> None:
        """Remove one object; absent is fine."""

    def put_file(self, local: str | Path, key: str) -> str:
        """Store one file under `key`, replacing what was there. Returns its URI."""
        self._put(_existing(Path(local)), checked_key(key), file_sha256(local))
        return self._uri(key)

    def get_file(self, key: str, local: str | Path, *, foreign: bool = False) -> None:
        """Fetch one object; `local` takes its name only after the checksum held.

        Args:
            foreign: Also take an object that another tool wrote, which has no checksum; then only its length is verified.
        """
        checked_key(key)
        with atomic_file(local) as partial, open(partial, "wb") as sink:
            self._fetch(key, sink, foreign=foreign)

    def open_read(self, key: str, *, foreign: bool = False) -> BinaryIO:
        """A seekable handle on an object that was fetched and verified; up to 16 MiB are held in memory, more in a temporary file."""
        checked_key(key)
        spool = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - the caller closes it
        try:
            self._fetch(key, spool, foreign=foreign)
        except BaseException:
            spool.close()
            raise
        spool.seek(0)
        return spool  # type: ignore[return-value]

    def copy_to(self, key: str, sink: IO[bytes]) -> None:
        """Write one object, also of another tool, to `sink` as it comes; what `sink` raises ends it. Nothing is verified before the end."""
        self._fetch(checked_key(key), sink, foreign=True)

    def put_folder(self, local: str | Path, key: str) -> str:
        """Store every file under `local` (no links, no empty folders); returns the URI.

        The same content again costs a listing and one small read. Other content: the old folder is gone before the first new file is
        written, so that a reader meets the old, nothing, or the new.
        """
        key, local = checked_key(key), Path(local)
        manifest = folder_manifest(local)
        text = json.dumps({"files": manifest}, sort_keys=True, indent=1)
        if {e.key: e.size for e in self._list(f"{key}/")} == {f"{key}/{MANIFEST}": len(text)} | {
            f"{key}/{p}": (local / p).stat().st_size for p in manifest
        }:
            with suppress(DataError):  # a damaged manifest is replaced
                if self._manifest(key) == manifest:
                    return self._uri(key)
        self._delete(f"{key}/{MANIFEST}")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda path: self._put(local / path, f"{key}/{path}", manifest[path]), manifest))
        for entry in list(self._list(f"{key}/")):
            if entry.key.removeprefix(f"{key}/") not in manifest:
                self._delete(entry.key)
        self._put_text(text, f"{key}/{MANIFEST}")
        return self._uri(key)

    def get_folder(self, key_or_uri: str, local: str | Path) -> None:
        """Fetch a folder that `put_folder` completed; `local` appears when every file is there and verified."""
        key = self.key_of(key_or_uri)
        if not self._holds(f"{key}/{MANIFEST}"):
            raise DataError("no such folder in the store, or it was never completed", where=self._uri(key))
        manifest = self._manifest(key)
        with atomic_dir(local) as folder:

            def fetch(path: str) -> None:
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "wb") as sink:
                    self._fetch(f"{key}/{path}", sink, expected=manifest[path])

            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(fetch, manifest))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Objects whose key starts with `prefix`, in ascending order of the key's bytes."""
        if prefix:
            checked_key(prefix.rstrip("/") or "/")
        return self._list(prefix)

    def exists(self, key: str) -> bool:
        """Whether `key` is a stored object or a completed folder."""
        return self._holds(checked_key(key)) or self._holds(f"{key}/{MANIFEST}")

    def delete(self, key: str) -> None:
        """Remove an object, or a folder with everything in it; absent is fine."""
        self._delete(f"{checked_key(key)}/{MANIFEST}")
        for entry in list(self._list(f"{key}/")):
            self._delete(entry.key)
        self._delete(key)

    def key_of(self, key_or_uri: str) -> str:
        """The key within this store of a key or of a URI that `put_folder` returned."""
        if key_or_uri.startswith(f"{self.uri}/"):
            rest = key_or_uri[len(self.uri) + 1 :]
            return checked_key(unquote(rest) if self.uri.startswith("file:") else rest)
        if "://" in key_or_uri:
            raise SpecError("URI of another store", where=key_or_uri, allowed=f"{self.uri}/...")
        return checked_key(key_or_uri)

    def _uri(self, key: str) -> str:
        return f"{self.uri}/{key}"

    def _fetch(self, key: str, sink: IO[bytes], *, expected: str | None = None, foreign: bool = False) -> None:
        hashing = Hashing(sink)
        stored = self._read(key, hashing)
        if not stored and not expected:
            if foreign:
                return
            raise DataError("object has no checksum: another tool wrote it", where=self._uri(key))
        if hashing.sha256 not in ((expected,) if expected else stored):
            raise DataError("stored content does not have the checksum that it was stored with", where=self._uri(key))

    def _put_text(self, text: str, key: str) -> None:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            self._put(Path(handle.name), key, file_sha256(handle.name))

    def _manifest(self, key: str) -> dict[str, str]:
        where = self._uri(f"{key}/{MANIFEST}")
        try:
            with self.open_read(f"{key}/{MANIFEST}") as handle:
                files = json.load(handle)["files"]
            for path, digest in files.items():
                if checked_key(path) and not isinstance(digest, str):
                    raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError, SpecError):
            raise DataError("not a folder's manifest", where=where) from None
        return files


class Hashing:
    """A sink that hashes what passes."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink, self._digest = sink, hashlib.sha256()

    def write(self, block: bytes) -> int:
        self._digest.update(block)
        return self._sink.write(block)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def open_store(uri: str | None = None) -> Store:
    """The store at `uri`: a folder (a path or `file://`), or `s3://bucket/prefix`.

    Args:
        uri: None: the environment variable `DXFLOW_STORE`, else `home()/store`.

    Raises:
        SpecError: Neither a folder nor an S3 address.
        ServiceError: `s3://` without credentials, or with an endpoint or certificate file that cannot be used.
    """
    uri = uri or os.environ.get("DXFLOW_STORE") or str(home() / "store")
    scheme = uri.split("://", 1)[0] if "://" in uri else ""
    if scheme == "s3":
        from components.core.storage_s3 import S3Store

        return S3Store.from_environment(uri)
    if scheme not in ("", "file"):
        raise SpecError("no such kind of store", where="DXFLOW_STORE", got=f"'{scheme}://'", allowed="a folder, file:///folder, s3://bucket/prefix")
    from components.core.storage_folder import FolderStore

    return FolderStore(Path(unquote(urlsplit(uri).path) if scheme else uri).absolute())


def checked_key(key: str) -> str:
    """`key` itself, if it can name an object in every kind of store. Raises SpecError otherwise."""
    parts = key.split("/")
    wrong = (
        not key
        or len(key.encode()) > 900
        or bool(re.search(r"[\x00-\x1f\x7f\\]", key))
        or any(part in ("", ".", "..") or part.endswith(PARTIAL) or len(part.encode()) > 200 for part in parts)
        or parts[0] == SUMS
    )
    if wrong:
        raise SpecError(
            "not a key of a store", got=repr(key[:80]), allowed="parts joined by '/', none of them empty, '.', '..' or ending in '.partial'"
        )
    return key


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(_existing(Path(path)), "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def folder_manifest(folder: Path) -> dict[str, str]:
    """{relative path: SHA-256} of every file, sorted."""
    if not folder.is_dir():
        raise DataError("not a folder", where=str(folder))
    files: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise DataError("a link cannot be stored", where=str(path))
        if path.is_file():
            name = checked_key(PurePosixPath(path.relative_to(folder)).as_posix())
            if name != MANIFEST:  # a folder that came from a store holds none, since get_folder does not write it
                files[name] = file_sha256(path)
    if not files:
        raise DataError("an empty folder cannot be stored", where=str(folder))
    return files


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DataError("not a file", where=str(path))
    return path
