"""Text tables as spreadsheets and loggers write them: what separates the columns, what marks decimals, how lines end. Ingest and server share it.

    separator   comma, semicolon or tab: what gives the first line the most columns; or what Excel's own first line `sep=;` says
    decimals    points; commas where another character separates and the first rows hold numbers with commas. One table uses one mark: a number
                with the other one is no number, since 1.234 may mean 1234 there
    lines       end with LF, CR LF or CR; the last one needs no end
    bytes       UTF-8, with or without a mark at the beginning

What comes out is a table with commas, so that whoever reads it needs to know of one form only.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TextIO

from components.core.imaging.errors import NotUsable

SEPARATORS = ",;\t"
HEAD = 1 << 16  # characters that the decimal mark is told by
UTF16 = "a table in UTF-16; allowed: UTF-8 (in Excel: CSV UTF-8)"
_SEP = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Dialect:
    """`skipped` lines stand before the first one of the table: Excel's `sep=`."""

    separator: str = ","
    decimal: str = "."
    skipped: int = 0


def named_separator(line: str) -> str | None:
    """What Excel's line `sep=;` names; None for any other line."""
    found = _SEP.fullmatch(line.strip("\r\n"))
    return found[1] if found else None


def separator_of(line: str) -> str | None:
    """What separates the columns of a first line; None where there is one column."""
    try:
        columns = {one: len(next(csv.reader([line], delimiter=one), [])) for one in SEPARATORS}
    except csv.Error:  # told where the rows are read
        return None
    best = max(SEPARATORS, key=columns.__getitem__)
    return best if columns[best] > 1 else None


def decimal_of(rows: Iterable[list[str]]) -> str:
    """The decimal mark of rows that something else than commas separates."""
    return "," if any(_COMMA.fullmatch(word.strip()) for row in rows for word in row) else "."


def number(text: str, decimal: str = ".") -> float | None:
    """The number that a word is, or None; nan and inf are numbers that are not finite."""
    word = text.strip()
    if decimal == ",":
        word = word.replace(".", "_").replace(",", ".")
    if _NUMBER.fullmatch(word) or _NOT_FINITE.fullmatch(word):
        return float(word)
    return None


class Lines:
    """The lines of a table with commas, and its dialect; closes the handle that it is given. Raises NotUsable for UTF-16, csv.Error as csv does.

    Args:
        handle: Text, with line ends of any kind.
    """

    def __init__(self, handle: TextIO) -> None:
        self._handle = handle
        head = handle.read(HEAD)
        if "\0" in head:
            raise NotUsable(UTF16)
        self._head = io.StringIO(head + handle.readline())
        first = self._head.readline()
        named = named_separator(first)
        if named is None:
            self._head.seek(0)
        start = self._head.tell()
        separator = named or separator_of(first) or ","
        rows = csv.reader(io.StringIO(self._head.read()), delimiter=separator)
        next(rows, None)
        try:
            decimal = decimal_of(rows) if separator != "," else "."
        except csv.Error:  # told where the rows are read
            decimal = "."
        self._head.seek(start)
        self.dialect = Dialect(separator, decimal, int(named is not None))

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._handle.close()

    def __iter__(self) -> Iterator[str]:
        plain = (line for source in (self._head, self._handle) for line in source)
        if self.dialect.separator == ",":
            return plain
        return self._with_commas(plain)

    def _with_commas(self, lines: Iterator[str]) -> Iterator[str]:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        for row in csv.reader(lines, delimiter=self.dialect.separator):
            writer.writerow(row)
            yield out.getvalue()
            out.seek(0)
            out.truncate()
