"""The object store: one contract over a folder and over a real S3 server."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from components.core import storage_s3
from components.core.errors import DataError, SpecError
from components.core.storage import MANIFEST, SUMS, Store, open_store
from tests.s3_server import S3Server, needs_minio
from tests.store_folders import contents, filled

ROOT = Path(__file__).resolve().parents[2]
KINDS = ["folder", "s3"]


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store of each kind."""
    if request.param == "folder":
        return open_store(str(tmp_path / "store"))
    request.getfixturevalue("s3_server").environment(monkeypatch)
    return open_store(f"s3://models/{tmp_path.name}")


def overwrite(store: Store, key: str, content: bytes) -> None:
    """Change an object as another tool would, without our checksum but with the length and metadata that it had."""
    if isinstance(store, storage_s3.S3Store):
        name = f"{store.prefix}/{key}"
        held = store._client.stat_object(store.bucket, name).metadata or {}
        store._client.put_object(store.bucket, name, io.BytesIO(content), len(content), metadata={"sha256": held.get("x-amz-meta-sha256", "")})
    else:
        (Path(store.uri.removeprefix("file://")) / key).write_bytes(content)


@pytest.mark.parametrize("size", [0, 1, 20 << 20])
def test_a_file_comes_back_byte_for_byte(store: Store, tmp_path: Path, size: int):
    """Empty, one byte, and 20 MiB, which travels in three parts."""
    content = os.urandom(size)
    (tmp_path / "in").write_bytes(content)
    uri = store.put_file(tmp_path / "in", "a/b.bin")
    store.get_file("a/b.bin", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content
    assert uri == f"{store.uri}/a/b.bin"
    assert [(e.key, e.size) for e in store.list()] == [("a/b.bin", size)]


@needs_minio
def test_a_large_file_is_uploaded_in_parts(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The ETag of a multipart upload ends in the number of its parts."""
    s3_server.environment(monkeypatch)
    (tmp_path / "in").write_bytes(os.urandom(20 << 20))
    open_store("s3://models/parts").put_file(tmp_path / "in", "large")
    assert s3_server.client().stat_object("models", "parts/large").etag.endswith("-3")


def test_a_folder_comes_back_whole(store: Store, tmp_path: Path):
    """By key and by the URI that storing it gave."""
    source = filled(tmp_path / "in", a=b"1", empty=b"", deep__er__b=b"2" * 100_000)
    uri = store.put_folder(source, "packages/x/1")
    for n, name in enumerate(("packages/x/1", uri)):
        store.get_folder(name, tmp_path / f"out{n}")
        assert contents(tmp_path / f"out{n}") == contents(source)
    assert store.exists("packages/x/1")
    assert not store.exists("packages/x")


def test_storing_the_same_folder_again_changes_nothing_and_another_replaces_it(store: Store, tmp_path: Path):
    store.put_folder(filled(tmp_path / "one", a=b"1", b=b"2"), "p")
    before = list(store.list())
    store.put_folder(tmp_path / "one", "p")
    assert list(store.list()) == before
    store.put_folder(filled(tmp_path / "two", b=b"3", c__d=b"4"), "p")
    store.get_folder("p", tmp_path / "out")
    assert contents(tmp_path / "out") == {"b": b"3", "c/d": b"4"}
    assert [e.key for e in store.list("p/")] == [f"p/{MANIFEST}", "p/b", "p/c/d"]


def test_storing_a_folder_again_heals_a_lost_file(store: Store, tmp_path: Path):
    store.put_folder(filled(tmp_path / "in", a=b"1", b=b"2"), "p")
    store.delete("p/b")
    with pytest.raises(DataError, match="p/b"):
        store.get_folder("p", tmp_path / "out")
    store.put_folder(tmp_path / "in", "p")
    store.get_folder("p", tmp_path / "out")
    assert contents(tmp_path / "out") == {"a": b"1", "b": b"2"}


def test_a_folder_without_its_manifest_is_not_there(store: Store, tmp_path: Path):
    """The manifest is written last: without it the upload was never completed."""
    store.put_file(filled(tmp_path / "in", a=b"1") / "a", "p/a")
    assert not store.exists("p")
    with pytest.raises(DataError, match="never completed"):
        store.get_folder("p", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_corrupted_objects_are_named_and_not_delivered(store: Store, tmp_path: Path):
    store.put_file(filled(tmp_path / "in", a=b"healthy") / "a", "one")
    overwrite(store, "one", b"haelthy")
    for read in (lambda: store.get_file("one", tmp_path / "out"), lambda: store.open_read("one").close()):
        with pytest.raises(DataError, match=rf"{store.uri}/one: .*checksum"):
            read()
    assert not (tmp_path / "out").exists()


def test_a_corrupted_file_in_a_folder_is_named_and_nothing_is_delivered(store: Store, tmp_path: Path):
    store.put_folder(filled(tmp_path / "in", a=b"1", b=b"healthy"), "p")
    overwrite(store, "p/b", b"haelthy")
    with pytest.raises(DataError, match=r"p/b: .*checksum"):
        store.get_folder("p", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_object_swapped_for_another_stored_one_is_found(store: Store, tmp_path: Path):
    """Its own checksum holds, the folder's does not."""
    store.put_folder(filled(tmp_path / "in", a=b"1", b=b"2"), "p")
    store.put_file(filled(tmp_path / "other", x=b"3") / "x", "p/b")
    with pytest.raises(DataError, match="p/b"):
        store.get_folder("p", tmp_path / "out")


def test_a_manifest_cannot_write_outside_its_folder(store: Store, tmp_path: Path):
    """A planted "../" is refused before anything is fetched."""
    planted = filled(tmp_path / "in", m=json.dumps({"files": {"../evil": "0" * 64}}).encode()) / "m"
    store.put_file(planted, f"p/{MANIFEST}")
    with pytest.raises(DataError, match="not a folder's manifest"):
        store.get_folder("p", tmp_path / "deep" / "out")
    assert not (tmp_path / "deep" / "evil").exists()


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"files": []}', b'{"files": {"a": 1}}', b"\xff\xfe"])
def test_a_foreign_manifest_is_one_error(store: Store, tmp_path: Path, text: bytes):
    store.put_file(filled(tmp_path / "in", m=text) / "m", f"p/{MANIFEST}")
    with pytest.raises(DataError, match="not a folder's manifest"):
        store.get_folder("p", tmp_path / "out")


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "..", "../a", "a/../b", "a/./b", "a\\b", "a\nb", "a\0b", "a.partial", f"{SUMS}/a", "x" * 300, "é" * 600]
)
def test_keys_that_lead_elsewhere_are_refused(store: Store, tmp_path: Path, key: str):
    source = filled(tmp_path / "in", a=b"1")
    for use in (
        lambda: store.put_file(source / "a", key), lambda: store.get_file(key, tmp_path / "out"), lambda: store.put_folder(source, key),
        lambda: store.get_folder(key, tmp_path / "out"), lambda: store.exists(key), lambda: store.delete(key), lambda: store.open_read(key),
    ):  # fmt: skip
        with pytest.raises(SpecError):
            use()


