"""What every synthetic collection has in common: what was asked for, people drawn side by side, and a folder that appears whole."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from components.core.atomic import atomic_dir
from components.core.errors import DataError, SpecError
from components.core.step import Progress, die_with_parent

SUMMARY = "phantom.json"
Job = TypeVar("Job")
Row = TypeVar("Row")


def devices_of(asked: Sequence[str] | None, standard: tuple[str, ...], every: Sequence[str]) -> tuple[str, ...]:
    """The simulated devices to draw from, `standard` where none is asked for. Raises SpecError on one that is not among `every`."""
    keys = standard if asked is None else tuple(asked)
    if wrong := [key for key in keys if key not in every] or not keys:
        raise SpecError("no such simulated device", where="phantom", got=wrong, allowed=", ".join(every))
    return keys


def collection(
    folder: Path,
    request: dict[str, Any],
    make: Callable[[Path, Job], Row],
    jobs: Sequence[Job],
    finish: Callable[[Path, list[Row]], dict[str, Any]],
    *,
    workers: int | None = 1,
    chunk: int = 1,
) -> dict[str, Any]:
    """Write a collection; the folder appears whole or not at all.

    Args:
        folder: Absent, empty, or an earlier phantom: the same one is kept as it is, another is replaced.
        request: What decides the bytes: `phantom` (the generator), `version`, `seed`, `patients`, ...; that it is synthetic is added.
        make: Writes what one job asks for below the given folder; at module level where there are several workers.
        jobs: One for each person or slide; what is drawn depends on the job alone, so any number of workers writes the same bytes.
        finish: Writes the tables, given the folder and what `make` returned for each job in order; returns what else the summary says.
        workers: Processes; None for one per core.
        chunk: Jobs that a worker takes at once.

    Returns:
        The summary, as in phantom.json.

    Raises:
        DataError: The folder holds something else.
    """
    folder, request = Path(folder), {"synthetic": True} | request
    if folder.exists() and any(folder.iterdir()):
        made = _summary(folder, request["phantom"])
        if made is None:
            raise DataError("folder holds something else than a phantom", where=str(folder), allowed="a new or empty folder")
        if {key: made.get(key) for key in request} == request:
            return made
    workers = min(workers or len(os.sched_getaffinity(0)), max(1, len(jobs)))
    with atomic_dir(folder) as root:
        one = partial(make, root)
        if workers == 1:
            rows = _counted(map(one, jobs), len(jobs))
        else:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=die_with_parent) as pool:
                rows = _counted(pool.map(one, jobs, chunksize=chunk), len(jobs))
        summary = request | finish(root, rows)
        (root / SUMMARY).write_text(json.dumps(summary, indent=1, sort_keys=True), encoding="utf-8")
    return summary


def totals(rows: Iterable[dict[str, int]]) -> dict[str, int]:
    """The sum of each name over all rows, names in order."""
    out: dict[str, int] = {}
    for row in rows:
        for name, value in row.items():
            out[name] = out.get(name, 0) + value
    return dict(sorted(out.items()))


def _counted(results: Iterable[Row], total: int) -> list[Row]:
    progress, rows = Progress("phantom", total), []
    for row in results:
        rows.append(row)
        progress.advance()
    return rows


def _summary(folder: Path, phantom: str) -> dict[str, Any] | None:
    try:
        made = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return made if isinstance(made, dict) and made.get("phantom") == phantom else None
