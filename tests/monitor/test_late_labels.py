"""Late labels: each kind of bad delivery has its outcome, corrections keep history, and every delivery can be repeated."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from components.core.errors import DataError
from components.monitor.late_labels import REFUSALS, Answers, InForce, Label, LabelStore

ANSWERED = datetime(2026, 11, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
CLASSES = ("benign", "malignant")
NOW = ANSWERED + 30 * DAY


def answers(n: int = 3) -> Answers:
    times = np.full(n, np.datetime64(ANSWERED.replace(tzinfo=None), "us"))
    names = np.array([f"r{k}" for k in range(n)])
    return Answers(names, times, np.full(n, "d1"), np.full(n, "m1"), names, np.full((n, 2), 0.5))


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore(tmp_path / "labels", CLASSES)


def files(store: LabelStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.folder.glob("*.jsonl")}


def test_a_delivery_that_arrives_twice_changes_nothing(store: LabelStore) -> None:
    delivery = [Label("r0", "benign", ANSWERED + DAY), Label("r1", "malignant", ANSWERED + DAY, "m1")]
    assert store.add(delivery, answers(), received=NOW).counts == {"new": 2}
    before = files(store)
    again = store.add(delivery, answers(), received=NOW + DAY)
    assert again.counts == {"same": 2}
    assert files(store) == before


def test_a_correction_counts_from_its_own_time_and_the_past_can_still_be_asked(store: LabelStore) -> None:
    store.add([Label("r0", "benign", ANSWERED + DAY)], answers(), received=NOW)
    assert store.add([Label("r0", "malignant", ANSWERED + 9 * DAY)], answers(), received=NOW + DAY).counts == {"corrected": 1}
    assert store.in_force()["r0"] == InForce("malignant", ANSWERED + 9 * DAY, 1)
    assert store.in_force(as_of=NOW)["r0"] == InForce("benign", ANSWERED + DAY, 0)
    assert store.add([Label("r0", "benign", ANSWERED + 2 * DAY)], answers(), received=NOW + DAY).counts == {"same": 1}, "older than the one in force"
    assert store.in_force()["r0"].label == "malignant"


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (Label("nobody", "benign", ANSWERED + DAY), "unknown"),
        (Label("r0", "Benign?", ANSWERED + DAY), "class"),
        (Label("r0", "benign", ANSWERED + DAY, "m2"), "version"),
        (Label("r0", "benign", datetime(2026, 11, 2)), "zone"),
        (Label("r0", "benign", ANSWERED - DAY), "early"),
        (Label("r0", "benign", NOW + DAY), "future"),
        (Label("r1", "malignant", ANSWERED + DAY), "conflict"),
    ],
)
def test_each_kind_of_bad_label_is_refused_with_its_reason(store: LabelStore, label: Label, reason: str) -> None:
    store.add([Label("r1", "benign", ANSWERED + DAY)], answers(), received=NOW)
    before = files(store)
    taken = store.add([label], answers(), received=NOW)
    assert taken.refused == [(label.sample, reason)]
    assert REFUSALS[reason] in str(taken)
    assert files(store) == before


def test_every_reason_of_refusal_is_tested() -> None:
    marks = test_each_kind_of_bad_label_is_refused_with_its_reason.pytestmark  # type: ignore[attr-defined]
    assert {case[1] for mark in marks for case in mark.args[1]} == set(REFUSALS)


def test_bad_rows_do_not_take_good_ones_with_them(store: LabelStore) -> None:
    taken = store.add([Label("x", "benign", ANSWERED), Label("r0", "benign", ANSWERED), Label("r2", "?", ANSWERED)], answers(), received=NOW)
    assert taken.counts == {"new": 1, "refused": 2}
    assert set(store.in_force()) == {"r0"}


def test_time_zones_are_compared_as_instants(store: LabelStore) -> None:
    """13:30 at +02:00 is 11:30 UTC: before the answer at 12:00 UTC."""
    east = timezone(timedelta(hours=2))
    assert store.add([Label("r0", "benign", datetime(2026, 11, 1, 13, 30, tzinfo=east))], answers(), received=NOW).reasons == {"early": 1}
    assert store.add([Label("r0", "benign", datetime(2026, 11, 1, 14, 30, tzinfo=east))], answers(), received=NOW).counts == {"new": 1}


def test_a_batch_is_whole_or_absent(store: LabelStore) -> None:
    """A delivery that breaks on its way leaves nothing, not its first half."""

    def broken() -> Iterator[Label]:
        yield Label("r0", "benign", ANSWERED)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        store.add(broken(), answers(), received=NOW)
    assert files(store) == {}


def test_a_damaged_line_is_an_error_that_names_it(store: LabelStore) -> None:
    store.add([Label("r0", "benign", ANSWERED)], answers(), received=NOW)
    path = next(store.folder.glob("*.jsonl"))
    path.write_text(path.read_text() + '{"sample": "r1"\n')
    with pytest.raises(DataError, match=r"jsonl:2: not a label"):
        store.in_force()


def test_erasing_a_sample_leaves_no_byte_of_it(store: LabelStore) -> None:
    store.add([Label("r0", "benign", ANSWERED), Label("r1", "benign", ANSWERED)], answers(), received=NOW)
    store.add([Label("r0", "malignant", ANSWERED + DAY)], answers(), received=NOW)
    assert store.erase(["r0"]) == 2
    assert all(b"r0" not in content for content in files(store).values())
    assert set(store.in_force()) == {"r1"}


def test_answers_with_repeated_ids_or_unequal_columns_are_refused() -> None:
    one = answers(2)
    with pytest.raises(DataError, match="repeat"):
        Answers(np.array(["a", "a"]), one.time, one.device, one.version, one.group, one.probabilities)
    with pytest.raises(DataError, match="differ in length"):
        Answers(one.sample, one.time[:1], one.device, one.version, one.group, one.probabilities)


def test_time_of_receipt_needs_a_zone(store: LabelStore) -> None:
    with pytest.raises(DataError, match="time zone"):
        store.add([], answers(), received=datetime(2026, 12, 1))


def test_one_endless_id_makes_no_other_as_wide() -> None:
    """Of an older log, or a foreign collector's: 2,000 answers beside one id of a megabyte were 8 GB."""
    n = 2000
    ids = [f"r{k}" for k in range(n - 2)] + ["x" * (1 << 20), "x" * (1 << 20) + "y"]
    times = np.full(n, np.datetime64(ANSWERED.replace(tzinfo=None), "us"))
    found = Answers(ids, times, ["d" * (1 << 20)] * n, ["m1"] * n, ids, np.full((n, 2), 0.5))  # pyright: ignore[reportArgumentType]
    assert found.sample.nbytes + found.device.nbytes + found.group.nbytes < 4 << 20
    assert found.sample[:2].tolist() == ["r0", "r1"]
    assert len(set(found.sample.tolist())) == n, "two ids are two"
