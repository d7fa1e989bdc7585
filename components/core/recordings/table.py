"""A recording in a text file, read piece by piece: columns by name, rows as numbers, and everything that breaks the flow of time.

The first lines may be `# key: value`; then come the names of the columns, then one row of numbers per sample. Commas, semicolons, tabs or
blanks separate them; dialects are those of `components/core/text_table.py`.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.core.imaging.errors import NotUsable
from components.core.recordings.clock import GAP, Clock
from components.core.spec import Recording
from components.core.text_table import UTF16, decimal_of, named_separator, separator_of

if TYPE_CHECKING:
    import pandas as pd

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
LONGEST_GAP_S = 3600.0  # a clock that jumps further was set, or the sensor taken off: no hour of a walk is missing
FAR = 10.0  # times `input.range`: accelerometers for bodies end at 16 g, and 4 g is what models see; beyond is no reading
REMEMBERED = 1 << 18  # rows, an hour at 64 Hz, among which rows that come again after a clock ran back are found
CLOCK, BACK, MISSING, NUMBERS, VALUES, CUT = (
    "a clock value that fits no neighbour", "time runs backwards", "a gap in time", "values that are no numbers", "values that no sensor gives",
    "the file ends within a row",
)  # fmt: skip
AHEAD, OUTSIDE = "the clock jumps ahead", "outside the experiment"
WIDE = "rows of more values than columns: decimal commas in a table that commas separate?"
HEAD_LINES, LINE_CHARACTERS = 64, 65_536
ROWS = 65_536
HEAD = 1 << 16  # characters that the decimal mark is told by
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
        placed: (n,) rows whose own stamp fitted no neighbour; None: there are none.
    """

    seconds: Floats
    values: Floats
    classes: NDArray[np.int64]
    starts: bool
    placed: NDArray[np.bool_] | None = None


