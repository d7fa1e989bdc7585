"""All windows of one recording, as a model takes them, by the one path that training and the server share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.imaging.errors import NotUsable
from components.core.recordings.coverage import Coverage
from components.core.recordings.table import FAR, Table
from components.core.recordings.windows import PASSED, Geometry, Window, windows
from components.core.spec import DiseaseSpec

SLACK = 2e-3  # clocks that tick in whole milliseconds tell a rate to about a thousandth
LEAST_TIMES = PASSED
"""Of `input.rate_hz`: half of such a rate is all that our own filter lets through of any faster recording, so nothing that the model was shown is
missing. Below, movements that it looks for cannot be seen, or appear as other ones."""
MOST_TIMES = 10 * LEAST_TIMES
"""Ten times the least, so that no clock that is ten times off either way (ticks of 100 us, a point too many) is taken for a rate; and the filter that
brings a recording down has 36 taps for each."""
WRONG_UNIT = "values outside recording.rms: another unit?"


class Reading:
    """The windows of one recording, and how much of it they judge.

    Args:
        table: Opened; closed by the caller.
    """

    def __init__(self, table: Table, spec: DiseaseSpec) -> None:
        low, high = spec.input.range
        self.table, self._spec, self._geometry = table, spec, Geometry(spec)
        self._coverage = self._geometry.coverage()
        table.limits = (FAR * min(low, -high), FAR * max(high, -low))

    def windows(self) -> Iterator[Window]:
        """In order of the file, faulty ones among them; `table.period_s` is known when the first one comes.

        Raises:
            NotUsable: No rows; no numbers; a clock that is not believable, or too slow or fast for the spec; after the last window, channels whose
                root mean square says another unit than the spec's.
        """
        rule, table, wanted = self._spec.recording, self.table, self._geometry.rate
        assert rule is not None
        pieces = table.stretches()
        first = next(pieces, None)  # the head and the sampling period are known from then on
        if not table.period_s:
            raise NotUsable("no rows")
        rate = 1 / table.period_s
        if not LEAST_TIMES * wanted * (1 - SLACK) <= rate <= MOST_TIMES * wanted * (1 + SLACK):
            raise NotUsable(
                f"sampled at {rate:.3g} Hz where the model wants {wanted:g} ({LEAST_TIMES * wanted:g} to {MOST_TIMES * wanted:g}): "
                f"another rate, or another unit of time than {rule.time_unit}?"
            )
        squares = n = 0.0
        stretches = itertools.chain([] if first is None else [first], pieces)
        for window in windows(stretches, self._geometry, rate, coverage=self._coverage):
            if window.fault is None:
                squares, n = squares + float((window.values**2).mean()), n + 1
            yield window
        if (n and not rule.rms[0] <= (squares / n) ** 0.5 <= rule.rms[1]) or table.far > table.rows / 2:
            raise NotUsable(WRONG_UNIT)

    def coverage(self) -> Coverage:
        """After the last window."""
        whole = replace(self._coverage, lost_s=dict(self._coverage.lost_s))
        for reason, seconds in self.table.lost_s.items():
            whole.lose(reason, seconds)
        return whole


def typed(values: NDArray[Any], spec: DiseaseSpec) -> NDArray[Any]:
    """A window's values in `input.dtype`; whole numbers are rounded and limited to what it holds."""
    dtype = np.dtype(spec.input.dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
    return values.astype(dtype)
