"""Reading on where one stopped: a log grows for years, a run of the monitor takes what is new.

Compaction keeps the records of a segment in their order, so `segment number -> records taken` says where one is, whichever form the segment has now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from components.core.inference_log.reader import Tally, in_segments

if TYPE_CHECKING:
    import pandas as pd


def since(path: str | Path, position: Mapping[int, int], tally: Tally | None = None) -> Iterator[tuple[int, pd.DataFrame]]:
    """(segment, table of at most `reader.BATCH` rows) of the records that `position` does not count yet, in the order of the log.
    Erased records are among them, as empty rows: what was counted before they were erased must stay counted.

    Args:
        position: Segment -> records taken before; the caller adds the lengths of what it took.
        tally: Filled on the way, over everything that was read again or anew.

    Raises:
        DataError: There is no such log.
    """
    skip: dict[int, int] = {}
    for segment, table in in_segments(path, tally or Tally(), position):
        left = skip.setdefault(segment, position.get(segment, 0))
        skip[segment] = max(0, left - len(table))
        if left < len(table):
            yield segment, table.iloc[left:].reset_index(drop=True)
