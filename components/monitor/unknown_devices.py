"""Devices that the model's reference does not have: each followed for itself while they are few, the rest together, told once.

A device key is 16 hexadecimal digits that anybody who may ask can make up. Followed one by one, ten thousand of them are ten thousand alarms and a
monitor that does not end. So answers of unknown devices wait until their window is over; then it is known how many keys there are and which of them
have enough answers to be a device, whatever order they came in and however often the monitor ran meanwhile.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.monitor.detect import MIN_N

if TYPE_CHECKING:
    import pandas as pd

MOST = 64
"""Unknown devices that are followed one by one, in a window and over all windows. More scanners than a large hospital group has of one kind are one
problem, and not sixty-five: nobody reads so many alarms, and each costs a page, a row a window and a dozen metrics."""
OTHERS, LABEL = "other-devices", "other unknown devices"
"""The key and the name of the rest together; no device has such a key."""


def apart(answers: Mapping[str, int]) -> set[str]:
    """Which unknown devices stand for themselves.

    Args:
        answers: Device -> its answers in the window.

    Returns:
        All of them while they are at most `MOST`; else those with enough answers to be judged, at most `MOST`, the largest ones, so that a flood of
        keys hides no scanner. Of two with as many answers the key decides.
    """
    if len(answers) <= MOST:
        return set(answers)
    large = sorted((-n, key) for key, n in answers.items() if n >= MIN_N)
    return {key for _, key in large[:MOST]}


def told(keys: int, answers: int, earlier: int = 0) -> str:
    """The one sentence about the rest.

    Args:
        keys, answers: Of the window.
        earlier: Devices of earlier windows that had to make room.
    """
    parts = []
    if keys:
        s = "" if answers == 1 else "s"
        parts.append(
            f"{keys:,} device keys that are not in the reference of the model, {answers:,} answer{s}, counted together: at most {MOST} are followed "
            "one by one; perhaps a client makes keys up"
        )
    if earlier:
        parts.append(f"{earlier:,} unseen devices of earlier windows are no longer followed")
    return "; ".join(parts)


def packed(events: pd.DataFrame) -> bytes:
    """A table as it waits in the state."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(events, preserve_index=False), out, compression="zstd")
    return out.getvalue()


def unpacked(parts: Iterable[bytes]) -> pd.DataFrame:
    """The tables one below the other; at least one."""
    import pandas as pd
    import pyarrow.parquet as pq

    return pd.concat([pq.read_table(io.BytesIO(part)).to_pandas() for part in parts], ignore_index=True)


def without(events: bytes, gone: NDArray[np.bool_]) -> bytes:
    """A packed table without some of its rows."""
    return packed(unpacked([events])[~gone].reset_index(drop=True))