def test_uncommon_but_legal_keys_survive(store: Store, tmp_path: Path):
    """Blanks, percent signs, plus, umlauts, an equals sign."""
    keys = sorted(["a b", "a%20b", "a+b", "é/ü", "x=1/y&z", "~t"], key=str.encode)
    for key in keys:
        store.put_folder(filled(tmp_path / "in", a=key.encode()), key)
    assert [e.key for e in store.list() if not e.key.endswith(MANIFEST)] == [f"{key}/a" for key in keys]
    for n, key in enumerate(keys):
        uri = store.put_folder(filled(tmp_path / "in", a=key.encode()), key)
        store.get_folder(uri, tmp_path / f"out{n}")
        assert (tmp_path / f"out{n}" / "a").read_text() == key


def test_lists_are_sorted_and_take_any_prefix(store: Store, tmp_path: Path):
    source = filled(tmp_path / "in", a=b"1") / "a"
    for key in ("b/2", "b/10", "ba", "a/x/y", "c"):
        store.put_file(source, key)
    assert [e.key for e in store.list()] == ["a/x/y", "b/10", "b/2", "ba", "c"]
    assert [e.key for e in store.list("b")] == ["b/10", "b/2", "ba"]
    assert [e.key for e in store.list("b/")] == ["b/10", "b/2"]
    assert [e.key for e in store.list("a/x/")] == ["a/x/y"]
    assert list(store.list("none/")) == []
    with pytest.raises(SpecError):
        store.list("../")


def test_a_fingerprint_changes_with_the_content_alone(store: Store, tmp_path: Path):
    marks = []
    for content in (b"1", b"2", b"1"):
        store.put_file(filled(tmp_path / "in", a=content) / "a", "k")
        marks.append(next(iter(store.list())).fingerprint)
    assert marks[0] == marks[2] != marks[1]


def test_deleting_a_folder_takes_everything_and_twice_is_fine(store: Store, tmp_path: Path):
    store.put_folder(filled(tmp_path / "in", a=b"1", b__c=b"2"), "p/1")
    store.put_file(tmp_path / "in" / "a", "p/10")
    store.delete("p/1")
    store.delete("p/1")
    assert [e.key for e in store.list()] == ["p/10"]
    store.put_file(tmp_path / "in" / "a", "p/1")
    assert store.exists("p/1")


def test_reading_gives_a_seekable_verified_handle(store: Store, tmp_path: Path):
    store.put_file(filled(tmp_path / "in", a=b"0123456789") / "a", "k")
    with store.open_read("k") as handle:
        handle.seek(4)
        assert handle.read(3) == b"456"


