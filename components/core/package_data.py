"""Sources on this machine: paths, and `package:<package>/<path>` for real data that an installed Python package ships."""

from __future__ import annotations

from pathlib import Path

from components.core.errors import DataError

SCHEME = "package:"
ALLOWED = "a folder, a file, s3://bucket/prefix, or package:<installed package>/<path>"


def local_path(source: str) -> Path:
    """The path that a source names, e.g. `package:sklearn/datasets/data/breast_cancer.csv`; the package is found, not imported.

    Raises:
        DataError: No such package, or a path that leaves it.
    """
    if not source.startswith(SCHEME):
        return Path(source.removeprefix("file://"))
    from importlib.util import find_spec

    name, _, rest = source.removeprefix(SCHEME).partition("/")
    found = find_spec(name) if name.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise DataError("no such package is installed", where="--source", got=source, allowed=ALLOWED)
    root = Path(next(iter(found.submodule_search_locations))).resolve()
    path = (root / rest).resolve()
    if not path.is_relative_to(root):
        raise DataError("a path that leaves its package", where="--source", got=source, allowed=ALLOWED)
    return path
