"""A phantom is written by many processes and leaves none of them behind."""

from __future__ import annotations

from pathlib import Path

import psutil

from pipelines import catalog
from pipelines.phantom import write


def test_no_process_outlives_the_writing(tmp_path: Path) -> None:
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    write(catalog.load("lung-nodule"), tmp_path / "data", patients=2)
    left = [p.cmdline() for p in psutil.Process().children(recursive=True) if p.pid not in before]
    assert not left
