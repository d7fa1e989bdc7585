"""What the code is: one digest over all files of some folders, whatever they are called, since code opens tables, styles and scripts too."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

MADE = "__pycache__"  # of the interpreter, from the files beside it


def digest(root: Path, rooms: Iterable[str], *, files: Iterable[str] = ()) -> str:
    """SHA-256 over name and content of every file in `rooms`, folders below `root`, and over those of `files` that are there.

    Of `pyproject.toml`, where there is one, counts what is installed, not how the code is checked.
    """
    found = hashlib.sha256()
    for name in [*(name for room in sorted(rooms) for name in _files(root, room)), *sorted(name for name in files if (root / name).is_file())]:
        content = (root / name).read_bytes()
        found.update(f"{name}\0{len(content)}\0".encode("utf-8", "surrogateescape") + content)
    project = root / "pyproject.toml"
    if project.is_file():
        raw = tomllib.loads(project.read_text(encoding="utf-8"))
        found.update(json.dumps([raw.get("build-system"), raw.get("project")], sort_keys=True).encode())
    return found.hexdigest()


def _files(root: Path, room: str) -> Iterator[str]:
    for folder, folders, names in os.walk(root / room):
        folders[:] = sorted(name for name in folders if name != MADE and not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and not name.endswith((".pyc", "~")):
                yield (Path(folder) / name).relative_to(root).as_posix()