def test_what_is_absent_is_a_data_error(store: Store, tmp_path: Path):
    for use in (lambda: store.get_file("k", tmp_path / "out"), lambda: store.open_read("k"), lambda: store.get_folder("k", tmp_path / "out")):
        with pytest.raises(DataError, match=f"{store.uri}/k: no such"):
            use()
    assert not store.exists("k")
    assert not (tmp_path / "out").exists()


def test_an_object_of_another_tool_is_read_only_when_asked(store: Store, tmp_path: Path):
    """Sources are uploaded by other tools, which write no checksum of ours."""
    if isinstance(store, storage_s3.S3Store):
        store._client.put_object(store.bucket, f"{store.prefix}/k", io.BytesIO(b"abc"), 3)
    else:
        filled(tmp_path / "store", k=b"abc")
    with pytest.raises(DataError, match="no checksum"):
        store.get_file("k", tmp_path / "out")
    store.get_file("k", tmp_path / "out", foreign=True)
    assert (tmp_path / "out").read_bytes() == b"abc"


def test_links_and_empty_folders_are_not_stored(store: Store, tmp_path: Path):
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="empty"):
        store.put_folder(tmp_path / "in", "p")
    (tmp_path / "in" / "link").symlink_to("/etc/hostname")
    with pytest.raises(DataError, match="link"):
        store.put_folder(tmp_path / "in", "p")
    with pytest.raises(DataError, match="not a folder"):
        store.put_folder(tmp_path / "none", "p")
    with pytest.raises(DataError, match="not a file"):
        store.put_file(tmp_path / "none", "p")
    assert list(store.list()) == []


def test_a_uri_of_another_store_is_refused(store: Store, tmp_path: Path):
    with pytest.raises(SpecError, match="another store"):
        store.get_folder("s3://elsewhere/p/1", tmp_path / "out")


def test_two_writers_leave_one_of_their_versions(store: Store, tmp_path: Path):
    """Eight threads replace one object while it is read: every read is one whole version."""
    versions = [bytes([n]) * 300_000 for n in range(8)]
    for n, version in enumerate(versions):
        filled(tmp_path, **{f"v{n}": version})
    store.put_file(tmp_path / "v0", "k")
    writers = [threading.Thread(target=store.put_file, args=(tmp_path / f"v{n}", "k")) for n in range(8)]
    for writer in writers:
        writer.start()
    for _ in range(20):
        with store.open_read("k") as handle:
            assert handle.read() in versions
    for writer in writers:
        writer.join()
    with store.open_read("k") as handle:
        assert handle.read() in versions


# What only a folder can do


def test_a_writer_killed_in_the_middle_leaves_the_old_version(tmp_path: Path):
    """The kernel kills it, without a word, at its first byte over 1 MiB."""
    store = open_store(str(tmp_path / "store"))
    store.put_file(filled(tmp_path, old=b"old") / "old", "k")
    store.put_folder(filled(tmp_path / "f", a=b"1"), "p")
    filled(tmp_path / "g", a=b"2", b=os.urandom(3 << 20))
    code = f"""
import resource, signal
from components.core.storage import open_store
store = open_store({str(tmp_path / "store")!r})
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
"""
    for last in (f"store.put_file({str(tmp_path / 'g/b')!r}, 'k')", f"store.put_folder({str(tmp_path / 'g')!r}, 'new')"):
        assert subprocess.run([sys.executable, "-c", code + last], cwd=ROOT).returncode == -signal.SIGXFSZ
    with store.open_read("k") as handle:
        assert handle.read() == b"old"
    assert not store.exists("new")
    assert "new/b" not in [e.key for e in store.list()]
    assert not any(e.key.endswith(".partial") for e in store.list())


def test_a_link_in_the_store_does_not_lead_out(tmp_path: Path):
    store = open_store(str(tmp_path / "store"))
    store.put_file(filled(tmp_path, a=b"1") / "a", "k")
    (tmp_path / "store" / "out").symlink_to(tmp_path)
    with pytest.raises(SpecError, match="leads out"):
        store.put_file(tmp_path / "a", "out/evil")
    assert not (tmp_path / "evil").exists()


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A path, a file URI, the variable, the default below the home folder; nothing else."""
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "h"))
    monkeypatch.delenv("DXFLOW_STORE", raising=False)
    assert open_store().uri == (tmp_path / "h/store").as_uri()
    monkeypatch.setenv("DXFLOW_STORE", str(tmp_path / "a b"))
    assert open_store().uri == (tmp_path / "a b").as_uri() == open_store((tmp_path / "a b").as_uri()).uri
    for uri in ("gs://bucket", "http://host/bucket", "s3://", "s3://Upper/x", "s3://a/x", "s3://../x"):
        with pytest.raises(SpecError):
            open_store(uri)
