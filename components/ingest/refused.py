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
        rows: `file`, `reason`, `offset`.
    """
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(("file", "reason", "offset"))
    out.writerows(sorted((row["file"], row["reason"], "" if row["offset"] is None else row["offset"]) for row in rows))
    path = home() / "refused" / f"{disease}-{key[:8]}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())
    return path
