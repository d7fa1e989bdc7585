"""What runs leave behind under DXFLOW_HOME: datasets, unfinished work, copies of packages, tables, pages. Only in the rooms that may be swept
(`erase_rooms.py`); of every other file that names the patient it is told that it does."""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from components.core.atomic import PARTIAL, remove_partials
from components.core.erasure import Ids, drop_rows, holds, read, rows_of
from components.core.errors import DataError, ServiceError
from components.core.home import home
from components.register.erasure import rewrite_folder
from pipelines.erase_plan import Plan, keep_who
from pipelines.erase_rooms import room_of

NUMBERS = {".npy", ".npz", ".safetensors", ".onnx", ".pt"}
"""Arrays: no text in them. Which arrays are the patient's, the manifest beside them says."""
DATABASES = {".db", ".key"}
PAGES = (".html", ".png", ".svg")


@dataclass
class Found:
    """What goes, or would go: path relative to DXFLOW_HOME -> rows; and what holds the patient and is not ours to change."""

    datasets: dict[str, int] = field(default_factory=dict)
    tables: dict[str, int] = field(default_factory=dict)
    packages: dict[str, int] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def erase_files(plan: Plan, *, store: Path | None, dry: bool) -> Found:
    """Take the patient out of the rooms that may be swept, and find who else has them.

    A dataset goes whole: ingest makes it again from the source, and its shards are arrays whose rows nothing else would match any more. A package
    is written anew; a table loses rows; pages beside such a table go, since they draw single samples; any other text that names the patient goes.

    Args:
        store: The store's folder, where it is one.
    """
    found, ids, root = Found(), plan.ids, home()
    if not dry:
        for own in ("pipeline_root", "runs", "packages", "fitted", "work"):  # a store's half-written objects may have a living writer elsewhere
            remove_partials(root / own)
    for path, rows in plan.datasets.items():
        if Path(path).exists():
            found.datasets[_name(Path(path))] = rows
            if not dry:
                keep_who(Path(path), ids)
                remove(Path(path))
    files = _files(root, plan, store)
    packages = [p.parent for p in files["swept"] if p.name == "package.json"]
    for journal in [p for p in files["swept"] if p.name == "journal.db"]:
        _unfinished(journal, ids, found, dry)
    for package in packages:
        _package(package, ids, found, dry)
    done = tuple(f"{p}{os.sep}" for p in (*packages, *plan.datasets, *(root / name for name in found.deleted)))
    for path in _files(root, plan, store)["swept"]:
        if path.exists() and not str(path).startswith(done):
            _file(path, ids, found, dry)
    found.left += [_name(path) for path in files["searched"] if _names(path, ids)]
    return found


def erase_partials(store: Path, ids: Ids, *, dry: bool) -> list[str]:
    """Half-written objects of a folder store with the patient in them, which no reader of the store sees."""
    gone = []
    for path in sorted(store.rglob(f"*{PARTIAL}")):
        if path.is_file() and (_torn(path) or (_is_table(path) and rows_of(read(path), ids.all).any()) or _holds(path, ids)):
            gone.append(path.name)
            if not dry:
                path.unlink(missing_ok=True)
    return gone


def remove(path: Path) -> None:
    """Delete a folder so that it is there or not: what is left after a kill is named as a killed writer's."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.{os.getpid()}{PARTIAL}")
    os.rename(path, aside)
    shutil.rmtree(aside)


def _files(root: Path, plan: Plan, store: Path | None) -> dict[str, list[Path]]:
    """Files that may go (`swept`) and files that are only looked at (`searched`: of others, or of no room), sorted; links are not followed."""
    at_work = [("inference-log", Path(log)) for log in plan.logs] + [("monitor", Path(plan.state))] + ([("store", store)] if store else [])
    found: dict[str, list[Path]] = {"swept": [], "searched": []}
    for here, _, names in os.walk(root):
        for path in (Path(here) / name for name in names):
            what = _what(path, root, at_work)
            if what in found and path.is_file() and not path.is_symlink():
                found[what].append(path)
    return {what: sorted(paths) for what, paths in found.items()}


def _what(path: Path, root: Path, at_work: list[tuple[str, Path]]) -> str:
    """What may be done to a file. A log, a state or a store may lie elsewhere; the room that is meant for it then holds another one's."""
    for name, folder in at_work:
        if folder != root and path.is_relative_to(folder):
            room = room_of(PurePath(name) / path.relative_to(folder))
            return room.what if room else "searched"
    room = room_of(path.relative_to(root))
    return "searched" if room is None or room.pattern.partition("/")[0] in ("monitor", "store") else room.what


def _unfinished(journal: Path, ids: Ids, found: Found, dry: bool) -> None:
    """Work of an ingest that was killed: it goes, the next ingest begins anew."""
    work = journal.parent
    if not any(_holds(path, ids) for path in work.rglob("journal.db*")):
        return
    lock = work / ".lock"
    if lock.exists():
        with open(lock) as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ServiceError("an ingest is at work, erase when it has ended", where=_name(work)) from None
    found.deleted.append(_name(work))
    if not dry:
        remove(work)


def _package(package: Path, ids: Ids, found: Found, dry: bool) -> None:
    """A copy from the store goes and is fetched again; what a run made is written anew."""
    try:
        rows, _, _ = rewrite_folder(package, ids, dry=dry or package.parent == home() / "packages")
    except DataError:
        if not any(_is_table(path) and rows_of(read(path), ids.all).any() for path in package.glob("*.parquet")):
            return
        found.left.append(_name(package))  # damaged: not ours to mend
        return
    if rows:
        found.packages[_name(package)] = sum(rows.values())
        if not dry and package.parent == home() / "packages":
            remove(package)


def _file(path: Path, ids: Ids, found: Found, dry: bool) -> None:
    if path.suffix in NUMBERS or path.suffix == ".key":
        return
    if path.suffix == ".parquet" and _is_table(path):
        if count := drop_rows(path, ids.all, dry=dry):
            found.tables[_name(path)] = count
            for page in sorted(path.parent.iterdir()):
                if page.suffix in PAGES and page.is_file() and _name(page) not in found.deleted:
                    _delete(page, found, dry)
    elif _name(path) not in found.deleted and _holds(path, ids):
        if path.suffix in DATABASES:
            found.left.append(_name(path))
        else:
            _delete(path, found, dry)


def _delete(path: Path, found: Found, dry: bool) -> None:
    found.deleted.append(_name(path))
    if not dry:
        path.unlink(missing_ok=True)


def _names(path: Path, ids: Ids) -> bool:
    """Whether a file that stays names the patient: in a column, or anywhere in its bytes."""
    if path.suffix in NUMBERS:
        return False
    return (path.suffix == ".parquet" and _is_table(path) and bool(rows_of(read(path), ids.all).any())) or _holds(path, ids)


def _holds(path: Path, ids: Ids) -> bool:
    try:
        if path.stat().st_size == 0:
            return False
        with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return holds(data, ids)
    except FileNotFoundError:
        return False


def _torn(path: Path) -> bool:
    """The beginning of a table, whose rows nobody can read."""
    with open(path, "rb") as handle:
        return handle.read(4) == b"PAR1" and not _is_table(path)


def _is_table(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return False
    return True


def _name(path: Path) -> str:
    return str(path.relative_to(home())) if path.is_relative_to(home()) else str(path)
