"""Folders for the tests of the object store."""

from __future__ import annotations

from pathlib import Path


def filled(folder: Path, **files: bytes) -> Path:
    """A folder with files; "__" in a name stands for "/"."""
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
