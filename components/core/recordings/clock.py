"""The clock of a recording, row by row: batches that share a stamp are spread, single values that fit no neighbour are found.

A clock says two things, when a row was taken and that rows follow one another. Rows follow one another in the file too, so a stamp that its
neighbours contradict costs its own row and no other. Works on pieces of any size, with a fixed number of rows in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.core.imaging.errors import NotUsable

GAP = 1.5  # sample periods; more time than that between two rows is missing data
NEIGHBOURS = 15  # rows on each side that say where a row belongs; up to 7 wild stamps among them do no harm
SPAN = 16  # stamps over which a pace is taken: clocks tick in whole milliseconds, and tremble
EVEN = 0.05  # of the middle pace; one row too many or too few of 16 is more
MOST_BATCH = 4096  # rows under one stamp; radio links send 4 to 50 at a time, files of whole seconds up to some hundred
Floats = NDArray[np.float64]


@dataclass
class Timed:
    """Some rows.

    Args:
        seconds: (n,) on the clock; NaN where there is no number, or one that fits no neighbour and cannot be mended.
        rows: (n, columns) as they came; column 0 is the stamp.
        placed: (n,) stamps that fit no neighbour, of rows that the neighbours leave room for: `seconds` lies evenly between those.
        lost: (n,) stamps that fit no neighbour, of other rows.
    """

    seconds: Floats
    rows: Floats
    placed: NDArray[np.bool_]
    lost: NDArray[np.bool_]


def period(stamps: Floats) -> float:
    """Seconds a row, over spans of some stamps: gaps, wild stamps, and rows under one stamp change a few spans, and those are left out.

    Raises:
        NotUsable: No two stamps of which the second is later.
    """
    first = np.flatnonzero(np.concatenate([[True], stamps[1:] != stamps[:-1]]))
    stamp = stamps[first]
    for span in (SPAN, 1):  # a short file, or one of single stamps between words, has no longer spans
        steps, rows = stamp[span:] - stamp[:-span], first[span:] - first[:-span]
        forward = np.isfinite(steps) & (steps > 0)
        steps, rows = steps[forward], rows[forward]
        if len(steps):
            pace = steps / rows
            even = np.abs(pace / np.median(pace) - 1) <= EVEN
            if even.any():
                return float(steps[even].sum() / rows[even].sum())
    raise NotUsable("no clock in the time column")


class Clock:
    """One recording's. `period_s` is known when the first rows come.

    Args:
        unit_s: Of the stamps, in seconds.
    """

    def __init__(self, unit_s: float) -> None:
        self._unit_s, self.period_s = unit_s, 0.0

    def timed(self, pieces: Iterator[Floats]) -> Iterator[Timed]:
        """The same rows in the same order, with their times. Raises NotUsable for a clock that stands still."""
        rows, seconds, judged = np.empty((0, 0)), np.empty(0), np.empty(0, dtype=bool)
        first = 0  # place in the recording of the first row held; those in `judged` are out already, and stay as neighbours
        for more, own, last in self._spread(pieces):
            rows = np.concatenate([rows, more]) if len(rows) else more
            seconds = np.concatenate([seconds, own])
            if len(rows) < 3 * NEIGHBOURS and not last:
                continue
            done, until = len(judged), len(rows)
            wild = np.concatenate([judged, self._wild(seconds, first)[done:]])
            if not last:  # up to a row that fits, where there is one: those before it then have both neighbours
                until -= NEIGHBOURS
                fits = np.flatnonzero(np.isfinite(seconds[done:until]) & ~wild[done:until])
                until = done + int(fits[-1]) + 1 if len(fits) else until
            placed, at = self._placed(seconds, wild)
            out = slice(done, until)
            if until > done:
                yield Timed(at[out], rows[out], placed[out], (wild & ~placed)[out])
            kept = max(0, until - NEIGHBOURS)
            rows, seconds, first, judged = rows[kept:], seconds[kept:], first + kept, wild[kept:until]

    def _spread(self, pieces: Iterator[Floats]) -> Iterator[tuple[Floats, Floats, bool]]:
        """(rows, their times, whether they are the last): rows that share a stamp lie evenly before it, or behind it where the room is there."""
        held, before = np.empty((0, 0)), np.nan
        piece = next(pieces, None)
        while piece is not None:
            following = next(pieces, None)
            rows = np.concatenate([held, piece]) if len(held) else piece
            stamps = rows[:, 0] * self._unit_s
            starts = np.flatnonzero(np.concatenate([[True], stamps[1:] != stamps[:-1]]))
            if following is not None and len(starts) < 3:  # a stamp is judged with the whole of the next
                if len(rows) > 3 * MOST_BATCH:
                    raise NotUsable("no clock in the time column")
                held, piece = rows, following
                continue
            if not self.period_s:
                self.period_s = period(stamps)
            until = len(rows) if following is None else int(starts[-2])
            yield rows[:until], self._even(stamps, starts, before)[:until], following is None
            if following is not None:
                held, before = rows[until:], float(stamps[until - 1])
            piece = following

    def _even(self, stamps: Floats, starts: NDArray[np.int64], before: float) -> Floats:
        size = np.diff(starts, append=len(stamps))
        if size.max() > MOST_BATCH:
            raise NotUsable("no clock in the time column")
        if size.max() == 1:
            return stamps
        stamp, whole = stamps[starts], size * self.period_s
        room_before, room_after = np.diff(stamp, prepend=before), np.diff(stamp, append=np.nan)
        alone = np.append(size[1:], 0) == 1
        behind = ~(room_before >= whole / GAP) & (room_after >= whole / GAP) & alone  # a clock that stood still for some rows
        room = np.where(behind, room_after, room_before)
        step = np.where((room > 0) & (room <= GAP * whole), room / size, self.period_s)
        batch = np.repeat(np.arange(len(starts)), size)
        place = np.arange(len(stamps)) - starts[batch]
        place = np.where(behind[batch], place, place - (size[batch] - 1))
        return stamps + np.where(size[batch] > 1, place * step[batch], 0.0)

    def _wild(self, seconds: Floats, first: int) -> NDArray[np.bool_]:
        """(n,) rows whose time lies beyond where the rows before and the rows behind, by their medians, put it.

        Rows before and behind a gap, or a clock that was set, disagree with each other; then whatever lies between is in order.
        """
        n, side = len(seconds), NEIGHBOURS
        offset = np.where(np.isfinite(seconds), seconds - (first + np.arange(n)) * self.period_s, np.inf)
        if n <= side:
            return np.zeros(n, dtype=bool)
        middles = np.partition(np.lib.stride_tricks.sliding_window_view(offset, side), side // 2, axis=1)[:, side // 2]
        left, right = np.full(n, np.nan), np.full(n, np.nan)
        left[side:] = middles[:-1]
        right[: n - side] = middles[1:]
        left, right = np.where(np.isnan(left), right, left), np.where(np.isnan(right), left, right)
        slack = GAP * self.period_s
        return np.isfinite(seconds) & ((offset > np.maximum(left, right) + slack) | (offset < np.minimum(left, right) - slack))

    def _placed(self, seconds: Floats, wild: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], Floats]:
        """Which wild rows lie between rows that leave just the time for them, and all times, theirs evenly between."""
        n, fits = len(seconds), np.isfinite(seconds) & ~wild
        place = np.arange(n)
        before = np.maximum.accumulate(np.where(fits, place, -1))
        behind = np.minimum.accumulate(np.where(fits, place, n)[::-1])[::-1]
        between = wild & (before >= 0) & (behind < n)
        a, b = np.where(between, before, 0), np.where(between, behind, 0)
        room, wanted = seconds[b] - seconds[a], (b - a) * self.period_s
        placed = between & (room <= GAP * wanted) & (room >= wanted / GAP)
        at = np.where(wild, np.nan, seconds)
        share = (place - a) / np.maximum(b - a, 1)
        return placed, np.where(placed, seconds[a] + room * share, at)
