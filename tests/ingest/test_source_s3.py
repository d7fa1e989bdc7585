"""A source on an S3 server is the same source."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.core.errors import DataError
from components.ingest.step import ingest
from tests.ingest.made import collection, lung_nodule
from tests.s3_server import S3Server


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_bucket_gives_the_same_bytes_as_a_folder(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put there by another tool, without our checksums."""
    s3_server.environment(monkeypatch)
    source = collection(tmp_path / "in", patients=4)
    (source / "cut.dcm").write_bytes((source / "p000" / "000.dcm").read_bytes()[:900])
    client = s3_server.client()
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        client.fput_object("models", f"studies/{path.relative_to(source)}", str(path))
    for name, where in (("folder", str(source)), ("bucket", "s3://models/studies")):
        ingest(lung_nodule(), where, dataset=tmp_path / name / "dataset", features=tmp_path / name / "features", workers=2)
    assert len(contents(tmp_path / "bucket")) >= 5
    assert contents(tmp_path / "bucket") == contents(tmp_path / "folder")


def test_an_empty_prefix_is_one_line(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    s3_server.environment(monkeypatch)
    with pytest.raises(DataError, match="the source holds no file"):
        ingest(lung_nodule(), "s3://models/nothing-here", dataset=tmp_path / "dataset", features=tmp_path / "features", workers=1)
