"""Files that lie twice in an export: byte for byte the same image is no damage, another image under the same UID is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractContextManager
from typing import BinaryIO, TypeVar

COPY = "a byte-equal copy of another file"
TWO_IN_ONE = "two images under one SOP instance UID"
Key = TypeVar("Key", bound=Hashable)
Opener = Callable[[Key], AbstractContextManager[BinaryIO]]


def sorted_out(files: Iterable[tuple[Key, str]], nameless: str, opened: Opener[Key]) -> tuple[set[Key], set[Key]]:
    """Copies, and files that contradict each other: every one whose UID another file has with other bytes.

    Args:
        files: (file, pseudonym of its SOP instance UID); of copies the first stays.
        nameless: The pseudonym of no UID at all: such files are told apart by nothing, and left alone.
        opened: Reads a file; only those whose UID occurs twice are read.
    """
    by_uid: dict[str, list[Key]] = {}
    for file, uid in files:
        if uid != nameless:
            by_uid.setdefault(uid, []).append(file)
    copies: set[Key] = set()
    contradicting: set[Key] = set()
    for group in by_uid.values():
        if len(group) > 1:
            digests = [digest(file, opened) for file in group]
            if len(set(digests)) > 1:
                contradicting.update(group)
            else:
                copies.update(group[1:])
    return copies, contradicting


def digest(file: Key, opened: Opener[Key]) -> bytes:
    """SHA-256 of a file's content."""
    found = hashlib.sha256()
    with opened(file) as handle:
        while block := handle.read(1 << 20):
            found.update(block)
    return found.digest()
