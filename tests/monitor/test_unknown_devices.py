"""Device keys that nobody registered: few are followed one by one, a flood is one alarm, and no scanner is hidden by it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.erasure import Ids
from components.core.errors import DataError
from components.core.inference_log import InferenceLog
from components.core.package import ModelPackage
from components.monitor import unknown_devices
from components.monitor.detect import MIN_N
from components.monitor.erasure import erase_memory
from components.monitor.labelled import take
from components.monitor.state import SCHEMA_VERSION
from components.monitor.step import drift
from components.monitor.unknown_devices import MOST, OTHERS, apart
from tests.monitor.test_labelled import delivery
from tests.monitor.test_watch import DAY, MOVED, NEW, QUIET, SAME, answers, history, package, run, told

__all__ = ["package"]


def flood(package: ModelPackage, day: int, keys: int, each: int = 1, first: int = 0) -> Iterator[dict[str, Any]]:
    """Answers under made-up keys, each with a software version and a kernel of its own."""
    base = list(answers(package, SAME, day))
    for n in range(keys * each):
        row = base[n % len(base)]
        yield row | {
            "device_key": f"{first + n // each + 1000 * day:016x}",
            "request_id": f"f{day}-{first}-{n}",
            "patient": f"pf{n}",
            "software": f"{n:016x}",
        }


def state(root: Path) -> Path:
    return next((root / "state" / "lung-nodule").glob("*.db"))


def test_ten_thousand_keys_are_one_alarm_and_one_row(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        log.append([r for key in (SAME, MOVED, QUIET) for r in answers(package, key, 0)])
        log.append(list(flood(package, 0, 2000)))
        log.append([r for key in (NEW, "9" * 16) for r in answers(package, key, 0, 40)])
    found = told(run(package, tmp_path, 1.5))
    assert set(found) == {("unseen", OTHERS), ("unseen", NEW), ("unseen", "9" * 16)}  # the two with many answers stand for themselves
    assert found["unseen", OTHERS].startswith("2,000 device keys that are not in the reference of the model, 2,000 answers, counted together")
    rows = history(tmp_path).set_index("device_key")
    assert rows["n"].to_dict() == {SAME: 60, MOVED: 60, QUIET: 60, NEW: 40, "9" * 16: 40, OTHERS: 2000}
    assert rows["label"][OTHERS] == "other unknown devices"
    metrics = (tmp_path / "state" / "metrics.prom").read_text()
    assert len(metrics.splitlines()) < 200
    with closing(sqlite3.connect(state(tmp_path))) as db:
        assert db.execute("select count(*) from waiting").fetchone() == (0,)

    seen = drift(package=package.folder, log=tmp_path / "log", out=tmp_path / "drift")
    assert len(seen["alarms"]) == 3
    assert seen["window"]["together"] == {"devices": 2000, "answers": 2000}
    assert seen["devices"][OTHERS]["n"] == 2000


def test_the_flood_of_one_day_ends_its_alarm_after_calm_days(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        log.append([*flood(package, 0, 100), *(r for day in range(5) for key in (SAME, MOVED, QUIET) for r in answers(package, key, day))])
    assert ("unseen", OTHERS) in told(run(package, tmp_path, 2.5))
    assert ("unseen", OTHERS) not in told(run(package, tmp_path, 5.5))


def test_new_keys_every_day_do_not_pile_up(package: ModelPackage, tmp_path: Path) -> None:
    """Sixty keys a day, fewer than the limit: the alarms stay at the limit and one sentence tells how many made room."""
    for day in range(3):
        with InferenceLog(tmp_path / "log") as log:
            log.append([*answers(package, SAME, day), *flood(package, day, 60)])
    found = run(package, tmp_path, 3.5)
    unseen = [a for a in found["open_alarms"] if a["kind"] == "unseen"]
    assert len(unseen) == MOST + 1
    assert "60 unseen devices of earlier windows are no longer followed" in told(found)["unseen", OTHERS]
    newest = {f"{n + 2000:016x}" for n in range(60)}
    assert newest <= {a["device_key"] for a in unseen}
    with closing(sqlite3.connect(state(tmp_path))) as db:
        memory = dict(db.execute("select key, value from memory"))
    for name in ("names", "software", "history", "past"):
        assert len(json.loads(memory[name])) <= MOST + 4


def test_the_order_and_the_batches_do_not_matter(package: ModelPackage, tmp_path: Path) -> None:
    rows = [*flood(package, 0, 90), *flood(package, 0, 3, 26, first=500), *answers(package, NEW, 0, 30), *answers(package, SAME, 0)]
    once, often = tmp_path / "once", tmp_path / "often"
    with InferenceLog(once / "log") as log:
        log.append(rows)
    shuffled = [rows[n] for n in np.random.default_rng(1).permutation(len(rows))]
    for part in range(4):
        with InferenceLog(often / "log") as log:
            log.append(shuffled[part::4])
        run(package, often, 0.5)
    assert told(run(package, once, 2.5)) == told(run(package, often, 2.5))
    columns = ["window_start", "device_key", "n", "verdict", "score_mean", "score_low", "score_high"]
    a, b = (history(root)[columns].set_index(["window_start", "device_key"]).sort_index() for root in (once, often))
    assert (a["n"] == b["n"]).all()
    np.testing.assert_allclose(a[["score_mean", "score_low", "score_high"]], b[["score_mean", "score_low", "score_high"]])


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(counts=st.dictionaries(st.text("0123456789abcdef", min_size=16, max_size=16), st.integers(0, 300), max_size=200))
def test_a_flood_hides_nobody_with_more_answers_than_those_who_are_followed(counts: dict[str, int]) -> None:
    chosen = apart(counts)
    assert len(chosen) <= MOST
    if len(counts) <= MOST:
        assert chosen == set(counts)
    left = [n for key, n in counts.items() if key not in chosen]
    assert not [n for n in left if n >= MIN_N and (len(chosen) < MOST or n > min(counts[key] for key in chosen))]


def test_labels_under_made_up_keys_make_no_snapshot_each(package: ModelPackage, tmp_path: Path) -> None:
    rows = list(flood(package, 0, 100))
    with InferenceLog(tmp_path / "log") as log:
        log.append([*answers(package, SAME, 0), *rows])
    run(package, tmp_path, 1.5)
    at = (DAY + timedelta(days=2)).isoformat()
    file = delivery(tmp_path / "l.csv", [(r["request_id"], "benign", at) for r in rows])
    take(package=package.folder, log=tmp_path / "log", state=tmp_path / "state", file=file, now=DAY + timedelta(days=3))
    run(package, tmp_path, 3.5)
    kept = next((tmp_path / "state" / "lung-nodule" / "true").glob("*.jsonl")).read_text().splitlines()
    assert {json.loads(line)["device"] for line in kept} == {SAME, OTHERS}
    assert history(tmp_path).set_index("device_key").loc[OTHERS, "labelled"].max() == 100


def test_a_patient_whose_answer_waits_is_erased(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        log.append(list(flood(package, 0, 5)))
    run(package, tmp_path, 0.5)
    ids = Ids(keys=frozenset({"pf3"}))
    assert sum(erase_memory(tmp_path / "state", ids, dry=True).values()) == 1
    assert sum(erase_memory(tmp_path / "state", ids, dry=False).values()) == 1
    assert erase_memory(tmp_path / "state", ids, dry=False) == {}
    with closing(sqlite3.connect(state(tmp_path))) as db:
        ((ids_, events),) = db.execute("select ids, events from waiting").fetchall()
    assert len(ids_) == 4 * 8
    assert len(unknown_devices.unpacked([events])) == 4
    run(package, tmp_path, 1.5)
    assert history(tmp_path).query("n > 0")["n"].tolist() == [1] * 4


# ---- the state says which schema it has ----------------------------------------------------------------------------------------------------


def as_before(path: Path) -> None:
    """The state as it was before it said its schema."""
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute("pragma user_version").fetchone() == (SCHEMA_VERSION,)
        schema = json.loads(db.execute("select value from memory where key = 'schema'").fetchone()[0])
        db.execute("update memory set value = ? where key = 'schema'", (json.dumps([1, *schema[1:]]),))
        db.execute("delete from memory where key = 'followed'")
        db.execute("alter table sketch drop column ends")
        db.execute("drop table waiting")
        db.execute("pragma user_version = 0")


def test_a_state_of_before_goes_on_and_keeps_its_history(package: ModelPackage, tmp_path: Path) -> None:
    for root in (tmp_path / "a", tmp_path / "b"):
        with InferenceLog(root / "log") as log:
            log.append([r for day in (0, 1) for r in answers(package, SAME, day)])
        run(package, root, 1.9)
        if root.name == "b":
            as_before(state(root))
        with InferenceLog(root / "log") as log:
            log.append([r for day in (2, 3) for r in answers(package, SAME, day, noise_sd=5.0)])
    new, old = (run(package, tmp_path / name, 4.5) for name in "ab")
    assert told(new) == told(old)
    assert "noise +" in told(old)["drift", SAME]
    assert history(tmp_path / "b")["n"].tolist() == history(tmp_path / "a")["n"].tolist()
    with closing(sqlite3.connect(state(tmp_path / "b"))) as db:
        assert db.execute("pragma user_version").fetchone() == (SCHEMA_VERSION,)


def test_a_state_of_a_later_dxflow_is_one_line_and_stays_as_it_is(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        log.append(list(answers(package, SAME, 0)))
    run(package, tmp_path, 1.5)
    with closing(sqlite3.connect(state(tmp_path))) as db, db:
        db.execute("pragma user_version = 99")
    before = state(tmp_path).read_bytes()
    with pytest.raises(DataError, match=r"a state of another dxflow; got schema 99; allowed: up to 2; update dxflow"):
        run(package, tmp_path, 2.5)
    with pytest.raises(DataError, match="a state of another dxflow"):
        erase_memory(tmp_path / "state", Ids(keys=frozenset({"x"})), dry=False)
    assert state(tmp_path).read_bytes() == before
