"""What of a source a container sees: links that leave it would lead nowhere there."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.core.errors import DataError
from pipelines import catalog
from pipelines.containers import mountable, places
from pipelines.run import Options, run


def test_links_that_leave_the_source_are_refused_before_a_container_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder and a file of another place; a link within the source is none of them."""
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "home"))
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    for folder in (source, elsewhere):
        folder.mkdir()
        (folder / "a.txt").write_text("a")
    (source / "within").symlink_to("a.txt")
    mountable(str(source))
    (source / "patient").symlink_to(elsewhere)
    (source / "b.txt").symlink_to(elsewhere / "a.txt")
    with pytest.raises(DataError, match=r"--source: links of the source lead out of it, where no container can follow; got 2 links"):
        run(catalog.load("lung-nodule"), Options(str(source), runner="docker"), lambda event: None)


def test_a_source_that_is_a_link_is_mounted_under_both_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert places(str(tmp_path / "link")) == [str(tmp_path / "link"), str((tmp_path / "real").resolve())]
    assert places(str(tmp_path / "real")) == [str(tmp_path / "real")]
    assert places("s3://bucket/folder") == places("package:sklearn/datasets/data/breast_cancer.csv") == []
