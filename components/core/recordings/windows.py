"""From the rows of a recording to windows of equal rate and length.

Anti-aliasing first (a finite impulse response at the recording's own rate, without phase), then a cubic spline through the rows at their
own times, read at the spec's rate: one rule for equal, higher and lower rates, and for clocks that jitter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.core.recordings.clock import GAP
from components.core.recordings.coverage import Coverage
from components.core.recordings.table import CLOCK, Stretch
from components.core.spec import DiseaseSpec

PIECE_S = 100.0  # a stretch is resampled in pieces of about this length: memory does not grow with the recording
MARGIN_S = 2.0  # what a piece keeps of its neighbours: the filter's length and the reach of a spline
PASSED = 0.8  # share of the new Nyquist frequency that passes the filter; the rest is its slope
STOP_DB = 60.0
DEAD, SLOW, PACE = "a channel that never changes", "fewer rows than input.rate_hz needs", "a clock that changes its pace"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """One window.

    Args:
        start_s: On the recording's clock.
        values: (channels, samples) in the file's numbers.
        label: Class index.
        fault: Why it cannot be used, or None: a channel does not change over the part that is judged, or over as long a part at its start; the part
            that is judged holds a row whose stamp fits no neighbour; the rows are too few for the rate, or many more than the recording's own.
    """

    start_s: float
    values: Floats
    label: int
    fault: str | None


class Geometry:
    """Counts of samples that follow from a spec."""

    def __init__(self, spec: DiseaseSpec) -> None:
        rule = spec.recording
        assert rule is not None
        assert spec.input.rate_hz is not None
        assert spec.input.window_s is not None
        self.rate = spec.input.rate_hz
        self.length = spec.input.shape[1]
        self.stride = max(1, round(rule.stride_s * self.rate))
        self.labelled = min(self.length, round((rule.label_s or spec.input.window_s) * self.rate))
        self.share, self.classes = rule.share, len(spec.target.classes)

    def coverage(self) -> Coverage:
        """Nothing judged yet."""
        return Coverage(self.rate, self.length, self.labelled, self.stride)


def low_pass(values: Floats, rate: float, new_rate: float) -> Floats:
    """(n, channels) at `rate` without what `new_rate` cannot carry; unchanged where `new_rate` is not lower. Edges are mirrored.

    A Kaiser window's filter: -60 dB from the new Nyquist frequency on, ripple under 0.1 % below 80 % of it.
    """
    from scipy.ndimage import correlate1d
    from scipy.signal import firwin, kaiserord

    if new_rate >= rate * (1 - 1e-3):
        return values
    edge = new_rate / 2
    taps, beta = kaiserord(STOP_DB, (1 - PASSED) * edge / (rate / 2))
    weights = firwin(taps | 1, (1 + PASSED) / 2 * edge, window=("kaiser", beta), fs=rate)  # pyright: ignore[reportArgumentType]
    return correlate1d(values, weights, axis=0, mode="reflect")


def resampled(seconds: Floats, values: Floats, at: Floats, rate: float, new_rate: float) -> Floats:
    """(n, channels) at times `seconds` -> (len(at), channels) at times `at`, which lie between the first and the last row."""
    from scipy.interpolate import CubicSpline, interp1d

    smooth = low_pass(values, rate, new_rate)
    if len(seconds) < 4:
        return interp1d(seconds, smooth, axis=0)(at)
    return CubicSpline(seconds, smooth, axis=0)(at)


def windows(
    stretches: Iterable[Stretch], geometry: Geometry, rate: float, *, piece_s: float = PIECE_S, coverage: Coverage | None = None
) -> Iterator[Window]:
    """Windows in order of the file. None crosses the start of a new flow; what is left at the end of one is too short and is not used.

    Args:
        rate: Of the recording, Hz.
        coverage: Is told of each flow when it has ended.
    """
    coverage = geometry.coverage() if coverage is None else coverage
    flow: _Flow | None = None
    for stretch in stretches:
        if stretch.starts or flow is None:
            if flow is not None:
                yield from flow.rest(coverage)
            flow = _Flow(geometry, rate, float(stretch.seconds[0]))
        flow.add(stretch)
        if flow.held_s > piece_s + 2 * MARGIN_S:
            yield from flow.take(last=False)
    if flow is not None:
        yield from flow.rest(coverage)


class _Flow:
    """Rows without a break, and the windows already cut from them. Window k starts k strides after the first row, wherever pieces end."""

    def __init__(self, geometry: Geometry, rate: float, start_s: float) -> None:
        self._g, self._rate, self._start_s, self._done = geometry, rate, start_s, 0
        self._rows: list[Stretch] = []
        self._faults: list[str | None] = []

    def add(self, stretch: Stretch) -> None:
        self._rows.append(stretch)

    def rest(self, coverage: Coverage) -> Iterator[Window]:
        """The windows that are left; `coverage` is told of all of them, and of the time of the rows."""
        yield from self.take(last=True)
        coverage.flow(float(self._rows[-1].seconds[-1]) - self._start_s + 1 / self._rate, self._faults)

    @property
    def held_s(self) -> float:
        return float(self._rows[-1].seconds[-1] - self._rows[0].seconds[0])

    def take(self, *, last: bool) -> Iterator[Window]:
        """The windows that the rows decide: all, or those that end a margin before the newest row."""
        g = self._g
        seconds, values, classes = (np.concatenate([getattr(row, name) for row in self._rows]) for name in ("seconds", "values", "classes"))
        placed = np.concatenate([np.zeros(len(row.seconds), dtype=bool) if row.placed is None else row.placed for row in self._rows])
        until = seconds[-1] - (0.0 if last else MARGIN_S)
        # 1e-6 of a sample: rounding must not cost the last window of a recording of exactly n windows.
        ready = int(np.floor(((until - self._start_s) * g.rate + 1e-6 - (g.length - 1)) / g.stride)) + 1 - self._done
        if ready > 0:
            count = (ready - 1) * g.stride + g.length
            at = self._start_s + (self._done * g.stride + np.arange(count)) / g.rate
            fine = resampled(seconds, values, np.clip(at, seconds[0], seconds[-1]), self._rate, g.rate)
            # The class of a sample is that of the row nearest in time.
            nearest = np.clip(np.searchsorted((seconds[1:] + seconds[:-1]) / 2, at), 0, len(classes) - 1)
            for n in range(ready):
                a, end = n * g.stride, n * g.stride + g.length
                own = values[nearest[a:end]]
                fault = self._timing(seconds, placed, float(at[a]), float(at[end - g.labelled])) or self._dead(own)
                self._faults.append(fault)
                yield Window(float(at[a]), fine[a:end].T, self._label(classes[nearest[a:end]]), fault)
            self._done += ready
        if not last:
            kept = seconds >= self._start_s + self._done * g.stride / g.rate - MARGIN_S
            self._rows = [Stretch(seconds[kept], values[kept], classes[kept], starts=False, placed=placed[kept])]

    def _label(self, classes: NDArray[np.int64]) -> int:
        g = self._g
        shares = np.bincount(classes[-g.labelled :], minlength=g.classes) / g.labelled
        held = np.flatnonzero(shares[1:] >= g.share - 1e-9)
        return int(held[-1]) + 1 if len(held) else 0

    def _timing(self, seconds: Floats, placed: NDArray[np.bool_], start_s: float, judged_s: float) -> str | None:
        """What is wrong with the clock within a window, of which the part from `judged_s` on is judged."""
        span = self._g.length / self._g.rate
        a, middle, b = np.searchsorted(seconds, [start_s, judged_s, start_s + span])
        if placed[middle:b].any():
            return CLOCK
        if (b - a + 1) / span < PASSED * self._g.rate:
            return SLOW
        return PACE if (b - a - 1) / span > GAP * self._rate else None

    def _dead(self, rows: Floats) -> str | None:
        # On the rows themselves, since filtering smears the edge; a sensor that dies within a window is dead for half of it sooner or later.
        part = self._g.labelled
        return DEAD if ((np.ptp(rows[-part:], axis=0) == 0) | (np.ptp(rows[:part], axis=0) == 0)).any() else None
