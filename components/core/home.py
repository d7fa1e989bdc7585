"""Where dxflow keeps its own things: `DXFLOW_HOME`, by default `.dxflow` in the current folder."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The absolute folder that holds runs, caches, the MLflow and feature databases and the local store."""
    return Path(os.environ.get("DXFLOW_HOME") or ".dxflow").absolute()


def work_dir(step: str, key: str) -> Path:
    """A folder where `step` keeps what lets it resume after a kill, for its owner alone; `key` is a hash of all its inputs."""
    folder = home() / "work" / f"{step}-{key[:20]}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def tracking_uri() -> str:
    """MLflow's address: `MLFLOW_TRACKING_URI`, else one SQLite file in `home()`."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if given:
        return given
    home().mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{home() / 'mlflow.db'}"