@dataclass
class Table:
    """One open file; `broken` collects what its rows lack as (reason, milliseconds), `lost_s` the time that is in no stretch, by reason.

    `limits` are the least and largest value that a channel can have. `labelled` False takes a file without the label column too: all its rows then
    belong to the experiment, as rows of the lowest class.
    """

    handle: io.TextIOBase
    rule: Recording
    order: tuple[str, ...]
    labelled: bool = True
    limits: tuple[float, float] = (-np.inf, np.inf)
    facts: dict[str, str] = field(default_factory=dict)
    broken: list[tuple[str, int]] = field(default_factory=list)
    lost_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    rows: int = 0
    far: int = 0
    period_s: float = 0.0
    _columns: list[str] = field(default_factory=list)
    _separator: str = ""
    _cut: bool = False

    def __post_init__(self) -> None:
        """Raises NotUsable without the columns that the spec names."""
        for _ in range(HEAD_LINES):
            line = self.handle.readline(LINE_CHARACTERS)
            if "\0" in line:
                raise NotUsable(UTF16)
            if named := named_separator(line):
                self._separator = named
            elif not line.startswith("#"):
                break
            key, _, value = line.lstrip("# ").partition(":")
            if key.strip().lower() in FACTS:
                self.facts[key.strip().lower()] = value.strip()
        else:
            raise NotUsable("no line of column names")
        self._separator = self._separator or separator_of(line) or " "
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
        clock = Clock(SECONDS[self.rule.time_unit])
        last, since, newest = np.nan, 0, -np.inf  # time of the last row that has one, rows without one since, latest time of all
        flowing = False
        seen = np.empty(0, dtype=np.uint64)
        for timed in clock.timed(self._pieces(rows)):
            self.period_s = clock.period_s
            time, values, label = timed.seconds, timed.rows[:, 1:-1], timed.rows[:, -1]
            classes = np.full(len(label), -1, dtype=np.int64)
            for number, place in numbers.items():
                classes[label == number] = place
            if not self.labelled:
                classes[:] = 0
            known = np.isfinite(time)
            latest = np.fmax.accumulate(np.concatenate([[newest], time]))
            again = known & (time <= latest[:-1])  # the clock ran back: new rows, or those that came before once more
            marks = np.concatenate([seen, _marks(timed.rows)])
            if again.any():
                again &= _repeated(marks)[len(seen) :]
            kept, place = known & ~again, np.arange(len(time))
            nearest = np.concatenate([[-1], np.maximum.accumulate(np.where(kept, place, -1))[:-1]])
            before = np.where(nearest < 0, last, time[nearest])
            gone = place - nearest - 1 + np.where(nearest < 0, since, 0)
            step = time - before
            whole = known & np.isfinite(values).all(axis=1) & np.isfinite(label)
            far = whole & ((values < self.limits[0]) | (values > self.limits[1])).any(axis=1)
            back = kept & (step <= 0)
            gap = kept & (step > GAP * self.period_s)
            usable = whole & (classes >= 0) & ~again & ~far
            joined = usable & ~gap & ~back & np.concatenate([[flowing], usable[:-1]])
            # A fault counts inside the experiment, and at its edges: rows that say nothing of their class are taken for part of it.
            inside = (classes >= 0) | ~np.isfinite(label)
            lost = np.where(timed.lost, 1, np.where(again, 2, np.where(far, 3, np.where(~whole, 4, 0))))
            follows = usable & np.concatenate([[flowing], usable[:-1]])
            self._note(CLOCK, (timed.placed | timed.lost) & inside, time, before)
            self._note(BACK, (again | (back & usable)) & inside, time, before)
            self._note(MISSING, gap & (step <= LONGEST_GAP_S) & follows, before, before)
            self._note(AHEAD, (step > LONGEST_GAP_S) & follows, before, before)
            self._note(VALUES, far & inside, time, before)
            self._note(NUMBERS, ~whole & ~timed.lost & inside, time, before)
            for number, reason in enumerate((CLOCK, BACK, VALUES, NUMBERS), 1):
                self.lost_s[reason] += float(((lost == number) & inside).sum()) * self.period_s
            self.lost_s[OUTSIDE] += float((~inside).sum()) * self.period_s
            missing = np.where(gap & (step <= LONGEST_GAP_S), step - (1 + gone) * self.period_s, 0.0)
            self.lost_s[MISSING] += float(missing[inside].clip(0).sum())
            self.lost_s[OUTSIDE] += float(missing[~inside].clip(0).sum())
            self.rows, self.far = self.rows + len(time), self.far + int(far.sum())
            edges = np.flatnonzero(np.diff(np.concatenate([[False], usable, [False]]).astype(np.int8)))
            for first, end in zip(edges[::2], edges[1::2], strict=True):
                cuts = [first, *(first + 1 + np.flatnonzero(~joined[first + 1 : end])), end]
                for a, b in itertools.pairwise(cuts):
                    yield Stretch(time[a:b], values[a:b], classes[a:b], starts=not joined[a], placed=timed.placed[a:b])
            flowing, newest = bool(usable[-1]), float(latest[-1])
            if kept.any():
                last, since = float(time[kept][-1]), len(time) - 1 - int(place[kept][-1])
            else:
                since += len(time)
            seen = marks[-REMEMBERED:]
        if self._cut:
            self.lost_s[CUT] += self.period_s

    def _note(self, reason: str, where: NDArray[np.bool_], time: Floats, before: Floats) -> None:
        """One entry for each run of faulty rows, and one more for each stride that it lasts: damage weighs what it costs in windows."""
        stride = np.arange(len(where)) // max(1, round(self.rule.stride_s / self.period_s))
        again = np.concatenate([[False], where[:-1] & (np.diff(stride) == 0)])
        starts = np.flatnonzero(where & ~again)
        for row in starts:
            when = time[row] if np.isfinite(time[row]) else before[row]
            self.broken.append((reason, round(float(when) * 1000) if np.isfinite(when) else 0))

    def _pieces(self, rows: int) -> Iterator[Floats]:
        """(n, 1 + channels + 1) time, channels, label; NaN for what is no number. A last row that the file cuts is left out and noted."""
        import pandas as pd
        from pandas.errors import EmptyDataError, ParserError

        wanted = [self.rule.time, *self.rule.channels, *([self.rule.label] if self.labelled else [])]
        places = [self._columns.index(name) for name in wanted]
        separator = r"\s+" if self._separator == " " else self._separator
        columns = len(self._columns)
        guard, last = _Lines(self.handle, self._split, self._separator, columns), 0.0
        head = guard.read(HEAD)
        guard.give_back(head)
        commas = self._separator != "," and decimal_of(self._split(line) for line in head.splitlines() if line.strip()) == ","
        count = 0
        try:
            pieces = pd.read_csv(
                guard, sep=separator, header=None, names=range(columns), usecols=sorted(places), chunksize=rows, index_col=False,
                on_bad_lines="skip", skip_blank_lines=True, low_memory=False, dtype=str if commas else None,
            )  # fmt: skip
            for piece in pieces:
                found = [_numbers(piece[place], commas) for place in places]
                if not self.labelled:
                    found.append(np.zeros(len(piece)))
                if len(piece):
                    count += len(piece)
                    if count <= guard.wide:
                        raise NotUsable(WIDE)
                    last = float(np.nan_to_num(found[0][-1]))
                    yield np.stack(found, axis=1)
        except EmptyDataError:
            pass
        except (ParserError, UnicodeError, ValueError, csv.Error):
            raise NotUsable(WIDE if guard.wide else "not a table of numbers") from None
        if guard.cut:
            self.broken.append((CUT, round(last * SECONDS[self.rule.time_unit] * 1000)))
            self._cut = True


