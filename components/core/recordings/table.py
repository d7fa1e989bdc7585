"""A recording in a text file, read piece by piece: columns by name, rows as numbers, and everything that breaks the flow of time.

The first lines may be `# key: value`; then come the names of the columns, then one row of numbers per sample. Commas, semicolons, tabs or
blanks separate them.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from components.core.imaging.errors import NotUsable
from components.core.spec import Recording

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
GAP = 1.5  # sample periods; more time than that between two rows is missing data
HEAD_LINES, LINE_CHARACTERS = 64, 65_536
ROWS = 65_536
FACTS = ("device", "manufacturer", "model", "software", "site", "acquired_at", "synthetic")
Floats = NDArray[np.float64]


@dataclass
class Stretch:
    """Rows without a break.

    Args:
        seconds: (n,) time of each row since the clock's zero.
        values: (n, channels) in the file's numbers.
        classes: (n,) class indices.
        starts: Whether it begins the flow anew (after a break) or goes on where the last one stopped.
    """

    seconds: Floats
    values: Floats
    classes: NDArray[np.int64]
    starts: bool


@dataclass
class Table:
    """One open file; `broken` collects what its rows lack as (reason, milliseconds).

    `labelled` False takes a file without the label column too: all its rows then belong to the experiment, as rows of the lowest class.
    """

    handle: io.TextIOBase
    rule: Recording
    order: tuple[str, ...]
    labelled: bool = True
    facts: dict[str, str] = field(default_factory=dict)
    broken: list[tuple[str, int]] = field(default_factory=list)
    period_s: float = 0.0
    _columns: list[str] = field(default_factory=list)
    _separator: str = ","

    def __post_init__(self) -> None:
        """Raises NotUsable without the columns that the spec names."""
        for _ in range(HEAD_LINES):
            line = self.handle.readline(LINE_CHARACTERS)
            if not line.startswith("#"):
                break
            key, _, value = line.lstrip("# ").partition(":")
            if key.strip().lower() in FACTS:
                self.facts[key.strip().lower()] = value.strip()
        else:
            raise NotUsable("no line of column names")
        self._separator = next((s for s in ",;\t" if s in line), " ")
        self._columns = self._split(line)
        if not self.labelled and self.rule.label in self._columns:
            self.labelled = True
        wanted = (self.rule.time, *self.rule.channels, *([self.rule.label] if self.labelled else []))
        if any(self._columns.count(name) != 1 for name in wanted):
            raise NotUsable("a column of the spec is missing")

    def _split(self, line: str) -> list[str]:
        names = line.split() if self._separator == " " else next(csv.reader([line], delimiter=self._separator))
        return [name.strip() for name in names]

    def stretches(self, rows: int = ROWS) -> Iterator[Stretch]:
        """Usable rows in order, at most `rows` at a time; what lies between goes to `broken`.

        Rows of a class that the spec does not name belong to no experiment: they end a stretch silently, as their channels may hold anything.
        """
        numbers = {float(text): self.order.index(name) for text, name in self.rule.classes.items()}
        unit = SECONDS[self.rule.time_unit]
        last: float | None = None  # time of the row before
        flowing = False
        for raw in self._pieces(rows):
            time, values, label = raw[:, 0] * unit, raw[:, 1:-1], raw[:, -1]
            newest = np.fmax.accumulate(np.concatenate([[-np.inf if last is None else last], time]))
            before = newest[:-1]
            if not self.period_s:
                self.period_s = self._period(time)
            step = time - before
            classes = np.full(len(label), -1, dtype=np.int64)
            for number, place in numbers.items():
                classes[label == number] = place
            if not self.labelled:
                classes[:] = 0
            clock = np.isfinite(time)
            whole = clock & np.isfinite(values).all(axis=1) & np.isfinite(label)
            backwards = clock & (step <= 0)
            gap = clock & np.isfinite(before) & (step > GAP * self.period_s)
            usable = whole & (classes >= 0) & ~backwards
            joined = usable & ~gap & np.concatenate([[flowing], usable[:-1]])
            # A fault counts inside the experiment, and at its edges: rows that say nothing of their class are taken for part of it.
            inside = (classes >= 0) | ~np.isfinite(label)
            self._note("time runs backwards", backwards & inside, time, before)
            self._note("a gap in time", gap & ~backwards & usable & np.concatenate([[flowing], usable[:-1]]), before, before)
            self._note("values that are no numbers", ~whole & inside, time, before)
            edges = np.flatnonzero(np.diff(np.concatenate([[False], usable, [False]]).astype(np.int8)))
            for first, end in zip(edges[::2], edges[1::2], strict=True):
                cuts = [first, *(first + 1 + np.flatnonzero(~joined[first + 1 : end])), end]
                for a, b in itertools.pairwise(cuts):
                    yield Stretch(time[a:b], values[a:b], classes[a:b], starts=not joined[a])
            flowing, last = bool(usable[-1]), float(newest[-1])

    def _note(self, reason: str, where: NDArray[np.bool_], time: Floats, before: Floats) -> None:
        """One entry for each run of faulty rows, and one more for each stride that it lasts: damage weighs what it costs in windows."""
        stride = np.arange(len(where)) // max(1, round(self.rule.stride_s / self.period_s))
        again = np.concatenate([[False], where[:-1] & (np.diff(stride) == 0)])
        starts = np.flatnonzero(where & ~again)
        for row in starts:
            when = time[row] if np.isfinite(time[row]) else before[row]
            self.broken.append((reason, round(float(when) * 1000) if np.isfinite(when) else 0))

    @staticmethod
    def _period(time: Floats) -> float:
        """Seconds between two samples: the mean of the steps that are no gaps."""
        steps = np.diff(time)
        steps = steps[np.isfinite(steps) & (steps > 0)]
        if not len(steps):
            raise NotUsable("no clock in the time column")
        middle = np.median(steps)
        return float(steps[steps <= GAP * middle].mean())

    def _pieces(self, rows: int) -> Iterator[Floats]:
        """(n, 1 + channels + 1) time, channels, label; NaN for what is no number. A last row that the file cuts is left out and noted."""
        import pandas as pd
        from pandas.errors import EmptyDataError, ParserError

        wanted = [self.rule.time, *self.rule.channels, *([self.rule.label] if self.labelled else [])]
        places = [self._columns.index(name) for name in wanted]
        separator = r"\s+" if self._separator == " " else self._separator
        guard, last = _Tail(self.handle, len(self._columns), self._separator), 0.0
        try:
            pieces = pd.read_csv(
                guard, sep=separator, header=None, names=range(len(self._columns)), usecols=sorted(places), chunksize=rows, index_col=False,
                on_bad_lines="skip", skip_blank_lines=True, low_memory=False,
            )  # fmt: skip
            for piece in pieces:
                columns = [pd.to_numeric(piece[place], errors="coerce").to_numpy(np.float64) for place in places]
                if not self.labelled:
                    columns.append(np.zeros(len(piece)))
                if len(piece):
                    last = float(np.nan_to_num(columns[0][-1]))
                    yield np.stack(columns, axis=1)
        except EmptyDataError:
            pass
        except (ParserError, UnicodeError, ValueError, csv.Error):
            raise NotUsable("not a table of numbers") from None
        if guard.cut:
            self.broken.append(("the file ends within a row", round(last * SECONDS[self.rule.time_unit] * 1000)))


class _Tail(io.TextIOBase):
    """A file without what follows its last end of line: a row that may have been cut, so that its last number lacks digits."""

    def __init__(self, handle: io.TextIOBase, columns: int, separator: str) -> None:
        self._handle, self._columns, self._separator = handle, columns, separator
        self._held = ""
        self.cut = False

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> str:
        """At least one character until the end; never a piece of the last row."""
        while True:
            more = self._handle.read(1 << 16 if size is None or size < 0 else max(1, size))
            if not more:
                return self._end()
            text = self._held + more
            cut = text.rfind("\n") + 1
            self._held = text[cut:]
            if len(self._held) > LINE_CHARACTERS:
                raise NotUsable("not a table of numbers")
            if cut:
                return text[:cut]

    def _end(self) -> str:
        left, self._held = self._held, ""
        if not left.strip():
            return ""
        parts = left.split() if self._separator == " " else left.split(self._separator)
        self.cut = len(parts) < self._columns
        return ""

    def __iter__(self) -> Iterator[str]:  # pandas asks whether a handle can be iterated
        return self

    def __next__(self) -> str:
        text = self.read()
        if not text:
            raise StopIteration
        return text
