"""Cases are kept whatever the list's database is about, and all of them are on the list, once. All data is made up."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from components.core.errors import DataError, ServiceError
from serving.predictor import Query
from serving.reading.cases import CaseStore, Reading, erase, now
from serving.reading.tables import STATES
from serving.reading.work_list import Filter
from tests.serving.small_package import build, lung_nodule, reference
from tests.serving.small_server import free_port, serving, started

AT = datetime(2026, 3, 2, tzinfo=UTC)


def answer(n: int, p: float = 0.2, **more: Any) -> dict[str, Any]:
    decided = "malignant" if p >= 0.5 else "benign"
    return {
        "disease": "lung-nodule", "request_id": f"{n:032x}", "abstain": False, "decision": decided, "reasons": [], "synthetic": False,
        "probabilities": {"benign": 1 - p, "malignant": p}, "digest": "d" * 64, "uncertainty": {"set": [decided]},
    } | more  # fmt: skip


def query(n: int, **more: Any) -> Query:
    return Query(array=np.full((1, 4, 4), n, np.float32), patient=f"{n % 7:016x}", study=f"{n:016x}", **more)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """As a backup or VACUUM holds it."""
    with closing(sqlite3.connect(folder / "cases.db", isolation_level=None)) as db:
        db.execute("begin exclusive")
        yield
        db.execute("rollback")


def test_while_the_list_is_locked_cases_are_kept_and_afterwards_all_are_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CaseStore(tmp_path)
    store.add(query(0), answer(0), ["malignant"], AT + timedelta(days=400))
    assert len(store.list()) == 1
    with locked(tmp_path):
        for n in range(1, 30):
            store.add(query(n), answer(n), ["malignant"], now())
        assert store.waiting() == 29
        assert len(store.list()) == 1  # what is on it can be read
        monkeypatch.setattr("serving.reading.cases.WRITE_S", 0)
        with pytest.raises(ServiceError, match="locked by another program"):
            store.tell(store.list()[0].id, Reading(now(), "dr-b", "agree", "benign", ""))
    assert len(store.list()) == 30
    assert store.waiting() == 0
    assert {p.stem for p in (tmp_path / "pixels").iterdir()} == {c.id for c in store.list()}
    store.close()


def test_the_thread_takes_in_what_came_while_it_was_locked_and_a_kill_loses_nothing(tmp_path: Path) -> None:
    first = CaseStore(tmp_path)
    with locked(tmp_path):
        names = {first.add(query(n), answer(n), ["malignant"], now()) for n in range(5)}
        shutil.copytree(tmp_path / "incoming", tmp_path.with_name("killed") / "incoming")
    killed = CaseStore(tmp_path.with_name("killed"))  # what a kill at that moment leaves
    assert {case.id for case in killed.list()} == names
    killed.close()
    for _ in range(600):
        if not first.waiting():
            break
        threading.Event().wait(0.05)
    assert first.waiting() == 0
    first.close()


def test_a_case_that_was_taken_in_and_not_yet_moved_is_taken_once(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    name = store.add(query(1), answer(1), ["malignant"], now())
    data = (tmp_path / "incoming" / f"{name}.npz").read_bytes() if (tmp_path / "incoming" / f"{name}.npz").exists() else None
    store.list()
    (tmp_path / "incoming" / f"{name}.npz").write_bytes(data or (tmp_path / "pixels" / f"{name}.npz").read_bytes())
    (case,) = store.list()
    assert (case.id, case.asked, store.waiting()) == (name, 1, 0)
    store.close()


def test_the_same_sample_asked_again_is_one_case_with_a_count(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    for n in range(3):
        store.add(query(1), answer(n), ["malignant"], now())
    store.add(query(1), answer(3, digest="e" * 64), ["malignant"], now())  # of another package
    store.add(query(1, device_key="f" * 16), answer(4), ["malignant"], now())  # of another device
    store.add(query(8), answer(5), ["malignant"], now())  # of other pixels
    assert Counter(case.asked for case in store.list()) == {3: 1, 1: 3}
    assert len(list((tmp_path / "pixels").iterdir())) == 4
    found = store.page(Filter(search=f"{2:032x}"[:30] + "02"))
    assert [case.asked for case in found.cases] == [3]
    case = found.cases[0]
    store.tell(case.id, Reading(now(), "dr-b", "disagree", "malignant", ""))
    store.add(query(1), answer(6), ["malignant"], now())
    (read,) = store.list(read=True)
    assert (read.asked, read.last[1:] if read.last else None) == (4, ("dr-b", "disagree", "malignant"))
    assert store.erase(frozenset(), frozenset({f"{6:032x}"})) == 1
    assert len(store.list()) == 3
    store.close()


def test_an_erasure_beside_a_server_leaves_no_case_behind_in_its_memory(tmp_path: Path) -> None:
    """The server has read an incoming case, and before it puts it on the list another process erases it."""
    store = CaseStore(tmp_path)
    with locked(tmp_path):
        name = store.add(query(3), answer(3), ["malignant"], now())
        path = tmp_path / "incoming" / f"{name}.npz"
        content = path.read_bytes()
    assert erase(tmp_path, frozenset({f"{3:016x}"}), frozenset(), dry=True) == 1
    assert erase(tmp_path, frozenset({f"{3:016x}"}), frozenset(), dry=False) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serving.reading.cases._row", lambda _: json.loads(_row_of(content)))
        store._take(path)
    assert store.list() == []
    assert f"{3:016x}".encode() not in b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    store.close()


def _row_of(content: bytes) -> bytes:
    import io

    with np.load(io.BytesIO(content)) as found:
        return found["row"].tobytes()


CASES = st.lists(
    st.tuples(st.floats(0, 1), st.booleans(), st.sampled_from(["lung-nodule", "alzheimer-smri"]), st.integers(0, 3), st.booleans()), max_size=40
)


@settings(max_examples=20, phases=[Phase.generate], deadline=None, database=None, derandomize=True)
@given(cases=CASES, size=st.integers(1, 9))
def test_pages_hold_every_case_once_and_the_counts_add_up(
    cases: list[tuple[float, bool, str, int, bool]], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("pages")
    store, made = CaseStore(folder), set()
    for n, (p, abstain, disease, recording, read) in enumerate(cases):
        more: dict[str, Any] = {"disease": disease, "abstain": abstain}
        if recording:  # of one request, so of one model
            more |= {"disease": "parkinson-fog", "part": {"window": n}, "request_id": f"{recording:032x}-{n}"}
        name = store.add(query(n), answer(n, p, **more), ["malignant"], AT + timedelta(days=10_000, seconds=n))
        made.add(name)
        if read:
            store.take_in()
            store.tell(name, Reading(AT + timedelta(seconds=n), "dr-b", "agree", "benign", ""))
    for read in (False, True):
        whole = store.page(Filter(read=read))
        pages = [store.page(Filter(read=read), number=k + 1, size=size) for k in range(whole.pages if size > len(whole.cases) else whole.total)]
        pages = pages[: pages[0].pages] if pages else []
        assert [c.id for page in pages for c in page.cases] == [c.id for c in whole.cases]
        assert whole.total == sum(whole.states.values()) == sum(whole.diseases.values()) == len(whole.cases)
        assert sum(store.page(Filter(read=read, state=state)).total for state in STATES) == whole.total
        assert sum(store.page(Filter(read=read, disease=name)).total for name in whole.diseases) == whole.total
        assert (whole.open, whole.read)[read] == whole.total
        for case in whole.cases:
            assert case.id in {c.id for c in store.page(Filter(read=read, search=case.request_id[:20])).cases} or case.windows > 1
    windows = [c.id for page in (store.page(), store.page(Filter(read=True))) for case in page.cases for c in store.recording(case.id)]
    assert set(windows) == made
    store.close()


OLD = """
create table cases (
  id text primary key, time text not null, disease text not null, request_id text not null, patient text, study text, urgency real not null,
  answer text not null, query text not null, read integer not null default 0);
