"""Recordings with damaged clocks, made up: what is known of each is how long it is and which rows were touched."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from components.core.recordings.reading import Reading
from components.core.recordings.table import Table
from components.core.recordings.windows import Window
from components.core.spec import DiseaseSpec
from tests.ingest.made import ROOT

SPEC = DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / "parkinson-fog.toml")
COLUMNS = "time,A0,A1,A2,U0,U1,U2,T1,T2,T3"
WINDOW_S, STRIDE_S, JUDGED_S = 5.1, 51 / 40, 102 / 40


@dataclass
class Made:
    """Rows (n, 10) of stamps in ms and channels in mg; `row_of` holds the place of each in the clean recording, `touched` those that were damaged."""

    rows: NDArray[np.float64]
    rate: float
    row_of: NDArray[np.int64]
    touched: set[int] = field(default_factory=set)

    def text(self) -> str:
        def word(value: float) -> str:
            return "" if np.isnan(value) else f"{value:.3f}"

        return "\n".join([COLUMNS, *(",".join(map(word, row)) for row in self.rows)]) + "\n"


def walk(seconds: float, rate: float, *, start_ms: float = 1000.0) -> Made:
    """A walk without damage; a little noise, so that no row is like another."""
    t = np.arange(round(seconds * rate)) / rate
    values = 600 + 500 * np.sin(2 * np.pi * 2 * t[:, None] - np.deg2rad(20 * np.arange(9)))
    values += np.random.default_rng(0).normal(0, 1, values.shape)
    return Made(np.column_stack([start_ms + 1000 * t, values]), rate, np.arange(len(t)))


def read(text: str, spec: DiseaseSpec = SPEC, *, size: int = 65_536) -> tuple[list[Window], Reading]:
    """All windows, and what is told of the rest. Raises NotUsable."""
    assert spec.recording is not None
    table = Table(io.StringIO(text), spec.recording, spec.target.classes, labelled=False)
    whole = table.stretches
    table.stretches = lambda rows=size: whole(size)  # pieces of another size than ingest's
    reading = Reading(table, spec)
    return list(reading.windows()), reading


def windows_of(seconds: float) -> int:
    """How many windows rows without a break have, by the grid alone."""
    return max(0, int(np.floor((seconds - WINDOW_S) / STRIDE_S + 1e-6)) + 1)


def wild(made: Made, places: list[int], stamps: list[float]) -> None:
    """Other stamps, in ms; beside their own by 5 seconds at least, so that they are wild."""
    for place, stamp in zip(places, stamps, strict=True):
        own = made.rows[place, 0]
        made.rows[place, 0] = stamp if abs(stamp - own) > 5000 else own + 1e7
        made.touched.add(place)


def cut(made: Made, place: int, count: int) -> None:
    """Rows that were never written."""
    made.rows, made.row_of = (np.delete(array, slice(place, place + count), axis=0) for array in (made.rows, made.row_of))


def batched(made: Made, size: int, *, last: bool) -> None:
    """Rows that were sent together share the stamp of the last, or the first, of them."""
    n = len(made.rows)
    first = np.arange(n) // size * size
    made.rows[:, 0] = made.rows[np.minimum(first + size - 1, n - 1) if last else first, 0]


def set_back(made: Made, place: int, to_ms: float) -> None:
    """The clock is set to `to_ms` at a row, and goes on from there."""
    made.rows[place:, 0] += to_ms - made.rows[place, 0]


def nearest(made: Made, windows: list[Window]) -> NDArray[np.int64]:
    """The first row of each window among those of the clean recording, by time."""
    clean = 1.0 + np.arange(int(made.row_of[-1]) + 1) / made.rate
    return np.array([int(np.argmin(np.abs(clean - w.start_s))) for w in windows], dtype=np.int64)