def _marks(rows: Floats) -> NDArray[np.uint64]:
    """(n,) a number that equal rows share, and others hardly ever."""
    bits = np.ascontiguousarray(rows).view(np.uint64)
    odd = (2 * np.arange(rows.shape[1], dtype=np.uint64) + 1) * np.uint64(0x9E3779B97F4A7C15)
    return ((bits ^ (bits >> np.uint64(32))) * odd).sum(axis=1, dtype=np.uint64)


def _repeated(marks: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """(n,) whether the same mark came before."""
    _, first, which = np.unique(marks, return_index=True, return_inverse=True)
    return first[which] < np.arange(len(marks))


def _numbers(words: pd.Series, commas: bool) -> Floats:
    """NaN for what is no number; with decimal commas that is also one with a point."""
    import pandas as pd

    if commas and words.dtype == object:
        words = words.where(~words.str.contains(".", regex=False, na=False)).str.replace(",", ".", regex=False)
    return pd.to_numeric(words, errors="coerce").to_numpy(np.float64)


class _Lines(io.TextIOBase):
    """A file's lines as pandas can take them: rows of more values than columns, which it would leave out in silence, become rows without numbers.

    A last row that was cut is left out: one without an end of line that has fewer values than there are columns, or nothing in the last. A last row
    of all values is whole, as far as anybody can tell; a digit that its last number lacks is one sample at a recording's end.
    """

    def __init__(self, handle: io.TextIOBase, split: Callable[[str], list[str]], separator: str, columns: int) -> None:
        self._handle, self._split, self._separator, self._columns = handle, split, separator, columns
        self._held = self._back = ""
        self.cut = False
        self.wide = 0

    def readable(self) -> bool:
        return True

    def give_back(self, text: str) -> None:
        """Text that the next read gives once more."""
        self._back = text

    def read(self, size: int | None = -1, /) -> str:
        """At least one character until the end; never a piece of the last row."""
        if self._back:
            text, self._back = self._back, ""
            return text
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
                return self._narrow(text[:cut])

    def _narrow(self, text: str) -> str:
        lines = text.split("\n")
        wide = [n for n, line in enumerate(lines) if line.count(self._separator) >= self._columns and self._many(line)]
        for n in wide:
            lines[n] = "?"
        self.wide += len(wide)
        return "\n".join(lines) if wide else text

    def _many(self, line: str) -> bool:
        """Whether there are more values than columns; nothing behind the last one is none."""
        try:
            return any(self._split(line)[self._columns :])
        except csv.Error:
            return True

    def _end(self) -> str:
        left, self._held = self._held, ""
        if not left.strip():
            return ""
        try:
            values = self._split(left)
        except csv.Error:
            values = []
        self.cut = len(values) < self._columns or not values[-1]
        return "" if self.cut else self._narrow(left + "\n")

    def __iter__(self) -> Iterator[str]:  # pandas asks whether a handle can be iterated
        return self

    def __next__(self) -> str:
        text = self.read()
        if not text:
            raise StopIteration
        return text
