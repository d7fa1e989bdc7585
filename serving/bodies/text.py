"""Text tables as other people send them: bounded before anything splits them."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator

from components.core.imaging.errors import NotUsable
from components.core.text_table import UTF16, Lines
from serving.bodies.body import Body

MOST_LINE = 65_536  # bytes
MOST_LINES = 2_000_000


def text(body: Body) -> io.TextIOWrapper:
    """The whole content as text; bytes that are not UTF-8 become U+FFFD.

    Raises:
        NotUsable: A line is longer than 65,536 bytes, there are more than two million, or it is no text.
    """
    content = body.file()
    data = content if isinstance(content, bytes) else content.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise NotUsable(UTF16)
    if b"\0" in data[:MOST_LINE]:
        raise NotUsable("not text")
    if b"\r" in data and b"\n" not in data:
        data = data.replace(b"\r", b"\n")
    if data.count(b"\n") > MOST_LINES:
        raise NotUsable("more than two million lines")
    here = 0
    while here < len(data):
        end = data.find(b"\n", here, here + MOST_LINE + 1)
        if end < 0:
            if len(data) - here > MOST_LINE:
                raise NotUsable("a line longer than 65,536 bytes")
            break
        here = end + 1
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", errors="replace")


def table(body: Body, most: int) -> tuple[str, Iterator[list[str]]]:
    """The decimal mark, and the rows that are not empty. Raises NotUsable as `text`, and where it is no CSV table or has over `most` rows."""
    lines = Lines(text(body))
    return lines.dialect.decimal, _rows(lines, most)


def _rows(lines: Lines, most: int) -> Iterator[list[str]]:
    found = 0
    with lines:
        try:
            for row in csv.reader(lines):
                if row:
                    found += 1
                    if found > most:
                        raise NotUsable(f"more than {most} rows")
                    yield row
        except csv.Error:
            raise NotUsable("not a CSV table") from None
