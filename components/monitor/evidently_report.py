"""Evidently's own report of one look (`step.py`), saved as one offline page.

Evidently's `GroupBy` raises for an unseen device and leaves the device's name off every chart, so each (feature, device) pair is a column of
its own here, `noise_sd | Maker Model (key)`, empty in the rows of other devices. Its tests take samples as independent and one column at a time;
so that two pages never contradict each other, the test it is given returns the figures of `detect.py`.
"""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.core import embedding
from components.monitor.detect import FALSE_ALARMS, Judged
from components.monitor.watched import OF_SLIDE

if TYPE_CHECKING:
    import pandas as pd

METHOD = "by-device"
NUMBERS = ("location", "any", "scale")
Side = tuple[Mapping[str, Any], Sequence[str]]
"""Feature -> (n,) values, and the n device keys."""


def save(
    path: Path, reference: Side, current: Side, judged: Mapping[str, Judged], labels: Mapping[str, str], *, synthetic: bool, at: datetime
) -> bool:
    """Write Evidently's page; False when no device has enough samples to be judged, and then there is none.

    Args:
        labels: device_key -> the name that a reader sees.
        at: Time of the snapshot: the last answer.
    """
    os.environ["DO_NOT_TRACK"] = "1"  # Evidently sends usage statistics otherwise
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    columns: dict[str, tuple[str, str]] = {}
    results: dict[str, tuple[float, bool]] = {}
    for device, result in judged.items():
        for change in result.compared:
            if change.aspect in NUMBERS and not change.feature.startswith((embedding.PREFIX, OF_SLIDE)):  # slides are no rows of this reference
                column = f"{change.feature} | {labels[device]}"
                columns[column] = (device, change.feature)
                results[column] = (change.adjusted, change in result.alarm)
    if not columns:
        return False
    _register(results)
    unseen = {device for device, result in judged.items() if result.status == "unseen"}  # they stand against the pooled reference
    wide = [_wide(reference, columns, unseen), _wide(current, columns, set())]
    definition = DataDefinition(numerical_columns=list(columns))
    report = Report([ValueDrift(column=column, method=METHOD, threshold=FALSE_ALARMS) for column in columns])
    before, now = (Dataset.from_pandas(table, data_definition=definition) for table in wide)
    report.run(now, before, timestamp=at).save_html(str(path))
    _mark(path, synthetic)
    return True


def _wide(side: Side, columns: Mapping[str, tuple[str, str]], everyone: set[str]) -> pd.DataFrame:
    import pandas as pd

    values, key = side[0], np.asarray(side[1], dtype=str)
    return pd.DataFrame(
        {column: np.where((key == device) | (device in everyone), values[name].astype(float), np.nan) for column, (device, name) in columns.items()}
    )


def _register(results: Mapping[str, tuple[float, bool]]) -> None:
    """Give Evidently a test of our own that looks results up by column."""
    from evidently.legacy.calculations.stattests.registry import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    def look_up(reference: pd.Series, current: pd.Series, feature_type: Any, threshold: float) -> tuple[float, bool]:
        return results[str(current.name)]

    test = StatTest(METHOD, "dxflow, p corrected over features and devices", [ColumnType.Numerical], FALSE_ALARMS)
    register_stattest(test, look_up)


def _mark(path: Path, synthetic: bool) -> None:
    """Put a line with the way back, and the mark of synthetic data, on top of Evidently's page."""
    note = "Evidently's charts of the comparison in drift.html. " + ("SYNTHETIC DATA: says nothing about patients." if synthetic else "")
    banner = f'<p style="font:14px sans-serif;margin:8px 24px">{html.escape(note)} <a href="drift.html">Back to the summary</a></p>'
    text = path.read_text(encoding="utf-8")
    at = text.index("<body")
    end = text.index(">", at) + 1
    path.write_text(text[:end] + banner + text[end:], encoding="utf-8")
