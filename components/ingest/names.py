"""What tables say under names that files repeat: found by the name as it is, else by the only one that differs in case alone."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Names(Generic[T]):
    """Values by names. Two names that differ in case are two; Unicode forms of one text are one."""

    def __init__(self) -> None:
        self._values: dict[str, list[T]] = defaultdict(list)
        self._folded: dict[str, set[str]] = defaultdict(set)

    def add(self, name: str, value: T) -> None:
        plain = unicodedata.normalize("NFC", name)
        self._values[plain].append(value)
        self._folded[plain.casefold()].add(plain)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def spelt(self, name: str) -> str:
        """The name that is meant by `name`; itself where none or several could be."""
        plain = unicodedata.normalize("NFC", name)
        alike = self._folded.get(plain.casefold(), set())
        return next(iter(alike)) if plain not in alike and len(alike) == 1 else plain

    def of(self, name: str) -> list[T]:
        """All values of the name that is meant, in the order in which they came."""
        return self._values.get(self.spelt(name), [])
