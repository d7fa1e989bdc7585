"""Text tables as other people send them: bounded before anything splits them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from components.core.imaging.errors import NotUsable
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
    if b"\0" in data[:MOST_LINE]:
        raise NotUsable("not text")
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
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="", errors="replace")


def rows(body: Body, most: int) -> Iterator[list[str]]:
    """The rows that are not empty. Raises NotUsable as `text`, and where it is no CSV table or has over `most` rows."""
    found = 0
    with text(body) as handle:
        try:
            for row in csv.reader(handle):
                if row:
                    found += 1
                    if found > most:
                        raise NotUsable(f"more than {most} rows")
                    yield row
        except csv.Error:
            raise NotUsable("not a CSV table") from None
