"""All windows of one recording, as a model takes them, by the one path that training and the server share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.imaging.errors import NotUsable
from components.core.recordings.table import Table
from components.core.recordings.windows import Geometry, Window, windows
from components.core.spec import DiseaseSpec


def read_windows(table: Table, spec: DiseaseSpec) -> Iterator[Window]:
    """The windows in order of time, faulty ones among them; `table.period_s` is known when the first one comes.

    Raises:
        NotUsable: No rows; no numbers; after the last window, channels whose root mean square says another unit than the spec's.
    """
    rule = spec.recording
    assert rule is not None
    pieces = table.stretches()
    first = next(pieces, None)  # the head and the sampling period are known from then on
    if not table.period_s:
        raise NotUsable("no rows")
    squares = n = 0.0
    for window in windows(itertools.chain([] if first is None else [first], pieces), Geometry(spec), 1 / table.period_s):
        if window.fault is None:
            squares, n = squares + float((window.values**2).mean()), n + 1
        yield window
    if n and not rule.rms[0] <= (squares / n) ** 0.5 <= rule.rms[1]:
        raise NotUsable("values outside recording.rms: another unit?")


def typed(values: NDArray[Any], spec: DiseaseSpec) -> NDArray[Any]:
    """A window's values in `input.dtype`; whole numbers are rounded and limited to what it holds."""
    dtype = np.dtype(spec.input.dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
    return values.astype(dtype)
