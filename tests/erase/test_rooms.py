"""Every place that the product has in a home is on the list that `dxflow erase` works by, once; what is on no list is never touched."""

from __future__ import annotations

import ast
import fcntl
import importlib
import string
from collections.abc import Iterator
from pathlib import Path, PurePath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.erasure import Ids
from components.core.scratch import sweep
from pipelines.erase_files import erase_files
from pipelines.erase_plan import Plan
from pipelines.erase_rooms import ROOMS, room_of, rooms_of

ROOT = Path(__file__).parents[2]
IDS = Ids(keys=frozenset({"feedfacefeedface"}), requests=frozenset({"request-0123456789"}))


def places() -> Iterator[tuple[str, str]]:
    """(file, first part) of each `home() / "part" ...` in the product's code."""
    for file in sorted(p for folder in ("pipelines", "components", "serving", "feature_store") for p in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.left, ast.Call):
                called = node.left.func
                if isinstance(called, ast.Name) and called.id == "home" and isinstance(node.right, ast.Constant):
                    yield str(file.relative_to(ROOT)), str(node.right.value)


def test_every_place_that_the_code_names_is_a_room() -> None:
    found = list(places())
    assert len(found) > 30
    assert [(file, part) for file, part in found if len(rooms_of(PurePath(part) / "x")) != 1] == []


def test_a_path_is_of_one_room_and_every_owner_is_there() -> None:
    assert len({room.pattern for room in ROOMS}) == len(ROOMS)
    for room in ROOMS:
        importlib.import_module(room.owner)
        assert rooms_of(PurePath(room.pattern.replace("*", "x")) / "y") == [room]


NAMES = st.one_of(
    st.sampled_from(sorted({part for room in ROOMS for part in room.pattern.split("/")})), st.text(string.ascii_lowercase + ".-_", min_size=1)
)


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.lists(NAMES, min_size=1, max_size=4))
def test_no_path_is_of_two_rooms(parts: list[str]) -> None:
    assert len(rooms_of(PurePath(*parts))) <= 1


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DXFLOW_STORE", raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def plan(home: Path) -> Plan:
    return Plan(IDS, [str(home / "inference-log")], str(home / "monitor"))


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(
    parts=st.lists(NAMES.filter(lambda name: name.strip(".") and "*" not in name), min_size=1, max_size=3),
    suffix=st.sampled_from(["", ".log", ".json", ".db", ".html"]),
    dry=st.booleans(),
)  # fmt: skip
def test_only_what_may_be_swept_goes_and_the_rest_is_told(parts: list[str], suffix: str, dry: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A text with the patient in it, anywhere in a home."""
    root = tmp_path_factory.mktemp("rooms")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DXFLOW_HOME", str(root))
        path = root.joinpath(*parts).with_name(f"{parts[-1]}{suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"somebody asked about {min(IDS.keys)} in request-0123456789\n")
        name = path.relative_to(root)
        found = erase_files(plan(root), store=root / "store", dry=dry)
    room = room_of(name)
    what = "searched" if room is None else room.what
    goes = what == "swept" and path.suffix not in (".db", ".key", ".npy", ".npz")
    assert path.exists() == (dry or not goes)
    assert found.deleted == ([str(name)] if goes else [])
    assert found.left == ([str(name)] if what == "searched" or (what == "swept" and not goes) else [])


def test_a_log_or_a_store_that_this_erasure_was_not_told_of_is_told_and_left(home: Path) -> None:
    for name in ("store/models/x/card.md", "monitor/lung-nodule/alarms.json", "notes.txt", "old/manifest.parquet"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(f"of {min(IDS.keys)}\n")
    found = erase_files(plan(home), store=None, dry=False)
    assert (found.deleted, sorted(found.left)) == (
        [],
        ["monitor/lung-nodule/alarms.json", "notes.txt", "old/manifest.parquet", "store/models/x/card.md"],
    )


def test_scratch_that_somebody_holds_stays_and_the_rest_goes(home: Path) -> None:
    """Whose it is cannot be told: what a kill left goes, and what lies there without a lock."""
    folder = home / "scratch"
    for name in ("reference-a/0", "reference-b/0", "slide-c.tif", "f/deep/er"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"pixels")
    (folder / "reference-a.lock").touch()
    (home / "elsewhere").write_bytes(b"stays")
    (folder / "link").symlink_to(home / "elsewhere")
    with open(folder / "reference-b.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        expected = ["f", "link", "reference-a", "slide-c.tif"]
        assert sweep(dry=True) == expected
        assert sweep() == expected
        assert sorted(p.name for p in folder.iterdir()) == ["reference-b", "reference-b.lock"]
    assert sweep() == ["reference-b"]
    assert list(folder.iterdir()) == []
    assert (home / "elsewhere").exists()
    folder.rmdir()
    assert sweep() == []
