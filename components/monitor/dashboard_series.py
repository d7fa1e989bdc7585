"""A year of windows as the points of a chart: the newest as they are, then one a day, then one a week.

Evidently loads every point into memory when it starts, so the number of points must not grow with the age of the log. A rolled-up point is the mean
of its windows, each weighted with its requests (a true AUC with its labels); counts are sums; a device's status and verdict are the worst of its
windows, and a window that could not be judged is never rolled up into "no drift found".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from components.monitor.dashboard_state import VERDICTS

if TYPE_CHECKING:
    import pandas as pd

SINGLE_DAYS, DAILY_DAYS = 2, 60
SCORES = ("score_mean", "score_low", "score_high", "auc_estimated", "auc_true")
STATUS_ORDER = ("unseen", "unknown", "known", "silent")
LONGEST = 32
"""Characters of a device's name for which the legend of a chart has room; its key, at the end, always stays."""


def roll_up(history: pd.DataFrame) -> pd.DataFrame:
    """Points of every device.

    Args:
        history: As `DiseaseState.history`.

    Returns:
        One row per (at, device_key), in that order: `at` (first window's start), `until` (last window's end), `windows` (how many are merged),
        `label`, `status`, `verdict`, `words` (of the newest window with that verdict), `n`, `patients` (largest), `labelled`, `answered`, `SCORES`.
        Windows of the last 2 days stay as they are, of the last 60 days are merged by day, older ones by ISO week; ages count from the newest window.
    """
    import pandas as pd

    table = history[["window_start", "window_end", "device_key", "status", "words", "n", "patients", "labelled", "answered"]].copy()
    if table.empty:
        return table.assign(at=table["window_start"], until=table["window_end"], windows=[], label=[], verdict=[], **{name: [] for name in SCORES})
    start = table["window_start"]
    newest = start.max()
    day = start.dt.floor("D")
    monday = day - pd.to_timedelta(day.dt.dayofweek, unit="D")
    single = start > newest - pd.Timedelta(days=SINGLE_DAYS)
    # A week is merged only when all of it is old, so that no week is half daily and half weekly.
    weekly = monday + pd.Timedelta(days=7) <= newest - pd.Timedelta(days=DAILY_DAYS)
    bucket = start.where(single, day).where(~weekly, monday)
    span = pd.Series("window", index=table.index).where(single, "day").where(~weekly, "week")
    table["at"] = start.groupby([span, bucket]).transform("min")
    table["until"] = table["window_end"].groupby([span, bucket]).transform("max")
    verdict = history["verdict"].where(history["verdict"].isin(VERDICTS), "cannot judge")  # an unknown word is no all-clear
    table["verdict_rank"] = verdict.map({name: rank for rank, name in enumerate(VERDICTS)}).astype(int)
    table["status_rank"] = table["status"].map({name: rank for rank, name in enumerate(STATUS_ORDER)}).fillna(0).astype(int)
    for name in SCORES:
        weight = (table["labelled"] if name == "auc_true" else table["n"]).clip(lower=1)
        table[name] = history[name] * weight
        table[f"{name}_weight"] = weight.where(history[name].notna(), 0)
    groups = table.groupby(["at", "device_key"], sort=True)
    sums = groups[["n", "labelled", "answered", *SCORES, *(f"{name}_weight" for name in SCORES)]].sum()
    made = groups[["until", "patients"]].max().join(sums)
    for name in SCORES:
        made[name] = made[name] / made.pop(f"{name}_weight").where(lambda w: w > 0)
    made["windows"] = groups.size()
    made["status"] = groups["status_rank"].min().map(dict(enumerate(STATUS_ORDER)))
    worst = groups["verdict_rank"].min()
    made["verdict"] = worst.map(dict(enumerate(VERDICTS)))
    at_worst = table[table["verdict_rank"] == groups["verdict_rank"].transform("min")]
    made["words"] = at_worst.groupby(["at", "device_key"])["words"].last()
    made = made.reset_index()
    made["label"] = made["device_key"].map(labels(history))
    return made


def labels(history: pd.DataFrame) -> dict[str, str]:
    """device_key -> the name in a legend: the newest, cut to `LONGEST`, with the key behind it where two devices have the same. Ordered by key."""
    newest = history.drop_duplicates("device_key", keep="last").sort_values("device_key")
    twice = newest["label"].duplicated(keep=False)
    named = zip(newest["device_key"].astype(str), newest["label"].astype(str), twice, strict=True)
    short = {key: _cut(f"{label} ({key})" if same else label) for key, label, same in named}
    cut = list(short.values())
    return {key: name if cut.count(name) == 1 else key for key, name in short.items()}


def _cut(label: str) -> str:
    """The label, its middle left out where it is too long: what stands in brackets at the end tells devices of one make apart."""
    if len(label) <= LONGEST:
        return label
    tail = re.search(r" \([^()]{1,20}\)$", label)
    end = tail.group() if tail else ""
    return f"{label[: LONGEST - len(end) - 1].rstrip()}\N{HORIZONTAL ELLIPSIS}{end}"
