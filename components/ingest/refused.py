"""What a refused ingest leaves behind: every file and row that could not be used, with its reason.

    DXFLOW_HOME/refused/<disease>-<8 characters of the input>.csv    file, reason, offset

Paths are written as in `quarantine.parquet`; `dxflow quarantine SOURCE FILE` says what they are called in the source.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from components.core.atomic import write_text
from components.core.home import home


def keep(disease: str, key: str, rows: Iterable[dict[str, Any]]) -> Path:
    """Write the list, in place of an earlier one of the same input.

    Args:
        key: Hash of the input.
        rows: `file`, `reason`, `offset`, as in `quarantine.parquet`.
    """
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(("file", "reason", "offset"))
    ordered = sorted(rows, key=lambda row: (row["file"], row["reason"], -1 if row["offset"] is None else row["offset"]))
    out.writerows((row["file"], row["reason"], row["offset"]) for row in ordered)
    path = home() / "refused" / f"{disease}-{key[:8]}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())
    return path
