"""`dxflow doctor`: what this machine has, and what would go wrong."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path

from components.core.errors import DxflowError
from components.core.home import home, tracking_uri

PINNED = ("kfp", "kserve", "torch", "feast", "great-expectations", "evidently", "minio", "mlflow", "pydicom", "onnxruntime")


def findings() -> list[dict[str, str]]:
    """One row per check: `check`, `state` (ok, note, bad), `found`."""
    rows = [_row("python", "ok" if (3, 11) <= sys.version_info < (3, 13) else "bad", f"{platform.python_version()} (allowed: 3.11, 3.12)")]
    rows.append(
        _row("interpreter path", "bad" if " " in sys.executable else "ok", f"{sys.executable} (kfp's local runner cannot use a path with blanks)")
    )
    for name in PINNED:
        try:
            rows.append(_row(name, "ok", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            rows.append(_row(name, "note", "not installed: the steps that need it will not run"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rows.append(_row("cores", "ok", str(cores)))
    place = home()
    while not place.exists():
        place = place.parent
    free_gb = shutil.disk_usage(place).free / 1e9
    rows.append(_row("disk", "ok" if free_gb > 5 else "bad", f"{free_gb:.0f} GB free at {home()} (at least 5)"))
    rows.append(
        _row(
            "gpu",
            "ok" if Path("/proc/driver/nvidia/version").exists() else "note",
            "NVIDIA driver" if Path("/proc/driver/nvidia/version").exists() else "none: training runs on the CPU",
        )
    )
    rows.append(_store())
    rows.append(_online_store())
    uri = tracking_uri()
    rows.append(_row("registry", "ok", "SQLite in DXFLOW_HOME" if uri.startswith("sqlite") else uri.split("@")[-1]))
    key = "DXFLOW_KEY" if os.environ.get("DXFLOW_KEY") else os.environ.get("DXFLOW_KEY_FILE") or str(home() / "pseudonym.key")
    made = key == "DXFLOW_KEY" or Path(key).exists()
    rows.append(_row("pseudonym key", "ok" if made else "note", key if made else f"none yet: the first run makes {key}"))
    return rows


def _store() -> dict[str, str]:
    from components.core.storage import open_store

    try:
        store = open_store()
        next(iter(store.list("")), None)
    except DxflowError as error:
        return _row("store", "bad", str(error))
    return _row("store", "ok", os.environ.get("DXFLOW_STORE") or "folder in DXFLOW_HOME")


def _online_store() -> dict[str, str]:
    from feature_store.redis_online import address, ping

    try:
        where = address()
        if where is not None:
            ping(where)
    except DxflowError as error:
        return _row("online store", "bad", str(error))
    return _row("online store", "ok", "SQLite in DXFLOW_HOME" if where is None else str(where))


def _row(check: str, state: str, found: str) -> dict[str, str]:
    return {"check": check, "state": state, "found": found}
