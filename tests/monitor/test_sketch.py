"""Counts lose nothing that the tests need, and merge exactly."""

from __future__ import annotations

import numpy as np
import pytest

from components.core.errors import DataError
from components.monitor.reference import Reference
from components.monitor.sketch import EDGES, MISSING, NEW, Places, Sketch, hashes


def test_values_of_the_reference_have_places_of_their_own_and_others_lie_between() -> None:
    places = Places.of({"x": np.array([1.0, 2.0, 4.0])})
    assert places.place(0, [1, 2, 4]).tolist() == [1, 3, 5]
    assert places.place(0, [0, 1.5, 3, 9]).tolist() == [0, 2, 4, 6]
    assert places.place(0, [np.nan, np.inf, -np.inf]).tolist() == [MISSING] * 3


def test_names_are_counted_by_name_and_a_new_one_is_seen() -> None:
    places = Places.of({"kernel": np.array(["B30", "B30", "B50", None], dtype=object)})
    assert places.categories["kernel"] == ("B30", "B50")
    assert places.place(0, np.array(["B50", "B30", "B70", None, np.nan], dtype=object)).tolist() == [3, 1, NEW, MISSING, MISSING]


def test_a_month_is_the_sum_of_its_days() -> None:
    rng = np.random.default_rng(0)
    columns = {"x": rng.normal(size=5000), "kernel": rng.choice(["a", "b", "c"], 5000)}
    patients = hashes(rng.integers(0, 2000, 5000))
    strata = rng.integers(0, 2, 5000)
    places = Places.of(columns)
    whole, parts = Sketch.empty(2, 2), Sketch.empty(2, 2)
    whole.add(places, columns, patients, strata)
    for rows in np.array_split(rng.permutation(5000), 7):
        day = Sketch.empty(2, 2)
        day.add(places, {name: values[rows] for name, values in columns.items()}, patients[rows], strata[rows])
        parts.merge(day)
    assert np.array_equal(whole.counts, parts.counts)
    assert np.array_equal(whole.tugs, parts.tugs)
    assert whole.n == 5000
    with pytest.raises(DataError, match="different features"):
        whole.merge(Sketch.empty(1, 2))


@pytest.mark.parametrize("each", [1, 4, 25])
def test_events_of_one_patient_are_known_as_such(each: int) -> None:
    sketch = Sketch.empty(1, 1)
    patients = np.repeat(np.arange(2000), each)
    sketch.add(Places.of({"x": np.arange(10.0)}), {"x": np.zeros(len(patients))}, hashes(patients))
    assert sketch.per_patient == pytest.approx(each, rel=0.15)


def test_a_feature_that_a_window_does_not_have_is_missing_there() -> None:
    sketch = Sketch.empty(1, 2)
    sketch.add(Places.of({"x": np.arange(5.0), "y": np.arange(5.0)}), {"x": np.arange(3.0)}, hashes(range(3)))
    assert sketch.counts[0, :, MISSING].tolist() == [0, 3]


def test_no_more_places_than_edges_and_each_holds_its_share() -> None:
    values = np.random.default_rng(1).lognormal(size=20_000)
    places = Places.of({"x": values})
    counts = np.bincount(places.place(0, values), minlength=MISSING)
    inner = counts.reshape(-1)[: 2 * EDGES].reshape(EDGES, 2).sum(1)
    assert inner.max() < 1.2 * len(values) / EDGES


def test_how_alike_the_events_of_one_patient_are() -> None:
    rng = np.random.default_rng(5)
    patients = np.repeat(np.arange(800), 3)
    own, noise = np.repeat(rng.normal(size=800), 3), rng.normal(size=2400)
    columns = {"same": own, "half": own + noise, "apart": noise}
    baseline, against = Reference.of(columns, ["a"] * 2400, patients).baseline("a")
    assert against == "own"
    assert baseline.alike == pytest.approx([1.0, 0.5, 0.0], abs=0.06)
    alone, _ = Reference.of({"x": noise}, ["a"] * 2400, np.arange(2400)).baseline("a")
    assert alone.alike[0] == 1.0


def test_a_device_with_few_events_is_compared_with_all() -> None:
    reference = Reference.of({"x": np.arange(149.0)}, ["a"] * 120 + ["b"] * 29, np.arange(149))
    assert reference.baseline("a")[1] == "own"
    assert reference.baseline("b")[1] == reference.baseline("c")[1] == "pooled"
    with pytest.raises(DataError, match="empty drift reference"):
        Reference.of({}, [], [])
