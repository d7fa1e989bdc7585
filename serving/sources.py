"""Where a served model comes from: asked again and again, cheaply, which package it is now, and fetched when that is another one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from components.core.errors import DataError
from components.core.package import INDEX, digest_of


@dataclass(frozen=True)
class Source:
    """One model as the user named it.

    Args:
        text: What the user wrote.
        name: What it is served as until a package has told its disease.
        current: The digest that stands there now, without fetching it; None where it cannot change.
        fetch: A folder with the package. Its hashes are verified by whoever opens it.

    Raises:
        DxflowError: From `current` and `fetch`: no such model, or no way to it.
    """

    text: str
    name: str
    current: Callable[[], str | None]
    fetch: Callable[[], Path]


def from_folder(folder: str | Path) -> Source:
    """A package folder, or a folder that holds one package and nothing else, as KServe's storage initialiser may leave it."""
    folder = Path(folder)
    return Source(str(folder), _disease(folder) or _plain(folder.name), lambda: _digest(folder), lambda: package_folder(folder))


def package_folder(folder: Path) -> Path:
    """`folder` itself, or the one package in it. Raises DataError."""
    if (folder / INDEX).is_file():
        return folder.absolute()
    found = [index.parent for index in sorted(folder.glob(f"*/{INDEX}"))]
    if len(found) != 1:
        raise DataError(f"not a model package: no {INDEX}" if not found else "several packages", where=str(folder), allowed="one package")
    return found[0].absolute()


def _index(folder: Path) -> dict[str, object]:
    try:
        info = json.loads((package_folder(folder) / INDEX).read_bytes())
    except (OSError, ValueError):
        raise DataError(f"not a model package: {INDEX} is missing or unreadable", where=str(folder)) from None
    if not isinstance(info, dict):
        raise DataError(f"not a model package: {INDEX} is no object", where=str(folder))
    return info


def _digest(folder: Path) -> str:
    return digest_of(_index(folder))


def _disease(folder: Path) -> str:
    try:
        return _plain(str(_index(folder).get("disease", "")))
    except DataError:
        return ""


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:63]
