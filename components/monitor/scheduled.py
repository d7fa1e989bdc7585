"""One run of the scheduled monitor as a pipeline's step: fetch the package, watch, keep what was found beside the run."""

from __future__ import annotations

import hashlib
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.core.atomic import atomic_dir
from components.core.home import home
from components.core.registration import NAME
from components.core.step import emit
from components.core.storage import open_store
from components.monitor.watch import Schedule, watch


def run(*, package: str, log: Path, state: Path, window_s: int, out: Path, now: datetime | None = None) -> dict[str, Any]:
    """See `watch`.

    Args:
        package: Folder or URI.
        out: Replaced by copies of `summary.json`, `alarms.json`, `history.parquet` and the pages of open alarms.
        now: The step's clock by default.
    """
    summary = watch(package=fetched(package), log=log, state=state, now=now or datetime.now(UTC), schedule=Schedule(window_s))
    source = state / summary["disease"]
    with atomic_dir(out) as folder:
        for name in ("summary.json", "alarms.json", "history.parquet"):
            shutil.copyfile(source / name, folder / name)
        for page in {alarm["report"] for alarm in summary["open_alarms"]}:
            (folder / page).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / page, folder / page)
    emit("monitored", events=summary["events"], open_alarms=len(summary["open_alarms"]))
    return summary


def fetched(package: str) -> Path:
    """A folder with the package; every hash in it is verified when it is opened."""
    if "://" not in package:
        return Path(package)
    target = home() / "packages" / hashlib.sha256(package.encode()).hexdigest()[:20]
    if not (target / "package.json").exists():
        store = open_store()
        store.get_folder(package, target)
        if store.exists(key := f"{store.key_of(package)}/{NAME}"):  # says which digests the package replaces
            store.get_file(key, target / NAME)
    return target
