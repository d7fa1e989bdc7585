"""The lines of a CSV table in a source."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from components.core.errors import DataError
from components.core.text_table import Lines
from components.ingest.source import Source


def lines_of(source: Source, table: int) -> Lines:
    """File `table` as a table with commas, whatever its dialect; bytes that are not UTF-8 become U+FFFD. Raises DataError for UTF-16."""
    return Lines(io.TextIOWrapper(source.open(table), encoding="utf-8-sig", errors="replace"))


def rows_of(source: Source, table: int) -> Iterator[tuple[int, list[str]]]:
    """(line, values) of every row below the header that is not empty. Raises DataError where it is not CSV."""
    with lines_of(source, table) as handle:
        lines = csv.reader(handle)
        try:
            next(lines, None)
            for row in lines:
                if row:
                    yield lines.line_num + handle.dialect.skipped, row
        except csv.Error:
            raise DataError("not a CSV table", where="--source") from None
