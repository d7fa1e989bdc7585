"""Requests that a collector saw from outside, as two events each: put together when the log is read.

An event is on disk before it is acknowledged, so its other half, an event that comes twice, and a restart between them are all settled here, where
everything is known: an event counts once by (`event_id`, `event`), and the two halves of a request share `event_id`, a keyed hash. An answer that
its server has written down itself counts once too, as the server wrote it: that record knows more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

REQUEST, RESPONSE = "request", "response"


def paired(table: pd.DataFrame) -> pd.DataFrame:
    """One row per answered sample. A request gives its size and the latency to its response's rows; without a response it stays, `unanswered`."""
    import pandas as pd

    if "event" not in table or not table["event"].isin((REQUEST, RESPONSE)).any():
        return table
    seen = table["event"].isin((REQUEST, RESPONSE))
    once = table[~(seen & table.duplicated(["event_id", "event", "request_id"]))].reset_index(drop=True)
    asked = once[once["event"].isin((REQUEST,))].set_index("event_id")
    answers = once["event"].isin((RESPONSE,))  # not ==, which is neither true nor false for what is no event
    ids = once.loc[answers, "event_id"]
    started = pd.to_datetime(ids.map(asked["time"]), utc=True)
    latency = (once.loc[answers, "time"] - started).dt.total_seconds() * 1000
    once.loc[answers, "latency_ms"] = latency.where(latency >= 0)  # clocks of two pods may disagree: no figure rather than a negative one
    if "request_bytes" in asked:
        once.loc[answers, "request_bytes"] = ids.map(asked["request_bytes"])
    answered = once["event"].isin((REQUEST,)) & once["event_id"].isin(set(ids))
    known = answers & once["request_id"].isin(set(table.loc[~seen, "request_id"].dropna()))
    return once[~answered & ~known].reset_index(drop=True)