create index by_urgency on cases (read, urgency desc, time);
create table readings (
  case_id text not null references cases(id) on delete cascade, time text not null, who text not null, verdict text not null, label text,
  comment text not null);
create view listed as select cases.*, id as recording from cases;
"""


def test_a_list_of_before_is_taken_over_and_one_of_a_newer_dxflow_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "cases.db")) as db:
        db.executescript(OLD)
        doubtful = answer(1, 0.4, uncertainty={"set": ["benign", "malignant"]}, operating_point={"positive": "malignant"})
        rows = [(0, answer(0, 0.9), 2.9), (1, doubtful, 0.4), (2, answer(2, part={"window": 4, "file": 0}), 0.2), (3, answer(3), 0.2)]
        for n, kept, urgent in rows:
            kept["request_id"] = f"{n:032x}-4" if n == 2 else kept["request_id"]
            row = (f"{n:032x}", now().isoformat(), "lung-nodule", kept["request_id"], f"{n:016x}", None, urgent, json.dumps(kept), "{}", int(n == 3))
            db.execute("insert into cases values (?,?,?,?,?,?,?,?,?,?)", row)
        db.execute("insert into readings values (?,?,?,?,?,?)", (f"{3:032x}", now().isoformat(), "dr-b", "agree", "benign", ""))
        db.commit()
    store = CaseStore(tmp_path)
    page = store.page()
    assert [(case.id, case.state) for case in page.cases] == [(f"{0:032x}", "urgent"), (f"{1:032x}", "not ruled out"), (f"{2:032x}", "routine")]
    assert [case.last[1] for case in store.list(read=True) if case.last] == ["dr-b"]
    store.close()
    CaseStore(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "cases.db")) as db:
        db.execute("pragma user_version = 99")
    with pytest.raises(ServiceError, match=r"written by a newer dxflow; got version 99; allowed: up to 2"):
        CaseStore(tmp_path)


def test_a_disk_that_takes_no_case_stops_nothing_and_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CaseStore(tmp_path)
    (tmp_path / "incoming").rmdir()
    (tmp_path / "incoming").write_text("no folder")
    for n in range(3):
        store.keep(query(n), answer(n), ["malignant"], now())
    assert store.lost == 3
    assert len(caplog.records) == 1
    (lost, waiting) = store.figures()
    assert [s.value for s in (*lost.samples, *waiting.samples)] == [3, 0]
    store.close()


def test_nothing_is_found_by_a_name_that_is_none(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    for name in ("", "../x", "0" * 32):
        with pytest.raises(DataError, match="no such case"):
            store.get(name)
    store.close()


def test_a_locked_list_holds_no_answer_and_loses_no_case(tmp_path: Path) -> None:
    """Twelve clients get their answers from a server while somebody locks its list; then all twelve cases are on it."""
    package = build(tmp_path / "package", lung_nodule(normalise={"method": "range"}), reference({"0" * 16: ("SIEMENS", "SOMATOM FORCE")}))
    reading, port = tmp_path / "reading", free_port()
    x = np.random.default_rng(0).normal(-700, 40, (52, 52)).round(2)
    code = serving([package.folder], tmp_path / "log", port=port, reading=reading).replace("PosixPath(", "Path(")
    with started(code, tmp_path, port=port, ready="/v2/health/ready") as server:
        with locked(reading):
            replies = list[int]()

            def ask(n: int) -> None:
                body = {"instances": [{"array": [(x + n).tolist()], "device_key": "0" * 16}]}
                replies.append(httpx.post(f"{server.url}/v1/models/lung-nodule:predict", json=body, timeout=120).status_code)

            threads = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert replies == [200] * 12  # the lock is still there
            assert server.metrics()["dxflow_reading_cases_waiting"] == 12
            page = httpx.get(f"{server.url}/read", timeout=60)
            assert "12 more cases are kept and not on the list yet" in page.text
        text = httpx.get(f"{server.url}/read", timeout=60).text
        assert "1-12 of 12" in text
        assert "not on the list yet" not in text


SHARE = st.floats(0, 1, exclude_max=True)


@settings(max_examples=60, deadline=None, derandomize=True, database=None, phases=(Phase.explicit, Phase.generate))
@given(st.integers(0, 2), st.one_of(SHARE, st.lists(st.tuples(SHARE, st.integers(0, 7)), min_size=1, max_size=4)))
def test_a_case_that_the_disk_changed_stops_neither_the_list_nor_an_erasure(which: int, damage: float | list[tuple[float, int]]) -> None:
    """Cut or with flipped bits: it is counted, and does not stay, since nobody can say whose it is. It stopped the list for ever."""
    with TemporaryDirectory() as folder:
        store = CaseStore(Path(folder))
        with locked(store.folder):
            for n in range(3):
                store.add(query(n), answer(n), ["malignant"], now())
            path = sorted((store.folder / "incoming").glob("*.npz"))[which]
            content = bytearray(path.read_bytes())
            if not isinstance(damage, list):
                content = content[: int(damage * len(content))]
            else:
                for at, bit in damage:
                    content[int(at * len(content))] ^= 1 << bit
            path.write_bytes(bytes(content))
        erase(store.folder, frozenset({"f" * 16}), frozenset(), dry=True)
        cases = store.list()
        assert len(cases) + store.lost == 3
        assert store.waiting() == 0
        for case in cases:
            with suppress(DataError):  # the pixels may be what was damaged
                store.get(case.id)
        assert erase(store.folder, frozenset(f"{n:016x}" for n in range(7)), frozenset(), dry=False) == len(cases)
        assert not list(store.folder.rglob("*.npz"))
        store.close()


@pytest.mark.parametrize("left", ["incoming", "pixels"])
def test_files_without_their_list_are_erased_too(tmp_path: Path, left: str) -> None:
    """What a kill leaves before the first list is made, and what stays where a damaged list was taken away."""
    store = CaseStore(tmp_path / "a")
    with locked(tmp_path / "a"):
        for n in (3, 4):
            store.add(query(n), answer(n), ["malignant"], now())
        shutil.copytree(tmp_path / "a" / "incoming", tmp_path / "b" / left)
    store.close()
    patient = frozenset({f"{3:016x}"})
    assert erase(tmp_path / "b", patient, frozenset(), dry=True) == 1
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [left]
    assert erase(tmp_path / "b", patient, frozenset(), dry=False) == 1
    assert erase(tmp_path / "b", patient, frozenset(), dry=False) == 0
    assert len(list((tmp_path / "b").rglob("*.npz"))) == 1


def test_a_case_can_be_opened_as_soon_as_it_is_kept(tmp_path: Path) -> None:
    """Also in the moment in which the list takes it in: two threads that do so at every turn meet each of its steps."""
    store = CaseStore(tmp_path)
    over, own = threading.Event(), sys.getswitchinterval()

    def take() -> None:
        while not over.is_set():
            store.take_in()

    takers = [threading.Thread(target=take) for _ in range(2)]
    sys.setswitchinterval(1e-6)
    try:
        for one in takers:
            one.start()
        for n in range(150):
            name = store.add(query(n), answer(n), ["malignant"], now())
            assert store.get(name)[0].id == name
    finally:
        over.set()
        sys.setswitchinterval(own)
        for one in takers:
            one.join()
        store.close()
