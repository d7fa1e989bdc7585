"""Clocks as sensors and loggers leave them: what a wild stamp, a batch, a clock that is set, a gap, or another rate costs, and that it is told."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from components.core.imaging.errors import NotUsable
from components.core.recordings import coverage, table, windows
from components.core.recordings.clock import NEIGHBOURS
from components.core.recordings.reading import LEAST_TIMES, MOST_TIMES
from tests.ingest.clocks import JUDGED_S, SPEC, STRIDE_S, WINDOW_S, Made, batched, cut, read, set_back, walk, wild, windows_of

SMALL = settings(max_examples=25, derandomize=True, deadline=None, database=None)
RATES = st.sampled_from([33.0, 40.0, 50.0, 64.0, 100.0, 128.0])
STAMPS = st.sampled_from([0.0, -1.0, 999_999_999.0, 4_294_967_295.0, 1.7e12, -5e8]) | st.floats(-1e9, 1e12)


def told(made: Made) -> dict[str, float]:
    """Seconds by reason, of what no window judges."""
    return read(made.text())[1].coverage().to_dict()["not_judged_s"]


@SMALL
@given(RATES, st.lists(st.tuples(st.floats(0, 1), STAMPS), min_size=1, max_size=6))
def test_wild_stamps_cost_the_windows_that_judge_them_and_no_other(rate: float, damage: list[tuple[float, float]]):
    """Anywhere, several, first and last row among them: every other window is there, at its time, with its numbers."""
    made = walk(30, rate)
    whole, _ = read(made.text())
    wild(made, [min(len(made.rows) - 1, int(share * len(made.rows))) for share, _ in damage], [stamp for _, stamp in damage])
    found, reading = read(made.text())
    edges = {0, 1, 2, 3, 4, 5, len(made.rows) - 1, len(made.rows) - 2, len(made.rows) - 3} & made.touched
    if not edges:  # a wild first row moves where the windows begin
        assert [w.start_s for w in found] == pytest.approx([w.start_s for w in whole])
        for w, clean in zip(found, whole, strict=True):
            judged = [row for row in made.touched if w.start_s + WINDOW_S - JUDGED_S <= 1 + row / rate < w.start_s + WINDOW_S]
            assert (w.fault == table.CLOCK) == bool(judged)
            assert np.abs(w.values - clean.values).max() < 0.5
    touched = len(made.touched)
    assert sum(w.fault is None for w in found) >= len(whole) - 2 * touched - 1
    assert reading.coverage().recorded_s == pytest.approx(30, abs=3 / rate)


@SMALL
@given(RATES, st.integers(2, 50), st.booleans())
def test_a_batch_under_one_stamp_is_spread(rate: float, size: int, last: bool):
    """Radio links stamp a batch: nothing runs backwards, the rate is that of the rows, and the windows are those of an even clock, a batch late at
    most. What it may cost is a last batch that is cut: its rows seem to lie too close, or a gap before them."""
    made = walk(30, rate)
    batched(made, size, last=last)
    found, reading = read(made.text())
    assert all(reason in (table.CLOCK, table.MISSING) and ms > made.rows[-1, 0] - 1000 * 2 * size / rate for reason, ms in reading.table.broken)
    assert 1 / reading.table.period_s == pytest.approx(rate, rel=0.012)  # a cut batch of a second and a half, of thirty, shows
    assert abs(len(found) - windows_of(30)) <= 1
    late = min(abs(w.start_s - 1 - k * STRIDE_S) for k, w in enumerate(found[:1]))
    assert late <= (size + 1) / rate
    for w in found[1:-1]:
        t = w.start_s - 1 + np.arange(204) / 40
        best = min(
            np.abs(600 + 500 * np.sin(2 * np.pi * 2 * (t - shift)) - w.values[0]).max() for shift in np.linspace(-size / rate, size / rate, 201)
        )
        assert best < 60


@SMALL
@given(RATES, st.floats(0.1, 0.9), st.sampled_from([0.0, 1000.0, 900_000.0, 1.7e12]))
def test_a_clock_that_is_set_costs_what_a_break_costs(rate: float, share: float, to_ms: float):
    """A sensor that starts again, a clock that is put right: the rows before and behind are two recordings, and both are judged."""
    made = walk(40, rate)
    row = int(share * len(made.rows))
    set_back(made, row, to_ms)
    found, reading = read(made.text())
    expected = windows_of(row / rate) + windows_of((len(made.rows) - row) / rate)
    assert abs(len(found) - expected) <= 1
    ahead = (to_ms - made.rows[row - 1, 0]) / 1000 if to_ms == 900_000.0 else 0  # a quarter of an hour may be missing; the other jumps are none
    assert reading.coverage().recorded_s == pytest.approx(40 + ahead, abs=3 / rate)
    assert {reason for reason, _ in reading.table.broken} <= {table.BACK, table.AHEAD, table.MISSING}
    assert reading.table.broken


def test_a_clock_that_stands_still_for_some_rows_and_goes_on_is_no_loss():
    made = walk(20, 64)
    made.rows[700:703, 0] = made.rows[700, 0]
    found, reading = read(made.text())
    assert (len(found), reading.table.broken) == (windows_of(20), [])


def test_rows_that_come_twice_are_used_once():
    """A logger that sends its buffer again after a lost link: the same rows are no second walk, whatever the windows on them say."""
    made = walk(20, 64)
    made.rows = np.concatenate([made.rows[:800], made.rows[600:]])
    found, reading = read(made.text())
    assert {reason for reason, _ in reading.table.broken} == {table.BACK}
    assert reading.coverage().lost_s[table.BACK] == pytest.approx(200 / 64, abs=1e-6)
    assert sum(w.fault is None for w in found) * STRIDE_S < 20


damages = st.lists(
    st.one_of(
        st.tuples(st.just("wild"), st.floats(0, 1), STAMPS),
        st.tuples(st.just("gap"), st.floats(0.05, 0.95), st.integers(1, 300)),
        st.tuples(st.just("set"), st.floats(0, 1), st.floats(0, 1e5)),
        st.tuples(st.just("hole"), st.floats(0, 1), st.integers(1, 40)),
        st.tuples(st.just("far"), st.floats(0, 1), st.integers(1, 3)),
        st.tuples(st.just("still"), st.floats(0, 1), st.integers(2, 400)),
        st.tuples(st.just("dead"), st.floats(0, 1), st.integers(10, 600)),
    ),
    max_size=6,
)


def damaged(made: Made, events: list[tuple[str, float, float]]) -> None:
    for kind, share, size in sorted(events, key=lambda event: event[0] == "gap"):  # rows are counted before any of them goes
        row = min(len(made.rows) - 1, int(share * len(made.rows)))
        part = slice(row, row + int(size)) if kind not in ("wild", "set") else slice(row, row + 1)
        if kind == "wild":
            wild(made, [row], [size])
        elif kind == "gap":
            # Rows enough stay behind it: a few stamps alone, far from all others, cannot be told from wild ones.
            cut(made, max(1, row), max(0, min(int(size), len(made.rows) - max(1, row) - NEIGHBOURS)))
        elif kind == "set":
            set_back(made, row, size)
        elif kind == "hole":
            made.rows[part, 3] = np.nan
        elif kind == "far":
            made.rows[part, 5] = 1e9
        elif kind == "still":
            made.rows[part, 0] = made.rows[row, 0]
        elif kind == "dead":
            made.rows[part, 7] = 17


@settings(SMALL, max_examples=60)
@given(RATES, damages)
def test_seconds_judged_and_not_judged_are_the_length_of_the_recording(rate: float, events: list[tuple[str, float, float]]):
    """Whatever happens to a recording, nothing is lost in silence: the reasons' seconds add up, windows lie on rows that are there, and there are
    reasons where windows are missing."""
    made = walk(40, rate)
    damaged(made, events)
    try:
        found, reading = read(made.text())
    except NotUsable:  # a whole line, without a number of seconds that could be wrong
        return
    whole = reading.coverage()
    told = whole.to_dict()
    assert told["judged_s"] + sum(told["not_judged_s"].values()) == pytest.approx(told["seconds"], abs=0.01)
    assert told["windows"] == sum(w.fault is None for w in found)
    known = [kind for kind, _, _ in events]
    if "set" not in known and "wild" not in known:  # a clock that is set, or wild, tells of gaps that are none
        assert told["seconds"] == pytest.approx(40, abs=(6 * len(events) + 3 + sum(300 for kind in known if kind == "still")) / rate)
    if told["windows_missing"]:
        assert set(told["not_judged_s"]) - {coverage.BEFORE, coverage.BEHIND}
    assert told["judged_s"] <= 40.01
    again, _ = read(made.text(), size=997)
    assert [(w.fault, pytest.approx(w.start_s, abs=1e-3)) for w in found] == [(w.fault, w.start_s) for w in again]


@settings(SMALL, max_examples=40)
@given(st.floats(1.0, 2000.0))
def test_a_rate_that_the_model_was_not_made_for_is_named(rate: float):
    made = walk(max(8.0, 60 / rate), rate)
    lowest, highest = LEAST_TIMES * 40, MOST_TIMES * 40
    if lowest * 1.01 < rate < highest * 0.99:
        assert len(read(made.text())[0]) == windows_of(8)
    elif not lowest * 0.99 < rate < highest * 1.01:
        with pytest.raises(NotUsable, match=r"sampled at (\S+) Hz where the model wants 40 \(32 to 320\)") as refused:
            read(made.text())
        assert float(str(refused.value).split()[2]) == pytest.approx(rate, rel=0.01)


@SMALL
@given(st.floats(32.5, 319.0), st.sampled_from([1e-6, 1e-3, 0.1, 10.0, 1e3, 1e6]))
def test_a_clock_in_another_unit_or_ten_times_off_is_refused(rate: float, factor: float):
    """Whatever believable rate a sensor has: none is believable any more when its clock is read a power of ten off."""
    made = walk(8, rate, start_ms=0)
    made.rows[:, 0] *= factor
    with pytest.raises(NotUsable, match=r"where the model wants 40|no clock in the time column"):
        read(made.text())


def test_every_reason_fires():
    """One recording for each reason that time can be lost for, and the seconds that it costs."""
    second = 64
    cases: dict[str, tuple[Made, float]] = {}

    def one(reason: str, seconds: float) -> Made:
        cases[reason] = (walk(20, 64), seconds)
        return cases[reason][0]

    wild(one(table.CLOCK, STRIDE_S), [640], [1e9])
    cut(one(table.MISSING, 1.0), 640, second)
    one(table.NUMBERS, 10 / 64).rows[640:650, 2] = np.nan
    one(table.VALUES, 10 / 64).rows[640:650, 2] = -40_001
    one(windows.DEAD, STRIDE_S).rows[640 : 640 + 300, 4] = 0
    made = one(table.BACK, 100 / 64)
    made.rows = np.concatenate([made.rows[:700], made.rows[600:]])
    made = one(windows.PACE, JUDGED_S)
    made.rows[700:, 0] = made.rows[700, 0] + (made.rows[700:, 0] - made.rows[700, 0]) / 1.9
    one(coverage.BEFORE, WINDOW_S - JUDGED_S)
    set_back(one(coverage.RESUMED, WINDOW_S - JUDGED_S), 600, 0)
    one(coverage.BEHIND, 20 - WINDOW_S - 11 * STRIDE_S)
    cut(one(coverage.SHORT, 3.0), 192, 20)
    for reason, (made, seconds) in cases.items():
        assert told(made)[reason] >= seconds - 0.05, reason
    slow = walk(20, 45)
    slow.rows[450:, 0] = slow.rows[450, 0] + (slow.rows[450:, 0] - slow.rows[450, 0]) * 1.45
    assert told(slow)[windows.SLOW] > 4


def test_a_labelled_recording_tells_what_lies_outside_the_experiment():
    made = walk(20, 64)
    label = np.where(made.row_of < 320, 0, 1)
    lines = made.text().splitlines()
    body = "\n".join([lines[0] + ",N", *(f"{line},{n}" for line, n in zip(lines[1:], label, strict=True))]) + "\n"
    _, reading = read(body)
    assert reading.coverage().lost_s[table.OUTSIDE] == pytest.approx(5.0)
    assert reading.coverage().recorded_s == pytest.approx(20.0)


def test_most_rows_beyond_any_sensor_are_another_unit():
    made = walk(20, 64)
    made.rows[:, 1:] *= 9810
    with pytest.raises(NotUsable, match="another unit"):
        read(made.text())


def test_between_windows_that_stand_apart_is_told():
    raw = SPEC.model_dump(mode="json")
    raw["recording"] |= {"stride_s": 4.0}
    _, reading = read(walk(20, 64).text(), type(SPEC).model_validate(raw))
    assert reading.coverage().lost_s[coverage.BETWEEN] == pytest.approx(3 * (4.0 - JUDGED_S))
