"""Every test of ingest has a key and a home of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ingest.made import KEY


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DXFLOW_KEY", KEY)
    return tmp_path / "home"
